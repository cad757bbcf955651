# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""redis_keyspace on real servers: what goes, what must stay, and how it ends when something breaks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.cluster import RedisCluster

from tests.lab import faults
from tests.lab.process import wait_until
from tests.lab.redis_servers import Cluster, RedisServer, ReplicaPair, ask, start_cluster, start_single
from tests.lab.witness import fingerprint, monitor
from tests.lab.world import Lab
from tests.support import ROOT, call, play, prepare

pytestmark = pytest.mark.redis


def purge(server: RedisServer, *match: str, user: str | None = None, **options: Any) -> dict[str, Any]:
    return call("redis_keyspace", **{**server.connection(user), "match": list(match), **options})


def fill(server: RedisServer, prefix: str, count: int, size: int = 100, ttl: int | None = None) -> None:
    with server.client() as client:
        for start in range(0, count, 5000):
            with client.pipeline(transaction=False) as batch:
                for number in range(start, min(start + 5000, count)):
                    batch.set(f"{prefix}{number}", b"x" * size, ex=ttl)
                batch.execute()


def keys(server: RedisServer, match: str = "*") -> set[bytes]:
    with server.client() as client:
        return set(client.scan_iter(match=match, count=1000))


def kind(result: dict[str, Any]) -> str:
    return str(result.get("error", {}).get("kind", "no error"))


# --- what goes and what stays ---


def test_class_is_gone_and_neighbours_are_untouched(redis_single: RedisServer) -> None:
    faults.add_bystanders(redis_single)
    fill(redis_single, "keep:", 300)
    before = fingerprint(redis_single)
    fill(redis_single, "cache:", 3000)
    result = purge(redis_single, "cache:*")
    assert result["changed"]
    assert result["plan"]["count"] == result["measured"]["count"] == 3000
    assert result["keyspace"]["method"] == "lua"
    assert result["measured"]["after"] < result["measured"]["before"]
    assert fingerprint(redis_single) == before


def test_second_run_changes_nothing(redis_single: RedisServer) -> None:
    fill(redis_single, "cache:", 500)
    assert purge(redis_single, "cache:*")["changed"]
    again = purge(redis_single, "cache:*")
    assert (again["changed"], again["plan"]["count"], again["actions"]) == (False, 0, [])


@pytest.mark.parametrize("user", ["operator", "noscript"])
def test_hostile_keys_go_and_near_misses_stay(redis_acl: RedisServer, user: str) -> None:
    hostile = faults.hostile_keys("cache:")
    misses = [b"cache", b"Cache:a", b"xcache:a", b"cache;a", *faults.hostile_keys("cach:")]
    with redis_acl.client() as client:
        client.mset(dict.fromkeys([*hostile, *misses], b"1"))
    result = purge(redis_acl, "cache:*", user=user)
    assert result["measured"]["count"] == len(hostile)
    assert keys(redis_acl) == set(misses)
    assert result["keyspace"]["method"] == ("lua" if user == "operator" else "pipeline")


@pytest.mark.parametrize("user", ["operator", "noscript"])
@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        (r"k\[1\]", {b"k1", b"k2", b"k*", b"kx\x00y"}),
        ("k[12]", {b"k[1]", b"k*", b"kx\x00y"}),
        (r"k\*", {b"k1", b"k2", b"k[1]", b"kx\x00y"}),
        (r"k?\x00*", {b"k1", b"k2", b"k[1]", b"k*"}),
        ("k[^1*]", {b"k1", b"k[1]", b"k*", b"kx\x00y"}),
    ],
)
def test_patterns_mean_what_redis_means(redis_acl: RedisServer, pattern: str, left: set[bytes], user: str) -> None:
    with redis_acl.client() as client:
        client.mset(dict.fromkeys([b"k1", b"k2", b"k[1]", b"k*", b"kx\x00y"], b"1"))
    purge(redis_acl, pattern, user=user)
    assert keys(redis_acl) == left


