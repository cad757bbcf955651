# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""redis_slow names what is slow, shows no payload, and never makes it slower."""

from __future__ import annotations

import pytest

from tests.lab import faults
from tests.lab.redis_servers import RedisServer
from tests.lab.witness import fingerprint, monitor
from tests.runbooks.harness import aimed, changes, findings

CANARY = "canary-7c1f-payload"


@pytest.fixture
def patient(redis_single: RedisServer) -> RedisServer:
    """One command that takes 40 ms over one key that is far too large, and somebody who uses KEYS."""
    faults.add_bystanders(redis_single)
    faults.giant_key(redis_single, "report:all", 400_000)
    with redis_single.client() as client:
        client.execute_command("SLOWLOG", "RESET")  # making it may have been slow as well
        client.execute_command("CONFIG", "SET", "slowlog-log-slower-than", "5000", "latency-monitor-threshold", "5")
        client.execute_command("CONFIG", "RESETSTAT")
        client.eval(
            "local n = redis.call('time') redis.call('set', KEYS[1], ARGV[1]) "
            "for i = 1, 400000 do redis.call('exists', KEYS[1]) end",
            1,
            "note",
            CANARY,
        )
        client.keys("nothing:*")
    return redis_single


@pytest.mark.compat
def test_break_and_mend_by_naming_it(patient: RedisServer) -> None:
    result = aimed("redis_slow", patient).run()
    assert result.rc == 0, result.stdout
    assert {"redis.slow_commands", "redis.whole_keyspace_commands", "redis.giant_key"} <= set(findings(result))
    seen = result.result("Diagnose | Look at slow commands, latency and rates")
    assert seen["slow"][0]["command"] == "EVAL"
    assert seen["rates"]["commands"] >= 0
    assert CANARY not in result.stdout + str(result.tasks)


def test_again(patient: RedisServer) -> None:
    first, second = aimed("redis_slow", patient).run(), aimed("redis_slow", patient).run()
    assert (changes(first), changes(second)) == ([], [])
    assert "redis.slow_commands" in findings(second)


def test_check_tells_the_truth(patient: RedisServer) -> None:
    before = fingerprint(patient)
    with monitor(patient) as seen:
        result = aimed("redis_slow", patient).run(check=True)
        assert seen.writes() == ()
        # A diagnosis that costs more than the illness is none.
        assert not {"keys", "monitor", "hgetall", "smembers", "sort"} & {command.name for command in seen.commands}
    assert (result.rc, fingerprint(patient)) == (0, before)


def test_killed_half_way(patient: RedisServer) -> None:
    before = fingerprint(patient)
    runbook = aimed("redis_slow", patient, redis_sample=5.0)
    with patient.client() as client:
        runbook.run_and_kill(lambda: any(line["name"] == "sre.runbooks" for line in client.client_list()))
    assert aimed("redis_slow", patient).run().rc == 0
    assert fingerprint(patient) == before


def test_wrong_cause_a_server_that_is_merely_busy(redis_single: RedisServer) -> None:
    """Many short commands are load, not slowness."""
    faults.fill_cache(redis_single, until=16 << 20)
    result = aimed("redis_slow", redis_single).run()
    assert result.rc == 0, result.stdout
    assert not {"redis.slow_commands", "redis.giant_key"} & set(findings(result))


def test_key_names_are_hashed_on_request(patient: RedisServer) -> None:
    result = aimed("redis_slow", patient, redis_key_names="hash").run()
    assert "redis.giant_key" in findings(result)
    assert "report:all" not in result.stdout + str(result.result("Diagnose | Look for large keys"))
