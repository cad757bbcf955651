# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From facts to findings: what is wrong with a server, judged by its own numbers alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .._core.plan import Finding, Severity
from .model import Clients, CommandCost, Facts, Latency, Memory, Persistence, Replication, SlowCommand

#: Below this, fragmentation is noise: an almost empty server shows a ratio of ten.
FRAGMENTATION_FLOOR = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where findings begin. Ratios are fractions of 1, lag is in bytes, slow in milliseconds."""

    memory_ratio: float = 0.8
    clients_ratio: float = 0.8
    fragmentation: float = 1.5
    buffers_share: float = 0.25
    replica_lag: int = 10 * 1024 * 1024
    slow_ms: float = 10.0


def findings(facts: Facts, limits: Thresholds, subject: str) -> tuple[Finding, ...]:
    """Every finding that the sections seen can support."""
    found: list[Finding] = []
    if facts.memory:
        found += _memory(facts.memory, limits, subject)
    if facts.clients:
        found += _clients(facts.clients, limits, subject)
    if facts.replication:
        found += _replication(facts.replication, limits, subject)
    if facts.persistence:
        found += _persistence(facts.persistence, subject)
    found += _slowness(facts.slow or (), facts.costs or (), facts.latency or (), limits, subject)
    found += _unseen(facts.unseen or {}, subject)
    return tuple(found)


def _memory(memory: Memory, limits: Thresholds, subject: str) -> Iterator[Finding]:
    use: dict[str, Any] = {
        "ratio": round(memory.ratio, 4),
        "counted": memory.counted,
        "limit": memory.limit,
        "policy": memory.policy,
    }
    if memory.limit and memory.ratio >= 0.97 and not memory.evicts:
        yield Finding("redis.memory_full", Severity.CRITICAL, subject, use, "Run redis_memory_full.")
    elif memory.limit and memory.ratio >= limits.memory_ratio:
        # A cache that evicts is meant to run full; one that cannot is on its way to refusing writes.
        severity = Severity.INFO if memory.evicts else Severity.WARNING
        yield Finding("redis.memory_high", severity, subject, use, "Run redis_memory_full.")
    if not memory.limit:
        advice = "Set maxmemory: without it the kernel decides when this server ends."
        yield Finding("redis.limit_missing", Severity.WARNING, subject, {"bearable": memory.bearable}, advice)
    elif memory.bearable and memory.limit > memory.bearable:
        host = {"limit": memory.limit, "bearable": memory.bearable, "host_total": memory.host_total}
        yield Finding("redis.limit_above_host", Severity.WARNING, subject, host, "Lower maxmemory, or add memory.")
    yield from waste(memory, limits, subject)


def waste(memory: Memory, limits: Thresholds, subject: str) -> Iterator[Finding]:
    """Memory that holds no data.

    Fragmentation follows whatever frees much at once, and matters when it takes memory that the host lacks.
    """
    if memory.fragmentation_ratio >= limits.fragmentation and memory.fragmentation_bytes >= FRAGMENTATION_FLOOR:
        evidence = {"ratio": memory.fragmentation_ratio, "bytes": memory.fragmentation_bytes, "rss": memory.rss}
        severity = Severity.WARNING if 0 < memory.bearable <= memory.rss else Severity.INFO
        yield Finding("redis.fragmentation", severity, subject, evidence, "Purge the allocator (redis_memory).")
    base = memory.limit or memory.used
    for name, size, advice in (
        ("client", memory.client_buffers, "Find who does not read its replies: redis_clients_flood."),
        ("replica", memory.replica_buffers, "A replica or the backlog lags: look at replication."),
    ):
        if base and size / base >= limits.buffers_share:
            evidence = {"bytes": size, "share": round(size / base, 4)}
            yield Finding(f"redis.{name}_buffers", Severity.WARNING, subject, evidence, advice)


def _clients(clients: Clients, limits: Thresholds, subject: str) -> Iterator[Finding]:
    if clients.limit and clients.ratio >= limits.clients_ratio:
        severity = Severity.CRITICAL if clients.ratio >= 0.97 else Severity.WARNING
        evidence = {"connected": clients.connected, "limit": clients.limit, "rejected": clients.rejected}
        yield Finding("redis.clients_high", severity, subject, evidence, "Run redis_clients_flood.")


def _replication(replication: Replication, limits: Thresholds, subject: str) -> Iterator[Finding]:
    if replication.role == "slave" and replication.link != "up":
        evidence = {"primary": replication.primary, "link": replication.link}
        yield Finding(
            "redis.replica_link_down", Severity.CRITICAL, subject, evidence, "Look at the primary and the network."
        )
    for replica in replication.replicas:
        if replica.state != "online" or replica.lag > limits.replica_lag:
            seen = {"replica": replica.address, "state": replica.state, "lag": replica.lag}
            yield Finding("redis.replica_lagging", Severity.WARNING, subject, seen, "Wait before any bulk work.")


def _persistence(persistence: Persistence, subject: str) -> Iterator[Finding]:
    if persistence.loading:
        yield Finding("redis.loading", Severity.CRITICAL, subject, {}, "Wait: the data set is being read.")
    if not persistence.snapshot_ok:
        severity = Severity.CRITICAL if persistence.stops_writes else Severity.WARNING
        evidence = {"stops_writes": persistence.stops_writes, "unsaved_changes": persistence.unsaved_changes}
        yield Finding("redis.snapshot_failed", severity, subject, evidence, "Look at the disk, and at fork in the log.")
    if not persistence.append_ok:
        yield Finding(
            "redis.append_failed", Severity.CRITICAL, subject, {}, "Look at the disk of the append-only file."
        )


def _slowness(
    slow: tuple[SlowCommand, ...],
    costs: tuple[CommandCost, ...],
    latency: tuple[Latency, ...],
    limits: Thresholds,
    subject: str,
) -> Iterator[Finding]:
    worst = [entry for entry in slow if entry.microseconds >= limits.slow_ms * 1000]
    if worst:
        commands = sorted({entry.command for entry in worst})
        evidence = {"entries": len(worst), "worst_ms": worst[0].microseconds / 1000, "commands": commands}
        advice = "Every other client waits while one of these runs: page them, or move them to a replica."
        yield Finding("redis.slow_commands", Severity.WARNING, subject, evidence, advice)
    whole = [cost for cost in costs if cost.command.partition("|")[0] in _WHOLE]
    if whole:
        evidence = {cost.command: {"calls": cost.calls, "per_call_us": round(cost.per_call, 1)} for cost in whole}
        yield Finding(
            "redis.whole_keyspace_commands", Severity.WARNING, subject, evidence, "Use SCAN and its kin instead."
        )
    for event in latency:
        if event.worst >= limits.slow_ms:
            evidence = {"event": event.event, "worst_ms": event.worst, "latest_ms": event.latest}
            yield Finding("redis.latency_spike", Severity.WARNING, subject, evidence, _EVENTS.get(event.event, ""))


_WHOLE = frozenset({"keys", "flushall", "flushdb", "monitor", "sort"})

_EVENTS = {
    "fork": "Snapshots fork: less memory, or transparent huge pages off.",
    "aof-fsync-always": "The disk is slow: appendfsync everysec.",
    "expire-cycle": "Many keys expire at once: spread their TTLs.",
    "eviction-cycle": "Evictions run all the time: the limit is too low for the data.",
    "command": "One command took that long: see redis.slow_commands.",
}


def _unseen(unseen: Mapping[str, str], subject: str) -> Iterator[Finding]:
    for section, why in sorted(unseen.items()):
        advice = "Give this user the right, or take what is missing from the service's console."
        yield Finding(f"redis.unseen.{section}", Severity.INFO, subject, {"why": why}, advice)
