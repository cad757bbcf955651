# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab itself, on real servers: what starts must be ours, what is seen must be complete, what ends must be gone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
import yaml

from tests.lab import faults
from tests.lab.cli import main
from tests.lab.process import LabError, ProcessId, free_port, wait_until
from tests.lab.redis_servers import (
    Cluster,
    RedisServer,
    ReplicaPair,
    SentinelSet,
    start_cluster,
    start_replica_pair,
    start_sentinel,
    start_single,
)
from tests.lab.witness import fingerprint, monitor
from tests.lab.world import Lab, lab

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.redis


class TestSingle:
    def test_has_its_configuration_and_a_private_folder(self, redis_lab: Lab) -> None:
        server = redis_lab.start(start_single, config={"maxmemory": "64mb", "maxmemory-policy": "noeviction"})
        assert server.info("memory")["maxmemory"] == 64 * 1024 * 1024
        assert stat.S_IMODE(server.scratch.stat().st_mode) == 0o700
        assert server.connection() == {"host": "127.0.0.1", "port": server.port}
        assert "Ready to accept connections" in server.log_tail()

    def test_stops_and_stops_again(self, redis_single: RedisServer) -> None:
        redis_single.stop()
        redis_single.stop()
        assert not redis_single.alive()
        with pytest.raises(redis.ConnectionError):
            redis_single.command("PING")

    def test_restarts_on_its_port_as_another_run(self, redis_single: RedisServer) -> None:
        before = (redis_single.port, redis_single.run_id)
        redis_single.kill()
        redis_single.restart()
        assert redis_single.port == before[0]
        assert redis_single.run_id != before[1]

    def test_freezes_and_thaws(self, redis_single: RedisServer) -> None:
        redis_single.freeze()
        with redis_single.client(socket_timeout=0.2) as client, pytest.raises(redis.TimeoutError):
            client.ping()
        redis_single.thaw()
        assert redis_single.command("PING") in (True, b"PONG")

    def test_stops_when_frozen(self, redis_single: RedisServer) -> None:
        redis_single.freeze()
        redis_single.stop()
        assert not redis_single.alive()

    def test_wants_its_password(self, redis_lab: Lab) -> None:
        server = redis_lab.start(start_single, password="p:ss/w@rd")
        with pytest.raises(redis.AuthenticationError), server.client(password=None) as client:
            client.ping()
        with redis.from_url(server.url) as client:
            assert client.ping()

    def test_says_what_the_server_said_when_it_cannot_start(self, tmp_path: Path) -> None:
        with pytest.raises(LabError, match="Bad directive"):
            start_single(tmp_path / "bad", config={"no-such-directive": "1"})

    def test_tries_another_port_when_the_first_is_taken(
        self, redis_single: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ports = iter([redis_single.port, free_port()])
        monkeypatch.setattr("tests.lab.redis_servers.free_port", lambda bus: next(ports))
        second = start_single(tmp_path / "second")
        second.stop()
        assert second.port != redis_single.port


class TestOwnership:
    def test_a_foreign_server_is_not_ours(self, redis_lab: Lab) -> None:
        ours, foreign = redis_lab.start(start_single), redis_lab.start(start_single)
        ours.prove_own()
        stranger = RedisServer(ours.recipe, foreign.port)
        stranger.identity, stranger.run_id = ours.identity, ours.run_id
        with pytest.raises(LabError, match="not ours"):
            faults.add_bystanders(stranger)
        assert foreign.command("DBSIZE") == 0

    def test_a_recycled_pid_is_never_signalled(self) -> None:
        with subprocess.Popen(["sleep", "60"]) as child:
            ProcessId(child.pid, "1").end(grace=0.1)
            assert child.poll() is None
            ProcessId.of(child.pid).end()

    def test_servers_die_with_the_process_that_started_them(self, tmp_path: Path) -> None:
        script = (
            "import sys, pathlib, time; from tests.lab.redis_servers import start_single;"
            "print(start_single(pathlib.Path(sys.argv[1]) / 's').pid, flush=True); time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", script, tmp_path], cwd=ROOT, stdout=subprocess.PIPE) as starter:
            assert starter.stdout is not None
            server = ProcessId.of(int(starter.stdout.readline()))
            starter.send_signal(signal.SIGKILL)
        wait_until(lambda: not server.alive(), 5, "end of the orphan")