@pytest.mark.parametrize("user", ["operator", "noscript"])
def test_protected_keys_inside_a_pattern_are_spared_and_counted(redis_acl: RedisServer, user: str) -> None:
    names = ["app:1", "app:2", "app:keep:1", "b:1", "bull:email:wait", "celery"]
    with redis_acl.client() as client:
        client.mset(dict.fromkeys(names, b"1"))
    result = purge(redis_acl, "app:*", "b*", "*e*", user=user, protect=["app:keep:*"])
    assert keys(redis_acl) == {b"app:keep:1", b"bull:email:wait", b"celery"}
    reasons = {entry["reason"] for entry in result["spared"]}
    assert {"protected by this run", "BullMQ or Bull queue", "Celery queue"} <= reasons
    assert result["keyspace"]["matched"] == 3


@pytest.mark.parametrize("pattern", ["bull:*", "bull:email:*", "celery", "unacked_index", "sess:*", "sre.runbooks:x"])
def test_protected_patterns_are_refused(redis_single: RedisServer, pattern: str) -> None:
    faults.add_bystanders(redis_single)
    before = fingerprint(redis_single)
    result = purge(redis_single, "cache:*", pattern)
    assert (kind(result), result["error"]["code"]) == ("guard_refused", "protected")
    assert fingerprint(redis_single) == before


@pytest.mark.parametrize("pattern", ["", "*", "**", "?*", "[^a]*", "??"])
def test_patterns_that_name_nothing_are_refused(redis_single: RedisServer, pattern: str) -> None:
    fill(redis_single, "cache:", 5)
    assert purge(redis_single, pattern)["error"]["code"] == "bad_parameter"
    assert len(keys(redis_single)) == 5


def test_overlapping_patterns_count_a_key_once(redis_single: RedisServer) -> None:
    fill(redis_single, "cache:page:", 100)
    fill(redis_single, "cache:x:", 50)
    result = purge(redis_single, "cache:page:*", "cache:*")
    assert result["plan"]["count"] == result["measured"]["count"] == 150
    assert [one["matched"] for one in result["keyspace"]["patterns"]] == [100, 50]


@pytest.mark.parametrize("user", ["operator", "noscript"])
@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"type": "hash"}, {b"k:big", b"k:short", b"k:long", b"k:none"}),
        ({"min_size": "10kb"}, {b"k:hash", b"k:short", b"k:long", b"k:none"}),
        ({"ttl_below": "1h"}, {b"k:hash", b"k:big", b"k:long", b"k:none"}),
        ({"no_ttl_only": True, "type": "string", "min_size": "10kb"}, {b"k:hash", b"k:short", b"k:long", b"k:none"}),
        ({"min_idle": "1h"}, {b"k:hash", b"k:big", b"k:short", b"k:long", b"k:none"}),
    ],
)
def test_filters(redis_acl: RedisServer, options: dict[str, Any], left: set[bytes], user: str) -> None:
    with redis_acl.client() as client:
        client.hset("k:hash", mapping={"a": "b"})
        client.set("k:big", b"x" * 20_000)
        client.set("k:short", "1", ex=600)
        client.set("k:long", "1", ex=86400)
        client.set("k:none", "1")
    purge(redis_acl, "k:*", user=user, **options)
    assert keys(redis_acl) == left


def test_idle_time_needs_a_policy_that_keeps_it(redis_lab: Lab) -> None:
    server = redis_lab.start(start_single, config={"maxmemory-policy": "allkeys-lfu"})
    assert kind(purge(server, "cache:*", min_idle="1h")) == "unsupported"


def test_keys_that_had_run_out_are_told_apart(redis_lab: Lab) -> None:
    server = redis_lab.start(start_single, config={"enable-debug-command": "yes"})
    server.command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
    fill(server, "cache:", 40)
    for number in range(30):
        server.command("SET", f"cache:old:{number}", "x", "PX", 1)
    time.sleep(0.01)
    result = purge(server, "cache:*")
    assert (result["measured"]["count"], result["keyspace"]["expired_seen"]) == (40, 30)


