# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""redis_memory_full: eight causes of one symptom, each made for real."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.lab import faults
from tests.lab.process import wait_until
from tests.lab.redis_servers import RedisServer, start_cluster, start_single
from tests.lab.witness import Fingerprint, fingerprint, monitor
from tests.lab.world import Lab
from tests.runbooks.harness import Runbook, actions, aimed, changes, findings, message

LIMIT = "48mb"
BYSTANDERS = ("bull:*", "celery*", "unacked*", "_kombu*", "sess:*", "cfg:*")


@pytest.fixture
def patient(redis_lab: Lab) -> RedisServer:
    """A server with a limit, no eviction, and everybody's data in one database."""
    server = redis_lab.start(start_single, config={"maxmemory": LIMIT, "maxmemory-policy": "noeviction"})
    faults.add_bystanders(server)
    return server


def relieve(server: RedisServer, **declared: Any) -> Runbook:
    return aimed("redis_memory_full", server, **{"redis_settle": 20, **declared})


def bystanders(server: RedisServer) -> list[Fingerprint]:
    return [fingerprint(server, match) for match in BYSTANDERS]


def ratio(server: RedisServer) -> float:
    """What the server holds against its limit: buffers for its replicas do not count."""
    memory = server.info("memory")
    return float((memory["used_memory"] - memory["mem_not_counted_for_evict"]) / memory["maxmemory"])


@pytest.mark.compat
def test_break_and_mend_a_cache_that_is_too_big(patient: RedisServer) -> None:
    before = bystanders(patient)
    with faults.writer(patient) as writing:
        faults.fill_cache(patient)
        wait_until(lambda: writing.refused > 10, 10, "refused writes")
        started = time.monotonic()
        result = relieve(patient, redis_disposable=["cache:*"]).run()
        again = writing.accepted_again_after(started)
    assert result.rc == 0, result.stdout
    assert again is not None
    assert "redis.cache_too_big" in findings(result)
    # No further than needed: what is left is just below the ratio.
    assert 0.7 < ratio(patient) < 0.83  # the writer goes on
    assert bystanders(patient) == before
    measured = result.result("Mitigate | Delete declared keys until memory is below the ratio")["measured"]
    assert measured["bytes"] > 0


@pytest.mark.compat
def test_again(patient: RedisServer) -> None:
    faults.fill_cache(patient)
    runbook = relieve(patient, redis_disposable=["cache:*"])
    assert runbook.run().rc == 0
    second = runbook.run()
    assert (second.rc, changes(second), second.changed) == (0, [], False)


@pytest.mark.compat
def test_check_tells_the_truth(patient: RedisServer) -> None:
    faults.fill_cache(patient)
    runbook = relieve(patient, redis_disposable=["cache:*"])
    with monitor(patient) as seen:
        assert runbook.run(check=True).rc == 0
        assert seen.writes() == ()
    # Once more, unwatched: what the server keeps for its witness would count as memory that has to go.
    checked = runbook.run("--diff", check=True)
    assert checked.rc == 0, checked.stdout
    done = runbook.run()
    task = "Mitigate | Delete declared keys until memory is below the ratio"
    forecast, plan = checked.result(task), done.result(task)
    # How many keys it takes is known only when memory is below the ratio; which, and why, is known before.
    assert [words.partition(" (done")[0] for words in actions(done)] == actions(checked)
    assert forecast["plan"]["id"].partition(".")[0] == plan["plan"]["id"].partition(".")[0]
    assert plan["measured"]["count"] == pytest.approx(forecast["plan"]["count"], rel=0.05)


def test_killed_half_way(patient: RedisServer) -> None:
    faults.fill_cache(patient)
    before = bystanders(patient)
    runbook = relieve(patient, redis_disposable=["cache:*"])
    full = patient.info("keyspace")["db0"]["keys"]
    runbook.run_and_kill(lambda: patient.info("keyspace")["db0"]["keys"] < full - 300, redis_rate=800)
    assert ratio(patient) > 0.9, "it was killed too late to leave an incident"
    result = runbook.run()
    assert result.rc == 0, result.stdout
    assert ratio(patient) < 0.8
    assert bystanders(patient) == before
    assert fingerprint(patient, "sre.runbooks:*").count == 0


def test_wrong_cause_keys_without_ttl(patient: RedisServer) -> None:
    """Somebody's data, not a declared cache: it is named, and nothing is changed."""
    faults.fill_cache(patient, "events:")
    before = fingerprint(patient)
    result = relieve(patient, redis_disposable=["cache:*"]).run()
    assert result.rc != 0
    assert "redis.no_ttl_share" in findings(result)
    assert "events:" in result.stdout
    assert (changes(result), fingerprint(patient)) == ([], before)


def test_wrong_cause_one_giant_key(patient: RedisServer) -> None:
    faults.giant_key(patient, "report:all", 300_000)
    faults.fill_cache(patient, "events:", ttl=600)
    result = relieve(patient, redis_disposable=["cache:*"]).run()
    assert result.rc != 0
    assert "redis.giant_key" in findings(result)
    assert changes(result) == []


