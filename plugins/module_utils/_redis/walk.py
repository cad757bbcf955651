# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Going through a keyspace without hurting anybody: how large a slice, when to wait, when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .client import Server
from .facts import Look, read_facts
from .replies import parse_info
from .slices import Order, Selection, Tally, Verb, Way

#: The first slice is small, because nothing is known of the server yet.
_FIRST = 100
_SMALLEST = 10

#: Seconds between two looks at the replicas, and between two looks while waiting for them.
_LOOK = 0.25


@dataclass(slots=True)
class Pace:
    """Fits the slice to the server: as many keys as it handles in C(target) seconds, at most C(largest).

    C(trip) is the time of an empty round trip, which says nothing about the server's work.
    C(rate) is keys acted on a second, None without a limit.
    """

    largest: int = 1000
    target: float = 0.005
    rate: int | None = None
    trip: float = 0.0
    size: int = 0
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self.size = self.size or min(_FIRST, self.largest)
        if self.rate:
            # A slice is never more than a tenth of a second's worth, so that a rate is not a row of bursts.
            self.largest = max(1, min(self.largest, self.rate // 10))
            self.size = min(self.size, self.largest)

    def took(self, seconds: float, acted: int) -> None:
        """Learns from a slice, and waits where the rate asks for it."""
        work = max(seconds - self.trip, 1e-6)
        factor = min(2.0, self.target / work)
        # Between half of the target and the target the size is right; noise must not shake it.
        if factor < 1 or factor == 2.0:
            self.size = max(min(_SMALLEST, self.largest), min(self.largest, int(self.size * factor)))
        if self.rate and acted:
            self.sleep(max(0.0, acted / self.rate - seconds))


@dataclass(slots=True)
class Deadline:
    """Seconds for the whole of the bulk work."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    started: float = 0.0

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def over(self) -> bool:
        return self.clock() - self.started >= self.seconds

    @property
    def note(self) -> str:
        return f"deadline of {self.seconds:g} s"


@dataclass(slots=True)
class Brake:
    """Waits while a replica is too many bytes behind: a burst of deletes must not cost the replica its link."""

    lag_max: int
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    _looked: float = field(default=float("-inf"))

    def wait(self, server: Server, deadline: Deadline) -> str:
        """An empty string once the replicas are in step; at the deadline, why it stopped."""
        while self.clock() - self._looked >= _LOOK:
            self._looked = self.clock()
            lag = self._lag(server)
            if lag <= self.lag_max:
                return ""
            if deadline.over:
                return f"{deadline.note}, a replica is {lag} bytes behind"
            self.sleep(_LOOK)
        return ""

    def _lag(self, server: Server) -> int:
        info = parse_info(server.call("INFO", "replication"))
        seen = read_facts(server, info, Look(frozenset({"replication"}))).replication
        return max((replica.lag for replica in seen.replicas if replica.state == "online"), default=0) if seen else 0


@dataclass(frozen=True, slots=True)
class Walk:
    """The rules of one run through the keyspace, whatever is done on the way."""

    way: Way
    pace: Pace
    deadline: Deadline
    brake: Brake

    def slices(
        self,
        server: Server,
        selection: Selection,
        verb: Verb,
        *,
        measure: int = 0,
        most: Callable[[], int] = lambda: 1_000_000_000,
    ) -> Iterator[Tally]:
        """Every slice of one server; ends early at the deadline (the last cursor is then not 0).

        C(most) says before each slice on how many keys it may act; 0 ends the walk.
        """
        cursor = b"0"
        while True:
            allowed = most()
            if not allowed:
                return
            order = Order(verb, self.pace.size, allowed, measure)
            began = time.monotonic()
            tally = self.way.slice(server, selection, order, cursor)
            self.pace.took(time.monotonic() - began, tally.done)
            cursor = tally.cursor
            yield tally
            if cursor == b"0" or self.deadline.over:
                return


def trip(server: Server, tries: int = 5) -> float:
    """Seconds of the fastest empty round trip."""
    times = []
    for _turn in range(tries):
        began = time.monotonic()
        server.call("PING")
        times.append(time.monotonic() - began)
    return min(times)
