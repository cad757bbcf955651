# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Findings follow from numbers; look-alikes get other findings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._redis.health import Thresholds, findings
from ansible_collections.sre.runbooks.plugins.module_utils._redis.model import (
    Clients,
    Facts,
    Latency,
    Memory,
    Persistence,
    Replica,
    Replication,
    SlowCommand,
)

MB = 1 << 20
CALM = Memory(
    used=30 * MB,
    counted=30 * MB,
    peak=30 * MB,
    rss=33 * MB,
    limit=100 * MB,
    policy="noeviction",
    evictable=0.0,
    dataset=25 * MB,
    overhead=5 * MB,
    fragmentation_ratio=1.1,
    fragmentation_bytes=3 * MB,
    client_buffers=0,
    replica_buffers=0,
    host_total=1000 * MB,
    bearable=750 * MB,
)


def ids(facts: Facts) -> dict[str, str]:
    found = findings(facts, Thresholds(), "s")
    return {finding.id: finding.severity.name for finding in found}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {}),
        ({"counted": 99 * MB}, {"redis.memory_full": "CRITICAL"}),
        ({"counted": 85 * MB}, {"redis.memory_high": "WARNING"}),
        # A cache that evicts is meant to run full.
        ({"counted": 99 * MB, "policy": "allkeys-lru", "evictable": 1.0}, {"redis.memory_high": "INFO"}),
        # One whose policy finds nothing to evict is not.
        ({"counted": 99 * MB, "policy": "volatile-lru", "evictable": 0.001}, {"redis.memory_full": "CRITICAL"}),
        ({"limit": 0}, {"redis.limit_missing": "WARNING"}),
        ({"limit": 900 * MB}, {"redis.limit_above_host": "WARNING"}),
        ({"fragmentation_ratio": 2.0, "fragmentation_bytes": 30 * MB}, {"redis.fragmentation": "INFO"}),
        # It matters once what is resident is more than the host can bear.
        (
            {"fragmentation_ratio": 2.0, "fragmentation_bytes": 30 * MB, "rss": 60 * MB, "bearable": 60 * MB},
            {"redis.fragmentation": "WARNING", "redis.limit_above_host": "WARNING"},
        ),
        # An almost empty server is always "fragmented".
        ({"fragmentation_ratio": 7.0, "fragmentation_bytes": 6 * MB}, {}),
        ({"client_buffers": 40 * MB}, {"redis.client_buffers": "WARNING"}),
        ({"replica_buffers": 40 * MB}, {"redis.replica_buffers": "WARNING"}),
    ],
)
def test_memory(change: dict[str, object], expected: dict[str, str]) -> None:
    assert ids(Facts(memory=replace(CALM, **change))) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("connected", "expected"),
    [(10, {}), (85, {"redis.clients_high": "WARNING"}), (99, {"redis.clients_high": "CRITICAL"})],
)
def test_clients(connected: int, expected: dict[str, str]) -> None:
    assert ids(Facts(clients=Clients(connected, 0, 100, 0))) == expected


def test_replication_and_persistence() -> None:
    replication = Replication("master", "", "", (Replica("r:1", "online", 64 * MB), Replica("r:2", "online", 10)))
    assert ids(Facts(replication=replication)) == {"redis.replica_lagging": "WARNING"}
    assert ids(Facts(replication=Replication("slave", "down", "p:1", ()))) == {"redis.replica_link_down": "CRITICAL"}
    assert ids(Facts(persistence=Persistence(False, False, True, 9, True))) == {"redis.snapshot_failed": "CRITICAL"}


def test_slowness_names_commands_and_never_their_arguments() -> None:
    slow = (SlowCommand(1, 50_000, "HGETALL", 1, ""), SlowCommand(2, 900, "GET", 1, ""))
    (finding,) = findings(Facts(slow=slow), Thresholds(), "s")
    assert finding.evidence == {"entries": 1, "worst_ms": 50.0, "commands": ["HGETALL"]}
    assert ids(Facts(latency=(Latency("fork", 1, 80, 120),))) == {"redis.latency_spike": "WARNING"}


def test_what_could_not_be_seen_is_said() -> None:
    assert ids(Facts(unseen={"settings": "NOPERM"})) == {"redis.unseen.settings": "INFO"}
