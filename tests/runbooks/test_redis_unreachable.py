# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""redis_unreachable names the stage that fails, each made for real, and touches nothing."""

from __future__ import annotations

import shutil
import socket
import time
from typing import Any

import pytest

from tests.lab import faults
from tests.lab.redis_servers import RedisServer, ReplicaPair, start_cluster, start_single
from tests.lab.witness import fingerprint, monitor
from tests.lab.world import Lab
from tests.runbooks.harness import Runbook, aimed, changes, findings

TASK = "Diagnose | Go from the name to the server's own refusals"


def reach(connection: dict[str, Any]) -> list[str]:
    """Ids of the findings; the run itself must not fail."""
    result = Runbook("redis_unreachable", {"connect_timeout": 2, "op_timeout": 2, **connection}).run()
    assert result.rc == 0, result.stdout
    assert changes(result) == []
    return findings(result)


def test_break_and_mend_the_network(redis_single: RedisServer) -> None:
    connection = redis_single.connection()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent_port = silent.getsockname()[1]
        assert reach({**connection, "port": silent_port}) == ["redis.unreachable.timeout"]
    assert reach({**connection, "host": "no-such-host.invalid"}) == ["redis.unreachable.dns"]
    redis_single.stop()
    assert reach(connection) == ["redis.unreachable.refused"]


def test_break_and_mend_tls(redis_tls: RedisServer, redis_lab: Lab) -> None:
    connection = redis_tls.connection()
    assert reach(connection) == ["redis.certificate_expires"]  # the lab's certificates live for two days
    assert "redis.unreachable.tls" in reach({**connection, "ca_cert": connection["cert"]})
    plain = redis_lab.start(start_single).connection()
    assert set(reach({**plain, "tls": True})) & {"redis.unreachable.tls", "redis.unreachable.protocol"}


def test_break_and_mend_login_and_rights(redis_acl: RedisServer) -> None:
    operator = redis_acl.connection("operator")
    assert reach(operator) == []
    assert reach({**operator, "password": "wrong-wrong"}) == ["redis.unreachable.wrongpass"]
    nobody = {key: value for key, value in operator.items() if key not in ("username", "password")}
    assert reach(nobody) == ["redis.unreachable.noauth"]
    assert reach({**operator, "db": 99}) == ["redis.unreachable.no_such_db"]


def test_break_and_mend_a_server_that_is_busy(redis_single: RedisServer) -> None:
    redis_single.command("CONFIG", "SET", "busy-reply-threshold", "50")
    with faults.busy_script(redis_single, 20):
        time.sleep(0.3)
        assert reach(redis_single.connection()) == ["redis.unreachable.busy"]


def test_break_and_mend_too_many_clients(redis_lab: Lab) -> None:
    server = redis_lab.start(start_single, config={"maxclients": "20"})
    with faults.flood_clients(server, 25):
        assert reach(server.connection()) == ["redis.unreachable.maxclients"]


def test_break_and_mend_a_replica_without_its_primary(redis_replica: ReplicaPair) -> None:
    redis_replica.replica.command("CONFIG", "SET", "replica-serve-stale-data", "no")
    redis_replica.primary.kill()
    time.sleep(0.5)
    assert "redis.unreachable.masterdown" in reach(redis_replica.replica.connection())


def test_break_and_mend_a_cluster_without_some_slots(redis_lab: Lab) -> None:
    cluster = redis_lab.start(start_cluster)
    cluster.primaries[0].command("CLUSTER", "DELSLOTS", "0")
    time.sleep(1)
    assert "redis.unreachable.clusterdown" in reach(cluster.primaries[1].connection())


def test_break_and_mend_snapshots_that_fail(redis_lab: Lab) -> None:
    server = redis_lab.start(start_single, config={"save": "3600 1", "enable-protected-configs": "local"})
    folder = server.scratch / "gone"
    folder.mkdir()
    server.command("CONFIG", "SET", "dir", str(folder))
    shutil.rmtree(folder)
    server.command("SET", "x", "1")
    server.command("BGSAVE")
    time.sleep(0.5)
    assert "redis.unwritable.misconf" in reach(server.connection())


def test_break_and_mend_memory_that_is_full(redis_lab: Lab) -> None:
    server = redis_lab.start(start_single, config={"maxmemory": "8mb"})
    faults.fill_cache(server)
    assert "redis.unwritable.oom" in reach(server.connection())


@pytest.mark.compat
def test_again(redis_single: RedisServer) -> None:
    redis_single.stop()
    connection = redis_single.connection()
    assert reach(connection) == reach(connection) == ["redis.unreachable.refused"]


def test_check_tells_the_truth(redis_single: RedisServer) -> None:
    faults.add_bystanders(redis_single)
    before = fingerprint(redis_single)
    with monitor(redis_single) as seen:
        result = aimed("redis_unreachable", redis_single).run(check=True)
        assert seen.writes() == ()
    assert (result.rc, result.result(TASK)["reachable"], fingerprint(redis_single)) == (0, True, before)


def test_killed_half_way(redis_single: RedisServer) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        begun = time.monotonic()
        Runbook("redis_unreachable", {"host": "127.0.0.1", "port": port}).run_and_kill(
            lambda: time.monotonic() - begun > 2
        )
    assert reach(redis_single.connection()) == []


@pytest.mark.parametrize("role", ["primary", "replica"])
def test_wrong_cause_a_healthy_server(redis_replica: ReplicaPair, role: str) -> None:
    """Nothing is wrong, or nothing but that it is a replica."""
    server = getattr(redis_replica, role)
    assert reach(server.connection()) == ([] if role == "primary" else ["redis.unwritable.replica"])
