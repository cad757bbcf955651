# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which tables need care: what was asked for, what the server says of its tables, and what is over a threshold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from .._core.errors import Kind, OpsError, bad_parameter
from .._core.plan import Finding, Severity, Spared
from .._core.spec import Params
from .._core.units import parse_seconds, parse_size
from .horizon import Holder
from .relation import Relation

TASKS = ("vacuum", "analyze", "reindex", "drop_leftovers", "refresh", "create_index")
#: Options with a default; its type is the option's.
THRESHOLDS: Mapping[str, Any] = {
    "dead_ratio": 0.2,
    "dead_min": 1000,
    "analyze_ratio": 0.1,
    "bloat_ratio": 0.3,
    "bloat_min": "16mb",
    "truncate": False,
    "retries": 5,
    "snapshot_wait": "1m",
    "holder_age": "5m",
    "max_duration": "1h",
    "replica_lag_max": "64mb",
    "disk_headroom": 1.5,
    "disk_headroom_ok": False,
}

#: Below so many modified rows fresh statistics change nothing; as autovacuum's own default.
_ANALYZE_MIN = 50
#: The share of the server's own freeze limit at which we come before its emergency vacuum does.
_FREEZE_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options, in bytes, seconds and fractions."""

    tables: tuple[str, ...]
    tasks: frozenset[str]
    protect: tuple[str, ...]
    dead_ratio: float
    dead_min: int
    analyze_ratio: float
    bloat_ratio: float
    bloat_min: int
    freeze_age: int | None
    matviews: tuple[str, ...]
    max_age: int
    truncate: bool
    retries: int
    lock_timeout: float
    snapshot_wait: int
    holder_age: int
    max_duration: int
    replica_lag_max: int
    disk_headroom: float
    disk_headroom_ok: bool

    @classmethod
    def of(cls, params: Params) -> Wanted:
        """Reads the options; raises a bad-parameter error for what makes no sense."""
        for name in ("dead_ratio", "analyze_ratio", "bloat_ratio"):
            if not 0 < params[name] < 1:
                raise bad_parameter(name, f"{params[name]} is not a share", "Give a number between 0 and 1.")
        if not params["tasks"]:
            raise bad_parameter("tasks", "nothing is asked for")
        if "refresh" in params["tasks"] and not params["max_age"]:
            raise bad_parameter("max_age", "refresh needs to know what is too old", "Give a duration such as 1h.")
        same = ("dead_ratio", "dead_min", "analyze_ratio", "bloat_ratio", "freeze_age", "truncate", "disk_headroom_ok")
        return cls(
            tables=tuple(params["tables"]),
            tasks=frozenset(params["tasks"]),
            protect=tuple(params["protect"]),
            bloat_min=parse_size(params["bloat_min"], "bloat_min"),
            matviews=tuple(params["matviews"]),
            max_age=_seconds(params, "max_age") if params["max_age"] else 0,
            retries=_at_least(1, params, "retries"),
            lock_timeout=_at_least(0.001, params, "lock_timeout"),
            snapshot_wait=_seconds(params, "snapshot_wait"),
            holder_age=_seconds(params, "holder_age"),
            max_duration=_seconds(params, "max_duration"),
            replica_lag_max=_at_least(1, {"replica_lag_max": parse_size(params["replica_lag_max"], "replica_lag_max")}),
            disk_headroom=_at_least(1.0, params, "disk_headroom"),
            **{name: params[name] for name in same},
        )


def _at_least(least: float, params: Params, name: str = "replica_lag_max") -> Any:
    if params[name] < least:
        raise bad_parameter(name, f"{params[name]} is below {least}")
    return params[name]


def _seconds(params: Params, name: str) -> int:
    return int(_at_least(1, {name: parse_seconds(params[name], name)}, name))


@dataclass(frozen=True, slots=True)
class Table(Relation):
    """A table, a materialized view, or the parent of partitions (C(kind) r, m, p), as the statistics know it."""

    kind: str
    bytes: int
    tuples: float
    live: int
    dead: int
    modified: int
    frozen_age: int
    multi_age: int
    vacuumed: datetime | None
    analyzed: datetime | None
    leaf_analyzed: datetime | None
    scans: int
    rows_scanned: int
    index_scans: int
    may: bool
    worked_by: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The server's own limits in transactions, its clock, and whether it counts rows at all."""

    freeze_age: int
    multixact_age: int
    now: datetime
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Due:
    """One object that is over a threshold: what it needs, and why. C(table) is the oid of an index's table."""

    task: str
    oid: int
    schema: str
    name: str
    why: str
    bytes: int = 0
    dead: int = 0
    gain: int = 0
    table: int = 0
    analyze: bool = False
    freeze: bool = False

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def subject(self) -> str:
        return f"{self.qualified} oid={self.oid}"


@dataclass(slots=True)
class Judged:
    """What is due, what was left alone and why, and what should be known."""

    due: list[Due] = field(default_factory=list)
    spared: list[Spared] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def spare(self, subject: str, reason: str) -> None:
        self.spared.append(Spared(subject, reason))

    def find(
        self, name: str, severity: Severity, subject: str, evidence: Mapping[str, Any] | None = None, suggest: str = ""
    ) -> None:
        self.findings.append(Finding(f"postgres.{name}", severity, subject, evidence or {}, suggest))

    def told(self) -> dict[str, Any]:
        """The parts of a plan that need nothing else."""
        return {
            "before": {due.subject: due.why for due in self.due},
            "after": {due.subject: "" for due in self.due},
            "spared": tuple(self.spared),
            "findings": tuple(self.findings),
        }

    def add(self, other: Judged) -> None:
        self.due += other.due
        self.spared += other.spared
        self.findings += other.findings


