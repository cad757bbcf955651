# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is known of a PostgreSQL, as values. Sizes are bytes, durations and ages seconds, ratios fractions of 1.

An age in transactions is called so. A duration is None where the thing never happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .blocking import Locks


@dataclass(frozen=True, slots=True)
class Group:
    """Connections that share role, database, application and host."""

    role: str
    database: str
    application: str
    host: str
    total: int
    idle: int
    idle_in_transaction: int
    active: int
    oldest_idle_seconds: float


@dataclass(frozen=True, slots=True)
class Own:
    """A role, or a database, with a limit of its own."""

    kind: str
    name: str
    used: int
    limit: int

    @property
    def ratio(self) -> float:
        return self.used / self.limit if self.limit else float(self.used > 0)


@dataclass(frozen=True, slots=True)
class Connections:
    """Client connections but this one, against what is left of C(max_connections) when the reserved ones are taken off.

    C(by) has those who hold the most first. Superusers may use more than C(limit).
    """

    used: int
    limit: int
    max_connections: int
    reserved: int
    walsenders: int
    states: Mapping[str, int]
    by: tuple[Group, ...]
    limits: tuple[Own, ...]

    @property
    def ratio(self) -> float:
        return self.used / self.limit if self.limit > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Transaction:
    """A client's session within a transaction."""

    pid: int
    backend_start: str
    user: str
    database: str
    application: str
    host: str
    state: str
    state_seconds: float
    xact_seconds: float
    query_seconds: float
    wait: str
    query: str

    @property
    def is_idle(self) -> bool:
        return self.state.startswith("idle in transaction")

    @property
    def is_backup(self) -> bool:
        """The leader of a parallel dump is idle in transaction for as long as the dump takes."""
        return self.application in ("pg_dump", "pg_dumpall", "pg_restore", "pg_basebackup")


