# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_replication_health names what is wrong with standbys, slots and archive, and drops nothing."""

from __future__ import annotations

import time

from tests.lab import postgres_faults as faults
from tests.lab.postgres_servers import PostgresPair
from tests.lab.postgres_witness import statements
from tests.runbooks.harness import aimed_at_postgres, changes, findings

NAME = "postgres_replication_health"


def test_break_and_mend_by_naming_a_forgotten_slot(postgres_pair: PostgresPair) -> None:
    with faults.inactive_slot(postgres_pair.primary) as slot:
        result = aimed_at_postgres(NAME, postgres_pair.primary).run()
        assert result.rc == 0, result.stdout
        assert "postgres.slot_inactive" in findings(result)
        assert slot in str(result.tasks)
        left = postgres_pair.primary.query("SELECT slot_name FROM pg_replication_slots WHERE NOT active")
        assert (slot,) in left


def test_break_and_mend_by_naming_a_standby_that_lags(postgres_pair: PostgresPair) -> None:
    with faults.pause_replay(postgres_pair.standby):
        faults.write_wal(postgres_pair.primary, 8)
        time.sleep(0.5)
        seen = aimed_at_postgres(NAME, postgres_pair.primary, postgres_lag_bytes="1mb").run()
        assert "postgres.replica_lagging" in findings(seen)
        assert "postgres.replay_paused" in findings(aimed_at_postgres(NAME, postgres_pair.standby).run())


def test_again(postgres_pair: PostgresPair) -> None:
    first, second = (aimed_at_postgres(NAME, postgres_pair.primary).run() for _turn in range(2))
    assert (changes(first), changes(second), second.changed) == ([], [], False)


def test_check_tells_the_truth(postgres_pair: PostgresPair) -> None:
    with statements(postgres_pair.primary) as seen:
        result = aimed_at_postgres(NAME, postgres_pair.primary).run(check=True)
        assert not seen.writes("sre.runbooks")
    assert result.rc == 0, result.stdout


def test_killed_half_way(postgres_pair: PostgresPair) -> None:
    begun = time.monotonic()
    aimed_at_postgres(NAME, postgres_pair.primary).run_and_kill(lambda: time.monotonic() - begun > 0.6)
    assert aimed_at_postgres(NAME, postgres_pair.primary).run().rc == 0


def test_wrong_cause_an_idle_primary_is_not_behind(postgres_pair: PostgresPair) -> None:
    """The age of the last replayed transaction grows with nothing wrong."""
    time.sleep(2)
    for server in postgres_pair.servers:
        found = findings(aimed_at_postgres(NAME, server).run())
        assert not {"postgres.replica_lagging", "postgres.replay_paused", "postgres.slot_inactive"} & set(found)
