# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why a Redis is full, the largest cause first, and which of the declared remedies would mend it.

Pure: memory and census in, findings and a ladder out. Sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from math import ceil
from typing import Any

from .._core.plan import Finding, Severity
from .._core.redact import digest, printable
from .._core.units import human
from .census import Census, Group, Queue
from .health import FRAGMENTATION_FLOOR, Thresholds
from .model import Memory

#: Share of all data from which one key, or one class, is a cause of its own.
_GIANT = 0.05
_GIANT_FLOOR = 1024 * 1024
_BIG_CLASS = 0.25
_NO_TTL = 0.5


@dataclass(frozen=True, slots=True)
class Held:
    """A declared class of keys with what was found of it. C(cap) is in seconds, 0 without one."""

    name: str
    group: Group
    cap: int = 0


@dataclass(frozen=True, slots=True)
class Declared:
    """What the owner has said of this target: which classes there are, and which remedies are allowed.

    C(settle) are the seconds in which a lowered TTL still counts as a remedy.
    """

    classes: tuple[Held, ...] = ()
    disposable: tuple[Held, ...] = ()
    caps: tuple[Held, ...] = ()
    fragmentation_max: float | None = None
    limit_ceiling: int = 0
    target_ratio: float = 0.8
    settle: int = 30


def causes(
    memory: Memory,
    census: Census,
    declared: Declared,
    queues: tuple[Queue, ...],
    subject: str,
    limits: Thresholds | None = None,
    *,
    hidden: bool = False,
) -> tuple[Finding, ...]:
    """Every cause that the numbers support, by the bytes it stands for. C(hidden) shows digests for key names."""
    bounds = limits or Thresholds()
    found = [
        *_keys(census, subject, digest if hidden else printable),
        *_classes(census, declared, subject),
        *_waste(memory, bounds, subject),
        *_policy(memory, census, subject),
        *_shared(memory, declared, queues, subject),
    ]
    if memory.limit and memory.ratio >= bounds.memory_ratio and not any(f.evidence.get("bytes") for f in found):
        evidence = {"limit": memory.limit, "counted": memory.counted, "bearable": memory.bearable, "bytes": 0}
        advice = "Nothing stands out: the data has outgrown the limit. Raise maxmemory, or split the data."
        found.append(Finding("redis.limit_too_low", Severity.WARNING, subject, evidence, advice))
    return tuple(sorted(found, key=lambda finding: -finding.evidence.get("bytes", 0)))


def _keys(census: Census, subject: str, name: Callable[[bytes], str]) -> Iterator[Finding]:
    whole = census.total.scaled(census.factor)
    for size, key, kind, _ttl in census.largest:
        if size >= max(_GIANT_FLOOR, whole.bytes * _GIANT):
            evidence = {"key": name(key), "bytes": size, "type": kind, "share": round(size / whole.bytes, 4)}
            advice = "Split it: one key cannot be spread, evicted in part, or read without a pause."
            yield Finding("redis.giant_key", Severity.WARNING, subject, evidence, advice)
    share = whole.no_ttl / whole.count if whole.count else 0
    if share >= _NO_TTL:
        lasting = [(prefix, group) for prefix, group in census.prefixes.items() if group.no_ttl]
        prefix, group = max(lasting, key=lambda item: item[1].no_ttl, default=(b"", Group()))
        evidence = {"share": round(share, 4), "keys": whole.no_ttl, "most_in": name(prefix), "in_it": group.no_ttl}
        advice = "What nobody expires only grows: give a TTL where the key is written."
        yield Finding("redis.no_ttl_share", Severity.INFO, subject, evidence, advice)


def _classes(census: Census, declared: Declared, subject: str) -> Iterator[Finding]:
    capped = {held.name: held for held in (*declared.classes, *declared.caps) if held.cap}
    for held in capped.values():
        if held.group.above:
            evidence = {
                "class": held.name,
                "bytes": held.group.above_bytes,
                "keys": held.group.above,
                "max_ttl": held.cap,
            }
            advice = f"redis_keyspace with state=ttl_capped, max_ttl={held.cap}s; then the code that sets the TTL."
            yield Finding("redis.ttl_too_long", Severity.WARNING, subject, evidence, advice)
    whole = census.total.scaled(census.factor)
    for held in declared.disposable:
        if held.group.bytes and held.group.bytes >= whole.bytes * _BIG_CLASS:
            evidence = {"class": held.name, "bytes": held.group.bytes, "keys": held.group.count}
            evidence["share"] = round(held.group.bytes / whole.bytes, 4)
            advice = "redis_keyspace with until_memory_below deletes as much of it as is needed."
            yield Finding("redis.cache_too_big", Severity.WARNING, subject, evidence, advice)