@dataclass(frozen=True, slots=True)
class Activity:
    """Transactions, the oldest first; C(waiting) of all sessions wait for a lock."""

    oldest_transaction_seconds: float
    idle_in_transaction: int
    active: int
    waiting: int
    transactions: tuple[Transaction, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A transaction that was prepared for a two-phase commit, and not ended yet. C(age) is in transactions."""

    gid: str
    owner: str
    database: str
    seconds: float
    age: int


@dataclass(frozen=True, slots=True)
class Holder:
    """What keeps old row versions: a C(transaction), a C(prepared) one, a C(slot) or a C(standby).

    C(age) is in transactions. C(here) is true where it matters to the tables of this database.
    """

    kind: str
    name: str
    age: int
    seconds: float | None
    pid: int
    backend_start: str
    user: str
    database: str
    state: str
    here: bool


@dataclass(frozen=True, slots=True)
class Standby:
    """A standby, or another receiver of WAL, as its sender sees it."""

    application: str
    pid: int
    host: str
    state: str
    sync_state: str
    unsent_bytes: int
    lag_bytes: int
    lag_seconds: float | None


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot. C(safe_bytes) is what may still be written before it is lost; None without a limit."""

    name: str
    kind: str
    database: str
    active: bool
    temporary: bool
    wal_status: str
    retained_bytes: int | None
    safe_bytes: int | None


@dataclass(frozen=True, slots=True)
class Replay:
    """How a standby follows. C(lag_seconds) is 0 where all that was received is replayed, however idle the primary."""

    lag_bytes: int
    lag_seconds: float | None
    paused: bool
    receiver: str
    primary: str
    receive_lsn: str
    replay_lsn: str


@dataclass(frozen=True, slots=True)
class Replication:
    """Both sides: who receives from this server, and, on a standby, how it follows."""

    standbys: tuple[Standby, ...]
    slots: tuple[Slot, ...]
    standby: Replay | None


@dataclass(frozen=True, slots=True)
class Freeze:
    """Ages, in transactions and in multixacts, of a database or a table."""

    name: str
    xid_age: int
    mxid_age: int


@dataclass(frozen=True, slots=True)
class Wraparound:
    """How far the oldest row is from the end of transaction numbers. C(tables) are those of this database."""

    xid_age: int
    mxid_age: int
    freeze_max_age: int
    mxid_freeze_max_age: int
    databases: tuple[Freeze, ...]
    tables: tuple[Freeze, ...]

    @property
    def ratio(self) -> float:
        """Share of what there is before the server stops taking writes."""
        return max(self.xid_age, self.mxid_age) / 2**31

    @property
    def overdue(self) -> float:
        """The age as a multiple of that at which autovacuum has to act."""
        pairs = ((self.xid_age, self.freeze_max_age), (self.mxid_age, self.mxid_freeze_max_age))
        return max(age / limit for age, limit in pairs if limit)


@dataclass(frozen=True, slots=True)
class Archiver:
    """The WAL archive. C(failing) is true while the latest attempt is one that failed, or nothing is set to do it."""

    mode: str
    configured: bool
    archived: int
    failed: int
    last_archived_seconds: float | None
    last_failed_seconds: float | None
    last_failed_wal: str
    failing: bool


@dataclass(frozen=True, slots=True)
class Index:
    """An index that is invalid, or was never used. C(leftover) is true for what a failed rebuild left behind."""

    name: str
    table: str
    bytes: int
    scans: int
    unique: bool
    constraint: str
    partitioned: bool
    building: bool
    leftover: bool


@dataclass(frozen=True, slots=True)
class Scanned:
    """A large table that is read row by row: an index may be missing."""

    table: str
    bytes: int
    rows: int
    seq_scans: int
    rows_per_scan: int
    index_scans: int


@dataclass(frozen=True, slots=True)
class Indexes:
    """C(counted_seconds) is how long scans have been counted; None where nobody knows."""

    invalid: tuple[Index, ...]
    unused: tuple[Index, ...]
    missing: tuple[Scanned, ...]
    counted_seconds: float | None


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its dead rows, and what it holds beyond need: an estimate, None without its columns' statistics."""

    table: str
    bytes: int
    live: int
    dead: int
    dead_ratio: float
    bloat_bytes: int | None
    bloat_ratio: float | None
    vacuum_seconds: float | None


@dataclass(frozen=True, slots=True)
class Stale:
    """A table that changed since its statistics were made."""

    table: str
    rows: int
    changed: int
    ratio: float
    analyze_seconds: float | None


@dataclass(frozen=True, slots=True)
class Bloat:
    """Tables with most to gain first, and statistics that lag."""

    tables: tuple[Table, ...]
    stale: tuple[Stale, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """A line of pg_stat_statements. C(share) is its part of the time of all."""

    query_id: str
    role: str
    database: str
    calls: int
    rows: int
    total_seconds: float
    mean_seconds: float
    share: float
    query: str


@dataclass(frozen=True, slots=True)
class Statements:
    """What took most time in all, and what takes most each time. C(since_seconds) is None before version 1.9."""

    version: str
    since_seconds: float | None
    total: tuple[Statement, ...]
    mean: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings that findings need, as bytes and seconds. C(timeouts_of) are roles and databases with own ones."""

    values: Mapping[str, Any]
    pending_restart: tuple[str, ...]
    timeouts_of: tuple[Mapping[str, str], ...]
    uptime_seconds: float


@dataclass(frozen=True, slots=True)
class Facts:
    """One look at a server. A section that could not be seen is None, and C(unseen) says why."""

    connections: Connections | None = None
    activity: Activity | None = None
    locks: Locks | None = None
    prepared: tuple[Prepared, ...] | None = None
    replication: Replication | None = None
    wraparound: Wraparound | None = None
    archiver: Archiver | None = None
    indexes: Indexes | None = None
    bloat: Bloat | None = None
    holders: tuple[Holder, ...] | None = None
    statements: Statements | None = None
    settings: Settings | None = None
    unseen: Mapping[str, Mapping[str, str]] | None = None


def as_facts(facts: Facts, top: int) -> dict[str, Any]:
    """The sections that were seen, as plain values; lists end after C(top)."""
    found: dict[str, Any] = {name: value for name, value in asdict(facts).items() if value is not None}
    if facts.connections:
        found["connections"]["ratio"] = round(facts.connections.ratio, 4)
    if facts.wraparound:
        found["wraparound"]["ratio"] = round(facts.wraparound.ratio, 4)
    found["unseen"] = {name: why["message"] for name, why in (facts.unseen or {}).items()}
    return {name: _cut(value, top) for name, value in found.items()}


def _cut(value: Any, top: int) -> Any:
    if isinstance(value, dict):
        return {name: _cut(item, top) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cut(item, top) for item in value[:top]]
    return value
