# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_index: leftovers go, what is being built or guards a constraint stays, a new one only when asked for."""

from __future__ import annotations

from typing import Any

from tests.lab import postgres_faults as faults
from tests.lab.postgres_servers import PostgresServer
from tests.lab.postgres_witness import fingerprint, statements
from tests.runbooks.harness import Runbook, actions, aimed_at_postgres, changes, findings

INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"


def mend(server: PostgresServer, **declared: Any) -> Runbook:
    return aimed_at_postgres("postgres_index", server, **{"postgres_headroom_ok": True, **declared})


def test_break_and_mend_what_a_reindex_left(postgres_single: PostgresServer) -> None:
    with faults.invalid_index(postgres_single, how="reindex") as left:
        assert (left,) in postgres_single.query(INVALID)
        result = mend(postgres_single).run()
        assert result.rc == 0, result.stdout
        assert "postgres.index_invalid" in findings(result)
        assert postgres_single.query(INVALID) == []
        assert fingerprint(postgres_single).indexes["public.orders_note_idx"][0]


def test_break_and_mend_by_creating_what_is_asked_for(postgres_single: PostgresServer) -> None:
    faults.small_table(postgres_single, "orders")
    index = {"name": 'Orders "note" 100%', "table": "public.orders", "columns": ["note"]}
    result = mend(postgres_single, postgres_create_index=index).run()
    assert result.rc == 0, result.stdout
    (name,) = postgres_single.query(
        "SELECT indexname FROM pg_indexes WHERE tablename = 'orders' AND indexname LIKE 'O%%'"
    )
    assert name == ('Orders "note" 100%',)
    second = mend(postgres_single, postgres_create_index=index).run()
    assert (second.rc, changes(second)) == (0, [])


def test_again(postgres_single: PostgresServer) -> None:
    with faults.invalid_index(postgres_single, how="reindex"):
        assert mend(postgres_single).run().rc == 0
        second = mend(postgres_single).run()
        assert (second.rc, changes(second), second.changed) == (0, [], False)


def test_check_tells_the_truth(postgres_single: PostgresServer) -> None:
    with faults.invalid_index(postgres_single, how="reindex"):
        before = fingerprint(postgres_single)
        with statements(postgres_single) as seen:
            checked = mend(postgres_single).run(check=True)
            assert checked.rc == 0, checked.stdout
            assert not seen.writes("sre.runbooks")
        assert fingerprint(postgres_single) == before
        assert actions(checked) == actions(mend(postgres_single).run())


def test_killed_half_way(postgres_single: PostgresServer) -> None:
    """A build that is cut off leaves an invalid index of that name; the next run builds it anew."""
    faults.small_table(postgres_single, "orders", rows=200_000)
    index = {"name": "orders_note_new_idx", "table": "public.orders", "columns": ["note", "id"]}
    ask = "SELECT 1 FROM pg_stat_progress_create_index"
    runbook = mend(postgres_single, postgres_create_index=index)
    runbook.run_and_kill(lambda: bool(postgres_single.query(ask)))
    result = runbook.run()
    assert result.rc == 0, result.stdout
    assert fingerprint(postgres_single).indexes["public.orders_note_new_idx"][0]
    assert postgres_single.query(INVALID) == []


def test_wrong_cause_an_index_that_is_being_built(postgres_single: PostgresServer) -> None:
    """It is invalid too, for now."""
    with faults.index_under_construction(postgres_single) as build:
        result = mend(postgres_single).run()
        assert result.rc == 0, result.stdout
        assert changes(result) == []
        assert build.running
