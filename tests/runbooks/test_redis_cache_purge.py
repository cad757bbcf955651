# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""redis_cache_purge: declared caches go, exactly those, and nothing that merely looks like them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab import faults
from tests.lab.redis_servers import RedisServer
from tests.lab.witness import fingerprint, monitor
from tests.runbooks.harness import Runbook, actions, aimed, changes, message

TASK = "Mitigate | Delete the declared keys"


@pytest.fixture
def patient(redis_single: RedisServer) -> RedisServer:
    faults.add_bystanders(redis_single)
    faults.fill_cache(redis_single, until=24 << 20)
    with redis_single.client() as client:
        client.mset(dict.fromkeys(faults.hostile_keys("cache:"), b"x"))
        # Near misses: none of these is matched by cache:*.
        client.mset(dict.fromkeys([b"cache", b"Cache:1", b"xcache:1", b"cache\n:1", b"cach:e", b"[cache:]*"], b"x"))
    return redis_single


def purge(server: RedisServer, **declared: Any) -> Runbook:
    return aimed("redis_cache_purge", server, **{"redis_disposable": ["cache:*"], **declared})


def others(server: RedisServer) -> list[bytes]:
    with server.client() as client:
        return sorted(key for key in client.scan_iter(count=1000) if not key.startswith(b"cache:"))


@pytest.mark.compat
def test_break_and_mend(patient: RedisServer) -> None:
    before = others(patient)
    result = purge(patient).run()
    assert result.rc == 0, result.stdout
    assert fingerprint(patient, "cache:*").count == 0
    assert others(patient) == before


def test_again(patient: RedisServer) -> None:
    assert purge(patient).run().rc == 0
    second = purge(patient).run()
    assert (second.rc, changes(second), second.changed) == (0, [], False)


def test_check_tells_the_truth(patient: RedisServer) -> None:
    with monitor(patient) as seen:
        checked = purge(patient).run(check=True)
        assert seen.writes() == ()
    plan = checked.result(TASK)["plan"]
    assert plan["count"] == fingerprint(patient, "cache:*").count
    done = purge(patient).run(approved_plan=plan["id"])
    assert done.rc == 0, done.stdout
    assert actions(done) == actions(checked)
    assert done.result(TASK)["measured"]["count"] == plan["count"]


def test_killed_half_way(patient: RedisServer) -> None:
    before, full = others(patient), fingerprint(patient, "cache:*").count
    with patient.client() as client:
        purge(patient).run_and_kill(lambda: client.dbsize() < full, redis_rate=3000)
    assert 0 < fingerprint(patient, "cache:*").count < full
    result = purge(patient).run()
    assert result.rc == 0, result.stdout
    assert fingerprint(patient, "cache:*").count == 0
    assert others(patient) == before


@pytest.mark.parametrize("pattern", ["bull:*", "sess:*", "*", "", "cfg:*", "cache:pages:*"])
def test_wrong_cause_a_pattern_that_is_not_declared(patient: RedisServer, pattern: str) -> None:
    before = fingerprint(patient)
    result = purge(patient).run(redis_purge=[pattern])
    assert result.rc != 0
    assert "declared" in message(result) or "empty pattern" in message(result)
    assert (changes(result), fingerprint(patient)) == ([], before)


@pytest.mark.parametrize("pattern", ["bull:*", "celery*", "*", "?*", ""])
def test_declaring_what_is_protected_does_not_help(patient: RedisServer, pattern: str) -> None:
    before = fingerprint(patient)
    result = purge(patient, redis_disposable=[pattern]).run()
    assert result.rc != 0
    assert (changes(result), fingerprint(patient)) == ([], before)


def test_a_stale_approval_is_refused(patient: RedisServer) -> None:
    approved = purge(patient).run(check=True).result(TASK)["plan"]["id"]
    faults.fill_cache(patient, until=40 << 20)
    before = fingerprint(patient)
    result = purge(patient).run(approved_plan=approved)
    assert result.rc != 0
    assert "approved_plan" in message(result)
    assert fingerprint(patient) == before


def test_more_than_the_limit_is_refused(patient: RedisServer) -> None:
    before = fingerprint(patient)
    result = purge(patient, redis_max_count=100).run()
    assert result.rc != 0
    assert "max_count" in message(result)
    assert fingerprint(patient) == before
