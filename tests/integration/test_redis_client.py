# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""redis_client on real servers: the idle application goes, and nobody else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from threading import Event, Thread
from typing import Any

import pytest

from tests.lab import faults
from tests.lab.redis_servers import Cluster, RedisServer, ReplicaPair, SentinelSet
from tests.lab.witness import monitor
from tests.support import call, play

pytestmark = pytest.mark.redis

IDLE = 1.1


def ids(server: RedisServer, name: str) -> set[int]:
    with server.client() as client:
        return {int(line["id"]) for line in client.client_list() if line["name"] == name}


def end(server: RedisServer, **options: Any) -> dict[str, Any]:
    wanted = {"name": "app*", "min_idle": "1s", "settle": 0.0, "max_fraction": 1.0, **server.connection()}
    return call("redis_client", **{**wanted, **options})


@pytest.fixture
def crowd(redis_replica: ReplicaPair) -> Iterator[RedisServer]:
    """Thirty idle clients among workers, subscribers, a replica, and others of another name."""
    server = redis_replica.primary
    with ExitStack() as held:
        held.enter_context(faults.flood_clients(server, 30, "app"))
        held.enter_context(faults.flood_clients(server, 5, "billing"))
        held.enter_context(faults.block_workers(server, 6, "app-worker"))
        held.enter_context(faults.subscribe(server, 4, "app-news"))
        time.sleep(IDLE)
        yield server


def test_ends_exactly_the_idle_ones(crowd: RedisServer, redis_replica: ReplicaPair) -> None:
    stay = {name: ids(crowd, name) for name in ("billing", "app-worker", "app-news")}
    link = ids(crowd, "")
    result = end(crowd)
    assert (result["changed"], result["clients"]["ended"], result["verify"]["ok"]) == (True, 30, True)
    assert ids(crowd, "app") == set()
    assert {name: ids(crowd, name) for name in stay} == stay
    assert len(stay["app-worker"]) == 6
    assert min(link) in ids(crowd, "")  # the replica's link is as old as the server
    assert redis_replica.replica.info("replication")["master_link_status"] == "up"
    assert result["measured"]["after"] <= result["measured"]["forecast"]


def test_says_why_each_other_stays(crowd: RedisServer) -> None:
    spared = {entry["subject"]: entry["reason"] for entry in end(crowd)["spared"]}
    workers = [reason for subject, reason in spared.items() if subject.endswith("name=app-worker")]
    assert sorted(set(workers)) == ["waits in brpop", "waits in bzpopmin"]
    assert sum(reason == "a subscriber is idle by nature" for reason in spared.values()) == 4


def test_second_run_changes_nothing(crowd: RedisServer) -> None:
    assert end(crowd)["changed"] is True
    again = end(crowd)
    assert (again["changed"], again["plan"]["count"], again["actions"]) == (False, 0, [])


def test_check_mode_ends_nobody_and_predicts_the_run(crowd: RedisServer) -> None:
    with monitor(crowd) as seen:
        checked = end(crowd, check_mode=True)
        assert seen.writes() == ()
    done = end(crowd)
    assert checked["changed"] is True
    assert (checked["actions"], checked["diff"], checked["plan"]) == (done["actions"], done["diff"], done["plan"])


def test_workers_and_subscribers_go_only_when_asked_for(crowd: RedisServer) -> None:
    done = end(crowd, name="app-worker", protect_blocked=False)
    assert done["clients"]["ended"] == 6
    assert "Give min_age" in end(crowd, name="app-news", type="pubsub")["msg"]
    assert end(crowd, name="app-news", type="pubsub", min_idle=None, min_age="1s")["clients"]["ended"] == 4
    assert len(ids(crowd, "app")) == 30


def test_spares_a_transaction_a_monitor_and_what_is_protected(redis_single: RedisServer) -> None:
    clients = [
        redis_single.client(client_name=name, single_connection_client=True) for name in ("app-1", "app-2", "app-3")
    ]
    clients[0].connection.send_command("MULTI")
    clients[1].connection.send_command("MONITOR")
    clients[2].ping()
    time.sleep(IDLE)
    age = {"min_idle": None, "min_age": "1s"}  # who watches with MONITOR is never idle
    result = end(redis_single, protect=["app-3"], **age)
    reasons = {entry["subject"].rpartition("=")[2]: entry["reason"] for entry in result["spared"]}
    assert reasons == {
        "app-1": "is inside MULTI",
        "app-2": "runs MONITOR; ask for it with flags O",
        "app-3": "protected by app-3",
    }
    assert end(redis_single, protect=["127.0.0.0/8"], **age)["changed"] is False
    assert end(redis_single, flags="O", **age)["clients"]["ended"] == 1
    for client in clients:
        client.close()


