# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Maintaining one object after the other, without anybody having to wait for it.

Each statement runs outside a transaction, waits briefly for its lock and tries again. What a failed build
leaves behind is dropped at once. Nothing here takes a lock that readers or writers would queue behind.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from .._core.errors import Kind, OpsError
from .._core.plan import Aftermath, Done, Finding, Forecast, Progress, Severity, Step, Undo, Verify
from .._core.units import human
from .bloat import Scales, bloated_tables, due_rebuilds
from .brakes import Brakes, Stop, Window, free_bytes, lag_hidden
from .client import Postgres, primary_only
from .errors import translate
from .horizon import holders
from .indexes import Definition, Index, advice, due_creation, due_leftovers, origin_of
from .maintenance import Due, Judged, Wanted, due_tables
from .matviews import due_refreshes, marked
from .progress import watched
from .survey import Survey, all_indexes, index_now, matview_now, statements_on, table_now

#: Where the free space cannot be seen, work on more than this needs somebody's word that there is enough.
_DISK_UNSEEN = 1 << 30

#: Failures that concern one object alone: the others get their turn, and the run fails at its end.
_OWN_AFFAIR = frozenset(
    ("lock_timeout", "statement_timeout", "conflict", "no_such_table", "no_such_object", "state", "privilege")
)
#: Seconds for dropping what a failed build left, even where the run is over.
_CLEANING = 5.0

_ORDER = ("drop", "vacuum", "analyze", "reindex", "create", "fill", "refresh")
_VERBS = {
    "drop": "Drop index",
    "vacuum": "Vacuum",
    "analyze": "Analyze",
    "reindex": "Reindex",
    "create": "Create index",
    "fill": "Fill",
    "refresh": "Refresh",
}
_UNDO = {
    "drop": "Nothing to take back: the index served no query, and its origin is valid.",
    "vacuum": "Nothing to take back: only rows that nobody can see any more were removed.",
    "analyze": "Nothing to take back: statistics are drawn again at any time.",
    "reindex": "Nothing to take back: the new index has the old one's definition.",
    "fill": "REFRESH MATERIALIZED VIEW ... WITH NO DATA empties it again.",
    "refresh": "The former rows are gone; its sources have them.",
}


