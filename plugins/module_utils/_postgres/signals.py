# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Cancelling and ending sessions: each looked at again in the very statement that signals it.

Sessions are signalled in slices, so that hundreds of them cost a few statements and not hundreds.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._core.plan import Done, Progress, Step, Undo, Verify
from .census import QUEUED_DDL, SPEECH, Census, work_in_progress
from .client import Postgres, Row
from .sessions import CLIENT, Backend, Key, Wanted

SLICE = 50
_POLL = 0.05
_GONE = "it has gone by itself"

_ENDED = Undo("A client that is still wanted connects again by itself; a transaction that was open is rolled back.")
_CANCELLED = Undo("The statement was cancelled; its client decides whether to send it again.")

# The slice: who was planned, by what cannot be mistaken, and how each was called then.
_SLICE = """
WITH w AS (SELECT * FROM unnest(%(pids)s::int[], %(starts)s::timestamptz[], %(names)s::text[])
                      AS w(pid, started, application)),
v AS MATERIALIZED (
  SELECT a.pid, a.backend_start, a.query_start FROM w
    JOIN pg_stat_activity a ON a.pid = w.pid AND a.backend_start = w.started
   WHERE {condition} LIMIT %(limit)s)
SELECT v.pid, v.backend_start AS started, v.query_start, {act} AS sent FROM v
"""

# The whole selection once more, and what makes a session one to spare as far as that can have changed since.
_STILL = """
a.pid <> pg_backend_pid() AND a.backend_type = %(client)s AND a.application_name = w.application
AND (%(state)s = 'any' OR a.state = %(state)s) AND (NOT %(calm)s OR a.state <> 'active')
AND (NOT %(busy)s OR a.state = 'active')
AND (%(min_state_age)s = 0 OR a.state_change <= clock_timestamp() - make_interval(secs => %(min_state_age)s))
AND (%(min_xact_age)s = 0 OR a.xact_start <= clock_timestamp() - make_interval(secs => %(min_xact_age)s))
AND (%(min_query_age)s = 0 OR (a.state = 'active'
     AND a.query_start <= clock_timestamp() - make_interval(secs => %(min_query_age)s)))
AND (%(regex)s::text IS NULL OR a.query ~ %(regex)s::text)
AND a.wait_event IS DISTINCT FROM 'SyncRep' AND {speech} = ''
AND NOT EXISTS (SELECT FROM ({work}) p WHERE p.pid = a.pid)
AND NOT EXISTS (SELECT FROM pg_locks k WHERE k.pid = a.pid AND k.locktype = 'advisory' AND k.granted)
AND (NOT %(blocking)s OR a.pid IN (
     SELECT unnest(pg_blocking_pids(k.pid)) FROM (SELECT DISTINCT pid FROM pg_locks WHERE NOT granted) k))
AND (NOT %(roots)s OR NOT EXISTS (SELECT FROM pg_locks k WHERE k.pid = a.pid AND NOT k.granted))
AND (NOT %(queued_ddl)s OR {queued_ddl_exists})
"""

# The very statement that was cancelled, still at it.
_SAME_QUERY = """
a.state = 'active' AND a.wait_event IS DISTINCT FROM 'SyncRep'
AND (a.pid, a.query_start) IN (SELECT * FROM unnest(%(pids)s::int[], %(queries)s::timestamptz[]))
"""

_CANCEL, _TERMINATE, _LOOK = "pg_cancel_backend(v.pid)", "pg_terminate_backend(v.pid)", "true"

_NOW = """
SELECT a.pid, a.backend_start AS started, a.state, a.query_start,
       extract(epoch FROM clock_timestamp() - a.state_change)::int AS age
  FROM pg_stat_activity a JOIN unnest(%(pids)s::int[], %(starts)s::timestamptz[]) AS w(pid, started)
    ON a.pid = w.pid AND a.backend_start = w.started
"""


