# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What prose runbooks for Redis get wrong, each shown not to happen here. The ids are those of the catalogue."""

from __future__ import annotations

import time

import pytest

from tests.lab import faults
from tests.lab.redis_servers import RedisServer, start_single
from tests.lab.witness import fingerprint, monitor
from tests.lab.world import Lab
from tests.runbooks.harness import aimed, findings
from tests.support import call

OTHERS = ("bull:*", "celery*", "unacked*", "_kombu*", "sess:*", "cfg:*")


@pytest.fixture
def patient(redis_lab: Lab) -> RedisServer:
    """Cache, queues, sessions and configuration in one database, and no room left."""
    server = redis_lab.start(start_single, config={"maxmemory": "24mb", "maxmemory-policy": "noeviction"})
    faults.add_bystanders(server)
    with server.client() as client:
        client.mset(dict.fromkeys(faults.hostile_keys("cache:"), b"x"))
    faults.fill_cache(server)
    return server


def test_r1_keys_are_counted_first_and_removed_exactly(patient: RedisServer) -> None:
    """A pipe into `xargs DEL` breaks on spaces and quotes, blocks on large keys, and asks nobody."""
    others = [fingerprint(patient, match) for match in OTHERS]
    with monitor(patient) as seen:
        result = aimed("redis_cache_purge", patient, redis_disposable=["cache:*"]).run()
        removals = {command.name for command in seen.writes()} - {"set", "del", "pexpire"}
    assert result.rc == 0, result.stdout
    assert removals == {"unlink"}
    plan = result.result("Mitigate | Delete the declared keys")["plan"]
    assert plan["count"] > 1000
    assert plan["bytes"] > 1 << 20
    assert fingerprint(patient, "cache:*").count == 0
    assert [fingerprint(patient, match) for match in OTHERS] == others


def test_r2_the_cause_is_known_before_the_first_write(patient: RedisServer) -> None:
    """Policy, limit, fragmentation, buffers and TTLs are read first, and named."""
    with monitor(patient) as seen:
        result = aimed("redis_memory_full", patient, redis_disposable=["cache:*"]).run()
        names = [command.name for command in seen.commands]
    assert {"redis.memory_full", "redis.cache_too_big", "redis.no_ttl_share"} <= set(findings(result))
    assert names.index("info") < names.index("unlink")


def test_r3_keys_are_ranked_by_bytes(redis_single: RedisServer) -> None:
    """`--bigkeys` ranks by number of elements: there a set of a few thousand short members wins."""
    with redis_single.client() as client:
        client.sadd("many", *range(5000))
        client.hset("heavy", mapping={str(number): "x" * 100_000 for number in range(20)})
    result = call("redis_keyspace_info", **redis_single.connection())
    assert [key["key"] for key in result["largest"]] == ["heavy", "many"]
    assert result["largest"][0]["bytes"] > 2_000_000


def test_r4_existing_keys_are_capped_and_never_given_more(redis_single: RedisServer) -> None:
    """A new TTL in the application's configuration leaves the keys that are there as they are."""
    with redis_single.client() as client:
        client.set("sess:long", "x", ex=86_400)
        client.set("sess:short", "x", ex=60)
        client.set("sess:pinned", "x")
        arguments = {"match": ["sess:*"], "state": "ttl_capped", "max_ttl": "1h", **redis_single.connection()}
        result = call("redis_keyspace", **arguments)
        assert result["plan"]["count"] == 1
        assert 3000 < client.ttl("sess:long") <= 3600
        assert 50 < client.ttl("sess:short") <= 60
        assert client.ttl("sess:pinned") == -1
        assert call("redis_keyspace", **arguments)["changed"] is False


@pytest.mark.parametrize("name", ["redis_memory_full", "redis_cache_purge"])
def test_r5_nothing_is_ever_flushed(patient: RedisServer, name: str) -> None:
    """FLUSHDB takes queues, sessions and limits with it."""
    others = [fingerprint(patient, match) for match in OTHERS]
    with monitor(patient) as seen:
        assert aimed(name, patient, redis_disposable=["cache:*"]).run().rc == 0
        assert not {"flushdb", "flushall"} & {command.name for command in seen.commands}
    assert [fingerprint(patient, match) for match in OTHERS] == others


def test_r6_diagnosis_never_monitors_and_shows_no_payload(patient: RedisServer) -> None:
    """MONITOR halves the throughput of the patient and prints everybody's data."""
    with patient.client() as client:
        client.execute_command("CONFIG", "SET", "slowlog-log-slower-than", "0")
        client.get("canary-payload-55e1")
        before = client.info("commandstats")
        result = aimed("redis_slow", patient).run()
        after = client.info("commandstats")
    assert result.rc == 0, result.stdout
    assert not {"cmdstat_monitor", "cmdstat_keys"} & (set(after) - set(before))
    assert "canary-payload-55e1" not in result.stdout + str(result.tasks)


def test_r14_connections_are_ended_by_id_and_workers_stay(redis_single: RedisServer) -> None:
    """`grep idle` matches every line, its second word is an address with a name in front, and a worker looks idle."""
    with faults.flood_clients(redis_single, 30, "app"), faults.block_workers(redis_single, 10, "app"):
        time.sleep(2.1)
        with monitor(redis_single):
            pass
        result = call("redis_client", name="app", min_idle="2s", **redis_single.connection())
        with redis_single.client() as client:
            left = [line for line in client.client_list() if line["name"] == "app"]
    assert result["plan"]["count"] == 30
    assert all("id=" in subject for subject in result["plan"]["sample"])
    assert len(left) == 10
    assert {line["cmd"] for line in left} <= {"brpop", "bzpopmin"}


def test_r17_a_cache_and_a_queue_in_one_server_are_named_and_no_policy_is_forced(patient: RedisServer) -> None:
    """BullMQ needs noeviction, a cache needs eviction: whoever switches the policy loses jobs."""
    result = call(
        "redis_keyspace_info", remedies={"disposable": ["cache:*"], "target_ratio": 0.8}, **patient.connection()
    )
    assert "redis.queue_shares_cache" in {finding["id"] for finding in result["findings"]}
    refused = call("redis_setting", settings={"maxmemory-policy": "allkeys-lru"}, **patient.connection())
    assert refused["error"]["kind"] == "guard_refused"
    assert patient.info("memory")["maxmemory_policy"] == "noeviction"