def _waste(memory: Memory, limits: Thresholds, subject: str) -> Iterator[Finding]:
    """Memory that holds no data."""
    base = memory.limit or memory.used
    if memory.fragmentation_ratio >= limits.fragmentation and memory.fragmentation_bytes >= FRAGMENTATION_FLOOR:
        evidence = {"bytes": memory.fragmentation_bytes, "ratio": memory.fragmentation_ratio, "rss": memory.rss}
        yield Finding("redis.fragmentation", Severity.WARNING, subject, evidence, "Purge the allocator (redis_memory).")
    for name, size, advice in (
        ("client", memory.client_buffers, "Find who does not read its replies: redis_clients_flood."),
        ("replica", memory.replica_buffers, "A replica or the backlog lags: look at replication."),
    ):
        if base and size / base >= limits.buffers_share:
            evidence = {"bytes": size, "share": round(size / base, 4)}
            yield Finding(f"redis.{name}_buffers", Severity.WARNING, subject, evidence, advice)


def _policy(memory: Memory, census: Census, subject: str) -> Iterator[Finding]:
    whole = census.total.scaled(census.factor)
    volatile = memory.policy.startswith("volatile-")
    if memory.limit and volatile and whole.count and whole.no_ttl / whole.count >= _NO_TTL:
        evidence = {"policy": memory.policy, "no_ttl_share": round(whole.no_ttl / whole.count, 4), "keys": whole.no_ttl}
        advice = "This policy evicts keys with a TTL only: without them it refuses writes like noeviction."
        yield Finding("redis.policy_cannot_evict", Severity.WARNING, subject, evidence, advice)


def _shared(memory: Memory, declared: Declared, queues: tuple[Queue, ...], subject: str) -> Iterator[Finding]:
    if not queues:
        return
    names = [queue.name for queue in queues]
    if memory.policy.startswith("allkeys-"):
        evidence = {"policy": memory.policy, "queues": names}
        advice = "Jobs can vanish: queues need noeviction. Move the cache to a server of its own."
        yield Finding("redis.queue_evictable", Severity.CRITICAL, subject, evidence, advice)
    caches = [held.name for held in declared.disposable if held.group.count]
    if caches:
        evidence = {"policy": memory.policy, "queues": names, "caches": caches}
        advice = "A queue needs noeviction and a cache needs eviction: no policy is right for both. Split them."
        yield Finding("redis.queue_shares_cache", Severity.WARNING, subject, evidence, advice)


# --- remedies ---


@dataclass(frozen=True, slots=True)
class Rung:
    """One remedy: whether it is needed and may be used, the bytes it frees of the limit, and why."""

    name: str
    applies: bool
    why: str
    frees: int = 0
    limit: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {"frees": self.frees, "limit": self.limit, "why": self.why}


@dataclass(frozen=True, slots=True)
class Remedies:
    """The ladder. C(mendable): the rungs that apply bring memory below the ratio. C(next) says what else would."""

    mendable: bool
    wanted: int
    rungs: tuple[Rung, ...] = field(default=())
    next: str = ""

    def as_dict(self) -> dict[str, Any]:
        """C(rungs) holds those that apply, by name; C(refused) the others, with the reason."""
        return {
            "mendable": self.mendable,
            "wanted_bytes": self.wanted,
            "rungs": {rung.name: rung.as_dict() for rung in self.rungs if rung.applies},
            "refused": {rung.name: rung.why for rung in self.rungs if not rung.applies},
            "next": self.next,
        }


