# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Conditions on classes of keys: none is left, or none lives longer than so long.

What is asked for becomes selections, a count of them on the server becomes a plan, and each step of
the plan is bulk work in slices that stops early rather than doing harm.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from .._core.errors import Kind, OpsError, bad_parameter
from .._core.guard import DRIFT
from .._core.plan import Done, Forecast, Plan, Progress, Spared, Step, Undo, Verify
from .._core.spec import Params
from .._core.units import parse_seconds, parse_size
from .client import Command, Redis, Server, identity_of, primaries_of, primary_only, require
from .errors import translate
from .facts import read_memory
from .globs import SESSIONS, WORK, Kept, disjoint, example, inside, pattern_of, too_wide
from .replies import number, parse_info, text
from .slices import Cap, Selection, Tally, Verb, way_of
from .walk import Brake, Deadline, Pace, Walk, trip

#: Keys to measure in each slice of the count: enough for an average, too few to be felt.
_MEASURED = 8
#: A slot that moves can hide keys from one pass, not from many.
_PASSES = 5
#: Smallest size to assume of a key, where none could be measured.
_SMALLEST = 64
_SETTLE = 5.0
_SLOTS = 16384


# --- what is asked for ---


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options as values. C(ratio) is the share of maxmemory at which deleting stops, or None."""

    names: tuple[str, ...]
    selections: tuple[Selection, ...]
    verb: Verb
    ratio: float | None
    selector: Mapping[str, Any]

    @classmethod
    def of(cls, params: Params) -> Wanted:
        """Raises a bad-parameter error, or M(guard_refused) for a pattern that names protected keys."""
        cap, ratio, names = _cap(params), params["until_memory_below"], tuple(params["match"])
        if ratio is not None and (cap or not 0 < ratio < 1):
            hint = "Give a share of maxmemory between 0 and 1, with state=absent."
            raise bad_parameter("until_memory_below", f"{ratio} has no meaning here", hint)
        if not names:
            raise bad_parameter("match", "there is no pattern", "Name the class of keys that is meant: cache:*.")
        patterns = [pattern_of(name, "match") for name in names]
        tests = Selection(
            b"",
            type=params["type"] or "",
            min_idle=_milliseconds(params, "min_idle"),
            min_size=parse_size(params["min_size"], "min_size") if params["min_size"] else None,
            ttl_below=_milliseconds(params, "ttl_below"),
            no_ttl_only=params["no_ttl_only"],
            cap=cap,
        )
        selections = []
        for at, pattern in enumerate(patterns):
            earlier = tuple(other for other in patterns[:at] if not disjoint(pattern, other))
            kept = _kept(names[at], pattern, params, bool(cap))
            selections.append(replace(tests, pattern=pattern, earlier=earlier, kept=kept))
        said = ("match", "state", "max_ttl", "include_persistent", "type", "min_idle", "min_size", "ttl_below")
        selector = {name: params[name] for name in (*said, "no_ttl_only", "until_memory_below", "protect")}
        return cls(names, tuple(selections), Verb.CAP if cap else Verb.UNLINK, ratio, selector)

    def subject(self, at: int) -> str:
        """The class of keys, as it stands in the plan: the pattern with its filters."""
        chosen = self.selections[at]
        tests = {
            "type": chosen.type,
            "idle>=": _seconds(chosen.min_idle),
            "size>=": chosen.min_size,
            "ttl<": _seconds(chosen.ttl_below),
            "no_ttl": chosen.no_ttl_only,
            "ttl>": _seconds(chosen.cap.most) if chosen.cap else None,
        }
        filters = " ".join(name if value is True else f"{name}{value}" for name, value in tests.items() if value)
        return f"{self.names[at]} [{filters}]" if filters else self.names[at]

    def words(self, at: int) -> str:
        cap = self.selections[at].cap
        if cap:
            return f"cap the TTL of {self.subject(at)} at {_seconds(cap.most)}"
        until = f" until memory is below {self.ratio:.0%}" if self.ratio else ""
        return f"unlink {self.subject(at)}{until}"


def _cap(params: Params) -> Cap | None:
    if params["state"] != "ttl_capped":
        return None
    most = parse_seconds(params["max_ttl"], "max_ttl")
    if most < 1:
        raise bad_parameter("max_ttl", "0 would delete the keys", "Use state=absent for that.")
    if not 0 <= params["jitter"] < 1:
        raise bad_parameter("jitter", f"{params['jitter']} is not a share", "Give 0, or a number below 1.")
    if params["no_ttl_only"] and not params["include_persistent"]:
        raise bad_parameter("no_ttl_only", "keys without a TTL keep none", "Add include_persistent to give them one.")
    return Cap(most * 1000, params["jitter"], params["include_persistent"])


def _kept(name: str, pattern: bytes, params: Params, capping: bool) -> tuple[Kept, ...]:
    """What must be spared among the matches; refuses a pattern that means such keys and no others."""
    if too_wide(pattern):
        hint = "Name the class of keys that is meant: cache:*."
        raise bad_parameter("match", f"{name!r} matches whatever there is", hint)
    own = tuple(Kept(pattern_of(one, "protect"), "protected by this run") for one in params["protect"])
    # Sessions that are named outright may end sooner: users log in again, nothing is lost.
    sessions = tuple(kept for kept in SESSIONS if not (capping and inside(pattern, kept.pattern)))
    near = tuple(kept for kept in (*own, *WORK, *sessions) if not disjoint(pattern, kept.pattern))
    for kept in near:
        if inside(pattern, kept.pattern):
            words = f"match {name!r} names keys that are never touched: {kept.what} ({text(kept.pattern)})"
            hint = "Nothing was changed. Use the tool that knows these keys: queue for jobs, lease for leases."
            raise OpsError(Kind.GUARD_REFUSED, words, hint, code="protected")
    return near


def _milliseconds(params: Params, name: str) -> int | None:
    return parse_seconds(params[name], name) * 1000 if params[name] else None


def _seconds(milliseconds: int | None) -> str:
    return f"{milliseconds // 1000}s" if milliseconds else ""


# --- what is there ---


@dataclass(frozen=True, slots=True)
class Room:
    """How much memory has to go, asked of the server each time: deleting goes no further than needed."""

    ratio: float

    def over(self, server: Server) -> int:
        """Bytes above the ratio, once what is already unlinked has been freed; bounded wait."""
        until = time.monotonic() + _SETTLE
        while True:
            info = parse_info(server.call("INFO", "memory"))
            memory = read_memory(server, info)
            if not memory.limit:
                hint = "Set maxmemory first: without it there is no ratio to come below."
                raise OpsError(Kind.PRECONDITION, f"{server.address.name} has no maxmemory", hint, code="no_limit")
            over = memory.over(self.ratio)
            if not over or not number(info, "lazyfree_pending_objects") or time.monotonic() > until:
                return over
            time.sleep(0.01)


def used_memory(redis: Redis) -> int:
    """used_memory of all servers, after objects that wait to be freed are gone; bounded wait."""
    until, used = time.monotonic() + _SETTLE, 0
    for server in redis.servers:
        info = parse_info(server.call("INFO", "memory"))
        while number(info, "lazyfree_pending_objects") and time.monotonic() < until:
            time.sleep(0.02)
            info = parse_info(server.call("INFO", "memory"))
        used += number(info, "used_memory")
    return used


def count(walk: Walk, servers: tuple[Server, ...], selection: Selection, measure: int = 0) -> tuple[Tally, ...]:
    """How many keys each server has of the selection. Raises M(timeout) when the deadline comes first."""
    tallies = []
    for server in servers:
        total = Tally()
        for tally in walk.slices(server, selection, Verb.COUNT, measure=measure):
            total.add(tally)
            total.cursor = tally.cursor
        if total.cursor != b"0":
            hint = "Nothing was changed by it. Give a longer timeout, or a larger slice_ms."
            raise OpsError(Kind.TIMEOUT, f"the count did not end: {walk.deadline.note}", hint, code="deadline")
        tallies.append(total)
    return tuple(tallies)


def _all(tallies: tuple[Tally, ...]) -> Tally:
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total


# --- what is done ---


@dataclass(frozen=True, slots=True)
class Bulk:
    """The act of one step. C(size) is the average of a key in bytes."""

    redis: Redis
    walk: Walk
    selection: Selection
    verb: Verb
    room: Room | None
    subject: str
    planned: int
    size: int

    def __call__(self, progress: Progress) -> Done:
        total = Tally()
        try:
            note = self._passes(total, progress)
        except Exception as error:
            known = translate(error)
            if known is not None:
                known.done = Done(total.done, total.done * self.size, known.message, finished=False)
                known.message = f"{self.subject}: {total.done} of {self.planned} keys were done, then: {known.message}"
                raise known from error
            raise
        freed = total.done * self.size if self.verb is Verb.UNLINK else 0
        return Done(total.done, freed, note, finished=not note)

    def _passes(self, total: Tally, progress: Progress) -> str:
        """Goes over all servers until nothing is left to do; says why where it stopped before."""
        again = _PASSES if self.redis.clustered or self.room else 1
        for turn in range(again):
            if turn and self.redis.clustered:
                _same_primaries(self.redis)
            before = replace(total)
            for server in self.redis.servers:
                note = self._one(server, total, progress)
                if note:
                    return note
            if total.done == before.done:
                break
        return "slots kept moving between nodes" if total.moved > before.moved else ""

    def _one(self, server: Server, total: Tally, progress: Progress) -> str:
        for tally in self.walk.slices(server, self.selection, self.verb, most=lambda: self._most(server)):
            total.add(tally)
            share = min(1.0, total.done / max(self.planned, 1))
            progress(f"{self.subject}: {total.done} of {self.planned} keys, {share:.0%}")
            if tally.cursor == b"0":
                return ""
            if self.walk.deadline.over:
                return self.walk.deadline.note
            note = self.walk.brake.wait(server, self.walk.deadline)
            if note:
                return note
        return ""

    def _most(self, server: Server) -> int:
        return ceil(self.room.over(server) / self.size) if self.room else 1_000_000_000


def _same_primaries(redis: Redis) -> None:
    """Raises M(conflict) when other nodes serve the cluster's slots than those that were connected."""
    primaries = primaries_of(redis.entry)
    if identity_of(primaries) != redis.target.identity:
        now = ", ".join(sorted(f"{node.host}:{node.port}" for node in primaries))
        words = f"the cluster has changed meanwhile: now {now} serve its slots"
        raise OpsError(Kind.CONFLICT, words, "Run again: it goes on from here.", code="topology", retryable=True)


