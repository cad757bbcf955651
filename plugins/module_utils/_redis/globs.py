# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Redis' glob patterns: which keys one matches, whether two can meet, and how a Lua slice tests one cheaply.

A pattern is read exactly as the server reads it, its oddities included, so that what a check run
says and what the server then does cannot differ. Keys and patterns are bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from .._core.errors import bad_parameter

#: One place of a pattern: the bytes that may stand there, or None for a star.
Place: TypeAlias = "frozenset[int] | None"

_ANY = frozenset(range(256))
_MAGIC = frozenset(b"*?[]\\^-")


@dataclass(frozen=True, slots=True)
class Kept:
    """Keys that somebody's work depends on. C(what) is the reason for the record."""

    pattern: bytes
    what: str


def _kept(what: str, *patterns: str) -> tuple[Kept, ...]:
    return tuple(Kept(pattern.encode(), what) for pattern in patterns)


#: Never touched, whatever else is asked: names under which queues, locks and our own leases are kept.
WORK = (
    *_kept("BullMQ or Bull queue", "bull:*", "{bull*", "bullmq:*", "bq:*"),
    *_kept("Celery queue", "celery", "celery*", "unacked*", "_kombu.*"),
    *_kept("queue", "rq:*", "resque:*", "sidekiq:*", "queue:*", "queues", "queues:*", "asynq:*", "dramatiq:*", "arq:*"),
    *_kept("queue", "huey.*", "horizon:*", "schedule", "retry", "dead", "processes", "stat:*"),
    *_kept("lock", "lock:*", "locks:*", "redlock:*"),
    *_kept("lease of a runbook", "sre.runbooks:*"),
)

#: Never deleted. Lowering the TTL of sessions that are named outright is another matter.
SESSIONS = (
    *_kept("session", "sess:*", "session:*", "sessions:*", "spring:session:*", "PHPREDIS_SESSION:*", "connect.sid*"),
    *_kept("session", ":?:django.contrib.sessions*"),
)


def pattern_of(text: str, option: str) -> bytes:
    r"""The bytes of a pattern given as text, where C(\xNN) stands for one byte, taken literally.

    Raises a bad-parameter error for a range that reaches across 0x7f: servers disagree about it.
    """
    raw = re.sub(rb"\\(x[0-9a-fA-F]{2}|.)", _literal, text.encode("utf-8", "surrogateescape"), flags=re.DOTALL)
    try:
        places(raw)
    except ValueError as error:
        raise bad_parameter(option, f"{text!r}: {error}", "Name the bytes one by one.") from None
    return raw


def escaped(raw: bytes) -> bytes:
    """A pattern that matches this very key and no other."""
    return b"".join(b"\\%c" % byte if byte in _MAGIC else b"%c" % byte for byte in raw)


def _literal(found: re.Match[bytes]) -> bytes:
    code = found[1]
    return escaped(bytes.fromhex(code[1:].decode())) if len(code) == 3 else found[0]


@lru_cache(maxsize=512)
def places(pattern: bytes) -> tuple[Place, ...]:
    """The pattern, place by place; stars in a row are one."""
    found: list[Place] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == ord("*"):
            if not found or found[-1] is not None:
                found.append(None)
        elif char == ord("?"):
            found.append(_ANY)
        elif char == ord("["):
            some, at = _class(pattern, at + 1)
            found.append(some)
        else:
            # A backslash at the very end stands for itself.
            at += char == ord("\\") and at + 1 < len(pattern)
            found.append(frozenset((pattern[at],)))
        at += 1
    return tuple(found)


def _class(pattern: bytes, at: int) -> tuple[frozenset[int], int]:
    """The bytes of C([...]) and where it ends; one that is never closed reaches to the end."""
    negated = pattern[at : at + 1] == b"^"
    at += negated
    some: set[int] = set()
    while at < len(pattern) and pattern[at] != ord("]"):
        left = len(pattern) - at
        if pattern[at] == ord("\\") and left >= 2:
            at += 1
            some.add(pattern[at])
        elif left >= 3 and pattern[at + 1] == ord("-"):
            low, high = sorted((pattern[at], pattern[at + 2]))
            if low < 0x80 <= high:
                raise ValueError("a range across the byte 0x7f means different things on different servers")
            some.update(range(low, high + 1))
            at += 2
        else:
            some.add(pattern[at])
        at += 1
    return (_ANY - some if negated else frozenset(some)), min(at, len(pattern) - 1)