@dataclass(slots=True)
class Work:
    """What a run does and what came of it. C(missed) says of which objects, and why."""

    postgres: Postgres
    wanted: Wanted
    brakes: Brakes
    definition: Definition | None = None
    missed: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    done: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, postgres: Postgres, wanted: Wanted, definition: Definition | None, window_left: float | None) -> Work:
        """The work of one run, its brakes set."""
        brakes = Brakes(postgres.session, wanted.max_duration, wanted.replica_lag_max, window_left)
        return cls(postgres, wanted, brakes, definition)

    def steps(self, due: list[Due]) -> tuple[Step, ...]:
        """One for each object: leftovers first, because they cost every write."""
        return tuple(self._step(item) for item in sorted(due, key=lambda item: _ORDER.index(item.task)))

    def _step(self, due: Due) -> Step:
        undo = _UNDO.get(due.task) or f"DROP INDEX CONCURRENTLY {due.qualified} takes it back."
        words = f"{_VERBS[due.task]} {due.qualified}: {due.why}"
        subject = due.subject if due.oid else due.qualified
        return Step(subject, words, lambda progress: self._take(due, progress), Undo(undo), bytes=due.bytes)

    def _take(self, due: Due, progress: Progress) -> Done:
        """Does one object. Whatever concerns this object alone is noted, and the others get their turn."""
        acts = {"drop": self._drop, "reindex": self._reindex, "create": self._create}
        act = acts.get(due.task) or (self._refresh if due.task in ("fill", "refresh") else self._vacuum)
        try:
            self.brakes.wait(progress)
            return act(due, progress)
        except Stop as stop:
            return Done(0, note=f"{stop}{self._leftovers()}", finished=False)
        except OpsError as error:
            if error.code not in _OWN_AFFAIR:
                error.message += self._leftovers()
                raise
            self.missed[due.qualified] = error.message
            return Done(0, note=error.message)

    def _leftovers(self) -> str:
        return f"; left invalid, for the next run to drop: {', '.join(self.left)}" if self.left else ""

    def _vacuum(self, due: Due, progress: Progress) -> Done:
        before = table_now(self.postgres, due.oid)
        if before is None or before.qualified != due.qualified:
            return Done(0, note="it is another table by now")
        options = {"FREEZE": due.freeze, "ANALYZE": due.analyze, "TRUNCATE false": not self.wanted.truncate}
        chosen = ", ".join(name for name, holds in options.items() if holds)
        verb = "ANALYZE" if due.task == "analyze" else f"VACUUM ({chosen})" if chosen else "VACUUM"
        counted = self._counts(due)
        said = len(self.postgres.session.notices)
        self._run(f"{due.task} {due.qualified}", progress, f"{verb} %I.%I", due.schema, due.name)
        if not self._counted(due, counted):
            note = "the server skipped it: " + (
                "; ".join(self.postgres.session.notices[said:]).strip() or "it said no why"
            )
            self.missed[due.qualified] = note
            return Done(0, note=note)
        after = table_now(self.postgres, due.oid) or before
        self._record(due, before.bytes, after.bytes, dead_before=before.dead, dead_after=after.dead)
        return Done(bytes=max(0, before.bytes - after.bytes))

    def _counts(self, due: Due) -> int:
        """How often the table was vacuumed or analyzed by hand: a statement that was skipped succeeds all the same."""
        what = "analyze" if due.task == "analyze" else "vacuum"
        (row,) = self.postgres.session.rows(f"SELECT pg_stat_get_{what}_count(%(oid)s) AS times", {"oid": due.oid})
        return int(row["times"])

    def _counted(self, due: Due, before: int) -> bool:
        (row,) = self.postgres.session.rows("SELECT current_setting('track_counts')::bool AS counts")
        until = time.monotonic() + 2.0  # before PostgreSQL 15 counts arrive late
        while row["counts"] and self._counts(due) <= before:
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
        return True

    def _drop(self, due: Due, progress: Progress) -> Done:
        index = index_now(self.postgres, due.oid)
        if index is None or index.qualified != due.qualified:
            return Done(0, note="it has gone")
        if index.valid or index.builder or index.constraint or origin_of(index, all_indexes(self.postgres)) is None:
            return Done(0, note="it is no leftover any more")
        self._run(
            f"drop {due.qualified}", progress, "DROP INDEX CONCURRENTLY %I.%I", due.schema, due.name, patient=True
        )
        self._record(due, index.bytes, 0)
        return Done(bytes=index.bytes)

    def _reindex(self, due: Due, progress: Progress) -> Done:
        index = index_now(self.postgres, due.oid)
        if index is None or index.qualified != due.qualified or not index.valid:
            return Done(0, note="it is another index by now")
        self._require_room(due.oid, index.bytes)
        template = "REINDEX INDEX CONCURRENTLY %I.%I"
        self._build(due, f"reindex {due.qualified}", progress, template, due.schema, due.name)
        after = _named(self.postgres, due) or index  # the rebuilt index has an oid of its own
        self._record(due, index.bytes, after.bytes, promised=due.gain)
        return Done(bytes=max(0, index.bytes - after.bytes))

    def _create(self, due: Due, progress: Progress) -> Done:
        table = table_now(self.postgres, due.table)
        if self.definition is None or table is None:
            return Done(0, note="its table has gone")
        old = index_now(self.postgres, due.oid) if due.oid else None
        if old and (old.valid or old.builder or old.constraint):
            return Done(0, note="the index of this name is not the invalid one that was planned")
        self._require_room(due.table, table.bytes)
        if old:
            template = "DROP INDEX CONCURRENTLY %I.%I"
            self._run(f"drop {due.qualified}", progress, template, due.schema, due.name, patient=True)
        template, names = self.definition.statement(table)
        self._build(due, f"create {due.qualified}", progress, template, *names)
        if self.definition.expressions:  # the planner knows nothing of an expression before
            self._run(f"analyze {table.qualified}", progress, "ANALYZE %I.%I", table.schema, table.name)
        made = _named(self.postgres, due)
        self._record(due, 0, made.bytes if made else 0)
        return Done()

    def _refresh(self, due: Due, progress: Progress) -> Done:
        view = matview_now(self.postgres, due.oid)
        if view is None or view.qualified != due.qualified:
            return Done(0, note="it is another view by now")
        if view.populated and not view.concurrent:
            return Done(0, note="it lost its unique index")
        how = "CONCURRENTLY " if view.populated else ""
        (row,) = self.postgres.session.rows("SELECT clock_timestamp() AS now")
        self._run(f"refresh {due.qualified}", progress, f"REFRESH MATERIALIZED VIEW {how}%I.%I", due.schema, due.name)
        # What the view shows is as old as the refresh's beginning.
        comment = marked((matview_now(self.postgres, due.oid) or view).comment, row["now"])
        words = f"mark {due.qualified}"
        self._run(words, progress, "COMMENT ON MATERIALIZED VIEW %I.%I IS %L", due.schema, due.name, comment)
        after = matview_now(self.postgres, due.oid) or view
        self._record(due, view.bytes, after.bytes)
        return Done()

    def _build(self, due: Due, words: str, progress: Progress, template: str, *names: str) -> None:
        """Runs a concurrent build; an invalid index that it leaves when it fails is dropped at once."""
        before = {index.oid for index in self._invalid(due)}
        try:
            self._run(words, progress, template, *names, patient=True, again=lambda: self._clean(due, before))
        except BaseException:
            self._clean(due, before)
            raise

    def _invalid(self, due: Due) -> list[Index]:
        """The invalid indexes that a failed build of this object would leave."""
        found = [index for index in all_indexes(self.postgres) if index.table == due.table]
        return [index for index in found if not index.valid and (index.name == due.name or origin_of(index, found))]

    def _clean(self, due: Due, before: set[int]) -> None:
        """Drops what our own failed build has just left. What cannot be dropped is told, and the next run's."""
        try:
            for index in self._invalid(due):
                if index.oid in before or index.builder:
                    continue
                self.left.append(index.qualified)
                template, limits = "DROP INDEX CONCURRENTLY IF EXISTS %I.%I", self._limits(least=_CLEANING)
                self.postgres.session.isolated(template, index.schema, index.name, settings=limits)
                self.left.remove(index.qualified)
        except Exception as error:
            if translate(error) is None:
                raise

    def _require_room(self, oid: int, size: int) -> None:
        reason = room_missing(self.postgres, self.wanted, oid, size)
        if reason:
            raise OpsError(Kind.EXHAUSTED, reason, "Free space first, or lower disk_headroom.", code="disk_headroom")

    def _limits(self, *, patient: bool = False, least: float = 1.0) -> dict[str, str]:
        """How long a statement may wait and work. A concurrent build may wait longer: nobody queues behind it."""
        lock = max(self.wanted.lock_timeout, self.wanted.snapshot_wait) if patient else self.wanted.lock_timeout
        left = max(least, self.brakes.seconds_left())
        return {"lock_timeout": f"{int(lock * 1000)}ms", "statement_timeout": f"{int(left * 1000)}ms"}

    def _run(
        self,
        words: str,
        progress: Progress,
        template: str,
        *names: str,
        patient: bool = False,
        again: Callable[[], None] = lambda: None,
    ) -> None:
        """One statement, tried again while somebody holds its lock; the last refusal says who."""
        session = self.postgres.session
        for number in range(1, self.wanted.retries + 1):
            limits = self._limits(patient=patient)
            try:
                watched(self.postgres, words, progress, partial(session.isolated, template, *names, settings=limits))
                return
            except Exception as error:
                known = translate(error)
                if known is None:
                    raise
                self._judge(known, number, words, progress)
            again()
            self._pause(number)

    def _judge(self, error: OpsError, number: int, words: str, progress: Progress) -> None:
        """Raises what cannot be mended by waiting."""
        if error.code == "statement_timeout":
            self.brakes.check()
        if error.code not in ("lock_timeout", "conflict"):
            raise error
        if number >= self.wanted.retries:
            message = f"{words}: its lock was not to be had in {number} tries ({error.message})"
            raise OpsError(Kind.TIMEOUT, message, error.hint, "lock_timeout", retryable=True)
        progress(f"{words}: somebody holds the lock, try {number + 1} of {self.wanted.retries} follows")

    def _pause(self, number: int) -> None:
        """Waits longer each time, with jitter, but never past the end of the run."""
        self.brakes.check()
        pause = min(10.0, 0.5 * 2 ** (number - 1)) * random.uniform(0.7, 1.3)
        self.brakes.sleep(max(0.0, min(pause, self.brakes.seconds_left())))
        self.brakes.check()

    def _record(self, due: Due, before: int, after: int, **more: int) -> None:
        self.done.append(
            {"subject": due.subject, "task": due.task, "bytes_before": before, "bytes_after": after, **more}
        )


