# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""redis_setting on real servers: set, compared, kept, taken back, refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab import faults
from tests.lab.redis_servers import Cluster, RedisServer, ReplicaPair, start_single
from tests.lab.witness import monitor
from tests.lab.world import Lab
from tests.support import call, play

pytestmark = pytest.mark.redis

EVERY_KIND = {
    "maxmemory": "64mb",
    "timeout": 300,
    "save": ["900 1", "300 10"],
    "client-output-buffer-limit": {"pubsub": "16mb 4mb 30"},
    "notify-keyspace-events": "KEA",
    "maxmemory-policy": "allkeys-LRU",
    "lazyfree-lazy-expire": True,
    "repl-backlog-size": "2mb",
}


def have(server: RedisServer, *, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    return call("redis_setting", check_mode=check_mode, **{**server.connection(), **options})


def value(server: RedisServer, name: str) -> str:
    with server.client(decode_responses=True) as client:
        return str(client.config_get(name)[name])


def test_sets_every_kind_of_value_once(redis_single: RedisServer) -> None:
    done = have(redis_single, settings=EVERY_KIND)
    assert (done["changed"], done["persisted"], done["verify"]["ok"]) == (True, True, True)
    assert value(redis_single, "maxmemory") == "67108864"
    assert value(redis_single, "save") == "900 1 300 10"
    assert "pubsub 16777216 4194304 30" in value(redis_single, "client-output-buffer-limit")
    assert "normal 0 0 0" in value(redis_single, "client-output-buffer-limit")
    again = have(redis_single, settings={**EVERY_KIND, "maxmemory": 67108864, "maxmemory-policy": "allkeys-lru"})
    assert (again["changed"], again["diff"]) == (False, {"before": {}, "after": {}})


def test_survives_a_restart(redis_single: RedisServer) -> None:
    assert have(redis_single, settings={"timeout": 77})["persisted"] is True
    redis_single.restart()
    assert value(redis_single, "timeout") == "77"
    assert have(redis_single, settings={"timeout": 78}, rewrite="never")["persisted"] is False
    redis_single.restart()
    assert value(redis_single, "timeout") == "77"


def test_check_mode_sets_nothing_and_predicts_the_run(redis_single: RedisServer) -> None:
    with monitor(redis_single) as seen:
        checked = have(redis_single, check_mode=True, settings=EVERY_KIND)
        assert seen.writes() == ()
    done = have(redis_single, settings=EVERY_KIND)
    assert (checked["actions"], checked["diff"], checked["plan"]) == (done["actions"], done["diff"], done["plan"])
    assert checked["persisted"] == done["persisted"]


def test_takes_the_first_back_when_the_second_fails(redis_single: RedisServer) -> None:
    failed = have(redis_single, settings={"timeout": 5, "databases": 9})
    assert (failed["error"]["kind"], failed["error"]["code"]) == ("unsupported", "immutable")
    assert (failed["changed"], len(failed["undone"])) == (False, 1)
    assert value(redis_single, "timeout") == "0"
    failed = have(redis_single, settings={"timeout": 5, "hz": "many"})
    assert (failed["error"]["code"], value(redis_single, "timeout")) == ("bad_value", "0")


def test_the_undo_that_it_returns_takes_it_back(redis_single: RedisServer) -> None:
    done = have(redis_single, settings={"timeout": 5, "save": "60 1"})
    for undo in done["undo"]:
        if undo["possible"]:
            assert have(redis_single, **undo["args"])["changed"] is True
    assert (value(redis_single, "timeout"), value(redis_single, "save")) == ("0", "")


def test_notices_that_somebody_else_changed_it(redis_single: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.sre.runbooks.plugins.module_utils._redis import configure

    planned = configure.steps

    def steps(*args: Any) -> Any:
        found = planned(*args)
        redis_single.command("CONFIG", "SET", "timeout", 9)
        return found

    monkeypatch.setattr(configure, "steps", steps)
    failed = have(redis_single, settings={"timeout": 5})
    assert (failed["error"]["kind"], failed["error"]["code"]) == ("conflict", "changed_meanwhile")
    assert value(redis_single, "timeout") == "9"


def test_holds_until_a_moment_and_otherwise_after_it(redis_single: RedisServer) -> None:
    task = {"settings": {"timeout": 7}, "otherwise": {"timeout": 8}}
    now = have(redis_single, until="2999-01-01T00:00:00Z", **task)
    assert (now["temporary"], now["persisted"], value(redis_single, "timeout")) == (True, False, "7")
    assert have(redis_single, until="2999-01-01T00:00:00Z", **task)["changed"] is False
    later = have(redis_single, until="2001-01-01T00:00:00+02:00", **task)
    assert (later["temporary"], later["persisted"], value(redis_single, "timeout")) == (False, True, "8")
    assert have(redis_single, until="2001-01-01T00:00:00+02:00", **task)["changed"] is False


@pytest.mark.parametrize("until", ["tomorrow", "2030-01-01T00:00:00"])
def test_wants_a_moment_with_its_zone(redis_single: RedisServer, until: str) -> None:
    failed = have(redis_single, settings={"timeout": 7}, until=until, otherwise={"timeout": 8})
    assert failed["error"]["code"] == "bad_parameter"


@pytest.mark.parametrize("name", ["dir", "dbfilename", "replicaof", "protected-mode", "requirepass", "bind", "port"])
def test_refuses_what_can_hurt(redis_single: RedisServer, name: str) -> None:
    failed = have(redis_single, settings={"timeout": 5, name: "hunter2secret"}, confirm="127.0.0.1")
    assert (failed["error"]["kind"], failed["error"]["code"]) == ("guard_refused", "protected")
    assert "hunter2secret" not in str(failed)
    assert value(redis_single, "timeout") == "0"


def test_refuses_a_limit_that_the_host_cannot_bear(redis_single: RedisServer) -> None:
    assert have(redis_single, settings={"maxmemory": "8192gb"})["error"]["code"] == "bearable"
    assert have(redis_single, settings={"maxmemory": "100mb"}, host_memory="128mb")["error"]["code"] == "bearable"
    assert have(redis_single, settings={"maxmemory": "90mb"}, host_memory="128mb")["changed"] is True
    assert have(redis_single, settings={"maxmemory": 0})["error"]["code"] == "bearable"


def test_a_limit_below_what_is_in_use_has_to_be_confirmed(redis_single: RedisServer) -> None:
    faults.fill_cache(redis_single, until=4_000_000)
    refused = have(redis_single, settings={"maxmemory": "2mb"})
    assert refused["error"]["code"] == "below_used"
    name = f"127.0.0.1:{redis_single.port}"
    assert name in refused["error"]["hint"]
    assert have(redis_single, settings={"maxmemory": "2mb"}, confirm=name)["changed"] is True


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_policy_that_may_evict_a_queue_has_to_be_confirmed(redis_single: RedisServer, policy: str) -> None:
    """The queue is in another database than the one that is aimed at: the policy is the server's."""
    with redis_single.client(db=3) as client:
        client.set("bull:mail:id", 1)
    refused = have(redis_single, settings={"maxmemory-policy": policy})
    assert refused["error"]["code"] == "queue_present"
    assert "bull:mail:id" in refused["msg"]
    assert value(redis_single, "maxmemory-policy") == "noeviction"
    confirmed = have(redis_single, settings={"maxmemory-policy": policy}, confirm=f"127.0.0.1:{redis_single.port}")
    assert confirmed["changed"] is True
    assert have(redis_single, settings={"maxmemory-policy": "noeviction"})["changed"] is True


def test_a_cache_without_queues_may_evict(redis_single: RedisServer) -> None:
    faults.fill_cache(redis_single, until=3_000_000)
    assert have(redis_single, settings={"maxmemory-policy": "allkeys-lfu"})["changed"] is True


def test_unknown_settings_and_patterns(redis_single: RedisServer) -> None:
    unknown = have(redis_single, settings={"timeout": 5, "no-such-setting": 1})
    assert (unknown["error"]["kind"], value(redis_single, "timeout")) == ("not_found", "0")
    assert have(redis_single, settings={"*": 1})["error"]["code"] == "bad_parameter"


def test_a_file_that_cannot_be_written(redis_single: RedisServer) -> None:
    """What cannot be kept is reported with auto, and refused with always."""
    file = redis_single.scratch / "server.conf"
    file.unlink()
    file.mkdir()
    refused = have(redis_single, settings={"timeout": 5}, rewrite="always")
    assert (refused["failed"], refused["changed"], value(redis_single, "timeout")) == (True, False, "0")
    done = have(redis_single, settings={"timeout": 5})
    assert (done["changed"], done["persisted"], done["verify"]["ok"]) == (True, False, True)
    assert [finding["id"] for finding in done["findings"]] == ["redis.not_persisted"]


def test_a_user_without_config_gets_the_way_out(redis_acl: RedisServer) -> None:
    refused = call("redis_setting", settings={"timeout": 5}, **redis_acl.connection("noconfig"))
    assert (refused["error"]["kind"], refused["error"]["code"]) == ("forbidden", "acl")
    assert "Grant CONFIG" in refused["error"]["hint"]
    redis_acl.command("ACL", "SETUSER", "noconfig", "+config|get")
    refused = call("redis_setting", settings={"timeout": 5}, **redis_acl.connection("noconfig"))
    assert (refused["error"]["kind"], "CONFIG SET" in refused["msg"]) == ("forbidden", True)


def test_a_user_who_may_set_but_not_rewrite(redis_acl: RedisServer) -> None:
    redis_acl.command("ACL", "SETUSER", "noconfig", "+config|get", "+config|set")
    options = redis_acl.connection("noconfig")
    refused = call("redis_setting", settings={"timeout": 5}, rewrite="always", **options)
    assert (refused["error"]["kind"], value(redis_acl, "timeout")) == ("forbidden", "0")
    done = call("redis_setting", settings={"timeout": 5}, **options)
    assert (done["changed"], done["persisted"]) == (True, False)
    assert [finding["id"] for finding in done["findings"]] == ["redis.not_persisted"]


def test_names_the_replicas_that_keep_the_old_value(redis_replica: ReplicaPair) -> None:
    done = have(redis_replica.primary, settings={"timeout": 5})
    found = next(finding for finding in done["findings"] if finding["id"] == "redis.replicas_differ")
    assert found["evidence"]["replicas"] == [f"127.0.0.1:{redis_replica.replica.port}"]
    assert have(redis_replica.replica, settings={"timeout": 5})["changed"] is True


def test_every_primary_of_a_cluster(redis_cluster: Cluster) -> None:
    done = have(redis_cluster.nodes[3], settings={"timeout": 5}, rewrite="never")
    assert done["plan"]["count"] == 3
    assert all(value(node, "timeout") == "5" for node in redis_cluster.primaries)
    evidence = done["findings"][0]["evidence"]
    assert len(evidence["replicas"]) == 3
    assert have(redis_cluster.nodes[0], settings={"timeout": 0}, rewrite="never")["changed"] is True


def test_a_renamed_config_is_unsupported(redis_lab: Lab) -> None:
    server = redis_lab.start(start_single, config={"rename-command": 'CONFIG ""'})
    refused = have(server, settings={"timeout": 5})
    assert refused["error"]["kind"] == "unsupported"
    assert "renamed" in refused["error"]["hint"]


def test_shipped_and_in_process_alike(redis_single: RedisServer) -> None:
    options = {"settings": {"timeout": 5, "maxmemory": "64mb"}, **redis_single.connection()}
    task = {"sre.runbooks.redis_setting": options, "check_mode": True}
    ran = play([{"name": "here", **task}, {"name": "shipped", "environment": {"X": "y"}, **task}])
    here, shipped = ran.result("here"), ran.result("shipped")
    for name in ("changed", "actions", "diff", "plan", "persisted", "findings", "undo"):
        assert here[name] == shipped[name], name
