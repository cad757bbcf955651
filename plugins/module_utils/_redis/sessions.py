# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Client connections: which ones a selection means, and which of those must never be ended."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from .._core.errors import bad_parameter
from .._core.plan import Spared
from .._core.spec import Params
from .._core.units import parse_seconds
from .replies import text

#: How this collection names its own connections.
OWN_NAME = "sre.runbooks"

#: The commands in which a worker waits for work. Between two jobs it has one of them behind it.
_WAITING = frozenset(
    {
        *("blpop", "brpop", "brpoplpush", "blmove", "blmpop"),
        *("bzpopmin", "bzpopmax", "bzmpop", "xread", "xreadgroup", "wait", "waitaof"),
    }
)

#: More connections than this that are spared for one reason are reported as one class.
_SPARED_APART = 50

_NEXT_FIELD = re.compile(r" (?=[a-z][a-z-]*=)")


@dataclass(frozen=True)
class Session:
    """A line of CLIENT LIST. C(age) and C(idle) are in seconds; C(command) is the latest one."""

    node: str
    id: int
    addr: str
    name: str
    user: str
    lib: str
    flags: str
    command: str
    age: int
    idle: int

    @cached_property
    def ip(self) -> IPv4Address | IPv6Address | None:
        """The address without its port; None for a Unix socket."""
        try:
            found = ip_address(self.addr.rpartition(":")[0].strip("[]"))
        except ValueError:
            return None
        return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found

    @property
    def type(self) -> str:
        """As CLIENT KILL TYPE has it. A MONITOR carries the replica's flag inside, but is a normal client."""
        kinds = {"S": "replica", "M": "master", "P": "pubsub"}
        return next((kind for flag, kind in kinds.items() if flag in self.flags), "normal")

    @property
    def subject(self) -> str:
        """The identity: ids are never used twice by one server process."""
        return f"id={self.id} addr={self.addr} name={self.name}"


def parse_sessions(reply: object, node: str) -> tuple[Session, ...]:
    """CLIENT LIST. A value may hold spaces (a Unix socket's path), so fields are cut before the next name."""
    return tuple(_session(line, node) for line in text(reply).split("\n") if line.strip())


