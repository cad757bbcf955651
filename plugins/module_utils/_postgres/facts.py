# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reading a server's own numbers, each section for itself. Nothing here writes; what cannot be read is said."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._core.errors import Kind, OpsError
from . import queries
from .blocking import Locks, locks_of
from .client import Postgres, Row
from .errors import translate
from .model import (
    Activity,
    Archiver,
    Bloat,
    Connections,
    Facts,
    Freeze,
    Group,
    Holder,
    Index,
    Indexes,
    Own,
    Prepared,
    Replay,
    Replication,
    Scanned,
    Settings,
    Slot,
    Stale,
    Standby,
    Statement,
    Statements,
    Table,
    Transaction,
    Wraparound,
)
from .watch import bounded
from .words import shown

#: An unused index below this costs less than the attention that it takes.
_INDEX_WORTH = 1 << 20

#: Seconds beyond the server's own timeout before its silence counts as the end of the connection.
_PATIENCE = 2.0

_TIMEOUTS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
)
_SETTINGS = (
    *_TIMEOUTS,
    *("max_connections", "superuser_reserved_connections", "reserved_connections", "max_prepared_transactions"),
    *("autovacuum", "autovacuum_freeze_max_age", "autovacuum_multixact_freeze_max_age", "track_activities"),
    *("track_counts", "archive_mode", "archive_command", "archive_library", "wal_level", "max_slot_wal_keep_size"),
    *("hot_standby_feedback", "synchronous_standby_names", "fsync", "full_page_writes", "max_wal_size"),
    *("shared_buffers", "work_mem", "log_min_duration_statement", "default_transaction_read_only"),
)
#: Commands may hold passwords.
_SECRET = frozenset({"archive_command", "archive_library"})

_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "kB": 1 << 10, "8kB": 8 << 10, "MB": 1 << 20, "16MB": 16 << 20, "GB": 1 << 30}


@dataclass(frozen=True, slots=True)
class Look:
    """What to read. C(show) is how statements are shown, C(timeout) the seconds that one section may take."""

    sections: frozenset[str]
    show: str = "normalized"
    top: int = 10
    timeout: float = 5.0


@dataclass(slots=True)
class _Reading:
    """One pass. What several sections need is asked once; where it failed, it has failed for each of them."""

    postgres: Postgres
    look: Look
    known: dict[str, list[Row] | OpsError] = field(default_factory=dict)

    def rows(self, question: str, values: Mapping[str, Any] | None = None) -> list[Row]:
        if question not in self.known:
            self.known[question] = self.ask(lambda: self.postgres.session.rows(question, values))
        found = self.known[question]
        if isinstance(found, OpsError):
            raise found
        return found

    def ask(self, question: Callable[[], list[Row]]) -> list[Row] | OpsError:
        try:
            with bounded(self.postgres.session, self.look.timeout + _PATIENCE):
                return question()
        except Exception as error:
            known = translate(error)
            if known is None:
                raise
            return known

    def row(self, question: str, values: Mapping[str, Any] | None = None) -> Row:
        return self.rows(question, values)[0]

    def basics(self) -> Row:
        return self.row(queries.BASICS, {"names": list(_SETTINGS), "timeouts": list(_TIMEOUTS)})

    def setting(self, name: str) -> Any:
        """A setting's value, 0 where this version has none of that name."""
        return _values(self.basics()).get(name, 0)

    def only_with_statistics(self) -> None:
        """Raises M(forbidden) where other users' sessions show no state: an empty list would look healthy."""
        if not self.postgres.may("pg_read_all_stats"):
            words = f"{self.postgres.user} does not see what other users' sessions do"
            hint = f"GRANT pg_monitor TO {self.postgres.user}, or use a role that has it."
            raise OpsError(Kind.FORBIDDEN, words, hint, "no_statistics")


