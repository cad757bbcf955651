# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reading a server's own numbers. Nothing here writes; what cannot be read is said, and skipped."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .._core.errors import OpsError
from .client import Server
from .errors import translate
from .host import memory_limit
from .model import (
    Clients,
    CommandCost,
    ConnectionGroup,
    Database,
    Facts,
    Latency,
    Memory,
    Persistence,
    Replica,
    Replication,
    SlowCommand,
)
from .replies import number, pairs, parse_fields, parse_info, text
from .sessions import Session, parse_sessions

#: Part of the host's memory that a limit may take: a fork for a snapshot copies what changes meanwhile.
BEARABLE_SHARE = 0.75

#: What an operator may need, to say beforehand what this user may do.
RIGHTS: Mapping[str, tuple[str, ...]] = {
    "eval": ("EVAL", "return 1", "0"),
    "unlink": ("UNLINK", "x"),
    "pexpire": ("PEXPIRE", "x", "1"),
    "config_get": ("CONFIG", "GET", "maxmemory"),
    "config_set": ("CONFIG", "SET", "maxmemory", "0"),
    "client_list": ("CLIENT", "LIST"),
    "client_kill": ("CLIENT", "KILL", "ID", "1"),
    "slowlog": ("SLOWLOG", "GET"),
    "memory_purge": ("MEMORY", "PURGE"),
}

_SECRET_SETTINGS = frozenset(
    {"requirepass", "masterauth", "tls-key-file-pass", "tls-client-key-file-pass", "primaryauth"}
)

#: Seconds without a command after which a connection counts as idle.
_IDLE = 60

_RATES = {
    "total_commands_processed": "commands",
    "evicted_keys": "evicted",
    "expired_keys": "expired",
    "keyspace_hits": "hits",
    "keyspace_misses": "misses",
    "rejected_connections": "rejected_connections",
    "total_net_output_bytes": "bytes_out",
}


@dataclass(frozen=True, slots=True)
class Look:
    """What to read. C(sample) is the seconds between the two readings that rates need; 0 reads none."""

    sections: frozenset[str]
    sample: float = 0.0
    top: int = 10
    host_memory: int = 0


@dataclass(frozen=True, slots=True)
class _Reading:
    server: Server
    info: Mapping[str, str]
    look: Look

    def server_config(self, name: str) -> dict[str, str]:
        """One setting, by its exact name."""
        return dict(pairs(self.server.call("CONFIG", "GET", name)))


def read_facts(server: Server, info: Mapping[str, str], look: Look) -> Facts:
    """One pass over the wanted sections; INFO, which most of them come from, is not read again."""
    reading = _Reading(server, info, look)
    seen: dict[str, Any] = {}
    unseen: dict[str, str] = {}
    for name in sorted(look.sections):
        try:
            seen[name] = _READERS[name](reading)
        except Exception as error:
            known = translate(error)
            if known is None:
                raise
            unseen[name] = known.message
    return Facts(**seen, unseen=unseen)


def fresh_memory(server: Server, host_memory: int = 0) -> Memory:
    """Memory as it is now."""
    return read_memory(server, parse_info(server.call("INFO")), host_memory)


def read_memory(server: Server, info: Mapping[str, str], host_memory: int = 0) -> Memory:
    """The memory section of INFO, with the host's own limit where it can be known."""
    used, rss = number(info, "used_memory"), number(info, "used_memory_rss")
    total = number(info, "total_system_memory")
    known = [
        size for size in (host_memory, total, memory_limit(server.address.host, number(info, "process_id"))) if size
    ]
    return Memory(
        used=used,
        counted=used - number(info, "mem_not_counted_for_evict"),
        peak=number(info, "used_memory_peak"),
        rss=rss,
        limit=number(info, "maxmemory"),
        policy=info.get("maxmemory_policy", "noeviction"),
        evictable=_evictable(info),
        dataset=number(info, "used_memory_dataset"),
        overhead=number(info, "used_memory_overhead"),
        fragmentation_ratio=round(rss / used, 3) if used else 1.0,
        fragmentation_bytes=max(0, rss - used),
        client_buffers=number(info, "mem_clients_normal"),
        replica_buffers=number(info, "mem_clients_slaves") + number(info, "mem_replication_backlog"),
        host_total=min(known, default=0),
        bearable=int(min(known, default=0) * BEARABLE_SHARE),
    )


def _evictable(info: Mapping[str, str]) -> float:
    """Share of the keys that the policy may evict."""
    policy = info.get("maxmemory_policy", "noeviction")
    if not policy.startswith("volatile"):
        return float(policy != "noeviction")
    databases = _keyspace(info).values()
    keys = sum(database.keys for database in databases)
    return sum(database.expiring for database in databases) / keys if keys else 0.0


def _memory(reading: _Reading) -> Memory:
    return read_memory(reading.server, reading.info, reading.look.host_memory)


def _clients(reading: _Reading) -> Clients:
    info = reading.info
    limit = number(info, "maxclients") or number(reading.server_config("maxclients"), "maxclients")
    return Clients(
        number(info, "connected_clients"), number(info, "blocked_clients"), limit, number(info, "rejected_connections")
    )