def matches(pattern: bytes, key: bytes) -> bool:
    """What the server's own matcher says. It lets only C(*) alone, or nothing, match the empty key."""
    if not key:
        return pattern in (b"*", b"")
    return _compiled(pattern).fullmatch(key) is not None


@lru_cache(maxsize=512)
def _compiled(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(b"".join(map(_regex, places(pattern))), re.DOTALL)


def _regex(place: Place) -> bytes:
    if place is None:
        return b".*"
    if len(place) == 256:
        return b"."
    if not place:
        return rb"[^\x00-\xff]"
    return b"[%b]" % b"".join(b"\\x%02x" % byte for byte in sorted(place))


def literal_prefix(pattern: bytes) -> bytes:
    """What every match begins with."""
    prefix = bytearray()
    for place in places(pattern):
        if place is None or len(place) != 1:
            break
        prefix += bytes(place)
    return bytes(prefix)


def example(pattern: bytes) -> bytes:
    """A key that the pattern matches, for asking an ACL about it."""
    return bytes(min(place or {0}) for place in places(pattern) if place is not None)


def too_wide(pattern: bytes) -> bool:
    """True without a single place that says what must stand there: C(*), C(?*), the empty pattern."""
    return all(place is None or len(place) > 128 for place in places(pattern))


def disjoint(one: bytes, other: bytes) -> bool:
    """True when no key can match both."""
    left, right = places(one), places(other)
    reached, todo = set[tuple[int, int]](), [(0, 0)]
    while todo:
        at = todo.pop()
        if at in reached:
            continue
        if at == (len(left), len(right)):
            return False
        reached.add(at)
        todo += _onward(left, right, *at)
    return True


def _onward(left: tuple[Place, ...], right: tuple[Place, ...], i: int, j: int) -> list[tuple[int, int]]:
    """Where the two patterns may stand after agreeing on one more byte, or after ending a star."""
    steps: list[tuple[int, int]] = []
    if i < len(left) and left[i] is None:
        steps += [(i + 1, j), (i, j + 1)][: 2 if j < len(right) else 1]
    if j < len(right) and right[j] is None:
        steps += [(i, j + 1), (i + 1, j)][: 2 if i < len(left) else 1]
    if steps or i == len(left) or j == len(right):
        return steps
    mine, others = left[i], right[j]
    return [(i + 1, j + 1)] if mine is not None and others is not None and mine & others else []


def inside(pattern: bytes, wider: bytes) -> bool:
    """True when every match of C(pattern) certainly matches C(wider) too."""
    if pattern == wider:
        return True
    fixed = literal_prefix(pattern)
    if len(fixed) == len(places(pattern)):
        return matches(wider, fixed)
    # `literal*` is the one shape that can be judged without a doubt; a miss only costs a test for each key.
    start = literal_prefix(wider)
    return places(wider)[len(start) :] == (None,) and fixed.startswith(start)


@dataclass(frozen=True, slots=True)
class Test:
    """How Lua tells whether C(key) matches, with C(text) as an argument of the script."""

    kind: str
    text: bytes

    def expression(self, argument: int) -> str:
        """A Lua condition on the variable C(key)."""
        if self.kind == "exact":
            return f"key == ARGV[{argument}]"
        if self.kind == "prefix":
            return f"string.sub(key, 1, {len(self.text)}) == ARGV[{argument}]"
        return f"string.find(key, ARGV[{argument}]) ~= nil"


def test_of(pattern: bytes) -> Test:
    """The cheapest test: a comparison where the pattern is a literal, with a star at most at its end."""
    prefix, all_places = literal_prefix(pattern), places(pattern)
    if len(prefix) == len(all_places):
        return Test("exact", prefix)
    if all_places[len(prefix) :] == (None,):
        return Test("prefix", prefix)
    return Test("pattern", b"^%b$" % b"".join(map(_lua, all_places)))


def _lua(place: Place) -> bytes:
    if place is None:
        return b".*"
    if len(place) == 256:
        return b"."
    if len(place) == 1:
        return _lua_byte(*place)
    sign, some = (b"^", _ANY - place) if len(place) > 128 else (b"", place)
    return b"[%b%b]" % (sign, b"".join(map(_lua_byte, sorted(some)))) if some else b"[^%z\x01-\xff]"


def _lua_byte(byte: int) -> bytes:
    """Lua 5.1 ends a pattern at a NUL byte, so that one has a name of its own."""
    char = b"%c" % byte
    if not byte:
        return b"%z"
    return char if char.isalnum() or byte >= 0x80 or char.isspace() else b"%" + char