# --- TTL caps ---


@pytest.mark.parametrize("user", ["operator", "noscript"])
def test_cap_lowers_spreads_and_never_raises(redis_acl: RedisServer, user: str) -> None:
    fill(redis_acl, "sess:long:", 200, ttl=86400)
    fill(redis_acl, "sess:short:", 50, ttl=300)
    fill(redis_acl, "sess:lasting:", 20)
    result = purge(redis_acl, "sess:*", user=user, state="ttl_capped", max_ttl="2h")
    assert result["plan"]["count"] == result["measured"]["count"] == 200
    assert result["measured"]["after"] == 0
    with redis_acl.client() as client:
        capped = [client.ttl(f"sess:long:{number}") for number in range(200)]
        assert all(7200 * 0.9 - 5 <= ttl <= 7200 for ttl in capped)
        assert len(set(capped)) > 20
        assert all(295 <= client.ttl(f"sess:short:{number}") <= 300 for number in range(50))
        assert all(client.ttl(f"sess:lasting:{number}") == -1 for number in range(20))
    assert not purge(redis_acl, "sess:*", user=user, state="ttl_capped", max_ttl="2h")["changed"]


@pytest.mark.parametrize("user", ["operator", "noscript"])
def test_persistent_keys_get_a_ttl_only_when_asked(redis_acl: RedisServer, user: str) -> None:
    fill(redis_acl, "tmp:", 30)
    options = {"state": "ttl_capped", "max_ttl": "1h", "user": user}
    assert not purge(redis_acl, "tmp:*", **options)["changed"]
    assert purge(redis_acl, "tmp:*", include_persistent=True, jitter=0, **options)["measured"]["count"] == 30
    assert 3590 <= redis_acl.command("TTL", "tmp:3") <= 3600


def test_sessions_may_be_capped_but_not_by_a_wider_pattern(redis_single: RedisServer) -> None:
    fill(redis_single, "sess:", 10, ttl=86400)
    fill(redis_single, "sex:", 10, ttl=86400)
    result = purge(redis_single, "se*", state="ttl_capped", max_ttl="1h")
    assert result["measured"]["count"] == 10
    assert [entry["count"] for entry in result["spared"]] == [10]
    assert redis_single.command("TTL", "sess:1") > 86000


# --- memory ---


def test_deletes_until_memory_is_below_and_no_further(redis_lab: Lab) -> None:
    server = redis_lab.start(start_single, config={"maxmemory": "32mb"})
    faults.add_bystanders(server)
    before = fingerprint(server)
    cached = faults.fill_cache(server)
    result = purge(server, "cache:*", until_memory_below=0.8, max_count=100_000)
    assert result["changed"]
    used = server.info("memory")
    share = used["used_memory"] / used["maxmemory"]
    assert 0.76 < share <= 0.8
    left = len(keys(server, "cache:*"))
    assert 0 < left == cached - result["measured"]["count"]
    assert abs(result["plan"]["count"] - result["measured"]["count"]) <= result["plan"]["count"] * 0.15
    assert not purge(server, "cache:*", until_memory_below=0.8)["changed"]
    purge(server, "cache:*", max_count=100_000)
    assert fingerprint(server) == before


def test_least_valuable_class_goes_first(redis_lab: Lab) -> None:
    server = redis_lab.start(start_single, config={"maxmemory": "32mb"})
    fill(server, "page:", 10_000, 1000)
    faults.fill_cache(server, "frag:")
    before = len(keys(server, "page:*"))
    purge(server, "frag:*", "page:*", until_memory_below=0.8, max_count=100_000)
    assert len(keys(server, "page:*")) == before
    purge(server, "frag:*", "page:*", until_memory_below=0.3, max_count=100_000)
    assert not keys(server, "frag:*")
    assert 0 < len(keys(server, "page:*")) < before


def test_until_needs_a_limit(redis_single: RedisServer) -> None:
    assert purge(redis_single, "cache:*", until_memory_below=0.5)["error"]["code"] == "no_limit"