def _connections(reading: _Reading) -> tuple[ConnectionGroup, ...]:
    """Who holds the connections, the most first."""
    kinds: dict[tuple[str, str, str], list[Session]] = {}
    for session in parse_sessions(reading.server.call("CLIENT", "LIST"), reading.server.address.name):
        kinds.setdefault((session.name, session.user, str(session.ip or session.addr)), []).append(session)
    groups = (
        ConnectionGroup(
            *kind,
            connections=len(members),
            idle=sum(session.idle >= _IDLE for session in members),
            blocked=sum("b" in session.flags for session in members),
            subscribers=sum(session.type == "pubsub" for session in members),
        )
        for kind, members in kinds.items()
    )
    return tuple(sorted(groups, key=lambda group: -group.connections)[: reading.look.top])


def _replication(reading: _Reading) -> Replication:
    info = reading.info
    offset = number(info, "master_repl_offset")
    lines = [parse_fields(info[name], ",") for name in info if name.startswith("slave") and name[5:].isdigit()]
    replicas = tuple(
        Replica(f"{line['ip']}:{line['port']}", line["state"], max(0, offset - int(line["offset"]))) for line in lines
    )
    primary = f"{info['master_host']}:{info['master_port']}" if "master_host" in info else ""
    return Replication(info.get("role", ""), info.get("master_link_status", ""), primary, replicas)


def _persistence(reading: _Reading) -> Persistence:
    info = reading.info
    snapshot_ok = info.get("rdb_last_bgsave_status", "ok") == "ok"
    # Only a failed snapshot makes the setting matter, so only then is it worth a right to ask for it.
    stops = not snapshot_ok and reading.server_config("stop-writes-on-bgsave-error").popitem()[1] == "yes"
    return Persistence(
        loading=info.get("loading", "0") != "0",
        snapshot_ok=snapshot_ok,
        append_ok=info.get("aof_last_write_status", "ok") == "ok",
        unsaved_changes=number(info, "rdb_changes_since_last_save"),
        stops_writes=stops,
    )


def _databases(reading: _Reading) -> dict[str, Database]:
    return _keyspace(reading.info)


def _keyspace(info: Mapping[str, str]) -> dict[str, Database]:
    """INFO's C(db<n>) lines."""
    lines = {name: parse_fields(value, ",") for name, value in info.items() if re.fullmatch(r"db\d+", name)}
    return {
        name: Database(int(line["keys"]), int(line["expires"]), int(line["avg_ttl"]) / 1000)
        for name, line in lines.items()
    }


def _slow(reading: _Reading) -> tuple[SlowCommand, ...]:
    entries = reading.server.call("SLOWLOG", "GET", reading.look.top)
    found = [
        SlowCommand(
            int(entry[1]),
            int(entry[2]),
            text(entry[3][0]).upper() if entry[3] else "",
            len(entry[3]) - 1,
            text(entry[5]) if len(entry) > 5 else "",
        )
        for entry in entries
    ]
    return tuple(sorted(found, key=lambda slow: -slow.microseconds))


def _costs(reading: _Reading) -> tuple[CommandCost, ...]:
    lines = parse_info(reading.server.call("INFO", "commandstats"))
    costs = [
        CommandCost(name.removeprefix("cmdstat_"), int(line["calls"]), int(line["usec"]))
        for name, line in ((name, parse_fields(value, ",")) for name, value in lines.items())
    ]
    return tuple(sorted(costs, key=lambda cost: -cost.microseconds)[: reading.look.top])


def _latency(reading: _Reading) -> tuple[Latency, ...]:
    return tuple(
        Latency(text(event), int(at), int(latest), int(worst))
        for event, at, latest, worst, *_more in reading.server.call("LATENCY", "LATEST")
    )


def _rates(reading: _Reading) -> dict[str, float] | None:
    """Per second, over C(sample) seconds: totals since the start say nothing about now."""
    seconds = reading.look.sample
    if not seconds:
        return None
    first = parse_info(reading.server.call("INFO", "stats"))
    time.sleep(seconds)
    second = parse_info(reading.server.call("INFO", "stats"))
    return {name: round((number(second, field) - number(first, field)) / seconds, 3) for field, name in _RATES.items()}


def _settings(reading: _Reading) -> dict[str, str]:
    """All settings but the secret ones."""
    found = dict(pairs(reading.server.call("CONFIG", "GET", "*")))
    return {name: value for name, value in found.items() if name not in _SECRET_SETTINGS}


def _rights(reading: _Reading) -> dict[str, bool]:
    """What this user may do, asked and not tried. Needs Redis 7.0 and the right to ask."""
    user = reading.server.call("ACL", "WHOAMI")
    replies = reading.server.batch([("ACL", "DRYRUN", user, *command) for command in RIGHTS.values()])
    if isinstance(replies[0], OpsError):
        raise replies[0]
    return {name: reply == b"OK" for name, reply in zip(RIGHTS, replies, strict=True)}


_READERS: Mapping[str, Callable[[_Reading], Any]] = {
    "memory": _memory,
    "clients": _clients,
    "connections": _connections,
    "replication": _replication,
    "persistence": _persistence,
    "databases": _databases,
    "slow": _slow,
    "costs": _costs,
    "latency": _latency,
    "rates": _rates,
    "settings": _settings,
    "rights": _rights,
}

#: The names under which sections are asked for.
SECTIONS = tuple(_READERS)
