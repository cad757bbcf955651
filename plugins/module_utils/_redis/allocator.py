# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Memory that the allocator holds without need, and what it can give back."""

from __future__ import annotations

from dataclasses import dataclass

from .._core.plan import Done, Finding, Progress, Severity, Step, Undo, Verify
from .._core.units import human
from .client import Redis, Server
from .facts import read_memory
from .health import FRAGMENTATION_FLOOR
from .model import Memory
from .replies import number, parse_info

#: What a purge must promise to be worth it: below this the allocator holds no more than it works with.
WORTH_IT = 4 * 1024 * 1024

#: Share of resident memory that jemalloc may keep for its own books. INFO counts it among the pages that hold nothing.
_BOOKS = 1 / 16


@dataclass(frozen=True, slots=True)
class Allocator:
    """Memory of one server, and how much of its resident part a purge can give back, in bytes."""

    server: Server
    memory: Memory
    name: str
    purgeable: int

    def fragmented(self, limit: float) -> bool:
        """Above the limit, by an amount that matters."""
        return self.memory.fragmentation_ratio > limit and self.memory.fragmentation_bytes >= FRAGMENTATION_FLOOR

    @property
    def can_give_back(self) -> bool:
        return self.name.startswith("jemalloc") and self.purgeable >= WORTH_IT


def look(server: Server, host_memory: int = 0) -> Allocator:
    """The allocator's own numbers, as of the server's latest tick (100 ms)."""
    info = parse_info(server.call("INFO"))
    memory = read_memory(server, info, host_memory)
    # Pages that hold nothing any more, of which the kernel may have taken some back already. What is
    # scattered inside used pages, no purge can free.
    empty = number(info, "allocator_rss_bytes") - int(memory.rss * _BOOKS)
    purgeable = max(0, min(empty, memory.fragmentation_bytes))
    return Allocator(server, memory, info.get("mem_allocator", ""), purgeable)


def purge_step(seen: Allocator) -> Step:
    name = seen.server.address.name

    def act(_progress: Progress) -> Done:
        seen.server.call("MEMORY", "PURGE")
        return Done(bytes=seen.purgeable)

    undo = Undo("Nothing was taken away that is in use: the allocator asks for memory again when it needs it.")
    words = f"Purge the allocator of {name} (about {human(seen.purgeable)})"
    return Step(f"allocator of {name}", words, act, undo, bytes=seen.purgeable)


def given_back(redis: Redis, limit: float, strict: bool) -> Verify:
    """That fragmentation is below the limit, or, unless strict, that the allocator has nothing left to give."""

    def check() -> str:
        seen = [look(server) for server in redis.servers]
        bad = [one for one in seen if one.fragmented(limit) and (strict or one.can_give_back)]
        return ", ".join(f"{one.server.address.name} is at {one.memory.fragmentation_ratio}" for one in bad)

    words = f"resident over used memory is at most {limit}" + ("" if strict else ", or nothing is left to give back")
    return Verify(words, check, interval=0.2, timeout=5.0)


def fragmentation_stays(redis: Redis, limit: float) -> tuple[Finding, ...]:
    """Where memory is still fragmented although the allocator has nothing to give back."""
    seen = [look(server) for server in redis.servers]
    advice = (
        "It is scattered inside pages in use. Set activedefrag to yes if the server can, or let a replica take over "
        "and restart this one."
    )
    return tuple(
        Finding(
            "redis.fragmentation_stays",
            Severity.WARNING,
            one.server.address.name,
            {
                "ratio": one.memory.fragmentation_ratio,
                "bytes": one.memory.fragmentation_bytes,
                "purgeable": one.purgeable,
                "allocator": one.name,
            },
            advice,
        )
        for one in seen
        if one.fragmented(limit) and not one.can_give_back
    )