# --- guard and check mode ---


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"max_count": 99}, "max_count"),
        ({"max_fraction": 0.4}, "max_fraction"),
        ({"max_bytes": "1kb"}, "max_bytes"),
        ({"approved_plan": "0000000000000000.100"}, "stale_plan"),
        ({"max_count": 0}, "bad_parameter"),
    ],
)
def test_guard_refuses_and_nothing_changes(redis_single: RedisServer, options: dict[str, Any], code: str) -> None:
    fill(redis_single, "cache:", 100)
    fill(redis_single, "keep:", 100)
    result = purge(redis_single, "cache:*", **options)
    assert (result["changed"], result["error"]["code"]) == (False, code)
    assert len(keys(redis_single)) == 200


def test_approved_plan_covers_the_run_but_not_growth(redis_single: RedisServer) -> None:
    fill(redis_single, "cache:", 100)
    plan = purge(redis_single, "cache:*", check_mode=True)["plan"]["id"]
    fill(redis_single, "cache:new:", 100)
    assert purge(redis_single, "cache:*", approved_plan=plan)["error"]["code"] == "stale_plan"
    purge(redis_single, "cache:new:*")
    assert purge(redis_single, "cache:*", approved_plan=plan)["changed"]


@pytest.mark.parametrize("state", [{"state": "absent"}, {"state": "ttl_capped", "max_ttl": "1m"}])
def test_check_mode_writes_nothing_and_tells_the_truth(redis_single: RedisServer, state: dict[str, Any]) -> None:
    fill(redis_single, "cache:", 700, ttl=3600)
    with monitor(redis_single) as witness:
        checked = purge(redis_single, "cache:*", check_mode=True, **state)
        assert witness.writes() == ()
    real = purge(redis_single, "cache:*", **state)
    assert checked["changed"]
    assert real["changed"]
    assert checked["actions"] == real["actions"]
    assert checked["diff"] == real["diff"]
    assert checked["plan"]["id"] == real["plan"]["id"]
    assert checked["plan"]["count"] == real["measured"]["count"] == 700


# --- targets that are different ---


def test_replica_is_refused(redis_replica: ReplicaPair) -> None:
    result = purge(redis_replica.replica, "cache:*")
    assert (kind(result), result["error"]["code"]) == ("precondition", "replica")
    assert str(redis_replica.primary.port) in result["msg"]


def test_missing_right_is_found_before_the_first_write(redis_lab: Lab) -> None:
    users = {"half": "~* &* +@all -unlink -pexpire", "narrow": "~cache:* &* +@all"}
    server = redis_lab.start(start_single, users=users)
    fill(server, "cache:", 10)
    fill(server, "other:", 10)
    for options in ({}, {"state": "ttl_capped", "max_ttl": "1h", "include_persistent": True}):
        result = purge(server, "cache:*", user="half", **options)
        assert (kind(result), result["changed"]) == ("forbidden", False)
    assert kind(purge(server, "other:*", user="narrow")) == "forbidden"
    assert len(keys(server)) == 20
    assert purge(server, "cache:*", user="narrow")["measured"]["count"] == 10


def test_every_primary_of_a_cluster(redis_cluster: Cluster) -> None:
    node = redis_cluster.primaries[0]
    _fill_cluster(redis_cluster, "cache:", 3000)
    _fill_cluster(redis_cluster, "keep:", 300)
    checked = purge(node, "cache:*", check_mode=True)
    result = purge(node, "cache:*")
    assert checked["plan"]["count"] == result["measured"]["count"] == 3000
    assert sum(len(keys(primary)) for primary in redis_cluster.primaries) == 300
    assert not purge(node, "cache:*")["changed"]