@dataclass(slots=True)
class Campaign:
    """What is to be done to the sessions of a census, and what became of each.

    The first step that is asked for carries the work out for all; the others find their outcome here.
    C(cancelled) maps to the start of the statement that was cancelled. C(grace) is in seconds.
    """

    postgres: Postgres
    census: Census
    wanted: Wanted
    grace: float
    outcomes: dict[Key, Done] = field(default_factory=dict)
    cancelled: dict[Key, Any] = field(default_factory=dict)
    terminated: set[Key] = field(default_factory=set)
    started: bool = False
    error: Exception | None = None

    def steps(self) -> tuple[Step, ...]:
        """One for each session: first those that are ended at once, the oldest before the younger ones."""
        return tuple(self._step(backend) for backend in (*self._direct(), *self._gentle()))

    def ending(self) -> int:
        """How many connections are surely to go: a session whose statement can be cancelled stays."""
        return len(self._direct())

    def _step(self, backend: Backend) -> Step:
        gentle = backend in self._gentle()
        verb = "Cancel the statement of" if gentle else "End"
        escalates = gentle and self.wanted.action == "cancel_then_terminate"
        after = f", end it if that takes longer than {self.grace:g} s" if escalates else ""
        words = f"{verb} {backend.subject} database={backend.database} ({backend.state}){after}"
        undo = _CANCELLED if self.wanted.action == "cancel" else _ENDED
        return Step(backend.subject, words, lambda _progress: self._outcome(backend, _progress), undo)

    def _direct(self) -> tuple[Backend, ...]:
        return tuple(backend for backend in self.census.selected if not self._may_cancel(backend))

    def _gentle(self) -> tuple[Backend, ...]:
        return tuple(backend for backend in self.census.selected if self._may_cancel(backend))

    def _may_cancel(self, backend: Backend) -> bool:
        """Only a statement can be cancelled; a session that is idle, also inside a transaction, takes no notice."""
        return self.wanted.action != "terminate" and backend.state == "active"

    def _outcome(self, backend: Backend, progress: Progress) -> Done:
        if not self.started:
            self.started = True
            try:
                self._carry_out(progress)
            except Exception as error:
                self.error = error
        if self.error and backend.key not in self.outcomes:
            raise self.error
        return self.outcomes.get(backend.key, Done(0, note=_GONE))

    def _carry_out(self, progress: Progress) -> None:
        for part in _slices(self._direct()):
            sent = self._signal(part, _TERMINATE, calm=self.wanted.action != "terminate")
            self.terminated |= {_key(row) for row in sent}
            progress(f"{len(self.terminated)} of {len(self._direct())} sessions ended")
        for part in _slices(self._gentle()):
            self.cancelled |= {_key(row): row["query_start"] for row in self._signal(part, _CANCEL, busy=True)}
        if self.wanted.action == "cancel_then_terminate" and self.cancelled:
            progress(f"{len(self.cancelled)} statements cancelled; up to {self.grace:g} s for them to stop")
            self._end_the_deaf()

    def _signal(self, part: Sequence[Backend], act: str, *, calm: bool = False, busy: bool = False) -> list[Row]:
        """Signals those of the slice that the selection still means; notes why for the others."""
        work = work_in_progress(self.postgres.major)
        still = _STILL.format(speech=SPEECH, work=work, queued_ddl_exists=QUEUED_DDL)
        wanted = self.wanted
        values = {
            **{name: getattr(wanted, name) for name in ("state", "min_state_age", "min_xact_age", "min_query_age")},
            **{name: getattr(wanted, name) for name in ("blocking", "roots", "queued_ddl")},
            **{"regex": wanted.query_regex, "client": CLIENT, "calm": calm, "busy": busy},
            **{"names": [backend.application for backend in part], "limit": len(part)},
            **_keys([backend.key for backend in part]),
        }
        rows = self.postgres.session.rows(_SLICE.format(condition=still, act=act), values)
        sent = [row for row in rows if row["sent"]]
        self.outcomes |= {_key(row): Done() for row in sent}
        self._note_the_missed([backend.key for backend in part if backend.key not in self.outcomes])
        return sent

    def _note_the_missed(self, missed: Sequence[Key]) -> None:
        """A session that is still there is no longer what was planned."""
        if not missed:
            return
        now = {_key(row): row for row in self.postgres.session.rows(_NOW, _keys(missed))}
        for key in missed:
            row = now.get(key)
            note = f"it is no longer as planned: {row['state']} for {row['age']} s" if row else _GONE
            self.outcomes[key] = Done(0, note=note)

    def _end_the_deaf(self) -> None:
        """After C(grace) seconds ends the sessions whose cancelled statement still runs."""
        until = time.monotonic() + self.grace
        while (left := self.running()) and time.monotonic() < until:
            time.sleep(_POLL)
        for part in _slices(left):
            rows = self._same_query(part, _TERMINATE)
            self.terminated |= {_key(row) for row in rows if row["sent"]}

    def running(self) -> list[Key]:
        """Whose cancelled statement still runs."""
        found = [_key(row) for part in _slices(list(self.cancelled)) for row in self._same_query(part, _LOOK)]
        return [key for key in found if key not in self.terminated]

    def _same_query(self, part: Sequence[Key], act: str) -> list[Row]:
        values = {"names": [""] * len(part), "limit": len(part), "queries": [self.cancelled[key] for key in part]}
        return self.postgres.session.rows(_SLICE.format(condition=_SAME_QUERY, act=act), {**values, **_keys(part)})

    def left(self) -> list[Key]:
        """Who was told to end and is still listed: a signal that was sent has not yet arrived."""
        if not self.terminated:
            return []
        return [_key(row) for row in self.postgres.session.rows(_NOW, _keys(self.terminated))]


def gone(campaign: Campaign) -> Verify:
    """That none of the sessions that were ended is listed, and no cancelled statement runs."""

    def check() -> str:
        wrong = {"still connected": campaign.left(), "still running": campaign.running()}
        lists = {words: ", ".join(f"pid={pid}" for pid, _start in keys[:20]) for words, keys in wrong.items() if keys}
        return "; ".join(f"{words}: {pids}" for words, pids in lists.items())

    words = "no ended session is listed, no cancelled statement runs"
    timeout = campaign.grace if campaign.wanted.action == "cancel" else max(10.0, campaign.grace)
    return Verify(words, check, interval=_POLL, timeout=timeout)


def _key(row: Row) -> Key:
    return row["pid"], row["started"]


def _keys(keys: Collection[Key]) -> dict[str, Any]:
    return {"pids": [pid for pid, _start in keys], "starts": [start for _pid, start in keys]}


def _slices(members: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(members), SLICE):
        yield members[start : start + SLICE]
