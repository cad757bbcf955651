# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a long statement is doing, told every few seconds by a second connection that looks on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

from .._core.plan import Progress
from .client import Postgres, Session
from .errors import translate

#: Seconds between two looks. A statement that is quicker is never looked at, and costs no second connection.
EVERY = 2.0

_LOOK = """
SELECT a.wait_event_type, pg_blocking_pids(a.pid)::int[] AS blockers,
       coalesce(v.phase, i.phase, n.phase) AS phase,
       coalesce(v.heap_blks_scanned, nullif(i.blocks_done, 0), nullif(i.tuples_done, 0), n.sample_blks_scanned) AS done,
       coalesce(v.heap_blks_total, CASE WHEN i.blocks_done > 0 THEN i.blocks_total ELSE i.tuples_total END,
                n.sample_blks_total) AS total,
       i.lockers_done, i.lockers_total
  FROM pg_stat_activity a
  LEFT JOIN pg_stat_progress_vacuum v ON v.pid = a.pid
  LEFT JOIN pg_stat_progress_create_index i ON i.pid = a.pid
  LEFT JOIN pg_stat_progress_analyze n ON n.pid = a.pid
 WHERE a.pid = %(pid)s
"""


def line_of(row: Mapping[str, Any]) -> str:
    """One look in words: C(building index: scanning table, 43 %)."""
    parts = [str(row["phase"] or "at work")]
    if row["done"] is not None and row["total"]:
        parts.append(f"{min(100, 100 * row['done'] // row['total'])} %")
    if row["lockers_total"]:
        parts.append(f"{row['lockers_done']} of {row['lockers_total']} older transactions are through")
    if row["wait_event_type"] == "Lock" and row["blockers"]:
        parts.append(f"waits for session {', '.join(str(pid) for pid in row['blockers'])}")
    return ", ".join(parts)


def watched(postgres: Postgres, words: str, progress: Progress, statement: Callable[[], None]) -> None:
    """Runs a statement of the main session and says how it goes. Whoever interrupts us cancels it."""
    if postgres.again is None:
        statement()
        return
    (row,) = postgres.session.rows("SELECT pg_backend_pid() AS pid")
    with ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(statement)
        try:
            _follow(postgres, row["pid"], words, progress, future)
        except BaseException:
            _cancel(postgres, row["pid"])
            raise
    future.result()


def _follow(postgres: Postgres, pid: int, words: str, progress: Progress, future: Future[None]) -> None:
    started = time.monotonic()
    wait([future], timeout=EVERY)
    if future.done() or postgres.again is None:
        return
    try:
        with postgres.again() as watcher:
            while not future.done():
                progress(f"{words}: {_look(watcher, pid)}, {time.monotonic() - started:.0f} s")
                wait([future], timeout=EVERY)
    except Exception as error:
        if translate(error) is None:
            raise
        progress(f"{words}: at work, unseen, because no second connection is to be had")


def _look(watcher: Session, pid: int) -> str:
    rows = watcher.rows(_LOOK, {"pid": pid})
    return line_of(rows[0]) if rows else "at work"


def _cancel(postgres: Postgres, pid: int) -> None:
    with suppress(Exception):
        if postgres.again is not None:
            with postgres.again() as watcher:
                watcher.rows("SELECT pg_cancel_backend(%(pid)s)", {"pid": pid})