def read_facts(postgres: Postgres, look: Look) -> Facts:
    """One pass over the wanted sections."""
    reading = _Reading(postgres, look)
    seen: dict[str, Any] = {}
    unseen: dict[str, Mapping[str, str]] = {}
    # Who keeps vacuum from its work is a question of its own: it needs rights that the sizes do not.
    sections = {*look.sections, "holders"} if "bloat" in look.sections else look.sections
    for name in (name for name in _READERS if name in sections):
        try:
            seen[name] = _READERS[name](reading)
        except OpsError as error:
            unseen[name] = {"message": error.message, "kind": error.kind.value, "code": error.code, "hint": error.hint}
    return Facts(**seen, unseen=unseen)


def _connections(reading: _Reading) -> Connections:
    reading.only_with_statistics()
    row = reading.row(queries.SESSIONS)
    most = int(reading.setting("max_connections"))
    reserved = int(reading.setting("superuser_reserved_connections")) + int(reading.setting("reserved_connections"))
    return Connections(
        used=row["used"],
        limit=most - reserved,
        max_connections=most,
        reserved=reserved,
        walsenders=row["walsenders"],
        states={re.sub(r"\W+", "_", name).strip("_"): count for name, count in (row["states"] or {}).items()},
        by=tuple(Group(**_whole(group)) for group in row["groups"] or ()),
        limits=tuple(Own(**limit) for limit in row["limits"] or ()),
    )


def _activity(reading: _Reading) -> Activity:
    reading.only_with_statistics()
    row = reading.row(queries.SESSIONS)
    states = row["states"] or {}
    found = tuple(
        Transaction(**{**_whole(one), "query": shown(one["query"], reading.look.show)}) for one in row["sessions"] or ()
    )
    return Activity(
        oldest_transaction_seconds=max((one.xact_seconds for one in found), default=0.0),
        idle_in_transaction=sum(count for name, count in states.items() if name.startswith("idle in transaction")),
        active=states.get("active", 0),
        waiting=row["waiting"],
        transactions=found,
    )


def _locks(reading: _Reading) -> Locks:
    reading.only_with_statistics()
    waitstart = "l.waitstart" if reading.postgres.major >= 14 else "NULL::timestamptz"
    return locks_of(reading.rows(queries.LOCKS.format(waitstart=waitstart)), reading.look.show, reading.look.top)


def _prepared(reading: _Reading) -> tuple[Prepared, ...]:
    rows = reading.rows(queries.HORIZON)
    return tuple(
        Prepared(row["name"], row["user"], row["database"], _rounded(row["seconds"]) or 0.0, row["age"])
        for row in rows
        if row["kind"] == "prepared"
    )


def _replication(reading: _Reading) -> Replication:
    reading.only_with_statistics()
    row = reading.row(queries.REPLICATION)
    return Replication(
        standbys=tuple(
            Standby(**{**_whole(one), "lag_seconds": _rounded(one["lag_seconds"])}) for one in row["standbys"] or ()
        ),
        slots=tuple(Slot(**slot) for slot in row["slots"] or ()),
        standby=_replay(row["standby"]) if row["standby"] else None,
    )


def _replay(found: Row) -> Replay:
    texts = {name: found[name] or "" for name in ("receiver", "primary", "receive_lsn", "replay_lsn")}
    return Replay(found["lag_bytes"] or 0, _rounded(found["lag_seconds"]), bool(found["paused"]), **texts)


def _wraparound(reading: _Reading) -> Wraparound:
    row = reading.row(queries.WRAPAROUND)
    databases = tuple(Freeze(**one) for one in row["databases"] or ())
    return Wraparound(
        xid_age=max((one.xid_age for one in databases), default=0),
        mxid_age=max((one.mxid_age for one in databases), default=0),
        freeze_max_age=int(reading.setting("autovacuum_freeze_max_age")),
        mxid_freeze_max_age=int(reading.setting("autovacuum_multixact_freeze_max_age")),
        databases=databases,
        tables=tuple(Freeze(**one) for one in row["tables"] or ()),
    )


