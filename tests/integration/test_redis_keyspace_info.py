# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""redis_keyspace_info on real servers: sums that can be checked by hand, two ways that agree, causes and remedies."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from redis.cluster import RedisCluster

from tests.lab import faults
from tests.lab.redis_servers import Cluster, RedisServer, ReplicaPair, start_single
from tests.lab.witness import monitor
from tests.lab.world import Lab
from tests.support import call, play

pytestmark = pytest.mark.redis

_SAME = ("prefixes", "types", "no_ttl_share", "classes", "protected", "queues", "keys_total", "bytes_total")


def look(server: RedisServer, user: str | None = None, **options: Any) -> dict[str, Any]:
    return call("redis_keyspace_info", **server.connection(user), **options)


def ids(result: dict[str, Any]) -> set[str]:
    return {finding["id"] for finding in result["findings"]}


def _timeless(value: Any) -> Any:
    """Without what moves between two looks."""
    if isinstance(value, dict):
        return {name: _timeless(inner) for name, inner in value.items() if name not in ("ttl", "avg_ttl")}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


def seed(server: RedisServer) -> None:
    """All types, hostile names, queues, TTLs of every class."""
    faults.add_bystanders(server)
    with server.client() as client, client.pipeline(transaction=False) as batch:
        for number in range(300):
            batch.set(f"cache:page:{number}", "x" * (50 + number), ex=(30, 1800, 40_000, 300_000, 900_000)[number % 5])
        for key in faults.hostile_keys("odd:"):
            batch.set(key, "1")
        batch.hset("app:hash", mapping={f"f{n}": n for n in range(500)})
        batch.rpush("app:list", *range(100))
        batch.sadd("app:set", *(f"m{n}" for n in range(300)))
        batch.xadd("app:stream", {"a": "b"})
        batch.set("plain", "1")
        batch.execute()


