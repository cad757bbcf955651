# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What people get wrong at three in the morning: each has its own clear error, and changes nothing."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lab import faults
from tests.lab.process import wait_until
from tests.lab.redis_servers import Cluster, RedisServer, ReplicaPair, start_single
from tests.lab.witness import fingerprint
from tests.lab.world import Lab
from tests.runbooks.harness import Runbook, aimed, changes, message
from tests.support import PlayResult

DROP = "Mitigate | Delete declared keys until memory is below the ratio"


@pytest.fixture
def patient(redis_lab: Lab) -> RedisServer:
    """Full, with a cache that may go."""
    server = redis_lab.start(start_single, config={"maxmemory": "24mb", "maxmemory-policy": "noeviction"})
    faults.add_bystanders(server)
    faults.fill_cache(server)
    return server


def error(result: PlayResult) -> tuple[str, str]:
    """Kind and code of the first failure."""
    failed = next(entry["result"] for entry in result.tasks if entry["status"] == "failed")
    return failed["error"]["kind"], failed["error"]["code"]


def relieve(connection: dict[str, Any], **declared: Any) -> Runbook:
    quick = {"connect_timeout": 2, "op_timeout": 5}
    return Runbook("redis_memory_full", {**quick, **connection}, {"redis_disposable": ["cache:*"], **declared})


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"host": "no-such-host.invalid"}, ("unreachable", "dns")),
        ({"port": 1}, ("unreachable", "refused")),
        ({"password": "canary-wrong-password"}, ("auth", "no_password_set")),
        ({"username": "nobody", "password": "canary-wrong-password"}, ("auth", "wrongpass")),
        ({"db": 4711}, ("not_found", "no_such_db")),
        # A plain server waits for the rest of what it takes for a command.
        ({"tls": True}, ("timeout", "timeout")),
        ({"expect_host": r"production-\d+:6379"}, ("precondition", "wrong_target")),
    ],
)
def test_a_wrong_connection(patient: RedisServer, wrong: dict[str, Any], expected: tuple[str, str]) -> None:
    before = fingerprint(patient)
    result = relieve({**patient.connection(), **wrong}).run()
    assert error(result) == expected
    assert "canary-wrong-password" not in result.stdout + result.stderr
    assert fingerprint(patient) == before


def test_a_wrong_authority(redis_tls: RedisServer) -> None:
    connection = redis_tls.connection()
    assert error(relieve({**connection, "ca_cert": connection["cert"]}).run()) == ("unreachable", "tls")


def test_a_replica(redis_replica: ReplicaPair) -> None:
    primary, replica = redis_replica.primary, redis_replica.replica
    faults.fill_cache(primary, until=10 << 20)  # the replica holds less: its primary's buffers are not its own
    wait_until(lambda: fingerprint(replica).count == fingerprint(primary).count, 10, "the replica")
    for server in (primary, replica):
        server.command("CONFIG", "SET", "maxmemory", "7mb")
    result = relieve(replica.connection()).run()
    assert error(result) == ("precondition", "replica")
    assert f"{primary.port}" in message(result)


def test_a_node_of_a_cluster_that_is_meant_alone(redis_cluster: Cluster) -> None:
    connection = {**redis_cluster.primaries[0].connection(), "cluster": "never"}
    assert error(relieve(connection).run()) == ("precondition", "cluster_node")


def test_a_missing_right(redis_acl: RedisServer) -> None:
    redis_acl.command("CONFIG", "SET", "maxmemory", "16mb")
    faults.fill_cache(redis_acl)
    before = fingerprint(redis_acl)
    result = aimed("redis_memory_full", redis_acl, "reader", redis_disposable=["cache:*"]).run()
    assert error(result)[0] == "forbidden"
    assert fingerprint(redis_acl) == before