@pytest.mark.slow
def test_cluster_while_a_slot_moves(redis_cluster: Cluster) -> None:
    source, target = redis_cluster.primaries[:2]
    _fill_cluster(redis_cluster, "cache:{tag}:", 2000)
    slot = source.command("CLUSTER", "KEYSLOT", "cache:{tag}:1")
    owner = next(node for node in redis_cluster.primaries if keys(node, "cache:*"))
    other = target if owner is not target else source
    ids = {node: node.command("CLUSTER", "MYID") for node in (owner, other)}
    other.command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[owner])
    owner.command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[other])
    try:
        half = owner.command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
        owner.command("MIGRATE", other.host, other.port, "", 0, 5000, "KEYS", *half)
        result = purge(redis_cluster.primaries[2], "cache:*")
        assert result["measured"]["count"] == 2000
        assert not any(keys(node, "cache:*") for node in redis_cluster.primaries)
    finally:
        for node in (owner, other):
            node.command("CLUSTER", "SETSLOT", slot, "STABLE")


@pytest.mark.slow
def test_cluster_that_changes_its_primaries_meanwhile(redis_lab: Lab) -> None:
    cluster = redis_lab.start(start_cluster)
    _fill_cluster(cluster, "cache:", 3000)
    replica = cluster.nodes[5]

    def fail_over() -> None:
        replica.command("CLUSTER", "FAILOVER", "TAKEOVER")

    with meanwhile(cluster.primaries[0], fail_over, below=900):
        result = purge(cluster.nodes[0], "cache:*", rate=1500)
    assert (kind(result), result["changed"]) in {("conflict", True), ("precondition", True)}
    wait_until(lambda: not purge(cluster.nodes[0], "cache:*").get("failed"), 15, "a run that ends what is left", 0.5)
    assert not purge(cluster.nodes[0], "cache:*")["changed"]


@pytest.mark.slow
def test_cluster_with_a_dead_primary_is_refused(redis_lab: Lab) -> None:
    cluster = redis_lab.start(start_cluster)
    _fill_cluster(cluster, "cache:", 300)
    cluster.nodes[5].kill()
    cluster.nodes[2].kill()
    wait_until(lambda: purge(cluster.nodes[0], "cache:*").get("failed", False), 15, "a refusal", 0.3)
    result = purge(cluster.nodes[0], "cache:*")
    assert kind(result) in {"precondition", "unreachable"}
    assert not result["changed"]


def _fill_cluster(cluster: Cluster, prefix: str, count: int) -> None:
    with contextlib.closing(RedisCluster(host=cluster.nodes[0].host, port=cluster.nodes[0].port)) as client:
        for number in range(count):
            client.set(f"{prefix}{number}", "x" * 50)


# --- when something breaks ---


@contextlib.contextmanager
def meanwhile(server: RedisServer, act: Any, below: int) -> Iterator[None]:
    """Acts once fewer keys than C(below) are left."""

    def watch() -> None:
        with server.client() as client:
            while client.dbsize() > below:
                time.sleep(0.001)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield
    thread.join(timeout=20)


def test_deadline_stops_and_the_next_run_goes_on(redis_single: RedisServer) -> None:
    fill(redis_single, "cache:", 5000)
    result = purge(redis_single, "cache:*", rate=2000, timeout=0.7)
    assert (kind(result), result["error"]["retryable"], result["changed"]) == ("partial", True, True)
    left = len(keys(redis_single))
    assert 0 < left < 5000
    assert purge(redis_single, "cache:*")["measured"]["count"] == left


def test_rate_is_kept(redis_single: RedisServer) -> None:
    fill(redis_single, "cache:", 1000)
    began = time.monotonic()
    purge(redis_single, "cache:*", rate=2000)
    assert time.monotonic() - began > 0.4


@pytest.mark.parametrize("end", ["freeze", "kill"])
def test_server_lost_in_the_middle(redis_single: RedisServer, end: str) -> None:
    fill(redis_single, "cache:", 4000)
    act = redis_single.freeze if end == "freeze" else redis_single.kill
    with meanwhile(redis_single, act, below=2500):
        result = purge(redis_single, "cache:*", rate=4000, op_timeout=1)
    assert kind(result) == ("timeout" if end == "freeze" else "unreachable")
    assert result["changed"]
    assert "of 4000 keys were done" in result["msg"]
    if end == "freeze":
        redis_single.thaw()
        assert purge(redis_single, "cache:*")["changed"]
        assert not keys(redis_single)


