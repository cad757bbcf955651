# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why a Redis is full, the largest cause first, and which of the declared remedies would mend it.

Pure: memory and census in, findings and a ladder out. Sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from math import ceil
from typing import Any

from .._core.plan import Finding, Severity
from .._core.redact import printable
from .._core.units import human
from .census import Census, Group, Queue
from .health import FRAGMENTATION_FLOOR, Thresholds, waste
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


@dataclass(frozen=True, slots=True)
class View:
    """All that is known of a full server. C(name) shows a key, or hides it."""

    memory: Memory
    census: Census
    declared: Declared
    queues: tuple[Queue, ...]
    subject: str
    name: Callable[[bytes], str] = printable

    @property
    def whole(self) -> Group:
        return self.census.total.scaled(self.census.factor)

    def share(self, size: int) -> float:
        return round(size / self.whole.bytes, 4) if self.whole.bytes else 0.0

    @property
    def no_ttl(self) -> float:
        """Share of the keys that never expire."""
        return round(self.whole.no_ttl / self.whole.count, 4) if self.whole.count else 0.0


def causes(view: View, limits: Thresholds | None = None) -> tuple[Finding, ...]:
    """Every cause that the numbers support, by the bytes it stands for."""
    bounds, memory = limits or Thresholds(), view.memory
    found = [*_keys(view), *_classes(view), *waste(memory, bounds, view.subject), *_policy(view), *_shared(view)]
    if memory.limit and memory.ratio >= bounds.memory_ratio and not any(f.evidence.get("bytes") for f in found):
        evidence = {"limit": memory.limit, "counted": memory.counted, "bearable": memory.bearable, "bytes": 0}
        advice = "Nothing stands out: the data has outgrown the limit. Raise maxmemory, or split the data."
        found.append(Finding("redis.limit_too_low", Severity.WARNING, view.subject, evidence, advice))
    return tuple(sorted(found, key=lambda finding: -finding.evidence.get("bytes", 0)))


def _keys(view: View) -> Iterator[Finding]:
    for size, key, kind, _ttl in view.census.largest:
        if size >= max(_GIANT_FLOOR, view.whole.bytes * _GIANT):
            evidence = {"key": view.name(key), "bytes": size, "type": kind, "share": view.share(size)}
            advice = "Split it: one key cannot be spread, evicted in part, or read without a pause."
            yield Finding("redis.giant_key", Severity.WARNING, view.subject, evidence, advice)
    if view.no_ttl >= _NO_TTL:
        lasting = ((prefix, group.no_ttl) for prefix, group in view.census.prefixes.items())
        prefix, keys = max(lasting, key=lambda item: item[1])
        evidence = {"share": view.no_ttl, "keys": view.whole.no_ttl, "most_in": view.name(prefix), "in_it": keys}
        advice = "What nobody expires only grows: give a TTL where the key is written."
        yield Finding("redis.no_ttl_share", Severity.INFO, view.subject, evidence, advice)


def _classes(view: View) -> Iterator[Finding]:
    capped = {held.name: held for held in (*view.declared.classes, *view.declared.caps) if held.cap}
    for held in capped.values():
        if held.group.above:
            evidence: dict[str, Any] = {"class": held.name, "bytes": held.group.above_bytes}
            evidence |= {"keys": held.group.above, "max_ttl": held.cap}
            advice = f"redis_keyspace with state=ttl_capped, max_ttl={held.cap}s; then the code that sets the TTL."
            yield Finding("redis.ttl_too_long", Severity.WARNING, view.subject, evidence, advice)
    for held in view.declared.disposable:
        size = held.group.bytes
        if size and view.share(size) >= _BIG_CLASS:
            evidence = {"class": held.name, "bytes": size, "keys": held.group.count, "share": view.share(size)}
            advice = "redis_keyspace with until_memory_below deletes as much of it as is needed."
            yield Finding("redis.cache_too_big", Severity.WARNING, view.subject, evidence, advice)