def _named(postgres: Postgres, due: Due) -> Index | None:
    return next(
        (index for index in all_indexes(postgres) if (index.schema, index.name) == (due.schema, due.name)), None
    )


def ready(postgres: Postgres) -> None:
    """Refuses a standby, and a pooler: nothing of this may run in a transaction, or in two sessions."""
    primary_only(postgres)
    if postgres.session.pooled:
        hint = "Give the server's own address: a pooler may hand each statement to another server process."
        raise OpsError(Kind.UNSUPPORTED, "maintenance does not work through a connection pooler", hint, code="pooled")


def room_missing(postgres: Postgres, wanted: Wanted, oid: int, size: int) -> str:
    """Why the disk may not bear a second copy of so many bytes; empty where it does."""
    needed = int(size * wanted.disk_headroom)
    free = free_bytes(postgres.session, oid)
    if free is not None:
        return f"{human(needed)} are needed, {human(free)} are free" if free < needed else ""
    if size > _DISK_UNSEEN and not wanted.disk_headroom_ok:
        return f"{human(needed)} are needed, and the server's disk cannot be seen from here"
    return ""


def judge(postgres: Postgres, wanted: Wanted, definition: Definition | None, seen: Survey) -> Judged:
    """Everything that is due, and everything that is left alone."""
    visible = postgres.may("pg_read_all_stats")
    judged = due_tables(seen.tables, wanted, seen.limits, seen.holders, visible)
    judged.add(due_leftovers(seen.indexes, wanted))
    scales = Scales(postgres.session)
    if "vacuum" in wanted.tasks or "reindex" in wanted.tasks:
        judged.add(bloated_tables(scales, seen.tables, wanted, seen.limits))
    if "reindex" in wanted.tasks:
        judged.add(due_rebuilds(scales, seen.indexes, seen.all_tables, wanted))
    if "create_index" in wanted.tasks and definition:
        judged.add(due_creation(definition, seen.all_tables.values(), seen.all_indexes))
    if "refresh" in wanted.tasks:
        judged.add(due_refreshes(seen.matviews, seen.edges, wanted, seen.limits.now))
    judged.due = [due for due in judged.due if _may_begin(postgres, wanted, seen, due, judged)]
    if judged.due and lag_hidden(postgres.session):
        advice = "Grant pg_monitor: until then no standby's lag makes the work wait."
        judged.find("lag_unseen", Severity.INFO, postgres.target.name, {}, advice)
    return judged