def test_sums_are_those_of_the_server(redis_single: RedisServer) -> None:
    seed(redis_single)
    result = look(redis_single)
    with redis_single.client() as client:
        everything = list(client.scan_iter(count=1000))
        sizes = {key: client.memory_usage(key, samples=5) or 0 for key in everything}
        kinds = [client.type(key).decode() for key in everything]
    pages = {key: size for key, size in sizes.items() if key.startswith(b"cache:")}
    prefixes = {entry["prefix"]: entry for entry in result["prefixes"]}
    assert result["keys_total"] == len(everything)
    assert result["bytes_total"] == sum(sizes.values())
    assert (prefixes["cache:"]["count"], prefixes["cache:"]["bytes"]) == (len(pages), sum(pages.values()))
    assert result["types"] == {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    assert result["largest"][0]["bytes"] == max(sizes.values())
    assert sum(result["ttl"].values()) == len(everything)
    assert [result["ttl"][name] for name in ("below 1m", "below 1h", "below 7d", "7d and more")] == [60, 60, 60, 60]
    assert result["coverage"]["complete"]
    assert result["coverage"]["fraction"] == 1


@pytest.mark.parametrize("depth", [1, 2])
def test_both_ways_agree(redis_single: RedisServer, depth: int) -> None:
    seed(redis_single)
    options: dict[str, Any] = {
        "prefix_depth": depth,
        "top": 50,
        "classes": [
            {"name": "pages", "match": ["cache:page:*"], "max_ttl": "1h"},
            {"name": "odd", "match": [r"odd:\[*", "odd:* *", "odd:\\x00*"]},
        ],
        "remedies": {
            "disposable": ["cache:*", "*e*"],
            "ttl_caps": [{"match": "s*", "max_ttl": "1h"}],
            "protect": ["cache:page:1*"],
        },
    }
    lua, pipeline = (look(redis_single, method=method, **options) for method in ("lua", "pipeline"))
    for name in _SAME:
        assert _timeless(lua[name]) == _timeless(pipeline[name]), name
    assert lua["classes"]["pages"]["above_max_ttl"] == 180
    assert {f["id"]: f["evidence"] for f in lua["findings"]} == {f["id"]: f["evidence"] for f in pipeline["findings"]}


def test_user_without_scripts_gets_the_same(redis_acl: RedisServer) -> None:
    seed(redis_acl)
    scripted, piped = look(redis_acl), look(redis_acl, user="noscript")
    assert (scripted["coverage"]["method"], piped["coverage"]["method"]) == ("lua", "pipeline")
    assert scripted["bytes_total"] == piped["bytes_total"]


def test_nothing_is_written(redis_single: RedisServer) -> None:
    seed(redis_single)
    with monitor(redis_single) as witness:
        look(redis_single)
        look(redis_single, method="pipeline")
        assert witness.writes() == ()


def test_names_can_be_hidden(redis_single: RedisServer) -> None:
    faults.giant_key(redis_single, "customer:secret-name", 30_000)
    result = look(redis_single, key_names="hash")
    assert "secret-name" not in str(result)
    assert "customer" not in str(result)
    assert result["largest"][0]["key"].startswith("sha256:")


@pytest.mark.parametrize("method", ["lua", "pipeline"])
def test_part_of_the_keyspace_is_scaled(redis_single: RedisServer, method: str) -> None:
    with redis_single.client() as client, client.pipeline(transaction=False) as batch:
        for number in range(20_000):
            batch.set(f"{'ab'[number % 2]}:{number}", "x" * 100)
        batch.execute()
    whole, part = look(redis_single), look(redis_single, fraction=0.2, method=method)
    assert part["coverage"]["keys_seen"] < 8000
    assert not part["coverage"]["complete"]
    assert part["bytes_total"] == pytest.approx(whole["bytes_total"], rel=0.1)
    assert part["prefixes"][0]["count"] == pytest.approx(10_000, rel=0.15)


def test_budget_ends_the_walk_and_says_so(redis_single: RedisServer) -> None:
    seed(redis_single)
    result = look(redis_single, budget=0.001, batch=10)
    assert not result["coverage"]["complete"]
    assert result["coverage"]["fraction"] < 1


def test_queues_are_found(redis_lab: Lab) -> None:
    server = redis_lab.start(start_single, config={"maxmemory": "64mb", "maxmemory-policy": "allkeys-lru"})
    seed(server)
    result = look(server, remedies={"disposable": ["cache:*"]})
    assert {(queue["kind"], queue["name"]) for queue in result["queues"]} == {
        ("bullmq", "bull:email"),
        ("celery", "celery"),
    }
    assert {"redis.queue_evictable", "redis.queue_shares_cache"} <= ids(result)
    assert {"BullMQ or Bull queue", "Celery queue", "session"} <= {entry["what"] for entry in result["protected"]}


def test_giant_key_and_long_ttls_are_findings(redis_single: RedisServer) -> None:
    seed(redis_single)
    faults.giant_key(redis_single, "report:all", 50_000)
    result = look(redis_single, classes=[{"name": "sessions", "match": ["sess:*"], "max_ttl": "2h"}])
    assert {"redis.giant_key", "redis.ttl_too_long"} <= ids(result)
    giant = next(finding for finding in result["findings"] if finding["id"] == "redis.giant_key")
    assert (giant["evidence"]["key"], giant["evidence"]["type"]) == ("report:all", "hash")


def test_cluster_is_added_up(redis_cluster: Cluster) -> None:
    node = redis_cluster.nodes[0]
    with closing(RedisCluster(host=node.host, port=node.port)) as client:
        for number in range(600):
            client.set(f"cache:{number}", "x" * 50)
    for method in ("lua", "pipeline"):
        result = look(node, method=method)
        assert (result["keys_total"], result["coverage"]["moved"]) == (600, 0)
    replicas = look(node, prefer_replica=True)
    assert len(replicas["coverage"]["replicas"]) == 3


def test_replica_is_read_when_preferred(redis_replica: ReplicaPair) -> None:
    seed(redis_replica.primary)
    with monitor(redis_replica.primary) as witness:
        result = look(redis_replica.primary, prefer_replica=True)
        witness.fence()
        assert not any(command.name in ("scan", "eval", "evalsha") for command in witness.commands)
    assert result["coverage"]["replicas"] == [f"{redis_replica.replica.host}:{redis_replica.replica.port}"]
    redis_replica.replica.kill()
    assert look(redis_replica.primary, prefer_replica=True)["coverage"]["complete"]


@pytest.mark.parametrize("options", [{"samples": 0}, {"fraction": 0}, {"fraction": 1.5}, {"match": ""}, {"top": 0}])
def test_options_without_a_meaning_are_refused(redis_single: RedisServer, options: dict[str, Any]) -> None:
    assert look(redis_single, **options)["error"]["code"] == "bad_parameter"


# --- remedies ---


def test_disposable_keys_mend_a_full_server(redis_lab: Lab) -> None:
    server = redis_lab.start(start_single, config={"maxmemory": "32mb"})
    faults.add_bystanders(server)
    faults.fill_cache(server)
    told = look(server, remedies={"target_ratio": 0.8, "disposable": ["cache:*"]})["remedies"]
    assert told["mendable"]
    assert list(told["rungs"]) == ["drop_disposable"]
    result = call("redis_keyspace", **server.connection(), match=["cache:*"], until_memory_below=0.8, max_count=100_000)
    assert result["changed"]
    assert look(server, remedies={"disposable": ["cache:*"]})["remedies"]["wanted_bytes"] == 0


def test_without_a_remedy_it_says_what_would_help(redis_lab: Lab) -> None:
    server = redis_lab.start(start_single, config={"maxmemory": "32mb"})
    faults.fill_cache(server, "precious:")
    told = look(server, remedies={"disposable": ["cache:*"]})["remedies"]
    assert (told["mendable"], told["rungs"]) == (False, {})
    assert "redis_limit_ceiling" in told["next"]
    told = look(server, remedies={"disposable": ["cache:*"], "limit_ceiling": "64mb"})["remedies"]
    assert told["mendable"]
    assert 32 * 1024**2 < told["rungs"]["raise_limit"]["limit"] <= 64 * 1024**2
    told = look(server, remedies={"limit_ceiling": "33mb"})["remedies"]
    assert not told["mendable"]


@pytest.mark.slow
def test_in_process_and_shipped_give_the_same(redis_single: RedisServer) -> None:
    seed(redis_single)
    results = []
    for extra in ({}, {"environment": {"LC_ALL": "C"}}):
        ran = play([{"name": "look", "sre.runbooks.redis_keyspace_info": redis_single.connection(), **extra}])
        assert ran.rc == 0, ran.stdout + ran.stderr
        results.append(ran.result("look"))
    for name in ("types", "bytes_total", "keys_total", "queues", "protected", "no_ttl_share", "server"):
        assert results[0][name] == results[1][name], name
