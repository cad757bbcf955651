# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""redis_reach_info against faults made for real: it names the stage, never fails, and writes nothing."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.lab import faults
from tests.lab.certificates import make_certificates
from tests.lab.process import wait_until
from tests.lab.redis_servers import RedisServer, ReplicaPair, SentinelSet, start_cluster, start_single
from tests.lab.witness import monitor
from tests.lab.world import Lab
from tests.support import call, play

pytestmark = pytest.mark.redis


def reach(options: dict[str, Any], **more: Any) -> dict[str, Any]:
    result = call("redis_reach_info", **{"connect_timeout": 1.0, **options, **more})
    assert "failed" not in result
    return result


def ids(result: dict[str, Any]) -> list[str]:
    return [finding["id"] for finding in result["findings"]]


def ended_at(result: dict[str, Any]) -> str:
    """The stage that failed; those after it were not tried."""
    names = [stage["stage"] for stage in result["stages"]]
    bad = next(stage["stage"] for stage in result["stages"] if stage["ok"] is False)
    assert all(stage["ok"] is None for stage in result["stages"][names.index(bad) + 1 :])
    return str(bad)


@contextmanager
def listener(answer: Callable[[socket.socket], None] | None = None) -> Iterator[int]:
    """A port that takes connections; without C(answer) nobody ever speaks."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()

        def serve() -> None:
            while answer is not None:
                try:
                    line, _peer = door.accept()
                except OSError:
                    return
                with line, suppress(OSError):
                    answer(line)

        Thread(target=serve, daemon=True).start()
        yield door.getsockname()[1]


def test_a_healthy_server(redis_single: RedisServer) -> None:
    with monitor(redis_single) as seen:
        result = reach(redis_single.connection())
        assert seen.writes() == ()
    assert (result["changed"], result["reachable"], result["writable"], result["findings"]) == (False, True, True, [])
    assert [stage["stage"] for stage in result["stages"] if stage["ok"]] == [
        *("resolve", "tcp", "auth", "acl", "serving", "writes"),
    ]
    assert result["server"]["version"].startswith("7.")
    assert all(result["rights"].values())


def test_a_name_that_does_not_resolve() -> None:
    result = reach({"host": "no-such-host.invalid"})
    assert (ended_at(result), ids(result), result["reachable"]) == ("resolve", ["redis.unreachable.dns"], False)


def test_a_closed_port(redis_single: RedisServer) -> None:
    redis_single.stop()
    result = reach(redis_single.connection())
    assert (ended_at(result), ids(result)) == ("tcp", ["redis.unreachable.refused"])


def test_a_port_that_never_answers() -> None:
    with listener() as port:
        start = time.monotonic()
        result = reach({"host": "127.0.0.1", "port": port})
    assert (ended_at(result), ids(result)) == ("serving", ["redis.unreachable.timeout"])
    assert time.monotonic() - start < 4


def test_a_frozen_server(redis_single: RedisServer) -> None:
    redis_single.freeze()
    assert ids(reach(redis_single.connection())) == ["redis.unreachable.timeout"]
    redis_single.thaw()
    assert reach(redis_single.connection())["reachable"] is True


def test_something_else_than_redis() -> None:
    def http(line: socket.socket) -> None:
        line.recv(100)
        line.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with listener(http) as port:
        result = reach({"host": "127.0.0.1", "port": port})
    assert (ended_at(result), ids(result)) == ("serving", ["redis.unreachable.protocol"])


def test_protected_mode() -> None:
    """It speaks only to strangers from elsewhere; the words are the server's own."""

    def refuse(line: socket.socket) -> None:
        line.sendall(b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n")
        line.recv(1000)

    with listener(refuse) as port:
        assert ids(reach({"host": "127.0.0.1", "port": port})) == ["redis.unreachable.protected_mode"]


class TestTls:
    def test_trusted(self, redis_tls: RedisServer) -> None:
        result = reach(redis_tls.connection())
        assert (result["reachable"], ids(result)) == (True, ["redis.certificate_expires"])
        assert 1.5 < result["findings"][0]["evidence"]["days_left"] <= 2

    def test_unknown_authority(self, redis_tls: RedisServer, tmp_path: Path) -> None:
        other = make_certificates(tmp_path / "other")
        result = reach({**redis_tls.connection(), "ca_cert": str(other.ca_cert)})
        assert (ended_at(result), ids(result)) == ("tls", ["redis.unreachable.tls"])
        assert "certificate" in result["findings"][0]["evidence"]["detail"]

    def test_a_file_that_is_missing(self, redis_tls: RedisServer) -> None:
        result = reach({**redis_tls.connection(), "ca_cert": "/nowhere/ca.pem"})
        assert (ended_at(result), ids(result)) == ("tls", ["redis.unreachable.tls"])

    def test_a_server_that_wants_a_client_certificate(self, redis_tls: RedisServer) -> None:
        options = {name: value for name, value in redis_tls.connection().items() if name not in ("cert", "key")}
        result = reach(options)
        assert (ended_at(result), "redis.unreachable.tls" in ids(result)) == ("auth", True)
        assert "client's certificate" in result["findings"][0]["suggest"]

    def test_tls_against_a_plain_port(self, redis_single: RedisServer) -> None:
        result = reach(redis_single.connection(), tls=True)
        assert (ended_at(result), ids(result)) == ("tls", ["redis.unreachable.tls"])
        assert "without TLS" in result["findings"][0]["evidence"]["detail"]

    def test_plain_against_a_tls_port(self, redis_tls: RedisServer) -> None:
        result = reach({"host": "127.0.0.1", "port": redis_tls.port})
        assert ids(result) == ["redis.unreachable.tls"]
        assert "speaks TLS" in result["findings"][0]["evidence"]["detail"]


class TestAuth:
    def test_a_password_is_missing_or_wrong(self, redis_lab: Lab) -> None:
        server = redis_lab.start(start_single, password="a secret of the lab")
        place = {"host": server.host, "port": server.port}
        for options, code in (
            (place, "noauth"),
            ({**place, "password": "not the password"}, "wrongpass"),
            ({**place, "username": "nobody", "password": "a secret of the lab"}, "wrongpass"),
        ):
            result = reach(options)
            assert (ended_at(result), ids(result)) == ("auth", [f"redis.unreachable.{code}"])
            assert "a secret of the lab" not in str(result)
        assert reach(server.connection())["reachable"] is True

    def test_a_password_that_the_server_does_not_have(self, redis_single: RedisServer) -> None:
        result = reach(redis_single.connection(), password="superfluous")
        assert ids(result) == ["redis.unreachable.no_password_set"]

    def test_rights_that_are_needed(self, redis_acl: RedisServer) -> None:
        options = redis_acl.connection("noconfig")
        seen = reach(options)
        assert (seen["reachable"], seen["rights"]["config_set"], seen["rights"]["eval"]) == (True, False, True)
        result = reach(options, needs=["config_set", "eval"])
        assert (ended_at(result), ids(result), result["reachable"]) == ("acl", ["redis.unreachable.acl"], False)

    def test_a_user_who_may_not_even_ask(self, redis_acl: RedisServer) -> None:
        assert ids(reach(redis_acl.connection("reader"))) == ["redis.unseen.rights"]
        redis_acl.command("ACL", "SETUSER", "reader", "-info")
        result = reach(redis_acl.connection("reader"))
        assert (ended_at(result), ids(result)) == ("acl", ["redis.unreachable.acl"])

    def test_a_database_that_is_not_there(self, redis_single: RedisServer) -> None:
        assert ids(reach(redis_single.connection(db=99))) == ["redis.unreachable.no_such_db"]


class TestServing:
    def test_a_script_that_blocks(self, redis_single: RedisServer) -> None:
        redis_single.command("CONFIG", "SET", "busy-reply-threshold", "50")
        with faults.busy_script(redis_single, 10):
            time.sleep(0.3)
            result = reach(redis_single.connection())
        assert (ended_at(result), ids(result)) == ("serving", ["redis.unreachable.busy"])

    def test_no_connection_is_free(self, redis_lab: Lab) -> None:
        server = redis_lab.start(start_single, config={"maxclients": "5"})
        with faults.flood_clients(server, 10):
            for _again in range(5):
                assert ids(reach(server.connection())) == ["redis.unreachable.maxclients"]

    def test_a_data_set_that_is_being_read(self, redis_lab: Lab) -> None:
        server = redis_lab.start(start_single, config={"loading-process-events-interval-bytes": "1024"})
        with server.client() as client:
            client.mset({f"k:{number}": "x" * 200 for number in range(20_000)})
            client.config_set("key-load-delay", "300")
            loader = Thread(target=_reload, args=(server,), daemon=True)
            loader.start()
        try:
            wait_until(lambda: "redis.unreachable.loading" in ids(reach(server.connection())), 5, "loading")
            result = reach(server.connection())
            assert "% done" in result["findings"][0]["evidence"]["detail"]
        finally:
            server.kill()
            loader.join(timeout=5)

    def test_a_replica_that_has_lost_its_primary(self, redis_replica: ReplicaPair) -> None:
        replica = redis_replica.replica
        replica.command("CONFIG", "SET", "replica-serve-stale-data", "no")
        redis_replica.primary.kill()
        wait_until(lambda: replica.info("replication")["master_link_status"] == "down", 5, "loss of the primary")
        assert ids(reach(replica.connection())) == ["redis.unreachable.masterdown"]

    def test_a_cluster_with_a_slot_that_nobody_serves(self, redis_lab: Lab) -> None:
        """Only the node that gave the slot up knows; the way in through another one has to ask it."""
        cluster = redis_lab.start(start_cluster)
        assert reach(cluster.nodes[0].connection())["findings"] == []
        cluster.primaries[1].command("CLUSTER", "DELSLOTS", 8000)
        for node in cluster.primaries:
            result = reach(node.connection())
            assert (ended_at(result), ids(result)) == ("serving", ["redis.unreachable.clusterdown"])


class TestWrites:
    def test_a_replica(self, redis_replica: ReplicaPair) -> None:
        result = reach(redis_replica.replica.connection())
        assert (result["reachable"], result["writable"], ids(result)) == (True, False, ["redis.unwritable.replica"])
        assert str(redis_replica.primary.port) in result["findings"][0]["evidence"]["detail"]

    def test_a_full_server(self, redis_lab: Lab) -> None:
        server = redis_lab.start(start_single, config={"maxmemory": "6mb", "maxmemory-policy": "noeviction"})
        faults.fill_cache(server)
        server.command("CONFIG", "SET", "maxmemory", "4mb")
        assert ids(reach(server.connection())) == ["redis.unwritable.oom"]
        server.command("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
        assert ids(reach(server.connection())) == ["redis.unwritable.oom"]
        server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        assert reach(server.connection())["writable"] is True

    def test_snapshots_that_fail(self, redis_lab: Lab, tmp_path: Path) -> None:
        folder = tmp_path / "data"
        folder.mkdir()
        server = redis_lab.start(start_single, config={"save": "3600 1", "dir": str(folder)})
        shutil.rmtree(folder)
        server.command("BGSAVE")
        wait_until(lambda: server.info("persistence")["rdb_last_bgsave_status"] == "err", 5, "failed snapshot")
        assert ids(reach(server.connection())) == ["redis.unwritable.misconf"]
        server.command("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
        assert reach(server.connection())["writable"] is True

    def test_too_few_replicas(self, redis_lab: Lab) -> None:
        server = redis_lab.start(start_single, config={"min-replicas-to-write": "1"})
        assert ids(reach(server.connection())) == ["redis.unwritable.noreplicas"]


def test_through_sentinels(redis_sentinel: SentinelSet) -> None:
    sentinels = [f"127.0.0.1:{server.port}" for server in redis_sentinel.sentinels]
    result = reach({"sentinels": sentinels, "sentinel_service": redis_sentinel.name})
    assert (result["reachable"], result["stages"][0]["ok"]) == (True, True)
    result = reach({"sentinels": sentinels, "sentinel_service": "no-such-service"})
    assert (ended_at(result), ids(result)) == ("sentinel", ["redis.unreachable.sentinel"])


def test_the_wrong_target_is_no_patient(redis_single: RedisServer) -> None:
    result = call("redis_reach_info", expect_host="prod.*", **redis_single.connection())
    assert result["error"]["code"] == "wrong_target"


def test_shipped_and_in_process_alike(redis_replica: ReplicaPair) -> None:
    task = {"sre.runbooks.redis_reach_info": redis_replica.replica.connection()}
    ran = play([{"name": "here", **task}, {"name": "shipped", "environment": {"X": "y"}, **task}])
    here, shipped = ran.result("here"), ran.result("shipped")
    assert ran.rc == 0
    for name in ("changed", "reachable", "writable", "findings", "rights", "addresses", "server"):
        assert here[name] == shipped[name], name


def _reload(server: RedisServer) -> None:
    """Ends with an error when the server is killed meanwhile."""
    try:
        with server.client(socket_timeout=60) as client:
            client.execute_command("DEBUG", "RELOAD")
    except Exception:
        return
