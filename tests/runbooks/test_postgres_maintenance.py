# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_maintenance: what exceeds a threshold, and nothing while it would be useless."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.lab import postgres_faults as faults
from tests.lab.postgres_servers import PostgresServer
from tests.lab.postgres_witness import fingerprint, statements
from tests.runbooks.harness import Runbook, actions, aimed_at_postgres, changes, findings, message

TASK = "Mitigate | Maintain what exceeds a threshold"


def maintain(server: PostgresServer, **declared: Any) -> Runbook:
    return aimed_at_postgres("postgres_maintenance", server, **{"postgres_headroom_ok": True, **declared})


def dead(server: PostgresServer, table: str) -> int:
    server.query("SELECT pg_stat_clear_snapshot()")
    (row,) = server.query("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = %s", table)
    return int(row[0])


def test_break_and_mend(postgres_single: PostgresServer) -> None:
    with faults.bloat(postgres_single, rows=20_000, updates=3) as bloated:
        before = fingerprint(postgres_single).tables
        result = maintain(postgres_single).run()
        assert result.rc == 0, result.stdout
        assert dead(postgres_single, bloated.table) < 1000
        assert fingerprint(postgres_single).tables == before


def test_again(postgres_single: PostgresServer) -> None:
    with faults.bloat(postgres_single, rows=20_000, updates=3):
        assert maintain(postgres_single).run().rc == 0
        second = maintain(postgres_single).run()
        assert (second.rc, changes(second), second.changed) == (0, [], False)


def test_check_tells_the_truth(postgres_single: PostgresServer) -> None:
    with faults.bloat(postgres_single, rows=20_000, updates=3):
        with statements(postgres_single) as seen:
            checked = maintain(postgres_single).run(check=True)
            assert checked.rc == 0, checked.stdout
            assert not seen.writes("sre.runbooks")
        assert actions(checked)
        assert actions(checked) == actions(maintain(postgres_single).run())


def test_killed_half_way(postgres_single: PostgresServer) -> None:
    with faults.bloat(postgres_single, rows=300_000, updates=2) as bloated:
        ask = "SELECT 1 FROM pg_stat_progress_vacuum UNION ALL SELECT 1 FROM pg_stat_progress_create_index"
        maintain(postgres_single).run_and_kill(lambda: bool(postgres_single.query(ask)))
        result = maintain(postgres_single).run()
        assert result.rc == 0, result.stdout
        assert dead(postgres_single, bloated.table) < 1000
        assert postgres_single.query("SELECT 1 FROM pg_index WHERE NOT indisvalid") == []


def test_wrong_cause_an_old_snapshot_holds_what_is_dead(postgres_single: PostgresServer) -> None:
    """Vacuum would remove nothing: whoever holds the snapshot is named, and nothing is started."""
    with faults.old_snapshot(postgres_single) as holder, faults.bloat(postgres_single, rows=20_000, updates=3):
        time.sleep(2.1)
        result = maintain(postgres_single, postgres_holder_age="2s").run()
        assert "postgres.xmin_held" in findings(result)
        assert result.rc != 0
        assert str(holder.pid) in message(result)
        assert not [words for words in actions(result) if "vacuum" in words]


@pytest.mark.parametrize("window", ["nonsense", "25:00-26:00 UTC"])
def test_a_window_that_is_none(postgres_single: PostgresServer, window: str) -> None:
    result = maintain(postgres_single, postgres_window=window).run()
    assert result.rc != 0
    assert "window" in message(result)
