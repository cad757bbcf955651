# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""lease on real servers: one holder at a time, also on a full server, and after a run was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.lab import faults
from tests.lab.process import wait_until
from tests.lab.redis_servers import Cluster, RedisServer, ReplicaPair, SentinelSet, start_acl, start_single
from tests.lab.witness import fingerprint, monitor
from tests.lab.world import Lab
from tests.support import ROOT, call, play, prepare

pytestmark = pytest.mark.redis

KEY = "sre.runbooks:lease:x"


def lease(server: RedisServer, owner: str, *, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    return call("lease", check_mode=check_mode, **{"name": "x", "owner": owner, **server.connection(), **options})


def test_taken_held_and_given_back(redis_single: RedisServer) -> None:
    taken = lease(redis_single, "A")
    assert (taken["changed"], taken["lease"]["ours"], taken["lease"]["owner"]) == (True, True, "A")
    assert 299_000 < redis_single.command("PTTL", KEY) <= 300_000
    assert lease(redis_single, "A")["changed"] is False
    given = lease(redis_single, "A", state="released")
    assert (given["changed"], given["lease"]["held"], redis_single.command("EXISTS", KEY)) == (True, False, 0)
    assert lease(redis_single, "A", state="released")["changed"] is False


def test_another_run_is_told_who_has_it(redis_single: RedisServer) -> None:
    lease(redis_single, "A")
    before = fingerprint(redis_single)
    for check_mode in (False, True):
        refused = lease(redis_single, "B", check_mode=check_mode)
        error = refused["error"]
        assert (error["kind"], error["code"], error["retryable"]) == ("conflict", "lease_held", True)
        assert all(words in error["message"] for words in ("held by A", "since", "until", "@"))
        assert refused["lease"]["owner"] == "A"
    assert fingerprint(redis_single) == before


def test_only_the_owner_gives_it_back(redis_single: RedisServer) -> None:
    lease(redis_single, "A")
    other = lease(redis_single, "B", state="released")
    assert (other["changed"], [finding["id"] for finding in other["findings"]]) == (False, ["lease.held_by_other"])
    assert lease(redis_single, "A")["changed"] is False


def test_check_mode_takes_nothing(redis_single: RedisServer) -> None:
    with monitor(redis_single) as seen:
        checked = lease(redis_single, "A", check_mode=True)
        assert seen.writes() == ()
    done = lease(redis_single, "A")
    assert (checked["changed"], checked["actions"], checked["diff"]) == (True, done["actions"], done["diff"])
    with monitor(redis_single) as seen:
        assert lease(redis_single, "A", check_mode=True, state="released")["changed"] is True
        assert seen.writes() == ()


def test_renewed_when_half_of_its_time_has_passed(redis_single: RedisServer) -> None:
    first = lease(redis_single, "A", ttl="10s")["lease"]
    renewed = lease(redis_single, "A", ttl="1h")
    assert (renewed["changed"], renewed["lease"]["fence"]) == (True, first["fence"])
    assert redis_single.command("PTTL", KEY) > 3_500_000


def test_the_fence_grows_each_time_it_changes_hands(redis_single: RedisServer) -> None:
    fences = []
    for owner in ("A", "B", "C"):
        fences.append(lease(redis_single, owner)["lease"]["fence"])
        lease(redis_single, owner, state="released")
    assert fences == sorted(set(fences))


def test_ends_by_itself(redis_single: RedisServer) -> None:
    lease(redis_single, "A", ttl="1s")
    time.sleep(1.05)
    assert lease(redis_single, "B")["changed"] is True


def test_waits_for_the_other_run(redis_single: RedisServer) -> None:
    lease(redis_single, "A", ttl="1s")
    start = time.monotonic()
    assert lease(redis_single, "B", wait=5)["changed"] is True
    assert 0.7 < time.monotonic() - start < 10
    start = time.monotonic()
    assert lease(redis_single, "C", wait=0.5)["error"]["code"] == "lease_held"
    assert 0.4 < time.monotonic() - start < 10


@pytest.mark.parametrize("user", ["operator", "noscript"])
def test_of_many_at_once_exactly_one_wins(redis_acl: RedisServer, user: str) -> None:
    options = redis_acl.connection(user)
    for round_ in range(5):
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda n: lease(redis_acl, f"run-{n}", **options), range(8)))
        winners = [result["lease"]["owner"] for result in results if not result.get("failed")]
        assert len(winners) == 1, round_
        assert {result["error"]["code"] for result in results if result.get("failed")} == {"lease_held"}
        assert lease(redis_acl, winners[0], state="released", **options)["changed"] is True


def test_on_a_full_server(redis_lab: Lab) -> None:
    server = redis_lab.start(start_acl, config={"maxmemory-policy": "noeviction"})
    faults.fill_cache(server, until=3_000_000)
    server.command("CONFIG", "SET", "maxmemory", "1mb")
    assert lease(server, "A")["lease"]["ours"] is True
    assert lease(server, "A", ttl="1h")["changed"] is True
    assert lease(server, "A", state="released")["changed"] is True
    refused = lease(server, "A", **server.connection("noscript"))
    assert (refused["error"]["kind"], refused["error"]["code"]) == ("exhausted", "lease_unavailable")
    assert "none" in refused["error"]["hint"]
    assert server.command("EXISTS", KEY) == 0