# --- the plan ---


@dataclass(frozen=True, slots=True)
class Look:
    """The count: for each selection one tally a server; for each server the bytes that have to go, or None."""

    tallies: tuple[tuple[Tally, ...], ...]
    over: tuple[int, ...] | None
    population: int
    used: int
    expired: int

    def planned(self, at: int) -> int:
        """Keys of a selection that are expected to go: all, or as many as the room needs after those before it."""
        if self.over is None:
            return sum(tally.matched for tally in self.tallies[at])
        return sum(
            min(tally.matched, ceil(self._left(at, server, over) / _average(tally)))
            for server, (tally, over) in enumerate(zip(self.tallies[at], self.over, strict=True))
        )

    def _left(self, at: int, server: int, over: int) -> int:
        """Of the bytes that have to go on a server, those that are left when it is this selection's turn."""
        earlier = [tallies[server] for tallies in self.tallies[:at]]
        return max(0, over - sum(tally.matched * _average(tally) for tally in earlier))


def _average(tally: Tally) -> int:
    return tally.size(1) or _SMALLEST


def hold_true(redis: Redis, wanted: Wanted, params: Params) -> Plan:
    """The plan that makes the condition true; C(params) also say at which pace."""
    primary_only(redis)
    _all_slots(redis)
    _preflight(redis, wanted)
    walk = _walk(redis, params)
    look = _look(redis, walk, wanted)
    steps = tuple(filter(None, (_step(redis, walk, wanted, look, at) for at in range(len(wanted.names)))))
    totals = [_all(tallies) for tallies in look.tallies]
    found = {name: total.matched for name, total in zip(wanted.names, totals, strict=True)}
    left = {name: max(0, found[name] - look.planned(at)) for at, name in enumerate(wanted.names)}
    return Plan(
        target=redis.target,
        selector=wanted.selector,
        before={"keys": found},
        after={"keys": left},
        steps=steps,
        spared=_spared(wanted, totals),
        forecast=_forecast(redis, walk, wanted, look, sum(step.bytes for step in steps)) if steps else None,
        verify=_verify(redis, walk, wanted, look),
        facts={"keyspace": _facts(walk, wanted, look, totals)},
        exact=False,
        # A walk may meet a key twice while the server resizes its table.
        population=max(look.population, sum(step.count for step in steps)),
    )


