# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_slow_queries ranks statements without their values, and mends stale statistics only."""

from __future__ import annotations

from typing import Any

from tests.lab import postgres_faults as faults
from tests.lab.postgres_servers import PostgresServer
from tests.lab.postgres_witness import fingerprint, statements
from tests.runbooks.harness import Runbook, actions, aimed_at_postgres, changes, findings

CANARY = "canary-4b7e-value"


def look(server: PostgresServer, **declared: Any) -> Runbook:
    return aimed_at_postgres("postgres_slow_queries", server, **declared)


def test_break_and_mend(postgres_single: PostgresServer) -> None:
    faults.slow_statements(postgres_single)
    postgres_single.query(f"SELECT pg_sleep(0.2), '{CANARY}'")
    with faults.stale_statistics(postgres_single) as table:
        result = look(postgres_single).run()
        assert result.rc == 0, result.stdout
        assert "postgres.statistics_stale" in findings(result)
        seen = result.result("Diagnose | Rank statements, and look for what slows them")
        assert "pg_sleep" in str(seen["statements"])
        assert CANARY not in result.stdout + str(result.tasks)
        ask = "SELECT n_mod_since_analyze FROM pg_stat_user_tables WHERE relname = %s"
        assert postgres_single.query(ask, table) == [(0,)]


def test_again(postgres_single: PostgresServer) -> None:
    with faults.stale_statistics(postgres_single):
        assert look(postgres_single).run().rc == 0
        second = look(postgres_single).run()
        assert (second.rc, changes(second), second.changed) == (0, [], False)


def test_check_tells_the_truth(postgres_single: PostgresServer) -> None:
    with faults.stale_statistics(postgres_single):
        with statements(postgres_single) as seen:
            checked = look(postgres_single).run(check=True)
            assert checked.rc == 0, checked.stdout
            assert not seen.writes("sre.runbooks")
        assert actions(checked) == actions(look(postgres_single).run())


def test_killed_half_way(postgres_single: PostgresServer) -> None:
    ask = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'sre.runbooks'"
    with faults.stale_statistics(postgres_single):
        look(postgres_single).run_and_kill(lambda: bool(postgres_single.query(ask)))
        result = look(postgres_single).run()
        assert result.rc == 0, result.stdout


def test_wrong_cause_statistics_are_fresh(postgres_single: PostgresServer) -> None:
    """Slow statements alone are somebody's to rewrite: they are named, and nothing is changed."""
    faults.slow_statements(postgres_single)
    before = fingerprint(postgres_single)
    result = look(postgres_single).run()
    assert (result.rc, changes(result), fingerprint(postgres_single)) == (0, [], before)


def test_slow_statements_are_logged_for_a_while(postgres_single: PostgresServer) -> None:
    """The same line takes it back when the moment has passed."""
    show = "SELECT setting FROM pg_settings WHERE name = 'log_min_duration_statement'"
    before = postgres_single.query(show)
    for until, value in (("2099-01-01T00:00:00Z", [("1000",)]), ("2020-01-01T00:00:00Z", before)):
        result = look(postgres_single, postgres_log_threshold="1s", postgres_log_until=until).run()
        assert result.rc == 0, result.stdout
        assert postgres_single.query(show) == value