def _may_begin(postgres: Postgres, wanted: Wanted, seen: Survey, due: Due, judged: Judged) -> bool:
    """Whether a concurrent build could end at all: no old transaction in its way, and room on the disk."""
    if due.task not in ("reindex", "create", "drop"):
        return True
    old = (holder for holder in seen.holders if holder.is_old(wanted.holder_age, seen.limits.now))
    holder = next((holder for holder in old if holder.delays(due.table, build=due.task != "drop")), None)
    if holder:
        judged.spare(due.subject, f"it would wait for {holder.words}")
        judged.find("old_snapshot", Severity.WARNING, due.qualified, {"holder": holder.as_dict()}, holder.advice)
        return False
    reason = "" if due.task == "drop" else room_missing(postgres, wanted, due.oid or due.table, due.bytes)
    if reason:
        judged.spare(due.subject, reason)
        advice = "Free space, or set disk_headroom_ok where you know that there is enough."
        judged.find("disk_headroom", Severity.WARNING, due.qualified, {"bytes": due.bytes, "reason": reason}, advice)
    return not reason


def outside(window: Window | None, moment: datetime, judged: Judged) -> float | None:
    """Seconds that the window stays open, None without one. While it is closed nothing stays due."""
    if window is None:
        return None
    left = window.seconds_left(moment)
    if not left and judged.due:
        for due in judged.due:
            judged.spare(due.subject, f"outside the window {window.words}")
        evidence = {"window": window.words, "due": len(judged.due)}
        judged.find("outside_window", Severity.INFO, "server", evidence, "Run again while the window is open.")
        judged.due.clear()
    return left