def _all_slots(redis: Redis) -> None:
    """Keys of a failed primary would come back after a run that says there are none."""
    if not redis.clustered:
        return
    ranges = [word.partition("-") for node in primaries_of(redis.entry) for word in node.slots]
    missing = _SLOTS - sum(int(last or first) - int(first) + 1 for first, _dash, last in ranges)
    if missing:
        hint = "Look at CLUSTER INFO; wait for the failover, then run again."
        words = f"{redis.target.name}: {missing} slots of the cluster are not served"
        raise OpsError(Kind.PRECONDITION, words, hint, code="clusterdown", retryable=True)


def _preflight(redis: Redis, wanted: Wanted) -> None:
    """Asks for the right to write before anything is counted."""
    name = "PEXPIRE" if wanted.verb is Verb.CAP else "UNLINK"
    more: tuple[str, ...] = ("1",) if wanted.verb is Verb.CAP else ()
    for server in redis.servers:
        commands: list[Command] = [(name, example(chosen.pattern), *more) for chosen in wanted.selections]
        require(server, *commands)
    if wanted.selections[0].min_idle and "lfu" in redis.info.get("maxmemory_policy", ""):
        words = f"min_idle: {redis.target.name} counts uses (LFU), not idle time"
        raise OpsError(Kind.UNSUPPORTED, words, "Leave min_idle out, or use an LRU policy.", code="lfu")