def _archiver(reading: _Reading) -> Archiver:
    row = reading.row(queries.ARCHIVER)
    mode = str(reading.setting("archive_mode"))
    configured = bool(reading.setting("archive_command") or reading.setting("archive_library"))
    good, bad = row["last_archived_seconds"], row["last_failed_seconds"]
    # A standby archives only when it is told to always do so.
    at_work = mode == "always" or (mode == "on" and not reading.postgres.standby)
    failing = at_work and (not configured or (bad is not None and (good is None or bad < good)))
    return Archiver(
        mode=mode,
        configured=configured,
        archived=row["archived"],
        failed=row["failed"],
        last_archived_seconds=_rounded(good),
        last_failed_seconds=_rounded(bad),
        last_failed_wal=row["last_failed_wal"],
        failing=failing,
    )


def _indexes(reading: _Reading) -> Indexes:
    rows = reading.rows(queries.INDEXES, {"pages": _INDEX_WORTH >> 13})
    return Indexes(
        invalid=tuple(_index(row) for row in rows if not row["valid"]),
        unused=tuple(_index(row) for row in rows if row["valid"]),
        missing=_scanned(_tables(reading)),
        counted_seconds=_rounded(reading.basics()["counted_seconds"]),
    )


def _index(row: Row) -> Index:
    kept = ("name", "table", "bytes", "scans", "unique", "constraint", "partitioned", "building")
    last = row["name"].strip('"').rstrip("0123456789")
    return Index(**{name: row[name] for name in kept}, leftover=last.endswith(("_ccnew", "_ccold")))


def _tables(reading: _Reading) -> list[Row]:
    return reading.rows(queries.TABLES, {"rank": 3 * reading.look.top})


def _scanned(rows: Sequence[Row]) -> tuple[Scanned, ...]:
    found = [
        Scanned(
            table=row["name"],
            bytes=row["bytes"] or 0,
            rows=int(row["live"]),
            seq_scans=row["seq_scans"],
            rows_per_scan=row["seq_rows"] // row["seq_scans"],
            index_scans=row["index_scans"],
        )
        for row in rows
        if row["seq_scans"]
    ]
    worth = (one for one in found if one.rows >= 10_000 and one.rows_per_scan >= 5_000 and one.seq_scans >= 20)
    return tuple(sorted(worth, key=lambda one: -one.seq_scans * one.rows_per_scan))


def _bloat(reading: _Reading) -> Bloat:
    rows = [row for row in _tables(reading) if row["bytes"] is not None]
    tables = sorted(map(_table, rows), key=lambda one: -max(one.bloat_bytes or 0, int(one.dead_ratio * one.bytes)))
    stale = [
        Stale(
            row["name"],
            int(row["live"]),
            row["changed"],
            round(row["changed"] / max(1.0, row["live"]), 4),
            _rounded(row["analyze_seconds"]),
        )
        for row in rows
        if row["changed"]
    ]
    return Bloat(tuple(tables), tuple(sorted(stale, key=lambda one: -one.changed)))


def _table(row: Row) -> Table:
    rows = row["live"] + row["dead"]
    excess = None if row["needed"] is None else max(0, row["bytes"] - row["needed"])
    return Table(
        table=row["name"],
        bytes=row["bytes"],
        live=int(row["live"]),
        dead=row["dead"],
        dead_ratio=round(row["dead"] / rows, 4) if rows else 0.0,
        bloat_bytes=excess,
        bloat_ratio=None if excess is None or not row["bytes"] else round(excess / row["bytes"], 4),
        vacuum_seconds=_rounded(row["vacuum_seconds"]),
    )


def _holders(reading: _Reading) -> tuple[Holder, ...]:
    reading.only_with_statistics()
    here = ("", reading.postgres.database)
    return tuple(
        Holder(
            kind=row["kind"],
            name=row["name"],
            age=row["age"],
            seconds=_rounded(row["seconds"]),
            pid=row["pid"] or 0,
            backend_start=row["backend_start"] or "",
            user=row["user"] or "",
            database=row["database"] or "",
            state=row["state"] or "",
            here=(row["database"] or "") in here,
        )
        for row in reading.rows(queries.HORIZON)
        if row["age"] is not None
    )


