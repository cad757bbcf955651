# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is known of a Redis, as values. Sizes are bytes, durations seconds, ratios fractions of 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: Share of keys under which a policy that evicts keys with a TTL is as good as none.
_ENOUGH = 0.01


@dataclass(frozen=True, slots=True)
class Memory:
    """INFO memory, put in the words of the limit.

    C(counted) is what the server compares with C(limit): used memory without the replicas' output
    buffers. C(evictable) is the share of keys that the policy may evict. C(bearable) is the largest
    limit that the host, or the container, can stand; 0 if unknown.
    """

    used: int
    counted: int
    peak: int
    rss: int
    limit: int
    policy: str
    evictable: float
    dataset: int
    overhead: int
    fragmentation_ratio: float
    fragmentation_bytes: int
    client_buffers: int
    replica_buffers: int
    host_total: int
    bearable: int

    @property
    def ratio(self) -> float:
        """Share of the limit in use; 0 without a limit."""
        return self.counted / self.limit if self.limit else 0.0

    @property
    def evicts(self) -> bool:
        """Whether the policy makes room: C(volatile-*) does not where hardly a key has a TTL."""
        return self.evictable >= _ENOUGH

    def over(self, ratio: float) -> int:
        """Bytes that have to go before C(ratio) of the limit is in use; 0 if none."""
        return max(0, self.counted - int(self.limit * ratio)) if self.limit else 0

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": round(self.ratio, 4)}


@dataclass(frozen=True, slots=True)
class Clients:
    """INFO clients with what refuses new ones."""

    connected: int
    blocked: int
    limit: int
    rejected: int

    @property
    def ratio(self) -> float:
        return self.connected / self.limit if self.limit else 0.0


@dataclass(frozen=True, slots=True)
class ConnectionGroup:
    """Connections that share name, user and host. C(idle) have sent nothing for a minute."""

    name: str
    user: str
    host: str
    connections: int
    idle: int
    blocked: int
    subscribers: int


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica as its primary sees it. C(lag) is in bytes of the replication stream."""

    address: str
    state: str
    lag: int


@dataclass(frozen=True, slots=True)
class Replication:
    """INFO replication. C(link) is empty on a primary."""

    role: str
    link: str
    primary: str
    replicas: tuple[Replica, ...]

    @property
    def online(self) -> int:
        return sum(replica.state == "online" for replica in self.replicas)


@dataclass(frozen=True, slots=True)
class Persistence:
    """INFO persistence: what makes the server refuse writes, or not answer yet."""

    loading: bool
    snapshot_ok: bool
    append_ok: bool
    unsaved_changes: int
    stops_writes: bool


@dataclass(frozen=True, slots=True)
class Database:
    """A line of INFO keyspace. C(average_ttl) is in seconds."""

    keys: int
    expiring: int
    average_ttl: float


@dataclass(frozen=True, slots=True)
class SlowCommand:
    """A SLOWLOG entry without its arguments: they are payload. C(microseconds) is time in the server."""

    at: int
    microseconds: int
    command: str
    arguments: int
    client: str


@dataclass(frozen=True, slots=True)
class CommandCost:
    """A line of INFO commandstats."""

    command: str
    calls: int
    microseconds: int

    @property
    def per_call(self) -> float:
        return self.microseconds / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True)
class Latency:
    """A line of LATENCY LATEST, in milliseconds."""

    event: str
    at: int
    latest: int
    worst: int


@dataclass(frozen=True, slots=True)
class Facts:
    """One look at a server. A section that could not be seen is None, and C(unseen) says why."""

    memory: Memory | None = None
    clients: Clients | None = None
    connections: tuple[ConnectionGroup, ...] | None = None
    replication: Replication | None = None
    persistence: Persistence | None = None
    databases: Mapping[str, Database] | None = None
    slow: tuple[SlowCommand, ...] | None = None
    costs: tuple[CommandCost, ...] | None = None
    latency: tuple[Latency, ...] | None = None
    rates: Mapping[str, float] | None = None
    settings: Mapping[str, str] | None = None
    rights: Mapping[str, bool] | None = None
    unseen: Mapping[str, str] | None = None


def as_facts(facts: Facts) -> dict[str, Any]:
    """The sections that were seen, as plain values."""
    found = asdict(facts)
    if facts.memory:
        found["memory"] = facts.memory.as_dict()
    if facts.clients:
        found["clients"]["ratio"] = round(facts.clients.ratio, 4)
    if facts.replication:
        found["replication"]["online"] = facts.replication.online
    return {name: value for name, value in found.items() if value is not None}
