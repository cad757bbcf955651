# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_locks: queued DDL first, a root only when that is declared."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.lab import postgres_faults as faults
from tests.lab.postgres_servers import PostgresServer
from tests.lab.postgres_witness import fingerprint, statements
from tests.runbooks.harness import Runbook, actions, aimed_at_postgres, changes, findings, message


def mend(server: PostgresServer, **declared: Any) -> Runbook:
    return aimed_at_postgres("postgres_locks", server, **{"postgres_lock_wait": "1s", **declared})


@pytest.mark.compat
def test_break_and_mend_a_queue_behind_ddl(postgres_single: PostgresServer) -> None:
    with faults.lock_queue(postgres_single, 5) as queue:
        time.sleep(1.2)
        result = mend(postgres_single).run()
        assert result.rc == 0, result.stdout
        assert {"postgres.lock_root", "postgres.ddl_queued"} <= set(findings(result))
        assert all(reader.wait(5) for reader in queue.readers)
        assert queue.holder.alive()
    assert fingerprint(postgres_single).tables


def test_break_and_mend_a_root_that_may_be_ended(postgres_single: PostgresServer) -> None:
    update = "UPDATE held SET note = 'mine'"
    with (
        faults.idle_in_transaction(postgres_single, name="forgotten") as root,
        faults.running(postgres_single, update, name="web") as victim,
    ):
        time.sleep(1.5)
        refused = mend(postgres_single).run()
        assert refused.rc != 0
        assert "postgres_end_roots" in message(refused)
        result = mend(postgres_single, postgres_end_roots=True, postgres_root_min_age="1s").run()
        assert result.rc == 0, result.stdout
        assert victim.wait(5)
        assert not root.alive()


def test_again(postgres_single: PostgresServer) -> None:
    with faults.lock_queue(postgres_single, 2):
        time.sleep(1.2)
        assert mend(postgres_single).run().rc == 0
        second = mend(postgres_single).run()
        assert (second.rc, changes(second), second.changed) == (0, [], False)


def test_check_tells_the_truth(postgres_single: PostgresServer) -> None:
    with faults.lock_queue(postgres_single, 3) as queue:
        time.sleep(1.2)
        with statements(postgres_single) as seen:
            checked = mend(postgres_single).run(check=True)
            assert checked.rc == 0, checked.stdout
            assert not seen.writes("sre.runbooks")
        assert queue.ddl.running
        assert actions(checked) == actions(mend(postgres_single).run())


def test_killed_half_way(postgres_single: PostgresServer) -> None:
    with faults.lock_queue(postgres_single, 3) as queue:
        time.sleep(1.2)
        begun = time.monotonic()
        mend(postgres_single).run_and_kill(lambda: time.monotonic() - begun > 0.7)
        result = mend(postgres_single).run()
        assert result.rc == 0, result.stdout
        assert all(reader.wait(5) for reader in queue.readers)


def test_wrong_cause_a_prepared_transaction(postgres_single: PostgresServer) -> None:
    """It has no session to end, and rolling it back is its owner's to decide."""
    with (
        faults.prepared_transaction(postgres_single, "lab-forgotten") as gid,
        faults.running(postgres_single, "UPDATE held SET note = 'mine'", name="web"),
    ):
        time.sleep(1.5)
        result = mend(postgres_single, postgres_end_roots=True, postgres_root_min_age="1s").run()
        assert result.rc != 0
        assert gid in message(result)
        assert changes(result) == []
        assert postgres_single.query("SELECT gid FROM pg_prepared_xacts") == [(gid,)]
