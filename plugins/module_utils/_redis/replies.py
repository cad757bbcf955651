# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What Redis answers, made into values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


def text(reply: object) -> str:
    """A reply as text. Names of hosts, settings and users are ASCII; keys never come this way."""
    return reply.decode("utf-8", "backslashreplace") if isinstance(reply, bytes) else str(reply)


def parse_info(reply: object) -> dict[str, str]:
    """INFO's C(name:value) lines; a value may hold colons, a name may not."""
    pairs = (line.partition(":") for line in text(reply).splitlines() if line and not line.startswith("#"))
    return {name: value for name, dummy, value in pairs}


def parse_fields(line: str, separator: str = " ") -> dict[str, str]:
    """C(name=value) fields, as in CLIENT LIST and in INFO's C(slave0) and C(db0)."""
    return {name: value for name, dummy, value in (field.partition("=") for field in line.split(separator))}


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
    host, port = address.rsplit(":", 1)
    # Slots that are moving stand in brackets; whoever has them is settled by MOVED and ASK.
    slots = tuple(word for word in words[8:] if not word.startswith("["))
    return Node(words[0], host.strip("[]") or own_host, int(port), frozenset(words[2].split(",")), slots)
