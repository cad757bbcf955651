# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Conditions on a server's memory: no waste above a ratio, no more in use than a share of the limit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .._core.errors import Kind, OpsError, bad_parameter
from .._core.plan import Aftermath, Finding, Forecast, Step, Verify
from .._core.spec import Params
from .._core.units import human, parse_size
from . import allocator
from .client import Redis, require
from .configure import Change, Persistence, not_persisted, persisted, replicas_differ, steps
from .facts import fresh_memory
from .limits import needed_limit, refuse_unbearable


@dataclass(frozen=True, slots=True)
class Condition:
    """What is asked for; a ratio of 0 asks nothing. Sizes are bytes."""

    fragmentation_max: float
    strict: bool
    ratio: float
    ceiling: int
    host_memory: int
    rewrite: str

    @classmethod
    def of(cls, params: Params) -> Condition:
        ratio, fragmentation = params["ratio"] or 0.0, params["fragmentation_max"] or 0.0
        if ratio and not 0 < ratio < 1:
            raise bad_parameter("ratio", f"{ratio} is not a share", "Give a number between 0 and 1, such as 0.8.")
        if fragmentation and fragmentation < 1:
            raise bad_parameter("fragmentation_max", f"{fragmentation} cannot be reached", "Give a number from 1.")
        if not ratio and not fragmentation:
            raise bad_parameter("ratio", "nothing is asked for", "Give fragmentation_max, or ratio and limit_ceiling.")
        ceiling, host = params["limit_ceiling"], params["host_memory"]
        if ratio and not ceiling:
            raise bad_parameter("limit_ceiling", "it is needed with ratio", "Say how far the limit may be raised.")
        return cls(
            fragmentation,
            params["strict"],
            ratio,
            parse_size(ceiling, "limit_ceiling") if ceiling else 0,
            parse_size(host, "host_memory") if host else 0,
            params["rewrite"],
        )


@dataclass(frozen=True, slots=True)
class Relief:
    """What a deployment needs for its condition to hold."""

    redis: Redis
    condition: Condition
    seen: tuple[allocator.Allocator, ...]
    purges: tuple[allocator.Allocator, ...]
    raises: tuple[Change, ...]
    persistence: Persistence

    def steps(self) -> tuple[Step, ...]:
        for one in self.purges:
            require(one.server, ("MEMORY", "PURGE"))
        purges = tuple(allocator.purge_step(one) for one in self.purges)
        return (*purges, *steps(self.redis, self.raises, self.persistence))

    def diff(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Before and after, by server."""
        before: dict[str, Any] = {}
        after: dict[str, Any] = {}
        for one in self.purges:
            name = one.server.address.name
            before[name] = {"purgeable": "yes"}
            after[name] = {"purgeable": "no"}
        for change in self.raises:
            name = change.server.address.name
            before.setdefault(name, {})["maxmemory"] = change.before
            after.setdefault(name, {})["maxmemory"] = change.after
        return before, after

    def forecast(self) -> Forecast | None:
        """The share of the limit in use where that is asked for, else the resident memory."""
        redis, condition = self.redis, self.condition
        if self.raises:
            new = int(self.raises[0].after)
            worst = max(one.memory.ratio for one in self.seen)
            promised = max(one.memory.counted for one in self.seen) / new
            return Forecast("memory_ratio", "share of maxmemory", worst, promised, lambda: _worst(redis, condition))
        if not self.purges:
            return None
        resident = sum(one.memory.rss for one in self.seen)
        less = sum(one.purgeable for one in self.purges)
        return Forecast("memory_rss", "bytes", resident, resident - less, lambda: _resident(redis))

    def verify(self) -> Verify:
        asked = []
        if self.condition.fragmentation_max:
            asked.append(allocator.given_back(self.redis, self.condition.fragmentation_max, self.condition.strict))
        if self.condition.ratio:
            asked.append(_below(self.redis, self.condition))
        return _all_of(asked)

    def facts(self) -> dict[str, Any]:
        named = {one.server.address.name: one.memory.as_dict() for one in self.seen}
        nodes = {"nodes": named} if self.redis.clustered else {}
        done = persisted(self.raises, self.persistence)
        return {"memory": named[self.redis.entry.address.name], "persisted": done, **nodes}

    def findings(self) -> tuple[Finding, ...]:
        """What can be known before a step is taken."""
        limit = self.condition.fragmentation_max
        stays = allocator.fragmentation_stays(self.redis, limit) if limit and not self.purges else ()
        return (*stays, *replicas_differ(self.redis, self.raises))

    def aftermath(self) -> Aftermath:
        seen = tuple(allocator.look(one.server, self.condition.host_memory) for one in self.seen)
        now = Relief(self.redis, self.condition, seen, self.purges, self.raises, self.persistence)
        limit = self.condition.fragmentation_max
        stays = allocator.fragmentation_stays(self.redis, limit) if limit and self.purges else ()
        return Aftermath(now.facts(), (*stays, *not_persisted(self.redis, self.persistence)))


def needed_relief(redis: Redis, condition: Condition) -> Relief:
    """Looks at every server. Raises guard_refused where the limit would have to be higher than it may."""
    seen = tuple(allocator.look(server, condition.host_memory) for server in redis.servers)
    limit = condition.fragmentation_max
    purges = tuple(one for one in seen if limit and one.fragmented(limit) and one.can_give_back)
    raises = tuple(_raises(seen, condition)) if condition.ratio else ()
    return Relief(redis, condition, seen, purges, raises, Persistence(condition.rewrite))


def _raises(seen: Iterable[allocator.Allocator], condition: Condition) -> Iterable[Change]:
    """On a cluster all primaries get the same limit: slots move, and with them the data."""
    limited = [one for one in seen if one.memory.limit]
    if not any(one.memory.over(condition.ratio) for one in limited):
        return
    new = max(needed_limit(one.memory, condition.ratio) for one in limited)
    if new > condition.ceiling:
        worst = max(limited, key=lambda one: one.memory.counted)
        text = (
            f"{worst.server.address.name}: {human(worst.memory.counted)} in use would need a limit of {human(new)}, "
            f"more than limit_ceiling {human(condition.ceiling)}"
        )
        hint = "Nothing was changed. Free memory first (redis_keyspace), or raise limit_ceiling if the host bears it."
        raise OpsError(Kind.GUARD_REFUSED, text, hint, code="limit_ceiling")
    for one in limited:
        if one.memory.limit < new:
            refuse_unbearable(one.server, new, one.memory)
            yield Change(one.server, "maxmemory", str(one.memory.limit), str(new))


def _below(redis: Redis, condition: Condition) -> Verify:
    def check() -> str:
        memories: Mapping[str, Any] = {server.address.name: fresh_memory(server) for server in redis.servers}
        return ", ".join(
            f"{name} uses {memory.ratio:.1%} of its limit"
            for name, memory in memories.items()
            if memory.over(condition.ratio)
        )

    return Verify(f"at most {condition.ratio:.0%} of maxmemory is in use", check, timeout=5.0)


def _worst(redis: Redis, condition: Condition) -> float:
    return round(max(fresh_memory(server, condition.host_memory).ratio for server in redis.servers), 4)


def _resident(redis: Redis) -> float:
    return sum(fresh_memory(server).rss for server in redis.servers)


def _all_of(asked: list[Verify]) -> Verify:
    def check() -> str:
        return "; ".join(filter(None, (one.check() for one in asked)))

    words = " and ".join(one.words for one in asked)
    return Verify(words, check, interval=0.2, timeout=max(one.timeout for one in asked))
