# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""redis_info on real servers: it sees what is wrong, says what it could not see, and shows no secrets."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab import faults
from tests.lab.process import wait_until
from tests.lab.redis_servers import Cluster, RedisServer, ReplicaPair, SentinelSet, start_single
from tests.lab.witness import monitor
from tests.lab.world import Lab
from tests.support import call, play

pytestmark = pytest.mark.redis

DEFAULT = {"memory", "clients", "replication", "persistence", "databases", "slow", "costs", "latency"}


def look(server: RedisServer, **options: Any) -> dict[str, Any]:
    return call("redis_info", **{**server.connection(), **options})


def ids(result: dict[str, Any]) -> set[str]:
    return {finding["id"] for finding in result["findings"]}


@pytest.fixture
def limited(redis_lab: Lab) -> RedisServer:
    return redis_lab.start(start_single, config={"maxmemory": "64mb", "maxmemory-policy": "noeviction"})


def test_a_healthy_server(limited: RedisServer) -> None:
    result = look(limited)
    with monitor(limited) as seen:
        look(limited, sections=[*DEFAULT, "settings", "rights"])
        assert seen.writes() == ()
    assert (result["changed"], result["findings"], result["unseen"]) == (False, [], {})
    assert set(result) >= DEFAULT
    assert result["memory"]["limit"] == 64 * 1024 * 1024
    assert result["server"] == {
        "name": f"127.0.0.1:{limited.port}",
        "version": result["server"]["version"],
        "role": "master",
        "managed": "",
    }


def test_only_the_sections_asked_for(limited: RedisServer) -> None:
    result = look(limited, sections=["memory"])
    assert set(result) & DEFAULT == {"memory"}


def test_a_full_server(limited: RedisServer) -> None:
    faults.fill_cache(limited)
    result = look(limited, sections=["memory"])
    assert ids(result) == {"redis.memory_full"}
    assert result["findings"][0]["severity"] == "critical"
    assert result["memory"]["ratio"] > 0.97


def test_a_server_without_a_limit(redis_single: RedisServer) -> None:
    assert "redis.limit_missing" in ids(look(redis_single))


def test_too_many_clients(redis_lab: Lab) -> None:
    server = redis_lab.start(start_single, config={"maxclients": "40", "maxmemory": "64mb"})
    with faults.flood_clients(server, 35), faults.block_workers(server, 2):
        result = look(server)
        assert "redis.clients_high" in ids(result)
        assert (result["clients"]["limit"], result["clients"]["blocked"]) == (40, 2)


def test_slow_and_whole_keyspace_commands_without_their_arguments(limited: RedisServer) -> None:
    limited.command("CONFIG", "SET", "slowlog-log-slower-than", "0")
    limited.command("SET", "customer:4711", "the payload of a customer")
    limited.command("KEYS", "customer:*")
    result = look(limited, slow_ms=0.0001, top=50)
    assert {"redis.slow_commands", "redis.whole_keyspace_commands"} <= ids(result)
    assert {"SET", "KEYS"} <= {entry["command"] for entry in result["slow"]}
    assert "customer" not in str(result)


def test_settings_without_secrets(redis_lab: Lab) -> None:
    server = redis_lab.start(start_single, password="a secret of the lab", config={"maxmemory": "64mb"})
    result = look(server, sections=["settings"])
    assert result["settings"]["maxmemory"] == "67108864"
    assert not set(result["settings"]) & {"requirepass", "masterauth"}
    assert "a secret of the lab" not in str(result)


def test_rates_over_a_sample(limited: RedisServer) -> None:
    with faults.writer(limited):
        result = look(limited, sections=["rates"], sample=0.5)
    assert result["rates"]["commands"] > 10
    assert "rates" not in look(limited, sections=["rates"])


def test_a_replica_and_its_primary(redis_replica: ReplicaPair) -> None:
    primary = redis_replica.primary
    wait_until(lambda: look(primary)["replication"]["online"] == 1, 5, "a replica that is online")
    seen = look(primary)["replication"]
    assert (seen["role"], seen["online"], len(seen["replicas"])) == ("master", 1, 1)
    result = look(redis_replica.replica)
    assert result["replication"]["link"] == "up"
    assert result["replication"]["primary"] == f"127.0.0.1:{redis_replica.primary.port}"
    primary.kill()
    wait_until(lambda: "redis.replica_link_down" in ids(look(redis_replica.replica)), 5, "the finding")