class TestWorld:
    def test_leaves_nothing_after_success(self) -> None:
        with lab() as world:
            server = world.start(start_single)
        assert not server.alive()
        assert not world.root.exists()

    def test_keeps_and_names_the_logs_of_a_failure(self, tmp_path: Path) -> None:
        servers: list[RedisServer] = []

        def broken() -> None:
            with lab(tmp_path / "kept") as world:
                servers.append(world.start(start_single))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError) as caught:
            broken()
        assert not servers[0].alive()
        assert str(tmp_path / "kept") in caught.value.__notes__[0]
        assert "Ready to accept" in servers[0].log_tail(50)


class TestTopologies:
    def test_replica_follows(self, redis_replica: ReplicaPair) -> None:
        redis_replica.primary.command("SET", "a", "1")
        assert redis_replica.primary.command("WAIT", 1, 2000) == 1
        assert redis_replica.replica.command("GET", "a") == b"1"

    def test_pair_with_password(self, redis_lab: Lab) -> None:
        pair = redis_lab.start(start_replica_pair, password="secret")
        assert pair.replica.connection()["password"] == "secret"

    def test_sentinels_fail_over(self, redis_lab: Lab) -> None:
        trio = redis_lab.start(start_sentinel, password="secret")
        trio.primary.kill()
        wait_until(lambda: trio.replica.info("replication")["role"] == "master", 15, "failover", 0.05)

    def test_shared_sentinels_know_the_primary(self, redis_sentinel: SentinelSet) -> None:
        told = redis_sentinel.sentinels[0].command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", redis_sentinel.name)
        assert int(told[1]) == redis_sentinel.primary.port

    def test_cluster_serves_every_slot(self, redis_cluster: Cluster) -> None:
        first = redis_cluster.nodes[0]
        with redis.RedisCluster(host=first.host, port=first.port) as client:
            for number in range(100):
                client.set(f"key:{number}", number)
        assert [node.command("DBSIZE") > 10 for node in redis_cluster.primaries] == [True] * 3

    def test_acl_users(self, redis_acl: RedisServer) -> None:
        def may(user: str, *words: str) -> bool:
            with redis_acl.client(user) as client, contextlib.suppress(redis.exceptions.NoPermissionError):
                client.execute_command(*words)
                return True
            return False

        wants = {"SET a 1": "operator noscript noconfig", "CONFIG GET save": "operator noscript"}
        wants |= {"EVAL return(1) 0": "operator noconfig", "GET a": "operator reader noscript noconfig"}
        for words, users in wants.items():
            allowed = {user for user in redis_acl.passwords if may(user, *words.split())}
            assert allowed == set(users.split()), words
        with pytest.raises(redis.AuthenticationError), redis_acl.client(username=None, password=None) as client:
            client.ping()

    def test_tls_wants_our_certificate(self, redis_tls: RedisServer) -> None:
        options = redis_tls.connection()
        assert options["tls"] is True
        assert Path(options["key"]).exists()
        assert redis_tls.info()["tcp_port"] == redis_tls.port
        with pytest.raises(redis.ConnectionError), redis_tls.client(ssl_certfile=None, ssl_keyfile=None) as client:
            client.ping()


class TestWitness:
    def test_sees_names_and_arguments_and_who_wrote(self, redis_single: RedisServer) -> None:
        key = b'a\x00\xff"\\\r\n \xe9'
        with redis_single.client() as client, contextlib.ExitStack() as block:
            client.ping()  # connects
            seen = block.enter_context(monitor(redis_single))
            client.set(key, b"1")
            client.get(key)
            client.eval("return redis.call('DEL', KEYS[1])", 1, key)
        assert [(command.name, command.lua) for command in seen.writes()] == [("set", False), ("del", True)]
        assert [command.args for command in seen.writes()] == [(key, b"1"), (key,)]
        assert [command.name for command in seen.commands] == ["set", "get", "eval", "del"]

    def test_counts_what_monitor_hides_and_not_what_only_prepares(self, redis_single: RedisServer) -> None:
        with monitor(redis_single) as seen, redis_single.client(client_name="x") as client:
            client.select(1)
            client.script_load("return 1")
            client.client_id()
            client.config_get("maxmemory")
            assert seen.writes() == ()
            client.config_set("maxmemory", "0")
            client.config_set("maxmemory", "0")
            client.client_kill_filter(_id="999999")
            client.memory_purge()
            client.client_unpause()
        names = sorted(command.name for command in seen.writes())
        assert names == ["client|kill", "client|unpause", "config|set", "config|set", "memory|purge"]

    def test_is_not_deceived_by_resetstat(self, redis_single: RedisServer) -> None:
        redis_single.command("CONFIG", "RESETSTAT")
        redis_single.command("CONFIG", "SET", "maxmemory", "0")
        with monitor(redis_single) as seen:
            redis_single.command("CONFIG", "RESETSTAT")
            redis_single.command("CONFIG", "SET", "maxmemory", "0")
        assert [command.name for command in seen.writes()] == ["config|resetstat", "config|set"]

    def test_misses_nothing_at_the_end(self, redis_single: RedisServer) -> None:
        with redis_single.client() as client, monitor(redis_single) as seen, client.pipeline(False) as batch:
            for number in range(5000):
                batch.set(number, number)
            batch.execute()
        assert len(seen.writes()) == 5000

    def test_says_when_the_server_is_lost(self, redis_single: RedisServer) -> None:
        with pytest.raises(LabError, match="lost the server"), monitor(redis_single):
            redis_single.kill()