def _walk(redis: Redis, params: Params) -> Walk:
    for name, least in (("batch", 1), ("slice_ms", 0.1), ("timeout", 0.001), ("rate", 1)):
        if params[name] is not None and params[name] < least:
            raise bad_parameter(name, f"{params[name]} is too small", f"Give at least {least}.")
    major = int((redis.target.version or "0").partition(".")[0] or 0)
    return Walk(
        way_of(redis.entry, clustered=redis.clustered, conditional=major >= 7),
        Pace(params["batch"], params["slice_ms"] / 1000, params["rate"], trip(redis.entry)),
        Deadline(params["timeout"]),
        Brake(parse_size(params["replica_lag_max"], "replica_lag_max")),
    )


def _look(redis: Redis, walk: Walk, wanted: Wanted) -> Look:
    over = tuple(Room(wanted.ratio).over(server) for server in redis.servers) if wanted.ratio else None
    expired = _expired(redis)
    if over is not None and not any(over):
        # Memory is below the ratio already: nothing has to be counted to know that nothing has to be done.
        tallies: tuple[tuple[Tally, ...], ...] = tuple((Tally(),) * len(over) for _chosen in wanted.selections)
    else:
        tallies = tuple(count(walk, redis.servers, chosen, _MEASURED) for chosen in wanted.selections)
    population = sum(server.call("DBSIZE") for server in redis.servers)
    used = sum(number(parse_info(server.call("INFO", "memory")), "used_memory") for server in redis.servers)
    return Look(tallies, over, population, used, _expired(redis) - expired)


