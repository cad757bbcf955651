# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""redis_clients_flood: the idle application goes; workers, subscribers, replicas and strangers stay."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.lab import faults
from tests.lab.redis_servers import RedisServer, ReplicaPair, start_replica_pair
from tests.lab.witness import monitor
from tests.lab.world import Lab
from tests.runbooks.harness import Runbook, actions, aimed, changes, findings, message

TASK = "Mitigate | Close the idle connections"


@pytest.fixture
def pair(redis_lab: Lab) -> ReplicaPair:
    return redis_lab.start(start_replica_pair, config={"maxclients": "300"})


@pytest.fixture
def patient(pair: ReplicaPair) -> Iterator[RedisServer]:
    """230 idle connections of an application among workers, subscribers, a replica and another application."""
    with ExitStack() as held:
        held.enter_context(faults.flood_clients(pair.primary, 200, "app"))
        held.enter_context(faults.flood_clients(pair.primary, 10, "billing"))
        held.enter_context(faults.block_workers(pair.primary, 20, "app-worker"))
        held.enter_context(faults.subscribe(pair.primary, 20, "app-news"))
        time.sleep(2.1)  # they have to be idle for two seconds
        yield pair.primary


def close(server: RedisServer, **declared: Any) -> Runbook:
    defaults = {"redis_client_name": "app*", "redis_client_min_idle": "2s"}
    return aimed("redis_clients_flood", server, **{**defaults, **declared})


def names(server: RedisServer) -> dict[str, int]:
    """How many connections each name holds; our own apart."""
    with server.client() as client:
        found: dict[str, int] = {}
        for line in client.client_list():
            if line["name"] not in ("", "sre.runbooks"):
                found[line["name"]] = found.get(line["name"], 0) + 1
    return found


@pytest.mark.compat
def test_break_and_mend(pair: ReplicaPair, patient: RedisServer) -> None:
    result = close(patient).run()
    assert result.rc == 0, result.stdout
    assert names(patient) == {"billing": 10, "app-worker": 20, "app-news": 20}
    assert pair.replica.info("replication")["master_link_status"] == "up"
    reasons = {spared["reason"] for spared in result.result(TASK)["spared"]}
    assert {"a subscriber is idle by nature"} < reasons
    assert "redis.timeout_unset" in findings(result)


def test_again(patient: RedisServer) -> None:
    assert close(patient).run().rc == 0
    second = close(patient).run()
    assert (second.rc, changes(second), second.changed) == (0, [], False)


def test_check_tells_the_truth(patient: RedisServer) -> None:
    with monitor(patient) as seen:
        checked = close(patient).run(check=True)
        assert checked.rc == 0, checked.stdout
        assert seen.writes() == ()
    assert len(actions(checked)) == 200
    done = close(patient).run()
    assert sorted(actions(done)) == sorted(actions(checked))


def test_killed_half_way(patient: RedisServer) -> None:
    with patient.client() as client:
        close(patient).run_and_kill(lambda: int(client.info("clients")["connected_clients"]) < 235)
    result = close(patient, redis_clients_ratio=0.1, redis_settle=2).run()
    assert result.rc != 0 or names(patient).get("app") is None
    assert names(patient) == {"billing": 10, "app-worker": 20, "app-news": 20}


def test_wrong_cause_a_flood_of_workers(pair: ReplicaPair) -> None:
    """Those who wait for work look idle. They are named, and stay."""
    with faults.block_workers(pair.primary, 250, "app-worker"):
        time.sleep(2.1)
        before = names(pair.primary)
        result = close(pair.primary, redis_settle=2).run()
        assert result.rc != 0
        assert "redis.clients_high" in message(result)
        assert (changes(result), names(pair.primary)) == ([], before)


@pytest.mark.compat
def test_nobody_is_named(patient: RedisServer) -> None:
    before = names(patient)
    result = close(patient, redis_client_name=None).run()
    assert result.rc != 0
    assert '"app"' in message(result)
    assert "200" in message(result)
    assert (changes(result), names(patient)) == ([], before)
