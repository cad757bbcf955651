# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""redis_keyspace's plan over a fake: what is asked for, what is promised, where it stops."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.sre.runbooks.plugins.module_utils._core.run import execute
from ansible_collections.sre.runbooks.plugins.module_utils._redis.walk import Deadline, Pace
from ansible_collections.sre.runbooks.plugins.modules.redis_keyspace import DOOR
from tests.fakes.redis import FakeServer, door_of, redis_of


def run(*servers: FakeServer, check_mode: bool = False, topology: str = "single", **args: Any) -> dict[str, Any]:
    checked = ArgumentSpecValidator(DOOR.spec.arguments(), **DOOR.spec.rules()).validate(args)
    assert not checked.error_messages
    door = door_of(DOOR, redis_of(*servers, topology=topology))
    return execute(door, checked.validated_parameters, check_mode=check_mode)


def seeded(count: int = 100, prefix: str = "cache:", **options: Any) -> FakeServer:
    server = FakeServer(**options)
    for number in range(count):
        server.call("SET", f"{prefix}{number}", "x" * 100, "EX", 3600)
    server.call("SET", "config", "1")
    server.log.clear()
    return server


def sent(server: FakeServer) -> set[bytes]:
    return {words[0] for words in server.log}


def test_check_mode_sends_no_write_and_promises_what_the_run_does() -> None:
    server = seeded()
    checked = run(server, match=["cache:*"], check_mode=True)
    assert not sent(server) & {b"UNLINK", b"PEXPIRE", b"DEL"}
    real = run(server, match=["cache:*"])
    assert checked["plan"] == real["plan"]
    assert real["measured"]["count"] == checked["plan"]["count"] == 100
    assert set(server.keys) == {b"config"}


def test_bytes_are_exact_when_every_key_was_measured() -> None:
    few, many = (
        run(seeded(5), match=["cache:*"], check_mode=True),
        run(seeded(2000), match=["cache:*"], check_mode=True),
    )
    assert few["keyspace"]["patterns"][0]["bytes_exact"]
    assert not many["keyspace"]["patterns"][0]["bytes_exact"]
    assert many["keyspace"]["bytes_estimated"] == pytest.approx(2000 * 166, rel=0.05)


class Resizing(FakeServer):
    """As a server that has just lost many keys: SCAN shows some twice, so that more are met than there are."""

    def call(self, *command: Any) -> Any:
        return 90 if command[0] == "DBSIZE" else super().call(*command)


def test_keys_met_twice_are_no_more_than_all() -> None:
    server = Resizing()
    for number in range(100):
        server.call("SET", f"cache:{number}", "x")
    assert run(server, match=["cache:*"])["changed"] is True
    assert not server.keys


def test_plan_id_is_the_class_and_its_number() -> None:
    first, second = (run(seeded(count), match=["cache:*"], check_mode=True)["plan"]["id"] for count in (100, 90))
    assert first.split(".")[0] == second.split(".")[0]
    assert (first.split(".")[1], second.split(".")[1]) == ("100", "90")
    other = run(seeded(), match=["cache:*"], min_size="10", check_mode=True)["plan"]["id"]
    assert other.split(".")[0] != first.split(".")[0]


def test_memory_below_the_ratio_needs_no_count() -> None:
    server = seeded(settings={"maxmemory": "100000000", "maxmemory-policy": "noeviction"})
    result = run(server, match=["cache:*"], until_memory_below=0.5)
    assert not result["changed"]
    assert b"SCAN" not in sent(server)


def test_deleting_stops_at_the_ratio() -> None:
    server = seeded(5000, settings={"maxmemory": "1500000", "maxmemory-policy": "noeviction"})
    result = run(server, match=["cache:*"], until_memory_below=0.8)
    assert result["changed"]
    assert 1_150_000 < server.used <= 1_200_000
    assert result["plan"]["count"] == pytest.approx(result["measured"]["count"], rel=0.05)