def test_without_the_right_to_run_scripts(redis_acl: RedisServer) -> None:
    options = redis_acl.connection("noscript")
    taken = lease(redis_acl, "A", **options)
    assert (taken["changed"], taken["lease"]["fence"] > 0) == (True, True)
    assert lease(redis_acl, "B")["error"]["code"] == "lease_held"
    assert lease(redis_acl, "A", ttl="1h", **options)["lease"]["fence"] == taken["lease"]["fence"]
    assert lease(redis_acl, "A", state="released", **options)["changed"] is True


def test_a_reader_may_not_take_it(redis_acl: RedisServer) -> None:
    refused = lease(redis_acl, "A", **redis_acl.connection("reader"))
    assert (refused["error"]["kind"], refused["error"]["code"]) == ("forbidden", "acl")


def test_a_value_of_somebody_else_is_left_alone(redis_single: RedisServer) -> None:
    redis_single.command("SET", KEY, "not ours")
    for state in ("held", "released"):
        assert lease(redis_single, "A", state=state)["error"]["code"] == "lease_unreadable"
    assert redis_single.command("GET", KEY) == b"not ours"


def test_not_on_a_replica(redis_replica: ReplicaPair) -> None:
    refused = lease(redis_replica.replica, "A")
    assert refused["error"]["code"] == "replica"
    assert str(redis_replica.primary.port) in refused["error"]["hint"]


def test_on_a_cluster_it_goes_where_its_slot_is(redis_cluster: Cluster) -> None:
    for name in "abcdefgh":
        assert lease(redis_cluster.nodes[4], "A", name=name)["changed"] is True
        assert lease(redis_cluster.nodes[0], "B", name=name)["error"]["code"] == "lease_held"
    assert sum(node.command("DBSIZE") for node in redis_cluster.primaries) == 8
    assert all(lease(redis_cluster.nodes[1], "A", name=name, state="released")["changed"] for name in "abcdefgh")


def test_through_sentinels(redis_sentinel: SentinelSet) -> None:
    sentinels = [f"127.0.0.1:{server.port}" for server in redis_sentinel.sentinels]
    way = {"sentinels": sentinels, "sentinel_service": redis_sentinel.name}
    found = call("lease", **{"name": "x", "owner": "A", **way})
    assert found["lease"]["ours"] is True
    assert redis_sentinel.primary.command("EXISTS", KEY) == 1


@pytest.mark.parametrize("options", [{"ttl": "0"}, {"ttl": "soon"}, {"owner": " "}, {"name": ""}])
def test_refuses_what_makes_no_lease(redis_single: RedisServer, options: dict[str, Any]) -> None:
    failed = call("lease", **{"name": "x", "owner": "A", **redis_single.connection(), **options})
    assert failed["error"]["code"] == "bad_parameter"


def _take_and_linger(server: RedisServer, scratch: Path, **task: Any) -> subprocess.Popen[bytes]:
    """A playbook that takes the lease and then works for a long time."""
    take = {"sre.runbooks.lease": {"name": "x", "owner": "A", "ttl": "1h", **server.connection()}, **task}
    command, environment = prepare(scratch, [take, {"ansible.builtin.pause": {"seconds": 120}}])
    run = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_until(lambda: server.command("EXISTS", KEY) == 1, 60, "a lease taken by the playbook")
    return run


@pytest.mark.parametrize("task", [{}, {"environment": {"X": "y"}}], ids=["in-process", "shipped"])
def test_that_of_a_killed_run_is_taken_over_at_once(redis_single: RedisServer, tmp_path: Path, task: Any) -> None:
    run = _take_and_linger(redis_single, tmp_path, **task)
    try:
        time.sleep(0.5)  # the module's own process has ended by now; only the playbook's counts
        assert lease(redis_single, "B")["error"]["code"] == "lease_held"
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    checked = lease(redis_single, "B", check_mode=True)
    taken = lease(redis_single, "B")
    assert (checked["actions"], taken["lease"]["owner"]) == (taken["actions"], "B")
    finding = next(finding for finding in taken["findings"] if finding["id"] == "lease.taken_over")
    assert finding["evidence"]["owner"] == "A"


def test_a_failed_take_by_a_playbook_stops_it(redis_single: RedisServer) -> None:
    lease(redis_single, "A")
    ran = play(
        [
            {"sre.runbooks.lease": {"name": "x", "owner": "B", **redis_single.connection()}},
            {"ansible.builtin.debug": {"msg": "never"}},
        ]
    )
    assert ran.rc != 0
    assert ran.result()["error"]["kind"] == "conflict"


def test_shipped_and_in_process_alike(redis_lab: Lab) -> None:
    server = redis_lab.start(start_single)
    task = {"sre.runbooks.lease": {"name": "x", "owner": "A", **server.connection()}, "check_mode": True}
    ran = play([{"name": "here", **task}, {"name": "shipped", "environment": {"X": "y"}, **task}])
    here, shipped = ran.result("here"), ran.result("shipped")
    for name in ("changed", "actions", "diff", "plan", "lease", "findings"):
        assert here[name] == shipped[name], name