def _session(line: str, node: str) -> Session:
    words = dict(field.partition("=")[::2] for field in _NEXT_FIELD.split(line.rstrip("\r")))
    return Session(
        node,
        int(words["id"]),
        words.get("addr", ""),
        words.get("name", ""),
        words.get("user", ""),
        words.get("lib-name", ""),
        words.get("flags", ""),
        words.get("cmd", "").lower(),
        int(words.get("age", 0)),
        int(words.get("idle", 0)),
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a client connects from: a network, or one address with its port."""

    network: IPv4Network | IPv6Network | None = None
    exact: str = ""

    @classmethod
    def parse(cls, words: str, option: str) -> Place:
        """C(10.0.0.0/8), C(10.0.0.7), C(10.0.0.7:50112), C([::1]:50112)."""
        try:
            return cls(network=ip_network(words.strip("[]"), strict=False))
        except ValueError:
            host, _colon, port = words.rpartition(":")
        if not port.isdigit():
            hint = "Write a network such as 10.0.0.0/8, an address, or address:port."
            raise bad_parameter(option, f"{words!r} is not an address", hint)
        return cls(exact=f"{host}:{port}")

    def holds(self, session: Session) -> bool:
        if self.network is None:
            return session.addr == self.exact
        return session.ip is not None and session.ip.version == self.network.version and session.ip in self.network


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which connections are meant, and what is to be left alone besides the built-in rest."""

    name: str | None
    user: str | None
    place: Place | None
    lib: str | None
    command: str | None
    flags: str
    min_idle: int
    min_age: int
    type: str
    protect_blocked: bool
    protect: tuple[str, ...]

    @classmethod
    def of(cls, params: Params) -> Wanted:
        """Reads the options. Refuses a selection that would mean everybody, or clients at work."""
        idle = parse_seconds(params["min_idle"] or 0, "min_idle")
        age = parse_seconds(params["min_age"] or 0, "min_age")
        if params["type"] == "pubsub" and not age:
            raise bad_parameter("type", "a subscriber is idle by nature", "Give min_age instead of min_idle.")
        if not idle and not age:
            raise bad_parameter("min_idle", "no age is given", "Give min_idle or min_age, from 1 second.")
        if not any((params[option] or "").strip("*?") for option in ("name", "user", "addr", "lib", "cmd")):
            hint = "Name the application: name, user, addr, lib or cmd."
            raise bad_parameter("name", "the selection means every client", hint)
        return cls(
            params["name"],
            params["user"],
            Place.parse(params["addr"], "addr") if params["addr"] else None,
            params["lib"],
            params["cmd"] and params["cmd"].lower(),
            params["flags"] or "",
            idle,
            age,
            params["type"],
            params["protect_blocked"],
            tuple(params["protect"]),
        )

    def matches(self, session: Session) -> bool:
        """True where the selection means this connection, whether it may be ended or not."""
        globs = (
            (self.name, session.name),
            (self.user, session.user),
            (self.lib, session.lib),
            (self.command, session.command),
        )
        return (
            session.idle >= self.min_idle
            and session.age >= self.min_age
            and all(pattern is None or fnmatchcase(value, pattern) for pattern, value in globs)
            and (self.place is None or self.place.holds(session))
            and set(self.flags) <= set(session.flags)
        )

    def reason_to_spare(self, session: Session, own: Iterable[int] = ()) -> str:
        """Why a connection that is meant must stay; empty where it may be ended."""
        return next((why for holds, why in self._reasons(session, frozenset(own)) if holds), "")

    def _reasons(self, session: Session, own: frozenset[int]) -> Iterator[tuple[bool, str]]:
        flags = session.flags
        yield session.id in own or session.name == OWN_NAME, "a connection of this collection"
        yield "S" in flags, "the link of a replica"
        yield "M" in flags, "the link to the primary"
        yield session.name.startswith("sentinel-"), "a Sentinel watches through it"
        yield "O" in flags and "O" not in self.flags, "runs MONITOR; ask for it with flags O"
        yield session.type == "pubsub" and self.type != "pubsub", "a subscriber is idle by nature"
        yield session.type != self.type, f"its type is {session.type}"
        yield "x" in flags, "is inside MULTI"
        yield self.protect_blocked and "b" in flags, f"waits in {session.command or 'a blocking command'}"
        yield self.protect_blocked and session.command in _WAITING, f"a worker: its latest command is {session.command}"
        yield bool(set("cA") & set(flags)), "is being closed already"
        pattern = next((pattern for pattern in self.protect if _protects(pattern, session)), "")
        yield bool(pattern), f"protected by {pattern}"


def _protects(pattern: str, session: Session) -> bool:
    if any(fnmatchcase(value, pattern) for value in (session.name, session.user, session.addr, str(session.ip))):
        return True
    try:
        return Place(network=ip_network(pattern, strict=False)).holds(session)
    except ValueError:
        return False


def spared_classes(spared: Iterable[tuple[Session, str]]) -> tuple[Spared, ...]:
    """Each one with its reason; one line with a count where many of a name share it."""
    kinds: dict[tuple[str, str], list[Session]] = {}
    for session, reason in spared:
        kinds.setdefault((session.name, reason), []).append(session)
    found: list[Spared] = []
    for (name, reason), members in kinds.items():
        if len(members) > _SPARED_APART:
            found.append(Spared(f"name={name}", reason, len(members)))
        else:
            found += [Spared(session.subject, reason) for session in members]
    return tuple(found)


def by_name(sessions: Iterable[Session], top: int = 20) -> list[Mapping[str, Any]]:
    """How many connections each name and user holds, the most first."""
    counts = Counter((session.name, session.user) for session in sessions)
    return [{"name": name, "user": user, "count": count} for (name, user), count in counts.most_common(top)]