def facts_of(postgres: Postgres, seen: Survey, judged: Judged) -> dict[str, Any]:
    """The module's own facts before any step, with the advice on indexes."""
    large = [table for table in seen.tables if table.scans > 1]
    found = advice(seen.tables, seen.indexes, statements_on(postgres.session, large), seen.since)
    due = [{"subject": d.subject, "task": d.task, "why": d.why, "bytes": d.bytes} for d in judged.due]
    looked = {"tables": len(seen.tables), "indexes": len(seen.indexes), "matviews": len(seen.matviews)}
    return {"maintenance": {**looked, "due": due, "done": [], "missed": {}}, "advice": found}


def forecast(work: Work, due: list[Due]) -> Forecast:
    """Dead rows where something is vacuumed, else the bytes of the indexes; measured again at the end."""
    vacuums = [item for item in due if item.task == "vacuum"]
    if vacuums:
        before = sum(item.dead for item in vacuums)

        def dead() -> float:
            tables = [table_now(work.postgres, item.oid) for item in vacuums]
            return sum(table.dead for table in tables if table)

        return Forecast("dead_rows", "rows", before, 0, dead)
    indexes = [item for item in due if item.task in ("reindex", "drop")]

    def size() -> float:
        found = [_named(work.postgres, item) for item in indexes]
        return sum(index.bytes for index in found if index)

    before = sum(item.bytes for item in indexes)
    after = before - sum(item.bytes if item.task == "drop" else item.gain for item in indexes)
    return Forecast("index_bytes", "bytes", before, after, size)


def verify(work: Work) -> Verify:
    """That every planned object was done, and no build has left anything."""

    def check() -> str:
        wrong = [f"{name}: {why}" for name, why in work.missed.items()]
        return "; ".join([*wrong, *(f"{name}: invalid, left by this run" for name in work.left)])

    return Verify("every planned object was maintained", check, timeout=0.0)


def aftermath(work: Work, facts: dict[str, Any]) -> Callable[[], Aftermath]:
    """What was done, whose lock was not to be had, and which rows could not be removed."""

    def look() -> Aftermath:
        found = {**facts["maintenance"], "done": work.done, "missed": work.missed}
        findings = [
            Finding("postgres.not_maintained", Severity.WARNING, name, {"reason": why}, "Run again; see postgres_info.")
            for name, why in work.missed.items()
        ]
        findings += [
            Finding("postgres.index_invalid", Severity.WARNING, name, {}, "Run the task drop_leftovers.")
            for name in work.left
        ]
        return Aftermath({"maintenance": found}, (*findings, *_in_vain(work)))

    return look


def _in_vain(work: Work) -> list[Finding]:
    """Vacuums that left too many dead rows behind, and rebuilds that gave back less than half of the promise."""
    found = []
    for record in work.done:
        dead = record.get("dead_after", 0)
        if record["task"] == "vacuum" and dead >= work.wanted.dead_min and dead > record["dead_before"] / 2:
            rows = [holder for holder in holders(work.postgres.session) if holder.holds_rows]
            holder = max(rows, key=lambda holder: holder.xids, default=None)
            evidence = {"dead_rows": dead, "holder": holder.as_dict() if holder else {}}
            advice_ = holder.advice if holder else "Somebody holds old rows who is not to be seen by this user."
            found.append(Finding("postgres.xmin_held", Severity.WARNING, record["subject"], evidence, advice_))
        gained = record["bytes_before"] - record["bytes_after"]
        if record["task"] == "reindex" and gained < record["promised"] / 2:
            evidence = {"promised": record["promised"], "gained": gained}
            advice_ = "The estimate is wrong for this index. Install pgstattuple, or protect the index."
            found.append(Finding("postgres.bloat_estimate", Severity.INFO, record["subject"], evidence, advice_))
    return found