def test_a_cluster_shows_every_primary(redis_cluster: Cluster) -> None:
    result = look(redis_cluster.nodes[5], sections=["memory", "databases"])
    names = {f"127.0.0.1:{node.port}" for node in redis_cluster.primaries}
    assert set(result["nodes"]) == names
    assert all(node["memory"]["used"] > 0 for node in result["nodes"].values())
    refused = look(redis_cluster.nodes[0], cluster="never")
    assert refused["error"]["code"] == "cluster_node"


def test_through_sentinels(redis_sentinel: SentinelSet) -> None:
    sentinels = ["127.0.0.1:1", *(f"127.0.0.1:{server.port}" for server in redis_sentinel.sentinels)]
    result = call("redis_info", sentinels=sentinels, sentinel_service=redis_sentinel.name, sections=["replication"])
    assert result["server"]["name"] == f"127.0.0.1:{redis_sentinel.primary.port}"
    assert result["replication"]["online"] == 1


@pytest.mark.parametrize(
    ("user", "unseen"),
    [("reader", {"latency", "slow", "settings", "rights"}), ("noconfig", {"settings"})],
)
def test_says_what_a_user_could_not_see(redis_acl: RedisServer, user: str, unseen: set[str]) -> None:
    sections = [*DEFAULT, "settings", "rights"]
    result = call("redis_info", sections=sections, **redis_acl.connection(user))
    assert "failed" not in result
    assert unseen <= set(result["unseen"])
    assert result["memory"]["used"] > 0
    assert {f"redis.unseen.{name}" for name in unseen} <= ids(result)


def test_rights_are_asked_and_not_tried(redis_acl: RedisServer) -> None:
    with monitor(redis_acl) as seen:
        rights = call("redis_info", sections=["rights"], **redis_acl.connection("noscript"))["rights"]
        assert seen.writes() == ()
    assert (rights["eval"], rights["unlink"], rights["config_set"]) == (False, True, True)


class TestClearOf:
    def test_holds(self, limited: RedisServer) -> None:
        result = look(limited, clear_of=["redis.memory_*", "redis.memory_full"], consecutive=3, interval=0.05)
        assert (result["verify"]["ok"], result["verify"]["consecutive"]) == (True, 3)

    def test_does_not_hold(self, limited: RedisServer) -> None:
        faults.fill_cache(limited)
        options: dict[str, Any] = {"clear_of": ["redis.memory_full"], "interval": 0.05, "timeout": 0.3}
        failed = look(limited, **options)
        assert (failed["failed"], failed["error"]["kind"]) == (True, "verify_failed")
        assert "redis.memory_full" in failed["msg"]
        assert "failed" not in look(limited, strict=False, **options)

    def test_waits_until_it_holds(self, limited: RedisServer) -> None:
        faults.fill_cache(limited, ttl=1)
        result = look(limited, clear_of=["redis.memory_full"], consecutive=2, interval=0.1, timeout=10)
        assert (result["verify"]["ok"], result["verify"]["seconds"] > 0.2) == (True, True)


def test_the_wrong_server_is_refused(limited: RedisServer) -> None:
    assert look(limited, expect_host="prod-.*")["error"]["code"] == "wrong_target"
    assert "failed" not in look(limited, expect_host=r"127\.0\.0\.1:\d+")


@pytest.mark.compat
def test_shipped_and_in_process_alike(redis_replica: ReplicaPair) -> None:
    options = {"sections": ["replication", "persistence", "databases"], **redis_replica.primary.connection()}
    task = {"sre.runbooks.redis_info": options}
    ran = play([{"name": "here", **task}, {"name": "shipped", "environment": {"X": "y"}, **task}])
    here, shipped = ran.result("here"), ran.result("shipped")
    for name in ("changed", "findings", "persistence", "databases", "unseen", "server"):
        assert here[name] == shipped[name], name
