# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who stands in whose way: from pairs of waiter and blocker to the root of each queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .words import shown

#: Wanting one of these shuts out readers or writers, and so does waiting for it.
_STRONG = frozenset({"ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"})

#: First words of statements that change what a table is, for a root that has its lock already.
_DDL = frozenset({"alter", "create", "drop", "truncate", "vacuum", "cluster", "reindex", "refresh", "lock", "comment"})


@dataclass(frozen=True, slots=True)
class Root:
    """One that blocks others and waits for nobody. C(kind) is C(transaction), C(ddl) or C(prepared).

    A prepared transaction has a C(gid), and no process. Durations are seconds.
    """

    subject: str
    kind: str
    blocks: int
    longest_wait_seconds: float
    pid: int = 0
    backend_start: str = ""
    gid: str = ""
    user: str = ""
    database: str = ""
    application: str = ""
    host: str = ""
    state: str = ""
    xact_seconds: float = 0.0
    query: str = ""


@dataclass(frozen=True, slots=True)
class Queued:
    """One that waits for a strong lock of a table, with C(blocks) others behind it. Durations are seconds."""

    subject: str
    pid: int
    backend_start: str
    user: str
    database: str
    application: str
    relation: str
    mode: str
    wait_seconds: float
    blocks: int
    query: str


@dataclass(frozen=True, slots=True)
class Locks:
    """The queues for locks, the one with most victims first."""

    waiting: int
    longest_wait_seconds: float
    roots: tuple[Root, ...]
    queued_ddl: tuple[Queued, ...]


def locks_of(rows: Sequence[Mapping[str, Any]], show: str, top: int) -> Locks:
    """The queues in what P(queries.LOCKS) answered."""
    people = {str(row["pid"]): row for row in rows}
    in_the_way = {name: _blockers(row) for name, row in people.items()}
    waiters = [name for name, blockers in in_the_way.items() if blockers]
    victims: dict[str, set[str]] = {}
    for waiter in waiters:
        for blocker in _all_blockers(waiter, in_the_way):
            victims.setdefault(blocker, set()).add(waiter)
    waits = {name: _seconds(people[name]["wait_seconds"]) for name in waiters}
    roots = [
        _root(name, people.get(name), max(waits[one] for one in behind), len(behind), show)
        for name, behind in victims.items()
        if not in_the_way.get(name)
    ]
    ddl = [
        _queued(people[name], len(victims.get(name, ())), show)
        for name in waiters
        if people[name]["kind"] == "relation" and people[name]["mode"] in _STRONG
    ]
    return Locks(
        len(waiters),
        max(waits.values(), default=0.0),
        tuple(sorted(roots, key=lambda root: (-root.blocks, -root.longest_wait_seconds))[:top]),
        tuple(sorted(ddl, key=lambda one: (-one.blocks, -one.wait_seconds))[:top]),
    )


def _blockers(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of those directly in the way: processes by number, prepared transactions by C(gid:)."""
    pids = {str(pid) for pid in row["blockers"] if pid}
    prepared = {f"gid:{gid}" for gid in (row["gids"] or ("",))} if 0 in row["blockers"] else set()
    return tuple(sorted(pids | prepared))


def _all_blockers(waiter: str, in_the_way: Mapping[str, Sequence[str]]) -> set[str]:
    """Everybody in front, near and far; a circle, which the server is about to break, ends the search."""
    found: set[str] = set()
    ahead = list(in_the_way[waiter])
    while ahead:
        name = ahead.pop()
        if name not in found and name != waiter:
            found.add(name)
            ahead += in_the_way.get(name, ())
    return found


def _root(name: str, row: Mapping[str, Any] | None, wait: float, blocks: int, show: str) -> Root:
    gid = name.removeprefix("gid:")
    if gid != name:
        return Root(f"prepared transaction {gid or '(not found)'}", "prepared", blocks, wait, gid=gid)
    if row is None:
        return Root(f"process {name}, which has just ended", "transaction", blocks, wait, pid=int(name))
    first = (row["query"] or "").split(None, 1)
    is_ddl = row["state"] == "active" and bool(first) and first[0].lower() in _DDL
    return Root(
        f"{_named(row)} ({row['state'] or 'unknown'}, {_seconds(row['xact_seconds']):.0f} s)",
        "ddl" if is_ddl else "transaction",
        blocks,
        wait,
        row["pid"],
        row["backend_start"] or "",
        "",
        row["user"] or "",
        row["database"] or "",
        row["application"] or "",
        row["host"] or "",
        row["state"] or "",
        _seconds(row["xact_seconds"]),
        shown(row["query"], show),
    )


def _queued(row: Mapping[str, Any], blocks: int, show: str) -> Queued:
    return Queued(
        f"{_named(row)} wants {row['mode']} on {row['relation']}",
        row["pid"],
        row["backend_start"] or "",
        row["user"] or "",
        row["database"] or "",
        row["application"] or "",
        row["relation"] or "",
        row["mode"],
        _seconds(row["wait_seconds"]),
        blocks,
        shown(row["query"], show),
    )


def _named(row: Mapping[str, Any]) -> str:
    return f"pid {row['pid']} of {row['user'] or 'the server'}, application {row['application'] or '(none)'}"


def _seconds(value: float | None) -> float:
    return round(max(0.0, value or 0.0), 3)