def means(patterns: Iterable[str], qualified: str) -> bool:
    """Whether a glob of C(schema.table) means this name; one without a dot means any schema.

    A name is also meant literally, so that one with a bracket or a star in it can be given.
    """
    return any(
        qualified == pattern or fnmatchcase(qualified, pattern if "." in pattern else f"*.{pattern}")
        for pattern in patterns
    )


def require_known(patterns: Sequence[str], names: Sequence[str]) -> None:
    """Refuses a plain name that nothing bears: a misspelt table would look healthy for ever."""
    for pattern in patterns:
        if not set("*?[") & set(pattern) and not any(means([pattern], name) for name in names):
            hint = "Write schema.table as the catalog has it, or a glob pattern."
            raise OpsError(Kind.NOT_FOUND, f"there is no table, index or view {pattern}", hint, code="no_such_table")


def due_tables(
    tables: Iterable[Table], wanted: Wanted, limits: Limits, holders: Sequence[Holder], seen_all: bool
) -> Judged:
    """The tables that need a vacuum or fresh statistics, the most urgent first."""
    judged = Judged()
    if not limits.counts:
        judged.find(
            "track_counts_off", Severity.WARNING, "server", {}, "Nothing counts dead rows: set track_counts on."
        )
    if "vacuum" in wanted.tasks and not seen_all:
        advice = "Grant pg_read_all_stats (or pg_monitor), so that whoever holds old rows can be named."
        judged.find("holders_unseen", Severity.INFO, "server", {}, advice)
    for table in tables:
        _judge(table, wanted, limits, holders, judged)
    judged.due.sort(key=lambda due: (due.task == "analyze", not due.freeze, -due.dead, due.qualified))
    return judged


def _judge(table: Table, wanted: Wanted, limits: Limits, holders: Sequence[Holder], judged: Judged) -> None:
    analyze = reason_to_analyze(table, wanted) if "analyze" in wanted.tasks else ""
    freeze = reason_to_freeze(table, wanted, limits) if "vacuum" in wanted.tasks else ""
    vacuum = freeze or (reason_to_vacuum(table, wanted) if "vacuum" in wanted.tasks else "")
    if not (vacuum or analyze):
        return
    reason = reason_to_leave(table, wanted)
    if reason:
        judged.spare(table.subject, reason)
        return
    holder = holding(table, holders, wanted, limits) if vacuum else None
    if holder:
        vacuum = freeze = ""
        judged.spare(table.subject, f"a vacuum would remove nothing: {holder.words} holds its old rows")
        evidence = {"dead_rows": table.dead, "holder": holder.as_dict()}
        judged.find("xmin_held", Severity.WARNING, table.qualified, evidence, holder.advice)
    if vacuum or analyze:
        common = (table.oid, table.schema, table.name, "; ".join(filter(None, (vacuum, analyze))), table.bytes)
        due = Due("vacuum", *common, dead=table.dead, analyze=bool(analyze), freeze=bool(freeze), table=table.oid)
        judged.due.append(due if vacuum else Due("analyze", *common, table=table.oid))


def reason_to_leave(table: Table, wanted: Wanted) -> str:
    """Why a table that needs care is left alone; empty where it may be worked on."""
    if means(wanted.protect, table.qualified):
        return "protected"
    if not table.may:
        return "only its owner may maintain it"
    if table.worked_by:
        return f"session {table.worked_by} works on it right now"
    return ""


def reason_to_vacuum(table: Table, wanted: Wanted) -> str:
    """How many dead rows there are, where they are too many."""
    rows = table.live + table.dead
    if table.kind == "p" or table.dead < wanted.dead_min or table.dead <= wanted.dead_ratio * rows:
        return ""
    return f"{table.dead} dead of {rows} rows ({table.dead / rows:.0%})"


def reason_to_freeze(table: Table, wanted: Wanted, limits: Limits) -> str:
    """How old its oldest transaction id is, where that is too old; multixacts have a limit of their own."""
    if table.kind == "p":
        return ""
    limit = wanted.freeze_age or int(limits.freeze_age * _FREEZE_SHARE)
    multi = wanted.freeze_age or int(limits.multixact_age * _FREEZE_SHARE)
    if table.frozen_age > limit:
        return f"not frozen for {table.frozen_age} transactions"
    return f"not frozen for {table.multi_age} multixacts" if table.multi_age > multi else ""


def reason_to_analyze(table: Table, wanted: Wanted) -> str:
    """What has changed since the latest statistics, where that is too much."""
    if table.kind == "p":
        # Nobody ever analyzes the parent by itself. What its leaves have is a sign that something has changed.
        if table.leaf_analyzed and (table.analyzed is None or table.leaf_analyzed > table.analyzed):
            return "its partitions have newer statistics"
        return ""
    if table.analyzed is None and table.tuples <= 0 and table.bytes > 0 and (table.live or table.modified):
        return "never analyzed"
    if table.modified <= max(_ANALYZE_MIN, wanted.analyze_ratio * table.live):
        return ""
    return f"{table.modified} rows modified since it was analyzed"


def holding(table: Table, holders: Iterable[Holder], wanted: Wanted, limits: Limits) -> Holder | None:
    """Who keeps the table's dead rows from being removed, if a vacuum would be in vain.

    That is so while an old transaction stands, and also where the table was vacuumed since the holder began
    and the rows are still there: once more would remove just as little.
    """
    age, now = wanted.holder_age, limits.now
    for holder in sorted(holders, key=lambda holder: -holder.xids):
        if holder.holds_rows and (holder.is_old(age, now) or holder.outlived(table.vacuumed, age, now)):
            return holder
    return None