def _statements(reading: _Reading) -> Statements:
    reading.only_with_statistics()
    found = reading.basics()["statements"]
    if not found:
        words = f"the extension pg_stat_statements is not in database {reading.postgres.database}"
        raise OpsError(Kind.UNSUPPORTED, words, "CREATE EXTENSION pg_stat_statements there.", "no_extension")
    version = tuple(int(part) for part in found["version"].split("."))
    since = queries.SINCE if version >= (1, 9) else "NULL::float8"
    # The columns were renamed in 1.8, which came with PostgreSQL 13 and stays away until ALTER EXTENSION UPDATE.
    total, mean = ("total_exec_time", "mean_exec_time") if version >= (1, 8) else ("total_time", "mean_time")
    texts = "false" if reading.look.show == "none" else "true"
    text = queries.STATEMENTS.format(total=total, mean=mean, texts=texts, since=since)
    names = [found["schema"]] * text.count("%I")
    rows = reading.ask(lambda: reading.postgres.session.command(text, *names))
    if isinstance(rows, OpsError):
        raise rows
    return Statements(
        found["version"],
        _rounded(next((row["since_seconds"] for row in rows), None)),
        tuple(_statement(row, reading.look.show) for row in sorted(rows, key=lambda row: row["by_total"])),
        tuple(_statement(row, reading.look.show) for row in sorted(rows, key=lambda row: row["by_mean"])),
    )


def _statement(row: Row, show: str) -> Statement:
    return Statement(
        query_id=row["query_id"],
        role=row["role"],
        database=row["database"],
        calls=row["calls"],
        rows=row["rows"],
        total_seconds=round(row["total_seconds"], 6),
        mean_seconds=round(row["mean_seconds"], 6),
        share=round(row["total_seconds"] / row["whole_seconds"], 4) if row["whole_seconds"] else 0.0,
        query=shown(row["query"], show),
    )


def _settings(reading: _Reading) -> Settings:
    row = reading.basics()
    overrides = [
        {"role": one["role"], "database": one["database"], "setting": one["option"]} for one in row["overrides"] or ()
    ]
    return Settings(
        values={name: value for name, value in _values(row).items() if name in _SETTINGS and name not in _SECRET},
        pending_restart=tuple(one["name"] for one in row["settings"] if one["pending"]),
        timeouts_of=tuple(overrides),
        uptime_seconds=_rounded(row["uptime_seconds"]) or 0.0,
    )


def _values(basics: Row) -> dict[str, Any]:
    return {one["name"]: _plain(one["value"], one["unit"], one["type"]) for one in basics["settings"]}


def _plain(value: str | None, unit: str | None, kind: str) -> Any:
    """A setting as seconds, bytes, a number or the text it is; -1 and the like keep their meaning."""
    if value is None or kind not in ("integer", "real"):
        return value
    number = float(value) if kind == "real" else int(value)
    if number < 0 or unit is None:
        return number
    return number * _SECONDS[unit] if unit in _SECONDS else number * _BYTES.get(unit, 1)


def _whole(row: Row) -> dict[str, Any]:
    """The columns, where NULL is the empty text or 0, and seconds are rounded."""
    numbers = ("pid", "total", "idle", "active", "idle_in_transaction")
    return {
        name: round(max(0.0, value or 0.0), 3)
        if name.endswith("_seconds")
        else value
        if value is not None
        else 0
        if name.endswith("_bytes") or name in numbers
        else ""
        for name, value in row.items()
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(max(0.0, value), 3)


_READERS: Mapping[str, Callable[[_Reading], Any]] = {
    "connections": _connections,
    "activity": _activity,
    "locks": _locks,
    "prepared": _prepared,
    "replication": _replication,
    "wraparound": _wraparound,
    "archiver": _archiver,
    "indexes": _indexes,
    "bloat": _bloat,
    "holders": _holders,
    "statements": _statements,
    "settings": _settings,
}

#: The names under which sections are asked for.
SECTIONS = tuple(name for name in _READERS if name != "holders")