def remedies(memory: Memory, declared: Declared) -> Remedies:
    """Goes up the ladder, the least invasive remedy first, until enough has been freed."""
    over = memory.over(declared.target_ratio)
    purge = _purge(memory, declared)
    if memory.client_buffers >= over > 0:
        # Deleting keys would hide the cause, and the buffers would take the room again.
        text = f"Client buffers hold {human(memory.client_buffers)}: find who does not read. Run redis_clients_flood."
        return Remedies(False, over, (purge,), text)
    cap = _cap(declared, over)
    drop = _drop(declared, over - cap.frees)
    still = max(0, over - cap.frees - drop.frees)
    grow = _grow(memory, declared, memory.counted - cap.frees - drop.frees, still)
    rungs = (purge, cap, drop, grow)
    mendable = not still or grow.applies
    return Remedies(mendable, over, rungs, "" if mendable else _advice(declared, grow, still))


def _purge(memory: Memory, declared: Declared) -> Rung:
    name = "purge_allocator"
    if declared.fragmentation_max is None:
        return Rung(name, False, "not declared: fragmentation_max")
    if memory.fragmentation_ratio <= declared.fragmentation_max or memory.fragmentation_bytes < FRAGMENTATION_FLOOR:
        return Rung(name, False, f"fragmentation is {memory.fragmentation_ratio}, not worth a purge")
    why = f"{human(memory.fragmentation_bytes)} are held but hold no data; this frees the host, not the limit"
    return Rung(name, True, why)


def _cap(declared: Declared, over: int) -> Rung:
    name = "cap_ttl"
    keys = sum(held.group.above for held in declared.caps)
    if not declared.caps:
        return Rung(name, False, "not declared: ttl_caps")
    if not over or not keys:
        return Rung(
            name, False, "not needed" if not over else "no key of the declared classes lives longer than its cap"
        )
    frees = sum(held.group.above_bytes for held in declared.caps if held.cap <= declared.settle)
    late = "" if frees else f", but later than the {declared.settle} s that count"
    return Rung(name, True, f"{keys} keys would expire sooner{late}", min(frees, over))


def _drop(declared: Declared, needed: int) -> Rung:
    name = "drop_disposable"
    size = sum(held.group.bytes for held in declared.disposable)
    if not declared.disposable:
        return Rung(name, False, "not declared: disposable")
    if needed <= 0 or not size:
        return Rung(name, False, "not needed" if needed <= 0 else "no disposable key is there")
    return Rung(name, True, f"{human(size)} are disposable, {human(needed)} are needed", min(size, needed))


def _grow(memory: Memory, declared: Declared, counted: int, still: int) -> Rung:
    """The limit under which what is left would be below the ratio, if the owner and the host allow it."""
    name = "raise_limit"
    if not still:
        return Rung(name, False, "not needed")
    limit = ceil(counted / declared.target_ratio)
    if not declared.limit_ceiling:
        return Rung(name, False, "not declared: limit_ceiling", limit=limit)
    most = min(declared.limit_ceiling, memory.bearable or declared.limit_ceiling)
    if limit > most:
        bound = "limit_ceiling" if most == declared.limit_ceiling else "what the host can bear"
        return Rung(name, False, f"{human(limit)} would be needed, more than {bound}, {human(most)}", limit=limit)
    return Rung(name, True, f"{human(memory.limit)} is too low for what must stay", still, limit)


def _advice(declared: Declared, grow: Rung, still: int) -> str:
    missing = [
        name
        for name, given in (("redis_disposable", declared.disposable), ("redis_limit_ceiling", declared.limit_ceiling))
        if not given
    ]
    declare = f" Declare {' or '.join(missing)}, if that is right." if missing else ""
    return (
        f"The declared remedies leave {human(still)} too many ({grow.why}).{declare} "
        f"See the findings for who holds the memory; a limit of {human(grow.limit)} would be enough."
    )


def together(memories: list[Memory]) -> Memory:
    """The primaries of a cluster as one: sums, with the highest fragmentation and the first one's policy."""
    first = memories[0]
    values: dict[str, Any] = {}
    for one in fields(Memory):
        numbers: list[Any] = [getattr(memory, one.name) for memory in memories]
        summed: Mapping[str, Any] = {
            "policy": first.policy,
            "fragmentation_ratio": max(m.fragmentation_ratio for m in memories),
        }
        values[one.name] = summed[one.name] if one.name in summed else sum(numbers)
    return Memory(**values)