def test_spares_one_that_wakes_up_between_plan_and_act(
    redis_single: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ansible_collections.sre.runbooks.plugins.module_utils._redis import kills

    sleeper = redis_single.client(client_name="app", single_connection_client=True)
    sleeper.ping()
    time.sleep(IDLE)
    planned = kills.steps

    def steps(*args: Any) -> Any:
        found = planned(*args)
        sleeper.ping()
        return found

    monkeypatch.setattr("ansible_collections.sre.runbooks.plugins.modules.redis_client.steps", steps)
    result = end(redis_single)
    assert (result["changed"], len(result["spared"])) == (False, 1)
    assert "at work again" in result["spared"][0]["reason"]
    assert sleeper.ping()
    sleeper.close()


def test_finds_the_pool_that_comes_back(redis_single: RedisServer) -> None:
    """Eight clients that connect again at once, as every pool does."""
    stop = Event()

    def stay_connected() -> None:
        while not stop.is_set():
            held = faults.flood_clients(redis_single, 1, "app")
            with held:
                held.sockets[0].settimeout(0.05)
                while not stop.is_set():
                    try:
                        if held.sockets[0].recv(1) == b"":
                            break
                    except TimeoutError:
                        continue
                    except OSError:
                        break

    pool = [Thread(target=stay_connected) for _one in range(8)]
    for thread in pool:
        thread.start()
    try:
        time.sleep(IDLE + 0.3)
        result = end(redis_single, settle=0.5)
    finally:
        stop.set()
        for thread in pool:
            thread.join()
    assert (result["clients"]["ended"], result["clients"]["reconnected"]) == (8, 8)
    assert {finding["id"] for finding in result["findings"]} == {"redis.clients_reconnect", "redis.timeout_unset"}
    assert result["measured"]["after"] - result["measured"]["forecast"] == 8


def test_is_quiet_about_a_timeout_that_is_set(crowd: RedisServer) -> None:
    crowd.command("CONFIG", "SET", "timeout", "300")
    assert end(crowd)["findings"] == []


def test_guard_refuses_before_the_first_one(crowd: RedisServer) -> None:
    for options, code in (({"max_count": 29}, "max_count"), ({"max_fraction": 0.5}, "max_fraction")):
        refused = end(crowd, **options)
        assert (refused["error"]["kind"], refused["error"]["code"]) == ("guard_refused", code)
    approved = end(crowd, check_mode=True)["plan"]["id"]
    with faults.flood_clients(crowd, 1, "app"):
        time.sleep(IDLE)
        assert end(crowd, approved_plan=approved)["error"]["code"] == "stale_plan"
    time.sleep(0.2)
    assert len(ids(crowd, "app")) == 30
    assert end(crowd, approved_plan=approved)["clients"]["ended"] == 30


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "*"}, "means every client"),
        ({"name": ""}, "means every client"),
        ({"min_idle": "0"}, "no age is given"),
        ({"addr": "here"}, "not an address"),
    ],
)
def test_refuses_a_selection_that_is_none(redis_single: RedisServer, options: dict[str, Any], words: str) -> None:
    refused = end(redis_single, **options)
    assert (refused["failed"], refused["error"]["code"]) == (True, "bad_parameter")
    assert words in refused["msg"]


def test_asks_for_a_filter_and_an_age(redis_single: RedisServer) -> None:
    with pytest.raises(ValueError, match="one of the following is required"):
        call("redis_client", min_idle="1s", **redis_single.connection())
    with pytest.raises(ValueError, match="one of the following is required"):
        call("redis_client", name="app", **redis_single.connection())


def test_selects_by_address_and_leaves_sentinels_alone(redis_sentinel: SentinelSet) -> None:
    server = redis_sentinel.primary
    with faults.flood_clients(server, 3, "app"):
        time.sleep(IDLE)
        result = end(server, name=None, addr="127.0.0.0/8", min_idle=None, min_age="1s")
        assert result["clients"]["by_name"] == [{"name": "app", "user": "default", "count": 3}]
    reasons = {entry["reason"] for entry in result["spared"]}
    assert {"a Sentinel watches through it", "the link of a replica"} <= reasons
    assert server.info("replication")["connected_slaves"] == 1


def test_works_on_every_primary_of_a_cluster(redis_cluster: Cluster) -> None:
    with ExitStack() as held:
        for node in redis_cluster.primaries:
            held.enter_context(faults.flood_clients(node, 4, "app"))
        time.sleep(IDLE)
        checked = end(redis_cluster.nodes[4], check_mode=True)
        result = end(redis_cluster.nodes[4])
        assert (checked["plan"]["count"], result["clients"]["ended"]) == (12, 12)
        assert all(ids(node, "app") == set() for node in redis_cluster.primaries)
        assert end(redis_cluster.nodes[4])["changed"] is False


def test_needs_the_right_to_list_and_to_kill(redis_acl: RedisServer) -> None:
    refused = end(redis_acl, **redis_acl.connection("reader"))
    assert (refused["error"]["kind"], refused["error"]["code"]) == ("forbidden", "acl")
    redis_acl.command("ACL", "SETUSER", "reader", "+client", "-client|kill", "+acl|whoami", "+acl|dryrun")
    with faults.flood_clients(redis_acl, 2, "app"):
        time.sleep(IDLE)
        refused = end(redis_acl, **redis_acl.connection("reader"))
        assert refused["error"]["kind"] == "forbidden"
        assert "CLIENT KILL" in refused["msg"]
        assert end(redis_acl, **redis_acl.connection("noconfig"))["clients"]["ended"] == 2


def test_shipped_and_in_process_alike(redis_single: RedisServer) -> None:
    options = {"name": "app", "min_idle": "1s", "settle": 0, "max_fraction": 1.0}
    task = {"sre.runbooks.redis_client": {**options, **redis_single.connection()}}
    with faults.flood_clients(redis_single, 5, "app"):
        time.sleep(IDLE)
        ran = play(
            [
                {"name": "here", "check_mode": True, **task},
                {"name": "shipped", "check_mode": True, "environment": {"X": "y"}, **task},
            ]
        )
    here, shipped = ran.result("here"), ran.result("shipped")
    assert ran.rc == 0
    assert "invocation" in shipped
    for name in ("changed", "actions", "diff", "plan", "clients", "spared", "findings", "forecast"):
        assert here[name] == shipped[name], name
