# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What Redis answers, made into values; and what its errors mean."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .._core.errors import Kind, OpsError


def text(reply: object) -> str:
    """A reply as text. Names of hosts, settings and users are ASCII; keys never come this way."""
    return reply.decode("utf-8", "backslashreplace") if isinstance(reply, bytes) else str(reply)


def parse_info(reply: object) -> dict[str, str]:
    """INFO's C(name:value) lines; a value may hold colons, a name may not."""
    pairs = (line.partition(":") for line in text(reply).splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def parse_fields(line: str, separator: str = " ") -> dict[str, str]:
    """C(name=value) fields, as in CLIENT LIST and in INFO's C(slave0) and C(db0)."""
    return {name: value for name, _, value in (field.partition("=") for field in line.split(separator))}


def pairs(reply: object) -> Iterator[tuple[str, str]]:
    """A flat list of names and values, as CONFIG GET answers in RESP2."""
    items = reply if isinstance(reply, (list, tuple)) else ()
    return ((text(name), text(value)) for name, value in zip(items[::2], items[1::2], strict=True))


def number(info: Mapping[str, str], name: str) -> int:
    """INFO's integer, 0 where this version has no such field."""
    value = info.get(name, "0")
    return int(value) if value.lstrip("-").isdigit() else 0


@dataclass(frozen=True, slots=True)
class Node:
    """A line of CLUSTER NODES."""

    id: str
    host: str
    port: int
    flags: frozenset[str]
    slots: tuple[str, ...]

    @property
    def primary(self) -> bool:
        return "master" in self.flags and not self.flags & {"fail", "handshake", "noaddr"}

    @property
    def myself(self) -> bool:
        return "myself" in self.flags


def parse_nodes(reply: str, own_host: str) -> tuple[Node, ...]:
    """CLUSTER NODES. A node that does not know its own address yet answers from C(own_host)."""
    return tuple(_node(line.split(), own_host) for line in reply.splitlines() if line.strip())


def _node(words: list[str], own_host: str) -> Node:
    address = words[1].partition("@")[0]
    host, _, port = address.rpartition(":")
    # Slots that are moving stand in brackets; whoever has them is settled by MOVED and ASK.
    slots = tuple(word for word in words[8:] if not word.startswith("["))
    return Node(words[0], host.strip("[]") or own_host, int(port), frozenset(words[2].split(",")), slots)


@dataclass(frozen=True, slots=True)
class _Meaning:
    kind: Kind
    code: str
    hint: str
    retryable: bool = False


#: The first word of an error reply, or the start of its text, and what it means. Order matters.
_REPLIES: tuple[tuple[str, _Meaning], ...] = (
    ("NOAUTH", _Meaning(Kind.AUTH, "noauth", "The server wants a password: set password, or REDIS_PASSWORD.")),
    ("WRONGPASS", _Meaning(Kind.AUTH, "wrongpass", "Check username and password; on Redis 6 and later both count.")),
    ("invalid username-password", _Meaning(Kind.AUTH, "wrongpass", "Check username and password.")),
    ("AUTH <password> called without", _Meaning(Kind.AUTH, "no_password_set", "The server has no password: leave it out.")),
    ("NOPERM", _Meaning(Kind.FORBIDDEN, "acl", "Grant the command to this user with ACL SETUSER, or use another user.")),
    ("LOADING", _Meaning(Kind.PRECONDITION, "loading", "The server is reading its data set. Wait until loading is 0.", True)),
    ("BUSY", _Meaning(Kind.PRECONDITION, "busy", "A script blocks the server. SCRIPT KILL ends it if it has not written yet.", True)),
    ("MISCONF", _Meaning(Kind.PRECONDITION, "misconf", "Snapshots fail, so writes are refused. Look at the disk and at rdb_last_bgsave_status.")),
    ("MASTERDOWN", _Meaning(Kind.PRECONDITION, "masterdown", "This replica has lost its primary and may not serve old data.", True)),
    ("CLUSTERDOWN", _Meaning(Kind.PRECONDITION, "clusterdown", "Slots are not served. Look at CLUSTER INFO and at the failed nodes.", True)),
    ("READONLY", _Meaning(Kind.PRECONDITION, "replica", "This is a replica. Aim at its primary.")),
    ("MOVED", _Meaning(Kind.PRECONDITION, "cluster_node", "This is a node of a cluster. Set cluster to auto.")),
    ("NOREPLICAS", _Meaning(Kind.PRECONDITION, "noreplicas", "Too few replicas are in step (min-replicas-to-write).", True)),
    ("OOM", _Meaning(Kind.EXHAUSTED, "oom", "The server is at maxmemory. Run redis_memory_full.")),
    ("max number of clients reached", _Meaning(Kind.EXHAUSTED, "maxclients", "No connection is free. Run redis_clients_flood from a host that is connected.", True)),
    ("DENIED", _Meaning(Kind.FORBIDDEN, "protected_mode", "Protected mode refuses this address. Set a password, or connect locally.")),
    ("unknown command", _Meaning(Kind.UNSUPPORTED, "unknown_command", "This server does not have the command, or its service forbids it.")),
    ("unknown subcommand", _Meaning(Kind.UNSUPPORTED, "unknown_command", "This server does not have the command, or its service forbids it.")),
    ("DB index is out of range", _Meaning(Kind.NOT_FOUND, "no_such_db", "Check db: the server has fewer databases.")),
    ("invalid DB index", _Meaning(Kind.NOT_FOUND, "no_such_db", "Check db: the server has fewer databases.")),
    ("Protocol error", _Meaning(Kind.UNREACHABLE, "protocol", "Something else than Redis answers there, or TLS is wanted.")),
)  # fmt: skip


def translate(error: Exception) -> OpsError | None:
    """An exception of the driver, or an error reply, as one of ours; None for a bug."""
    if isinstance(error, OpsError):
        return error
    if not type(error).__module__.startswith("redis.") and not isinstance(error, OSError):
        return None
    words = str(error)
    for start, meaning in _REPLIES:
        if words.removeprefix("ERR ").startswith(start) or (start.islower() and start in words.lower()):
            return OpsError(meaning.kind, words, meaning.hint, meaning.code, meaning.retryable)
    return _network(error, words) or OpsError(Kind.PRECONDITION, words, "The server refused; see its log.", "refused_command")


def _network(error: Exception, words: str) -> OpsError | None:
    """Failures below the protocol, told apart by the exception that lies underneath."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    if any(isinstance(link, ssl.SSLError) for link in chain) or "SSL" in words:
        return OpsError(Kind.UNREACHABLE, words, "Check tls, ca_cert, and the host name against the certificate.", "tls")
    if any(isinstance(link, socket.gaierror) for link in chain):
        return OpsError(Kind.UNREACHABLE, words, "The host name does not resolve. Check host.", "dns")
    if any(isinstance(link, ConnectionRefusedError) for link in chain):
        return OpsError(Kind.UNREACHABLE, words, "Nothing listens there. Check host and port, and whether Redis runs.", "refused", True)
    if any(isinstance(link, TimeoutError) or type(link).__name__ == "TimeoutError" for link in chain):
        return OpsError(Kind.TIMEOUT, words, "No answer in time: a firewall, a stopped server, or one long command.", "timeout", True)
    if type(error).__name__ in ("ConnectionError", "AuthenticationError", "InvalidResponse") or isinstance(error, OSError):
        return OpsError(Kind.UNREACHABLE, words, "The connection broke. See whether the server still runs.", "connection", True)
    return None
