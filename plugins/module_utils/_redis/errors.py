# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the driver's exceptions and the server's error replies mean."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping

from .._core.errors import Kind, Meaning, OpsError, later

_NO_COMMAND = Meaning(
    Kind.UNSUPPORTED, "unknown_command", "This server does not have the command, or its service forbids it."
)
_NO_DB = Meaning(Kind.NOT_FOUND, "no_such_db", "Check db: the server has fewer databases.")
_WRONG = Meaning(Kind.AUTH, "wrongpass", "Check username and password; from Redis 6 on both count.")
_PRE = Kind.PRECONDITION
_MOVING = later(_PRE, "slot_moving", "A slot is on its way to another node. Run again when it has arrived.")
_NO_RIGHT = Meaning(Kind.FORBIDDEN, "acl", "Grant the command to this user with ACL SETUSER, or use another user.")

#: How the text of an error reply starts, without a leading C(ERR), and what it means.
_REPLIES: Mapping[str, Meaning] = {
    "NOAUTH": Meaning(Kind.AUTH, "noauth", "The server wants a password: set password, or REDIS_PASSWORD."),
    "WRONGPASS": _WRONG,
    "invalid username-password": _WRONG,
    "AUTH <password> called without": Meaning(
        Kind.AUTH, "no_password_set", "The server has no password: leave it out."
    ),
    "NOPERM": _NO_RIGHT,
    "The user executing the script can't": _NO_RIGHT,
    "LOADING": later(_PRE, "loading", "The server is reading its data set. Wait until loading is 0."),
    "BUSY": later(_PRE, "busy", "A script blocks the server. SCRIPT KILL ends it if it has not written yet."),
    "MISCONF": Meaning(_PRE, "misconf", "Snapshots fail, so writes are refused. Look at the server's disk and log."),
    "MASTERDOWN": later(_PRE, "masterdown", "This replica has lost its primary and may not serve old data."),
    "CLUSTERDOWN": later(_PRE, "clusterdown", "Slots are not served. Look at CLUSTER INFO and at the failed nodes."),
    "READONLY": Meaning(_PRE, "replica", "This is a replica. Aim at its primary."),
    "MOVED": Meaning(_PRE, "cluster_node", "This is a node of a cluster. Set cluster to auto."),
    "ASK": _MOVING,
    "TRYAGAIN": _MOVING,
    "NOREPLICAS": later(_PRE, "noreplicas", "Too few replicas are in step (min-replicas-to-write)."),
    "OOM": Meaning(Kind.EXHAUSTED, "oom", "The server is at maxmemory. Run redis_memory_full."),
    "max number of clients reached": later(
        Kind.EXHAUSTED, "maxclients", "No connection is free. Raise maxclients from a client that is still connected."
    ),
    "DENIED": Meaning(
        Kind.FORBIDDEN, "protected_mode", "Protected mode refuses this address. Set a password, or connect locally."
    ),
    "unknown command": _NO_COMMAND,
    "unknown subcommand": _NO_COMMAND,
    "DB index is out of range": _NO_DB,
    "invalid DB index": _NO_DB,
    "Protocol error": Meaning(
        Kind.UNREACHABLE, "protocol", "Something else than Redis answers there, or it wants TLS."
    ),
}

#: Exceptions of the layers below, the most telling first.
_BELOW: Mapping[type[BaseException], Meaning] = {
    ssl.SSLError: Meaning(
        Kind.UNREACHABLE, "tls", "Check tls, ca_cert, and the host name against the server's certificate."
    ),
    socket.gaierror: Meaning(Kind.UNREACHABLE, "dns", "The host name does not resolve. Check host."),
    ConnectionRefusedError: later(
        Kind.UNREACHABLE, "refused", "Nothing listens there. Check host and port, and whether Redis runs."
    ),
    TimeoutError: later(
        Kind.TIMEOUT, "timeout", "No answer in time: a firewall, a stopped server, or one long command."
    ),
}

#: redis-py's exceptions by name: it strips the first word of a reply that has a class of its own, and its
#: wrappers of network errors may drop the cause.
_WRAPPERS: Mapping[str, Meaning] = {
    "AuthenticationError": _REPLIES["NOAUTH"],
    "NoPermissionError": _REPLIES["NOPERM"],
    "OutOfMemoryError": _REPLIES["OOM"],
    "BusyLoadingError": _REPLIES["LOADING"],
    "MasterDownError": _REPLIES["MASTERDOWN"],
    "ClusterDownError": _REPLIES["CLUSTERDOWN"],
    "ReadOnlyError": _REPLIES["READONLY"],
    "MovedError": _REPLIES["MOVED"],
    "AskError": _MOVING,
    "TryAgainError": _MOVING,
    "MaxClientsError": _REPLIES["max number of clients reached"],
    "TimeoutError": _BELOW[TimeoutError],
    "ConnectionError": later(
        Kind.UNREACHABLE, "connection", "The connection broke. See whether the server still runs."
    ),
    "InvalidResponse": _REPLIES["Protocol error"],
}


def translate(error: Exception) -> OpsError | None:
    """An exception of the driver, or an error reply, as one of ours; None for a bug."""
    if isinstance(error, OpsError):
        return error
    from_driver = type(error).__module__.partition(".")[0] == "redis"
    if not from_driver and not isinstance(error, OSError):
        return None
    words = str(error)
    reply = meaning_of(words)
    if reply is not None:
        return reply
    for link in _causes(error):
        for kind, meaning in _BELOW.items():
            if isinstance(link, kind):
                return meaning.error(words)
    wrapper = "ConnectionError" if isinstance(error, OSError) else type(error).__name__
    if wrapper in _WRAPPERS:
        return _WRAPPERS[wrapper].error(words)
    return OpsError(_PRE, words, "The server refused; see its log.", "refused_command")


def meaning_of(words: str) -> OpsError | None:
    """The text of an error reply as one of ours; None for one that nobody listed."""
    reply = words.removeprefix("ERR ")
    return next((meaning.error(words) for start, meaning in _REPLIES.items() if reply.startswith(start)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and those that lie underneath."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
