# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From facts to findings: what is wrong with a server, judged by its own numbers alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .._core.clear import matches
from .._core.errors import bad_parameter
from .._core.plan import Finding, Severity
from .blocking import Locks
from .model import (
    Activity,
    Archiver,
    Bloat,
    Connections,
    Facts,
    Holder,
    Indexes,
    Prepared,
    Replication,
    Settings,
    Statements,
    Transaction,
    Wraparound,
)

#: Below these, waste and staleness are noise: autovacuum itself waits for as much.
_ROWS_WORTH = 1_000
_BYTES_WORTH = 1 << 20

#: Transactions that nothing old may hold back for: some minutes of a busy server.
_AGE_WORTH = 1_000_000

#: Share of all transaction numbers from which the server itself drops every brake of vacuum.
_LAST_CALL = 0.75

#: Names in the evidence; the facts have them all.
_NAMED = 5

#: From which section each finding comes, so that what was not looked at is not taken for absent.
SOURCES: Mapping[str, tuple[str, ...]] = {
    "postgres.connections_high": ("connections",),
    "postgres.role_limit_near": ("connections",),
    "postgres.database_limit_near": ("connections",),
    "postgres.pools_above_limit": ("connections",),
    "postgres.idle_in_transaction": ("activity",),
    "postgres.long_transaction": ("activity",),
    "postgres.lock_root": ("locks",),
    "postgres.ddl_queued": ("locks",),
    "postgres.prepared_transaction": ("prepared",),
    "postgres.replica_lagging": ("replication",),
    "postgres.receiver_down": ("replication",),
    "postgres.replay_paused": ("replication",),
    "postgres.slot_inactive": ("replication",),
    "postgres.slot_lost": ("replication",),
    "postgres.wraparound": ("wraparound",),
    "postgres.archiver_failing": ("archiver",),
    "postgres.index_invalid": ("indexes",),
    "postgres.index_unused": ("indexes",),
    "postgres.index_missing": ("indexes",),
    "postgres.bloat": ("bloat",),
    "postgres.statistics_stale": ("bloat",),
    "postgres.xmin_held": ("bloat", "holders"),
    "postgres.statement_heavy": ("statements",),
    "postgres.statement_slow": ("statements",),
    "postgres.pending_restart": ("settings",),
    "postgres.no_timeout": ("settings",),
    "postgres.unsafe_setting": ("settings",),
}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where findings begin. Ratios are fractions of 1, lag is in bytes, all else in seconds.

    C(pool_connections) is what all declared pools may open together; 0 where none is declared.
    """

    connections_ratio: float = 0.8
    xact_seconds: float = 60.0
    idle_xact_seconds: float = 60.0
    lock_wait: float = 5.0
    lag_bytes: int = 64 << 20
    lag_seconds: float = 60.0
    wraparound_ratio: float = 0.4
    dead_ratio: float = 0.2
    bloat_ratio: float = 0.5
    stale_ratio: float = 0.2
    slow_seconds: float = 1.0
    heavy_share: float = 0.5
    pool_connections: int = 0


def blind(names: Sequence[str], sections: Collection[str]) -> tuple[str, ...]:
    """Findings that say that something of C(clear_of) could not be seen.

    Raises a bad-parameter error for names that could not be found in the sections that are looked at: the wait for
    their absence would end at once, for nothing.
    """
    looked = {*sections, "holders"} if "bloat" in sections else set(sections)
    needed: set[str] = set()
    for name in names:
        known = [source for finding, source in SOURCES.items() if matches(finding, [name])]
        if not known and not matches(name, ["postgres.unseen.*"]):
            raise bad_parameter("clear_of", f"there is no finding {name}", "The module's page lists them.")
        missing = [source[0] for source in known if source[0] not in looked]
        if missing and len(missing) == len(known):
            hint = f"Add {missing[0]} to sections, or leave sections out."
            raise bad_parameter("clear_of", f"{name} is not among the sections that are looked at", hint)
        needed |= {section for source in known for section in source}
    return tuple(f"postgres.unseen.{section}" for section in sorted(needed & looked))


def findings(facts: Facts, limits: Thresholds, subject: str) -> tuple[Finding, ...]:
    """Every finding that the sections seen can support."""
    found: list[Finding] = []
    for section, judge in _JUDGES.items():
        seen = getattr(facts, section)
        if seen is not None:
            found += judge(seen, limits, subject)
    found += _held(facts.holders or (), facts.bloat, limits, subject)
    found += _unseen(facts.unseen or {}, subject)
    return tuple(found)


def _connections(seen: Connections, limits: Thresholds, subject: str) -> Iterator[Finding]:
    if seen.ratio >= limits.connections_ratio:
        most = seen.by[0] if seen.by else None
        evidence = {
            "used": seen.used,
            "limit": seen.limit,
            "ratio": round(seen.ratio, 4),
            "reserved": seen.reserved,
            **(
                {f"most_{name}": getattr(most, name) for name in ("role", "application", "total", "idle")}
                if most
                else {}
            ),
        }
        advice = "Run postgres_connections_exhausted."
        yield Finding("postgres.connections_high", _by_ratio(seen.ratio), subject, evidence, advice)
    for own in seen.limits:
        if own.used and own.ratio >= limits.connections_ratio:
            evidence = {"name": own.name, "used": own.used, "limit": own.limit, "ratio": round(own.ratio, 4)}
            advice = f"Close sessions of this {own.kind}, or raise its CONNECTION LIMIT."
            yield Finding(f"postgres.{own.kind}_limit_near", _by_ratio(own.ratio), subject, evidence, advice)
    if limits.pool_connections > seen.limit:
        evidence = {"pools": limits.pool_connections, "limit": seen.limit}
        advice = "Make the pools smaller, or put a pooler in front: together they may ask for more than there is."
        yield Finding("postgres.pools_above_limit", Severity.WARNING, subject, evidence, advice)


def _by_ratio(ratio: float) -> Severity:
    return Severity.CRITICAL if ratio >= 0.95 else Severity.WARNING


def _activity(seen: Activity, limits: Thresholds, subject: str) -> Iterator[Finding]:
    idle = [
        one
        for one in seen.transactions
        if one.is_idle and not one.is_backup and one.state_seconds >= limits.idle_xact_seconds
    ]
    if idle:
        advice = "End them (postgres_session, state=idle in transaction), then set a timeout for their role."
        worst = max(idle, key=lambda one: one.state_seconds)
        evidence = {"sessions": len(idle), "longest_seconds": worst.state_seconds, **_whose(worst)}
        yield Finding("postgres.idle_in_transaction", Severity.WARNING, subject, evidence, advice)
    long = [one for one in seen.transactions if one not in idle and one.xact_seconds >= limits.xact_seconds]
    if long:
        advice = "See what it does: it keeps old row versions everywhere. A dump or an index build is meant to be long."
        worst = max(long, key=lambda one: one.xact_seconds)
        severity = Severity.INFO if all(one.is_backup for one in long) else Severity.WARNING
        evidence = {"sessions": len(long), "longest_seconds": worst.xact_seconds, **_whose(worst)}
        yield Finding("postgres.long_transaction", severity, subject, evidence, advice)


def _whose(one: Transaction) -> dict[str, Any]:
    return {name: getattr(one, name) for name in ("pid", "backend_start", "user", "application", "state")}


def _locks(seen: Locks, limits: Thresholds, subject: str) -> Iterator[Finding]:
    for root in seen.roots:
        if root.longest_wait_seconds >= limits.lock_wait:
            kept = {name: value for name, value in asdict(root).items() if name not in ("query", "host", "subject")}
            severity = Severity.CRITICAL if root.blocks >= 5 else Severity.WARNING
            yield Finding("postgres.lock_root", severity, subject, kept, _ROOTS[root.kind])
    for one in seen.queued_ddl:
        # Those behind it wait, too, however short they have done so yet.
        if one.blocks and one.wait_seconds >= limits.lock_wait:
            kept = {name: value for name, value in asdict(one).items() if name not in ("query", "subject")}
            advice = "Cancel it (postgres_session, queued_ddl=true): that is enough to let the others pass."
            yield Finding("postgres.ddl_queued", Severity.CRITICAL, subject, kept, advice)


_ROOTS = {
    "transaction": "Run postgres_locks: queued DDL is cancelled first, the root ended only when that is declared.",
    "ddl": "It works while others wait: let it end, or cancel it.",
    "prepared": "Ask its transaction manager, then COMMIT PREPARED or ROLLBACK PREPARED: no session can be ended.",
}


def _prepared(seen: tuple[Prepared, ...], limits: Thresholds, subject: str) -> Iterator[Finding]:
    for one in seen:
        if one.seconds >= limits.xact_seconds:
            advice = (
                "Ask its transaction manager, then COMMIT PREPARED or ROLLBACK PREPARED; it holds locks until then."
            )
            yield Finding("postgres.prepared_transaction", Severity.WARNING, subject, asdict(one), advice)


def _replication(seen: Replication, limits: Thresholds, subject: str) -> Iterator[Finding]:
    for one in seen.standbys:
        late = one.lag_bytes >= limits.lag_bytes or (one.lag_bytes and (one.lag_seconds or 0) >= limits.lag_seconds)
        # A base backup is a receiver as well, and is not meant to be in step.
        if one.state != "backup" and (late or one.state != "streaming"):
            evidence = {"standby": one.application, **{k: v for k, v in asdict(one).items() if k != "application"}}
            advice = "Wait before any bulk work; look at the standby's replay, disk and network."
            yield Finding("postgres.replica_lagging", Severity.WARNING, subject, evidence, advice)
    for slot in seen.slots:
        if slot.wal_status in ("unreserved", "lost"):
            advice = "Its consumer has to be made anew, or catch up at once: the WAL it needs goes, or is gone."
            yield Finding("postgres.slot_lost", Severity.CRITICAL, subject, asdict(slot), advice)
        elif not slot.active and not slot.temporary:
            severity = Severity.INFO if slot.retained_bytes is None else Severity.WARNING
            advice = "Bring its consumer back. Drop the slot only when the consumer is gone for good."
            yield Finding("postgres.slot_inactive", severity, subject, asdict(slot), advice)
    if seen.standby:
        evidence = asdict(seen.standby)
        if seen.standby.paused:
            advice = "SELECT pg_wal_replay_resume(), unless somebody paused it for a reason."
            yield Finding("postgres.replay_paused", Severity.WARNING, subject, evidence, advice)
        if not seen.standby.receiver:
            advice = "See the standby's log: it has no connection to its primary, unless it reads from an archive."
            yield Finding("postgres.receiver_down", Severity.CRITICAL, subject, evidence, advice)
        if seen.standby.lag_bytes >= limits.lag_bytes:
            advice = "Replay is behind: look for a paused replay, a query in conflict, or a slow disk."
            yield Finding("postgres.replica_lagging", Severity.WARNING, subject, evidence, advice)


def _wraparound(seen: Wraparound, limits: Thresholds, subject: str) -> Iterator[Finding]:
    # Some lateness is normal: autovacuum starts at the limit, and needs its time.
    if seen.ratio >= limits.wraparound_ratio or seen.overdue >= 1.5:
        severity = Severity.CRITICAL if seen.ratio >= _LAST_CALL else Severity.WARNING
        evidence = {
            "ratio": round(seen.ratio, 4),
            "overdue": round(seen.overdue, 2),
            "xid_age": seen.xid_age,
            "mxid_age": seen.mxid_age,
            "databases": [one.name for one in seen.databases[:_NAMED]],
            "tables": [one.name for one in seen.tables[:_NAMED]],
        }
        advice = "Find who holds xmin first, then VACUUM the oldest tables of the oldest database."
        yield Finding("postgres.wraparound", severity, subject, evidence, advice)


def _archiver(seen: Archiver, _limits: Thresholds, subject: str) -> Iterator[Finding]:
    if seen.failing:
        advice = (
            "See the server's log for what the archive command says; WAL fills the disk until it works."
            if seen.configured
            else "Set archive_command, or switch archive_mode off: WAL is kept for an archive that is not there."
        )
        yield Finding("postgres.archiver_failing", Severity.CRITICAL, subject, asdict(seen), advice)


def _indexes(seen: Indexes, _limits: Thresholds, subject: str) -> Iterator[Finding]:
    invalid = [index for index in seen.invalid if not index.building and not index.partitioned]
    if invalid:
        evidence = {
            "indexes": len(invalid),
            "bytes": sum(index.bytes for index in invalid),
            "names": [index.name for index in invalid[:_NAMED]],
            "leftovers": sum(index.leftover for index in invalid),
            "constraints": sum(bool(index.constraint) for index in invalid),
        }
        advice = "Run postgres_index: it is written to, and never read."
        yield Finding("postgres.index_invalid", Severity.WARNING, subject, evidence, advice)
    if seen.unused:
        evidence = {
            "indexes": len(seen.unused),
            "bytes": sum(index.bytes for index in seen.unused),
            "names": [index.name for index in seen.unused[:_NAMED]],
            "counted_seconds": seen.counted_seconds,
        }
        advice = "Look whether a standby, or a monthly report, uses it before dropping it."
        yield Finding("postgres.index_unused", Severity.INFO, subject, evidence, advice)
    if seen.missing:
        worst = seen.missing[0]
        evidence = {"tables": [one.table for one in seen.missing[:_NAMED]], **asdict(worst)}
        advice = "Find its statements in pg_stat_statements, and EXPLAIN them, before creating an index."
        yield Finding("postgres.index_missing", Severity.INFO, subject, evidence, advice)


def _bloat(seen: Bloat, limits: Thresholds, subject: str) -> Iterator[Finding]:
    bad = bloated(seen, limits)
    if bad:
        evidence = {"tables": len(bad), "names": [one.table for one in bad[:_NAMED]], **asdict(bad[0])}
        advice = (
            "Run postgres_maintenance: dead rows need VACUUM; space once taken is reused, and shrinks by a rebuild."
        )
        yield Finding("postgres.bloat", Severity.WARNING, subject, {**evidence, "tables": len(bad)}, advice)
    stale = [one for one in seen.stale if one.changed >= _ROWS_WORTH and one.ratio >= limits.stale_ratio]
    if stale:
        evidence = {**asdict(stale[0]), "tables": len(stale), "names": [one.table for one in stale[:_NAMED]]}
        advice = "ANALYZE these tables (postgres_maintenance): plans are made from statistics that no longer fit."
        yield Finding("postgres.statistics_stale", Severity.WARNING, subject, evidence, advice)


def bloated(seen: Bloat, limits: Thresholds) -> list[Any]:
    """Tables with more dead rows, or more room beyond need, than the thresholds allow."""
    return [
        one
        for one in seen.tables
        if (one.dead >= _ROWS_WORTH and one.dead_ratio >= limits.dead_ratio)
        or ((one.bloat_bytes or 0) >= _BYTES_WORTH and (one.bloat_ratio or 0) >= limits.bloat_ratio)
    ]


def _held(holders: Iterable[Holder], bloat: Bloat | None, limits: Thresholds, subject: str) -> Iterator[Finding]:
    """Who holds xmin matters once it is old by far, or is in the way of dead rows that wait to be removed."""
    waste = bloat is not None and any(
        one.dead >= _ROWS_WORTH and one.dead_ratio >= limits.dead_ratio for one in bloat.tables
    )
    old = [
        one
        for one in holders
        if one.here and (one.age >= _AGE_WORTH or (waste and (one.seconds or 0) >= limits.xact_seconds))
    ]
    if old:
        worst = max(old, key=lambda one: one.age)
        evidence = {**asdict(worst), "holders": len(old), "names": [one.name for one in old[:_NAMED]]}
        yield Finding("postgres.xmin_held", Severity.WARNING, subject, evidence, _HELD[worst.kind])


_HELD = {
    "transaction": "End the transaction, or wait for it: until then no vacuum removes what died since it began.",
    "prepared": "COMMIT PREPARED or ROLLBACK PREPARED: until then no vacuum removes what died since.",
    "slot": "Bring the slot's consumer back, or drop the slot: until then no vacuum removes what died since.",
    "standby": "See the long query on the standby, or its hot_standby_feedback: it holds back vacuum here.",
}


def _statements(seen: Statements, limits: Thresholds, subject: str) -> Iterator[Finding]:
    heavy = seen.total[0] if seen.total else None
    if heavy and heavy.share >= limits.heavy_share and heavy.total_seconds >= 60:
        advice = "EXPLAIN (ANALYZE, BUFFERS) it: nothing else would help as much."
        evidence = {**_cost(heavy), "since_seconds": seen.since_seconds}
        yield Finding("postgres.statement_heavy", Severity.WARNING, subject, evidence, advice)
    slow = [one for one in seen.mean if one.mean_seconds >= limits.slow_seconds]
    if slow:
        advice = "EXPLAIN it; compare with index_missing and statistics_stale."
        found = {"statements": len(slow), **_cost(slow[0]), "since_seconds": seen.since_seconds}
        yield Finding("postgres.statement_slow", Severity.WARNING, subject, found, advice)


def _cost(one: Any) -> dict[str, Any]:
    names = ("query_id", "role", "database", "calls", "total_seconds", "mean_seconds", "share")
    return {name: getattr(one, name) for name in names}


def _settings(seen: Settings, _limits: Thresholds, subject: str) -> Iterator[Finding]:
    if seen.pending_restart:
        waiting = {"settings": list(seen.pending_restart)}
        advice = "They wait for a restart: plan one, or take them back."
        yield Finding("postgres.pending_restart", Severity.INFO, subject, waiting, advice)
    missing = [name for name in _WANTED if not seen.values.get(name)]
    if missing:
        evidence = {"settings": missing, "timeouts_of": len(seen.timeouts_of)}
        advice = "ALTER ROLE ... SET it for applications (postgres_setting), not for everybody."
        yield Finding("postgres.no_timeout", Severity.INFO, subject, evidence, advice)
    unsafe = [name for name in _SAFE if seen.values.get(name) == "off"]
    if unsafe:
        advice = "With these off, a crash, or the slow growth of garbage, costs data or the whole server."
        yield Finding("postgres.unsafe_setting", Severity.WARNING, subject, {"settings": unsafe}, advice)


_WANTED = ("idle_in_transaction_session_timeout",)
_SAFE = ("fsync", "full_page_writes", "autovacuum", "track_counts", "track_activities")


def _unseen(unseen: Mapping[str, Mapping[str, str]], subject: str) -> Iterator[Finding]:
    for section, why in sorted(unseen.items()):
        evidence = {"why": why["message"], "kind": why["kind"], "code": why["code"]}
        yield Finding(f"postgres.unseen.{section}", Severity.INFO, subject, evidence, why["hint"])


_JUDGES: Mapping[str, Any] = {
    "connections": _connections,
    "activity": _activity,
    "locks": _locks,
    "prepared": _prepared,
    "replication": _replication,
    "wraparound": _wraparound,
    "archiver": _archiver,
    "indexes": _indexes,
    "bloat": _bloat,
    "statements": _statements,
    "settings": _settings,
}