def test_only_nodes_above_the_ratio_are_worked_on() -> None:
    tight = {"maxmemory": "1200000", "maxmemory-policy": "noeviction"}
    roomy = {"maxmemory": "9000000", "maxmemory-policy": "noeviction"}
    full, calm = seeded(3000, settings=tight), seeded(3000, settings=roomy)
    run(full, calm, match=["cache:*"], until_memory_below=0.9)
    assert len(full.keys) < 3001
    assert len(calm.keys) == 3001


def test_replica_is_refused_before_anything_is_asked() -> None:
    server = seeded(role="slave")
    result = run(server, match=["cache:*"])
    assert result["error"]["code"] == "replica"
    assert server.log == []


def test_missing_right_is_told_before_the_count() -> None:
    server = seeded(forbidden=frozenset({"UNLINK"}))
    result = run(server, match=["cache:*"])
    assert result["error"]["kind"] == "forbidden"
    assert b"SCAN" not in sent(server)


def test_failure_in_the_middle_says_what_was_done() -> None:
    server = seeded(1000)

    def unlink_once(words: tuple[bytes, ...]) -> None:
        if words[0] == b"UNLINK" and len(server.keys) < 800:
            raise ConnectionResetError("gone")

    result = run(Watched(server, unlink_once), match=["cache:*"])  # type: ignore[arg-type]
    assert (result["failed"], result["changed"]) == (True, True)
    assert result["error"]["kind"] == "unreachable"
    assert f"{1001 - len(server.keys)} of 1000 keys were done" in result["msg"]


class Watched:
    """A fake that a test can make fail."""

    def __init__(self, server: FakeServer, before: Any) -> None:
        self._server, self._before = server, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def call(self, *command: Any) -> Any:
        self._before(tuple(word if isinstance(word, bytes) else str(word).encode() for word in command))
        return self._server.call(*command)


@pytest.mark.parametrize(
    "args",
    [
        {"match": []},
        {"match": ["*"]},
        {"match": ["a*"], "until_memory_below": 1.5},
        {"match": ["a*"], "until_memory_below": 0.5, "state": "ttl_capped", "max_ttl": "1h"},
        {"match": ["a*"], "state": "ttl_capped", "max_ttl": "0"},
        {"match": ["a*"], "state": "ttl_capped", "max_ttl": "1h", "jitter": 1},
        {"match": ["a*"], "state": "ttl_capped", "max_ttl": "1h", "no_ttl_only": True},
        {"match": ["a*"], "min_idle": "soon"},
        {"match": ["a*"], "batch": 0},
        {"match": ["a*"], "rate": 0},
        {"match": ["a*"], "timeout": 0},
    ],
)
def test_options_without_a_meaning_are_refused(args: dict[str, Any]) -> None:
    server = seeded()
    assert run(server, **args)["error"]["code"] == "bad_parameter"
    assert len(server.keys) == 101


def test_slices_fit_the_server() -> None:
    pace = Pace(largest=1000, target=0.005)
    for _slice in range(10):
        pace.took(0.001, 0)
    assert pace.size == 1000
    pace.took(0.020, 0)
    assert pace.size == 250
    pace.took(0.004, 0)
    assert pace.size == 250


def test_round_trips_are_not_the_servers_work() -> None:
    pace = Pace(largest=1000, target=0.005, trip=0.050, size=500)
    pace.took(0.054, 0)
    assert pace.size >= 500


def test_rate_waits_and_keeps_slices_small() -> None:
    slept: list[float] = []
    pace = Pace(largest=1000, rate=1000, sleep=slept.append)
    assert pace.size == 100
    pace.took(0.02, 100)
    assert slept == [pytest.approx(0.08)]


def test_deadline() -> None:
    times = iter([0.0, 1.0, 5.0])
    deadline = Deadline(3, clock=lambda: next(times))
    assert (deadline.over, deadline.over) == (False, True)