def _expired(redis: Redis) -> int:
    return sum(number(parse_info(server.call("INFO", "stats")), "expired_keys") for server in redis.servers)


def _step(redis: Redis, walk: Walk, wanted: Wanted, look: Look, at: int) -> Step | None:
    planned = look.planned(at)
    if not planned:
        return None
    total = _all(look.tallies[at])
    room = Room(wanted.ratio) if wanted.ratio else None
    subject, size = wanted.subject(at), _average(total)
    capping = wanted.verb is Verb.CAP
    why = (
        "The longer TTLs are not kept: their owner sets them anew when it next writes the key."
        if capping
        else "Deleted keys are not kept: whoever owns the cache builds them again when they are next read."
    )
    act = Bulk(redis, walk, wanted.selections[at], wanted.verb, room, subject, planned, size)
    return Step(subject, wanted.words(at), act, Undo(why), planned, 0 if capping else total.size(planned))


def _spared(wanted: Wanted, totals: list[Tally]) -> tuple[Spared, ...]:
    return tuple(
        Spared(f"{name} and {text(kept.pattern)}", kept.what, number_)
        for name, chosen, total in zip(wanted.names, wanted.selections, totals, strict=True)
        for kept, number_ in zip(chosen.kept, total.spared, strict=False)
        if number_
    )


def _facts(walk: Walk, wanted: Wanted, look: Look, totals: list[Tally]) -> dict[str, Any]:
    patterns: list[dict[str, Any]] = [
        {
            "match": name,
            "matched": total.matched,
            "protected": sum(total.spared),
            "bytes_estimated": total.size(total.matched),
            "bytes_exact": total.measured == total.matched,
        }
        for name, total in zip(wanted.names, totals, strict=True)
    ]
    sums = {name: sum(one[name] for one in patterns) for name in ("matched", "protected", "bytes_estimated")}
    return {**sums, "expired_seen": look.expired, "method": walk.way.name, "patterns": patterns}


def _forecast(redis: Redis, walk: Walk, wanted: Wanted, look: Look, freed: int) -> Forecast:
    if wanted.verb is Verb.UNLINK:
        return Forecast("used_memory", "bytes", look.used, max(0, look.used - freed), lambda: used_memory(redis))
    above = sum(look.planned(at) for at in range(len(wanted.names)))
    return Forecast(
        "keys above the cap", "keys", above, 0, lambda: _left(redis, walk, wanted, range(len(wanted.names)))
    )


def _left(redis: Redis, walk: Walk, wanted: Wanted, places: range) -> int:
    fresh = replace(walk, deadline=Deadline(walk.deadline.seconds))
    return sum(_all(count(fresh, redis.servers, wanted.selections[at])).matched for at in places)


def _verify(redis: Redis, walk: Walk, wanted: Wanted, look: Look) -> Verify | None:
    """None of the keys is left, or memory is below the ratio. Its owners may have written a few anew meanwhile."""
    planned = [look.planned(at) for at in range(len(wanted.names))]
    if not any(planned):
        return None
    room = int(sum(planned) * DRIFT)

    def check() -> str:
        if wanted.ratio and not any(Room(wanted.ratio).over(server) for server in redis.servers):
            return ""
        left = _left(redis, walk, wanted, range(len(wanted.names)))
        return f"{left} keys are still there" if left > room else ""

    below = f", or memory below {wanted.ratio:.0%}" if wanted.ratio else ""
    return Verify(f"at most {room} keys, written meanwhile, match{below}", check, timeout=10.0)