@pytest.mark.parametrize("pattern", ["", "*", "bull:*", "sess:*", "celery"])
def test_a_pattern_that_must_not_be(patient: RedisServer, pattern: str) -> None:
    before = fingerprint(patient)
    result = relieve(patient.connection(), redis_disposable=[pattern]).run()
    assert result.rc != 0
    assert fingerprint(patient) == before


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"redis_max_count": 0}, "max_count: 0 is not a limit"),
        pytest.param({"redis_limit_ceiling": "4 zb"}, "'4 zb' is not a size", marks=pytest.mark.compat),
        ({"redis_host_memory": "lots"}, "'lots' is not a size"),
        ({"redis_ttl_caps": [{"match": "sess:*", "max_ttl": "soon"}]}, "'soon' is not a duration"),
        pytest.param(
            {"redis_ttl_caps": [{"match": "sess:*"}]}, "missing required arguments: max_ttl", marks=pytest.mark.compat
        ),
        ({"redis_memory_target": "most"}, "redis_memory_target"),
        pytest.param({"redis_disposible": ["cache:*"]}, "did you mean redis_disposable?", marks=pytest.mark.compat),
        ({"approved_plan": "0123456789abcdef.5"}, "is not the plan of now"),
    ],
)
def test_a_wrong_parameter(patient: RedisServer, extra: dict[str, Any], words: str) -> None:
    before = fingerprint(patient)
    result = relieve(patient.connection()).run(**extra)
    assert result.rc != 0
    assert words in message(result), message(result)
    assert (changes(result), fingerprint(patient)) == ([], before)


def test_a_typo_in_a_parameter_file(patient: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "parameters.yml"
    file.write_text("redis_disposable: ['cache:*']\nredis_max_cuont: 10\n")
    result = relieve(patient.connection()).run("-e", f"@{file}")
    assert "redis_max_cuont is not a parameter of this runbook: did you mean redis_max_count?" in message(result)


def test_two_runs_at_once(patient: RedisServer) -> None:
    runbook = relieve(patient.connection())
    full = patient.info("keyspace")["db0"]["keys"]
    first: list[PlayResult] = []
    # Slow enough to be still at it when the second has started, on a busy machine too.
    running = threading.Thread(target=lambda: first.append(runbook.run(redis_rate=600)))
    running.start()
    wait_until(lambda: patient.info("keyspace")["db0"]["keys"] < full - 100, 30, "the first run to act")
    second = runbook.run()
    running.join()
    assert error(second) == ("conflict", "lease_held")
    assert changes(second) == []
    assert first[0].rc == 0, first[0].stdout


def test_a_server_that_stops_in_the_middle(patient: RedisServer) -> None:
    result = _while_deleting(patient, patient.kill)
    assert error(result)[0] in ("unreachable", "timeout")
    assert "keys were done" in message_of(result, DROP)


def test_a_server_that_freezes_in_the_middle(patient: RedisServer) -> None:
    result = _while_deleting(patient, patient.freeze)
    patient.thaw()
    assert error(result)[0] == "timeout"
    assert "keys were done" in message_of(result, DROP)
    again = relieve(patient.connection()).run()
    assert again.rc == 0, again.stdout


def test_a_server_that_is_busy_in_the_middle(patient: RedisServer) -> None:
    patient.command("CONFIG", "SET", "busy-reply-threshold", "50")
    held: list[faults.BusyScript] = []
    result = _while_deleting(patient, lambda: held.append(faults.busy_script(patient, 3)))
    held[0].close()
    assert error(result) == ("precondition", "busy")
    assert "keys were done" in message_of(result, DROP)


@pytest.mark.parametrize("place", ["/dev/full/reports", "/proc/reports"])
def test_a_report_that_cannot_be_written(patient: RedisServer, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The patient comes first: the run goes on, and says where the record is missing."""
    monkeypatch.setenv("SRE_RUNBOOKS_REPORTS", place)
    result = relieve(patient.connection()).run()
    assert result.rc == 0, result.stdout
    assert "SRE_RUNBOOKS_REPORTS" in result.stdout + result.stderr


def message_of(result: PlayResult, task: str) -> str:
    return str(result.result(task)["msg"])


def _while_deleting(patient: RedisServer, fault: Any) -> PlayResult:
    """Runs the runbook slowly and makes the fault while it deletes."""
    full = patient.info("keyspace")["db0"]["keys"]
    results: list[PlayResult] = []
    runbook = relieve({**patient.connection(), "op_timeout": 2})
    running = threading.Thread(target=lambda: results.append(runbook.run(redis_rate=1500)))
    running.start()
    wait_until(lambda: patient.info("keyspace")["db0"]["keys"] < full - 100, 30, "the run to act")
    fault()
    running.join()
    time.sleep(0.1)
    return results[0]