def test_wrong_cause_a_client_that_does_not_read(patient: RedisServer) -> None:
    with faults.output_buffer_hog(patient, 38):
        faults.fill_cache(patient, "events:")
        result = relieve(patient, redis_disposable=["cache:*"]).run()
    assert result.rc != 0
    assert "redis.client_buffers" in findings(result)
    assert "redis_clients_flood" in message(result)
    assert changes(result) == []


def test_wrong_cause_a_cache_that_evicts_is_meant_to_be_full(redis_lab: Lab) -> None:
    server = redis_lab.start(start_single, config={"maxmemory": LIMIT, "maxmemory-policy": "allkeys-lru"})
    faults.fill_cache(server)
    result = relieve(server, redis_disposable=["cache:*"]).run()
    assert (result.rc, changes(result), result.changed) == (0, [], False)


def test_break_and_mend_a_limit_that_is_too_low(patient: RedisServer) -> None:
    faults.fill_cache(patient, "events:", ttl=86400)
    before = fingerprint(patient)
    runbook = relieve(patient, redis_limit_ceiling="128mb")
    checked = runbook.run(check=True)
    result = runbook.run()
    assert result.rc == 0, result.stdout
    assert "redis.limit_too_low" in findings(result)
    assert actions(checked) == actions(result)
    assert 0.7 < ratio(patient) < 0.8
    assert int(patient.info("memory")["maxmemory"]) <= 128 << 20
    assert fingerprint(patient) == before
    assert runbook.run().changed is False


def test_a_ceiling_that_is_too_low_changes_nothing(patient: RedisServer) -> None:
    faults.fill_cache(patient, "events:", ttl=86400)
    result = relieve(patient, redis_limit_ceiling="52mb").run()
    assert result.rc != 0
    assert changes(result) == []
    assert int(patient.info("memory")["maxmemory"]) == 48 << 20


def test_break_and_mend_sessions_that_live_too_long(patient: RedisServer) -> None:
    """Lowered TTLs free memory when they have passed: within the settling time they are the remedy."""
    with patient.client() as client:
        client.set("websess:pinned", "x")
    faults.fill_cache(patient, "websess:", ttl=86400)
    before = bystanders(patient)
    result = relieve(patient, redis_ttl_caps=[{"match": "websess:*", "max_ttl": "3s"}]).run()
    assert result.rc == 0, result.stdout
    assert "redis.ttl_too_long" in findings(result)
    assert ratio(patient) < 0.8
    with patient.client() as client:
        assert client.ttl("websess:pinned") == -1
    assert bystanders(patient) == before


def test_a_cap_that_takes_hours_is_no_remedy_for_now(patient: RedisServer) -> None:
    faults.fill_cache(patient, "websess:", ttl=86400)
    result = relieve(patient, redis_ttl_caps=[{"match": "websess:*", "max_ttl": "2h"}]).run()
    assert result.rc != 0
    assert "redis.ttl_too_long" in findings(result)
    assert changes(result) == []


def test_break_and_mend_fragmentation(redis_lab: Lab) -> None:
    server = redis_lab.start(start_single, config={"maxmemory": "256mb"})
    faults.fragment(server, 80)
    faults.waste(server, 150)
    wait_until(lambda: server.info("memory")["allocator_rss_bytes"] > 20 << 20, 5, "waste")
    rss = server.info("memory")["used_memory_rss"]
    # As in a container whose limit is just above what is resident.
    result = relieve(server, redis_host_memory=str(int(rss * 1.2))).run()
    assert "redis.fragmentation" in findings(result)
    assert result.rc == 0, result.stdout
    assert result.result("Mitigate | Purge the allocator")["changed"] is True
    assert server.info("memory")["used_memory_rss"] < rss - (10 << 20)


def test_a_policy_that_cannot_evict_is_named(redis_lab: Lab) -> None:
    server = redis_lab.start(start_single, config={"maxmemory": LIMIT, "maxmemory-policy": "volatile-lru"})
    faults.fill_cache(server, "events:")
    result = relieve(server, redis_disposable=["cache:*"]).run()
    assert result.rc != 0
    assert "redis.policy_cannot_evict" in findings(result)
    assert changes(result) == []


def test_break_and_mend_one_full_node_of_a_cluster(redis_lab: Lab) -> None:
    cluster = redis_lab.start(start_cluster, config={"maxmemory": "24mb", "maxmemory-policy": "noeviction"})
    primaries = cluster.primaries
    _fill_own_slots(primaries[0])
    result = relieve(primaries[0], redis_disposable=["cache:*"]).run()
    assert result.rc == 0, result.stdout
    assert ratio(primaries[0]) < 0.805  # whoever asks takes a few KiB of the 24 MiB as well


def _fill_own_slots(server: RedisServer) -> None:
    """23 MB of keys whose slots this node serves."""
    with server.client() as client:
        number = 0
        while int(client.info("memory")["used_memory"]) < 23 << 20:
            for _key in range(300):
                number += 1
                try:
                    client.execute_command("SET", f"cache:{number}", "x" * 4096)
                except Exception as error:
                    if "MOVED" not in str(error) and type(error).__name__ != "MovedError":
                        raise