def test_busy_server_is_told(redis_lab: Lab) -> None:
    server = redis_lab.start(start_single, config={"busy-reply-threshold": "50"})
    fill(server, "cache:", 10)
    with faults.busy_script(server, 3):
        time.sleep(0.4)
        result = purge(server, "cache:*")
    assert (result["error"]["code"], result["error"]["retryable"]) == ("busy", True)
    assert len(keys(server)) == 10


def test_lagging_replica_holds_the_brake(redis_replica: ReplicaPair) -> None:
    fill(redis_replica.primary, "cache:", 3000)
    redis_replica.replica.freeze()
    try:
        result = purge(redis_replica.primary, "cache:*", replica_lag_max="1kb", timeout=1.5)
    finally:
        redis_replica.replica.thaw()
    assert kind(result) == "partial"
    assert "replica" in result["msg"]
    assert keys(redis_replica.primary)


# --- as users run it ---


@pytest.mark.slow
def test_in_process_and_shipped_give_the_same(redis_single: RedisServer) -> None:
    results = []
    for extra in ({}, {"environment": {"LC_ALL": "C"}}):
        fill(redis_single, "cache:", 300)
        task = {"sre.runbooks.redis_keyspace": {**redis_single.connection(), "match": ["cache:*"]}, **extra}
        ran = play([{"name": "purge", **task}])
        assert ran.rc == 0, ran.stdout + ran.stderr
        results.append(ran.result("purge"))
    for name in ("changed", "actions", "keyspace", "plan", "diff", "spared", "undo", "server"):
        assert results[0][name] == results[1][name], name


@pytest.mark.slow
def test_killed_half_way_the_next_run_ends_it(redis_single: RedisServer, tmp_path: Path) -> None:
    faults.add_bystanders(redis_single)
    before = fingerprint(redis_single)
    fill(redis_single, "cache:", 20_000)
    args = {**redis_single.connection(), "match": ["cache:*"], "max_count": 50_000, "rate": 5000}
    command, env = prepare(tmp_path, [{"name": "purge", "sre.runbooks.redis_keyspace": args}])
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + 30
        while len(keys(redis_single, "cache:*")) > 15_000 and time.monotonic() < deadline:
            time.sleep(0.05)
        _kill_all(run)
    left = len(keys(redis_single, "cache:*"))
    assert 0 < left < 20_000
    time.sleep(0.3)
    assert len(keys(redis_single, "cache:*")) == left
    result = purge(redis_single, "cache:*", max_count=50_000)
    assert result["measured"]["count"] == left
    assert fingerprint(redis_single) == before


def _kill_all(run: subprocess.Popen[bytes]) -> None:
    """Ansible's workers leave its session: they are found as the children of the process that we started."""
    family, found = {run.pid}, True
    while found:
        found = False
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                if parent in family and int(stat.parent.name) not in family:
                    family.add(int(stat.parent.name))
                    found = True
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# --- nobody feels it ---


def test_bystanders_wait_for_one_slice_at_most(redis_single: RedisServer) -> None:
    """No call handles more keys than a slice holds, however many there are, and the giant goes off-thread."""
    keys, batch = 60_000, 500
    fill(redis_single, "cache:", keys)
    faults.giant_key(redis_single, "cache:giant", 200_000)
    redis_single.command("CONFIG", "RESETSTAT")
    purge(redis_single, "cache:*", max_count=100_000, batch=batch)
    with redis_single.client() as client:
        costs = ask(client, "INFO", "commandstats")
    slices = sum(costs[name]["calls"] for name in ("cmdstat_eval", "cmdstat_evalsha") if name in costs)
    assert slices >= keys / batch
    assert "cmdstat_unlink" in costs
    assert not {"cmdstat_del", "cmdstat_flushdb", "cmdstat_keys"} & set(costs)