class TestFingerprint:
    def test_is_stable_and_finds_each_change(self, redis_single: RedisServer) -> None:
        faults.add_bystanders(redis_single)
        faults.giant_key(redis_single, "giant", 3000)
        with redis_single.client() as client:
            client.mset(dict.fromkeys(faults.hostile_keys(), "v"))
            before = fingerprint(redis_single)
            assert before == fingerprint(redis_single)
            assert before.count == client.dbsize()
            client.hset("giant", "field:7", "other")
            changed = fingerprint(redis_single)
            client.persist("sess:1")
            unlimited = fingerprint(redis_single)
        assert (changed.count, changed.ttl_digest) == (before.count, before.ttl_digest)
        assert changed.digest != before.digest
        assert unlimited.digest == changed.digest
        assert unlimited.ttl_digest != changed.ttl_digest
        assert fingerprint(redis_single, "cfg:*").count == 20


class TestFaults:
    def test_fills_to_the_last_byte(self, redis_lab: Lab) -> None:
        server = redis_lab.start(start_single, config={"maxmemory": "60mb", "maxmemory-policy": "noeviction"})
        begun = time.monotonic()
        assert faults.fill_cache(server) > 30_000
        assert time.monotonic() - begun < 8
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            server.command("SET", "one-more", b"x" * 1024)

    def test_fills_an_evicting_server_until_it_evicts(self, redis_lab: Lab) -> None:
        server = redis_lab.start(start_single, config={"maxmemory": "8mb", "maxmemory-policy": "allkeys-lru"})
        for _again in range(2):
            assert faults.fill_cache(server, ttl=600) > 0
        assert server.info("stats")["evicted_keys"] > 0

    def test_fills_to_a_size_and_needs_a_limit(self, redis_single: RedisServer) -> None:
        faults.fill_cache(redis_single, until=4_000_000)
        assert 4_000_000 < redis_single.info("memory")["used_memory"] < 6_000_000
        with pytest.raises(LabError, match="maxmemory"):
            faults.fill_cache(redis_single)

    def test_writer_counts_refusals_and_notices_the_recovery(self, redis_lab: Lab) -> None:
        server = redis_lab.start(start_single, config={"maxmemory": "8mb"})
        with faults.writer(server) as writing:
            wait_until(lambda: writing.accepted > 10, 5, "accepted writes")
            faults.fill_cache(server, value_size=64)
            wait_until(lambda: writing.refused > 10, 5, "refused writes")
            assert isinstance(writing.last_error, redis.exceptions.OutOfMemoryError)
            freed = time.monotonic()
            server.command("FLUSHALL")
            wait_until(lambda: writing.accepted_again_after(freed) is not None, 5, "recovery")

    def test_floods_until_the_server_turns_clients_away(self, redis_lab: Lab) -> None:
        server = redis_lab.start(start_single, config={"maxclients": "60"}, password="secret")
        with server.client() as early:
            early.ping()
            with faults.flood_clients(server, 80, "flood") as flood:
                assert flood.refused > 0
                assert flood.accepted + flood.refused == 80
                names = [told["name"] for told in early.client_list()]
                assert names.count("flood") == flood.accepted

    def test_floods_over_tls_and_acl(self, redis_tls: RedisServer, redis_acl: RedisServer) -> None:
        for server in (redis_tls, redis_acl):
            with faults.flood_clients(server, 3, "flood") as flood:
                assert flood.accepted == 3

    def test_workers_wait_and_subscribers_listen(self, redis_single: RedisServer) -> None:
        with faults.block_workers(redis_single, 4), faults.subscribe(redis_single, 3):
            assert redis_single.info("clients")["blocked_clients"] == 4
            with redis_single.client() as client:
                assert sum(int(told["sub"]) for told in client.client_list()) == 3
            assert redis_single.command("DBSIZE") == 0

    def test_busy_script_ends_early_and_by_itself(self, redis_lab: Lab) -> None:
        server = redis_lab.start(start_single, config={"busy-reply-threshold": "50"})
        with faults.busy_script(server, 30) as script:
            wait_until(lambda: _is_busy(server), 5, "BUSY")
        assert not script.running
        with faults.busy_script(server, 0.3) as script:
            wait_until(lambda: not script.running, 5, "end of the script")

    def test_fragments_memory(self, redis_single: RedisServer) -> None:
        assert faults.fragment(redis_single, 20) > 1.3

    def test_hog_fills_its_output_buffer(self, redis_single: RedisServer) -> None:
        with faults.output_buffer_hog(redis_single, 10), redis_single.client() as client:
            (hog,) = [told for told in client.client_list() if told["name"] == "hog"]
            assert int(hog["omem"]) >= 10 * 1024 * 1024


