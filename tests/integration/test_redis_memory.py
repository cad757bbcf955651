# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""redis_memory on real servers: the allocator gives back, the limit rises as far as it may, no key is touched."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab import faults
from tests.lab.process import wait_until
from tests.lab.redis_servers import Cluster, RedisServer, start_single
from tests.lab.witness import fingerprint, monitor
from tests.lab.world import Lab
from tests.support import call, play

pytestmark = pytest.mark.redis

MIB = 1024 * 1024


def relieve(server: RedisServer, *, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    return call("redis_memory", check_mode=check_mode, **{**server.connection(), **options})


def memory(server: RedisServer, name: str) -> Any:
    return server.info("memory")[name]


@pytest.fixture
def full(redis_lab: Lab) -> RedisServer:
    server = redis_lab.start(start_single, config={"maxmemory": "20mb", "maxmemory-policy": "noeviction"})
    faults.fill_cache(server)
    return server


@pytest.fixture
def wasteful(redis_single: RedisServer) -> RedisServer:
    """Nothing in use, and the allocator has not yet given back what was."""
    faults.add_bystanders(redis_single)
    faults.waste(redis_single, 150)
    wait_until(lambda: memory(redis_single, "allocator_rss_bytes") > 20 * MIB, 5, "waste")
    return redis_single


class TestPurge:
    def test_gives_back_and_says_how_much(self, wasteful: RedisServer) -> None:
        before = fingerprint(wasteful)
        done = relieve(wasteful, fragmentation_max=1.5)
        assert (done["changed"], done["verify"]["ok"]) == (True, True)
        assert done["measured"]["after"] < done["measured"]["before"] / 2
        assert 0 < done["measured"]["forecast"] < done["measured"]["before"] / 2
        assert fingerprint(wasteful) == before
        again = relieve(wasteful, fragmentation_max=1.5)
        assert (again["changed"], again["actions"]) == (False, [])

    def test_check_mode_purges_nothing(self, wasteful: RedisServer) -> None:
        with monitor(wasteful) as seen:
            checked = relieve(wasteful, check_mode=True, fragmentation_max=1.5)
            assert seen.writes() == ()
        assert checked["changed"] is True
        assert checked["plan"]["count"] == 1
        assert checked["forecast"]["after"] < checked["forecast"]["before"]

    def test_says_when_a_purge_cannot_help(self, redis_single: RedisServer) -> None:
        faults.fragment(redis_single, 60)
        relieve(redis_single, fragmentation_max=1.3)
        seen = relieve(redis_single, fragmentation_max=1.3)
        assert (seen["changed"], "failed" in seen) == (False, False)
        assert [finding["id"] for finding in seen["findings"]] == ["redis.fragmentation_stays"]
        strict = relieve(redis_single, fragmentation_max=1.3, strict=True)
        assert strict["error"]["kind"] == "verify_failed"

    def test_a_small_server_is_left_alone(self, redis_single: RedisServer) -> None:
        assert relieve(redis_single, fragmentation_max=1.01)["changed"] is False


class TestLimit:
    def test_rises_just_enough_and_writes_work_again(self, full: RedisServer) -> None:
        before = fingerprint(full)
        done = relieve(full, ratio=0.8, limit_ceiling="64mb")
        limit = memory(full, "maxmemory")
        assert (done["changed"], done["persisted"], limit % MIB) == (True, True, 0)
        assert 25 * MIB <= limit <= 27 * MIB
        assert done["memory"]["limit"] == limit
        assert done["measured"]["after"] <= 0.8
        assert fingerprint(full) == before
        assert full.command("SET", "works", "again")
        again = relieve(full, ratio=0.8, limit_ceiling="64mb")
        assert (again["changed"], memory(full, "maxmemory")) == (False, limit)

    def test_check_mode_raises_nothing(self, full: RedisServer) -> None:
        with monitor(full) as seen:
            checked = relieve(full, check_mode=True, ratio=0.8, limit_ceiling="64mb")
            assert seen.writes() == ()
        done = relieve(full, ratio=0.8, limit_ceiling="64mb")
        assert (checked["changed"], checked["diff"], checked["actions"]) == (True, done["diff"], done["actions"])

    def test_never_lowers(self, redis_lab: Lab) -> None:
        server = redis_lab.start(start_single, config={"maxmemory": "200mb"})
        assert relieve(server, ratio=0.8, limit_ceiling="10mb")["changed"] is False
        assert memory(server, "maxmemory") == 200 * MIB

    def test_a_server_without_a_limit_uses_no_share_of_it(self, redis_single: RedisServer) -> None:
        assert relieve(redis_single, ratio=0.5, limit_ceiling="1gb")["changed"] is False

    @pytest.mark.parametrize(
        ("options", "code"),
        [
            ({"limit_ceiling": "22mb"}, "limit_ceiling"),
            ({"limit_ceiling": "64mb", "host_memory": "32mb"}, "bearable"),
        ],
    )
    def test_refuses_with_numbers(self, full: RedisServer, options: dict[str, str], code: str) -> None:
        refused = relieve(full, ratio=0.8, **options)
        assert (refused["error"]["kind"], refused["error"]["code"]) == ("guard_refused", code)
        assert "MiB" in refused["msg"]
        assert memory(full, "maxmemory") == 20 * MIB

    def test_the_undo_sets_the_old_limit(self, full: RedisServer) -> None:
        done = relieve(full, ratio=0.8, limit_ceiling="64mb")
        undo = next(entry for entry in done["undo"] if entry["possible"])
        name = f"127.0.0.1:{full.port}"
        assert undo["args"] == {"settings": {"maxmemory": str(20 * MIB)}}
        assert call("redis_setting", **undo["args"], confirm=name, **full.connection())["changed"] is True
        assert memory(full, "maxmemory") == 20 * MIB

    def test_all_primaries_of_a_cluster_get_the_same(self, redis_cluster: Cluster) -> None:
        for node in redis_cluster.primaries:
            node.command("CONFIG", "SET", "maxmemory", str(16 * MIB))
        one = redis_cluster.primaries[1]
        try:
            with one.client() as client:
                tag = next(f"{{{n}}}" for n in range(1000) if _owns(one, f"{{{n}}}"))
                for number in range(8):
                    client.set(f"{tag}:{number}", b"x" * MIB)
            done = relieve(redis_cluster.nodes[0], ratio=0.6, limit_ceiling="64mb", rewrite="never")
            assert done["plan"]["count"] == 3
            assert len({memory(node, "maxmemory") for node in redis_cluster.primaries}) == 1
            assert done["persisted"] is False
            again = relieve(redis_cluster.nodes[0], ratio=0.6, limit_ceiling="64mb", rewrite="never")
            assert again["changed"] is False
        finally:
            for node in redis_cluster.primaries:
                node.command("CONFIG", "SET", "maxmemory", "0")


def _owns(node: RedisServer, key: str) -> bool:
    try:
        node.command("EXISTS", key)
    except Exception:
        return False
    return True


@pytest.mark.parametrize(
    "options", [{"ratio": 1.5, "limit_ceiling": "1gb"}, {"fragmentation_max": 0.5}, {"ratio": 0.8, "limit_ceiling": ""}]
)
def test_refuses_conditions_that_cannot_hold(redis_single: RedisServer, options: dict[str, Any]) -> None:
    assert relieve(redis_single, **options)["error"]["code"] == "bad_parameter"


def test_a_user_without_the_rights(redis_acl: RedisServer) -> None:
    redis_acl.command("CONFIG", "SET", "maxmemory", str(MIB))
    refused = call("redis_memory", ratio=0.5, limit_ceiling="1gb", **redis_acl.connection("noconfig"))
    assert (refused["error"]["kind"], refused["error"]["code"]) == ("forbidden", "acl")


def test_shipped_and_in_process_alike(full: RedisServer) -> None:
    options = {"ratio": 0.8, "limit_ceiling": "64mb", **full.connection()}
    task = {"sre.runbooks.redis_memory": options, "check_mode": True}
    ran = play([{"name": "here", **task}, {"name": "shipped", "environment": {"X": "y"}, **task}])
    here, shipped = ran.result("here"), ran.result("shipped")
    for name in ("changed", "actions", "diff", "plan", "findings", "undo"):
        assert here[name] == shipped[name], name