def _policy(view: View) -> Iterator[Finding]:
    memory = view.memory
    if memory.limit and memory.policy.startswith("volatile-") and view.no_ttl >= _NO_TTL:
        evidence = {"policy": memory.policy, "no_ttl_share": view.no_ttl, "keys": view.whole.no_ttl}
        advice = "This policy evicts keys with a TTL only: without them it refuses writes like noeviction."
        yield Finding("redis.policy_cannot_evict", Severity.WARNING, view.subject, evidence, advice)


def _shared(view: View) -> Iterator[Finding]:
    policy, names = view.memory.policy, [queue.name for queue in view.queues]
    if names and policy.startswith("allkeys-"):
        evidence: dict[str, Any] = {"policy": policy, "queues": names}
        advice = "Jobs can vanish: queues need noeviction. Move the cache to a server of its own."
        yield Finding("redis.queue_evictable", Severity.CRITICAL, view.subject, evidence, advice)
    caches = [held.name for held in view.declared.disposable if held.group.count]
    if names and caches:
        evidence = {"policy": policy, "queues": names, "caches": caches}
        advice = "A queue needs noeviction and a cache needs eviction: no policy is right for both. Split them."
        yield Finding("redis.queue_shares_cache", Severity.WARNING, view.subject, evidence, advice)


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


def remedies(memories: Sequence[Memory], declared: Declared, holder: str = "") -> Remedies:
    """Goes up the ladder, the least invasive remedy first, until enough has been freed.

    C(memories) has each primary's own: one that is full is full, however empty the others are.
    C(holder) says who holds most of the data.
    """
    memory, over = together(memories), sum(memory.over(declared.target_ratio) for memory in memories)
    purge = _purge(memory, declared)
    if memory.client_buffers >= over > 0:
        # Deleting keys would hide the cause, and the buffers would take the room again.
        text = f"Client buffers hold {human(memory.client_buffers)}: find who does not read. Run redis_clients_flood."
        return Remedies(False, over, (purge,), text)
    cap = _cap(declared, over)
    drop = _drop(declared, over - cap.frees)
    still = max(0, over - cap.frees - drop.frees)
    grow = _grow(memories, declared, still / over if over else 0.0, still)
    rungs = (purge, cap, drop, grow)
    mendable = not still or grow.applies
    return Remedies(mendable, over, rungs, "" if mendable else _advice(declared, grow, still, holder))


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


def _grow(memories: Sequence[Memory], declared: Declared, left: float, still: int) -> Rung:
    """The limit under which what stays would be below the ratio, if the owner and the host allow it.

    C(left) is the share of what is too much that the other rungs leave, taken as the same on every primary.
    """
    name, ratio = "raise_limit", declared.target_ratio
    if not still:
        return Rung(name, False, "not needed")
    limit = max(ceil((memory.counted - memory.over(ratio) * (1 - left)) / ratio) for memory in memories)
    if not declared.limit_ceiling:
        return Rung(name, False, "not declared: limit_ceiling", limit=limit)
    most = min([declared.limit_ceiling, *(memory.bearable for memory in memories if memory.bearable)])
    if limit > most:
        bound = "limit_ceiling" if most == declared.limit_ceiling else "what the host can bear"
        return Rung(name, False, f"{human(limit)} would be needed, more than {bound}, {human(most)}", limit=limit)
    return Rung(name, True, f"{human(memories[0].limit)} is too low for what must stay", still, limit)


def _advice(declared: Declared, grow: Rung, still: int, holder: str) -> str:
    missing = [
        name
        for name, given in (("redis_disposable", declared.disposable), ("redis_limit_ceiling", declared.limit_ceiling))
        if not given
    ]
    declare = f" Declare {' or '.join(missing)}, if that is right." if missing else ""
    return (
        f"The declared remedies leave {human(still)} too many ({grow.why}). {holder}{declare} "
        f"A limit of {human(grow.limit)} would be enough."
    )


def together(memories: Sequence[Memory]) -> Memory:
    """The primaries of a cluster as one: sums, but for what is a share or a name."""
    first = memories[0]
    shares = {name: max(getattr(memory, name) for memory in memories) for name in ("fragmentation_ratio", "evictable")}
    sums = {
        one.name: sum(getattr(memory, one.name) for memory in memories) for one in fields(Memory) if one.type == "int"
    }
    return replace(first, **sums, **shares)