class TestCommandLine:
    def test_up_twice_then_status_and_down(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        lab_here = ["--root", str(tmp_path)]
        # In a process of its own, so that the servers must outlive it.
        start = [sys.executable, "-m", "tests.lab", *lab_here, "up", "redis", "--topology", "acl"]
        subprocess.run(start, cwd=ROOT, check=True, capture_output=True)
        try:
            assert main([*lab_here, "up", "redis", "--topology", "acl"]) == 0
            assert "already up" in capsys.readouterr().out
            assert main([*lab_here, "up", "redis", "--maxmemory", "16mb"]) == 0
            assert main([*lab_here, "status"]) == 0
            self._check_files(tmp_path)
            pids = [entry["pid"] for entry in json.loads((tmp_path / ".lab/state.json").read_text())]
            residents = [ProcessId.of(pid) for pid in set(pids)]
        finally:
            assert main([*lab_here, "down"]) == 0
        assert not any(resident.alive() for resident in residents)
        assert not (tmp_path / "inventories/lab/hosts.yml").exists()
        assert main([*lab_here, "status"]) == 1

    @staticmethod
    def _check_files(root: Path) -> None:
        inventory = root / "inventories/lab/hosts.yml"
        for secret in (root / ".lab/state.json", inventory):
            assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        groups = yaml.safe_load(inventory.read_text())
        assert set(groups["redis"]["hosts"]) == {"redis-acl", "redis-single"}
        host = groups["redis"]["hosts"]["redis-acl"]
        assert host["ansible_connection"] == "local"
        with contextlib.closing(redis.Redis(**host["redis_connection"])) as client:
            assert client.ping()

    def test_replaces_a_topology_that_lost_a_server(self, tmp_path: Path) -> None:
        command = ["--root", str(tmp_path), "up", "redis", "--topology", "replica"]
        state = tmp_path / ".lab/state.json"
        try:
            assert main(command) == 0
            first = [entry["pid"] for entry in json.loads(state.read_text())]
            os.kill(first[0], signal.SIGKILL)
            wait_until(lambda: main(["--root", str(tmp_path), "status"]) == 1, 5, "death")
            assert main(command) == 0
            assert not {entry["pid"] for entry in json.loads(state.read_text())} & set(first)
        finally:
            assert main(["--root", str(tmp_path), "down"]) == 0

    def test_says_how_to_get_a_server(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "tests.lab", "--root", str(tmp_path), "up", "redis"]
        environment = {**os.environ, "REDIS_SERVER": "no-such-server"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "make setup" in done.stderr


class TestClusterAlone:
    def test_stops_all_nodes(self, tmp_path: Path) -> None:
        cluster = start_cluster(tmp_path / "cluster", password="secret")
        cluster.stop()
        assert not any(node.alive() for node in cluster.nodes)


def _is_busy(server: RedisServer) -> bool:
    try:
        server.command("GET", "a")
    except redis.exceptions.ResponseError as error:
        return "BUSY" in str(error)
    return False
