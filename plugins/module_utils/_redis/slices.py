# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One bounded slice of the keyspace: look at some keys, and act on those that are selected.

Two ways give the same numbers. C(Scripted) is one Lua call that tests and acts at once, so that
nothing can change in between and no key travels. C(Piped) is for users who may not run scripts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from .._core.errors import Kind, OpsError
from .client import Arg, Command, Server
from .errors import translate
from .globs import Kept, matches, test_of


class Verb(Enum):
    """What becomes of the selected keys."""

    COUNT = "count"
    UNLINK = "unlink"
    CAP = "cap"


@dataclass(frozen=True, slots=True)
class Cap:
    """A highest TTL in milliseconds; each key gets one between C(most) and C(spread) below it."""

    most: int
    spread: float = 0.0
    persistent: bool = False

    def drawn(self) -> int:
        return max(1, int(self.most * (1 - self.spread * random.random())))


@dataclass(frozen=True, slots=True)
class Selection:
    """Which keys are meant. Times are milliseconds, sizes bytes; None leaves a test out.

    C(earlier) are patterns whose keys another selection already has; C(kept) must be spared.
    """

    pattern: bytes
    kept: tuple[Kept, ...] = ()
    earlier: tuple[bytes, ...] = ()
    type: str = ""
    min_idle: int | None = None
    min_size: int | None = None
    ttl_below: int | None = None
    no_ttl_only: bool = False
    cap: Cap | None = None

    @property
    def plain(self) -> bool:
        """True when the server's own SCAN already tells all."""
        return not (self.kept or self.earlier or self.wants_ttl or self.min_idle or self.min_size)

    @property
    def wants_ttl(self) -> bool:
        return self.no_ttl_only or self.ttl_below is not None or self.cap is not None

    def takes_ttl(self, ttl: int) -> bool:
        """PTTL's answer: -1 without a TTL, -2 without a key."""
        if ttl == -2 or (self.no_ttl_only and ttl != -1):
            return False
        if self.ttl_below is not None and not 0 <= ttl < self.ttl_below:
            return False
        return self.cap is None or ttl > self.cap.most or (ttl == -1 and self.cap.persistent)


@dataclass(slots=True)
class Tally:
    """What slices saw and did. C(moved): keys of slots that were on their way to another node.

    C(bytes) is the size of C(measured) of the matched keys; C(spared) counts by place in C(kept).
    """

    cursor: bytes = b"0"
    matched: int = 0
    done: int = 0
    bytes: int = 0
    measured: int = 0
    moved: int = 0
    spared: list[int] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        for name in ("matched", "done", "bytes", "measured", "moved"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.spared = [a + b for a, b in zip(self.spared or [0] * len(other.spared), other.spared, strict=True)]

    def size(self, keys: int) -> int:
        """Bytes of so many keys, as the measured ones suggest."""
        return int(self.bytes * keys / self.measured) if self.measured else 0


@dataclass(frozen=True, slots=True)
class Order:
    """One slice: how many keys to look at, how many of the selected to act on, how many to measure."""

    verb: Verb
    count: int
    most: int = 1_000_000
    measure: int = 0


class Way(Protocol):
    """How slices are carried out."""

    @property
    def name(self) -> str:
        """What the result calls it."""

    def slice(self, server: Server, selection: Selection, order: Order, cursor: bytes) -> Tally:
        """Looks at the next keys from a cursor on, and does what is ordered."""


def way_of(server: Server, *, clustered: bool, conditional: bool) -> Way:
    """Scripts where this user may run them, else pipelines. C(conditional): EXPIRE knows LT (Redis 7.0)."""
    return Scripted(clustered) if scriptable(server) else Piped(clustered, conditional)


def scriptable(server: Server) -> bool:
    """Asks by trying: a service may have scripts and yet refuse them keys that are not declared."""
    try:
        # SCAN makes what it matches and has run out go away: nothing is called like this.
        server.script("return redis.call('SCAN', '0', 'COUNT', '1', 'MATCH', 'sre.runbooks:nothing')[1]")
    except Exception as error:
        known = translate(error)
        if known is None or not (known.kind in (Kind.FORBIDDEN, Kind.UNSUPPORTED) or known.code == "refused_command"):
            raise
        return False
    return True


# --- by script ---

_HEAD = """
local found = redis.call('SCAN', ARGV[1], 'COUNT', ARGV[2], 'MATCH', ARGV[3]{type})
local keys, ttls, spared, moved, done = found[2], {{}}, {{}}, 0, 0
for i = 1, {kept} do spared[i] = 0 end
local function ask(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    -- The slot of this key is moving, or has moved: another pass, or another node, has it.
    if not string.find(reply.err, 'non local key', 1, true) and not string.find(reply.err, 'MOVED', 1, true)
      and not string.find(reply.err, 'ASK', 1, true) and not string.find(reply.err, 'TRYAGAIN', 1, true) then
      error(reply.err)
    end
    moved = moved + 1
    return nil
  end
  return reply
end
"""

_SIFT = """
local chosen = {{}}
for _, key in ipairs(keys) do
  {chain}
    local ttl, take = nil, true
    {tests}
    if take then
      chosen[#chosen + 1] = key
      ttls[#chosen] = ttl
    end
  end
end
keys = chosen
"""

_MEASURE = """
local bytes, measured = 0, 0
if tonumber(ARGV[5]) > 0 then
  local step = math.max(1, math.floor(#keys / tonumber(ARGV[5])))
  for i = 1, #keys, step do
    local size = redis.pcall('MEMORY', 'USAGE', keys[i])
    if type(size) == 'number' then
      bytes, measured = bytes + size, measured + 1
    end
  end
end
local last = math.min(#keys, tonumber(ARGV[4]))
"""

_ACTS = {
    (Verb.COUNT, False): "",
    (Verb.COUNT, True): "",
    (Verb.UNLINK, False): """
for i = 1, last, 1000 do
  done = done + redis.call('UNLINK', unpack(keys, i, math.min(i + 999, last)))
end
""",
    # One key a call: keys of several slots in one would be refused.
    (Verb.UNLINK, True): "for i = 1, last do done = done + (ask('UNLINK', keys[i]) or 0) end\n",
    (Verb.CAP, False): """
math.randomseed(tonumber(ARGV[8]))
for i = 1, last do
  local ttl = math.max(1, math.floor(ARGV[6] * (1 - ARGV[7] * math.random())))
  done = done + (ask('PEXPIRE', keys[i], ttl) or 0)
end
""",
}
_ACTS[Verb.CAP, True] = _ACTS[Verb.CAP, False]

#: Redis 6.2 replicates a script as its text unless told otherwise, and refuses a write after SCAN.
_EFFECTS = "if redis.replicate_commands then redis.replicate_commands() end\n"
_FIXED = 8


@dataclass(frozen=True, slots=True)
class Scripted:
    """A slice as one Lua call."""

    clustered: bool
    name: str = "lua"

    def slice(self, server: Server, selection: Selection, order: Order, cursor: bytes) -> Tally:
        cap = selection.cap or Cap(0)
        tests = [test_of(pattern) for pattern in (*selection.earlier, *(kept.pattern for kept in selection.kept))]
        args: list[Arg] = [cursor, order.count, selection.pattern, order.most, order.measure]
        args += [cap.most, cap.spread, random.getrandbits(31), *(test.text for test in tests)]
        cursor, matched, done, size, measured, moved, *spared = self._send(
            server, self._lua(selection, order.verb), args
        )
        return Tally(cursor, matched, done, size, measured, moved, spared)

    def _send(self, server: Server, lua: str, args: Sequence[Arg]) -> Any:
        if not self.clustered:
            return server.script(lua, *args)
        # ASKING opens keys that have just arrived in a slot that is still on its way to this node.
        reply = server.batch([("ASKING",), ("EVAL", lua, 0, *args)])[1]
        if isinstance(reply, OpsError):
            raise reply
        return reply

    def _lua(self, selection: Selection, verb: Verb) -> str:
        """The text holds no pattern and no number of the caller's, but for the length of prefixes."""
        kind = f", 'TYPE', '{selection.type}'" if selection.type else ""
        head = _HEAD.format(type=kind, kept=len(selection.kept))
        sift = "" if selection.plain else _sift(selection)
        tail = "return {found[1], #keys, done, bytes, measured, moved, unpack(spared)}"
        return (
            (_EFFECTS if verb is not Verb.COUNT else "") + head + sift + _MEASURE + _ACTS[verb, self.clustered] + tail
        )


def _sift(selection: Selection) -> str:
    """Leaves the keys of other selections, counts the spared ones, and tests the others."""
    at = _FIXED + 1
    chain = "if false then\n"
    for pattern in selection.earlier:
        chain += f"  elseif {test_of(pattern).expression(at)} then\n"
        at += 1
    for number, kept in enumerate(selection.kept, start=1):
        chain += f"  elseif {test_of(kept.pattern).expression(at)} then spared[{number}] = spared[{number}] + 1\n"
        at += 1
    return _SIFT.format(chain=chain + "  else", tests="\n    ".join(_tests(selection)))


def _tests(selection: Selection) -> list[str]:
    """Lua conditions, the cheap ones first."""
    lines: list[str] = []
    if selection.wants_ttl:
        lines += ["ttl = ask('PTTL', key)", "take = ttl ~= nil and ttl ~= -2"]
    if selection.no_ttl_only:
        lines.append("take = take and ttl == -1")
    if selection.ttl_below is not None:
        lines.append(f"take = take and ttl >= 0 and ttl < {int(selection.ttl_below)}")
    if selection.cap:
        or_none = " or ttl == -1" if selection.cap.persistent else ""
        lines.append(f"take = take and (ttl > {int(selection.cap.most)}{or_none})")
    if selection.min_idle:
        lines.append(f"take = take and (ask('OBJECT', 'IDLETIME', key) or -1) * 1000 >= {int(selection.min_idle)}")
    if selection.min_size:
        lines.append(f"take = take and (ask('MEMORY', 'USAGE', key) or -1) >= {int(selection.min_size)}")
    return lines


# --- by pipeline ---


@dataclass(frozen=True, slots=True)
class Piped:
    """A slice as a SCAN and a pipeline or two. Between test and act a client may touch a key: not its name, though."""

    clustered: bool
    conditional: bool
    name: str = "pipeline"

    def slice(self, server: Server, selection: Selection, order: Order, cursor: bytes) -> Tally:
        kind = ("TYPE", selection.type) if selection.type else ()
        cursor, found = server.call("SCAN", cursor, "COUNT", order.count, "MATCH", selection.pattern, *kind)
        tally = Tally(cursor, spared=[0] * len(selection.kept))
        keys = [key for key in found if self._is_free(key, selection, tally)]
        keys = keys if selection.plain else self._tested(server, selection, keys, tally)
        tally.matched = len(keys)
        self._measure(server, keys, order.measure, tally)
        if order.verb is not Verb.COUNT:
            self._act(server, selection, order.verb, keys[: order.most], tally)
        return tally

    def _is_free(self, key: bytes, selection: Selection, tally: Tally) -> bool:
        if any(matches(pattern, key) for pattern in selection.earlier):
            return False
        for number, kept in enumerate(selection.kept):
            if matches(kept.pattern, key):
                tally.spared[number] += 1
                return False
        return True

    def _tested(self, server: Server, selection: Selection, keys: list[bytes], tally: Tally) -> list[bytes]:
        if selection.wants_ttl:
            replies = self._ask(server, [("PTTL", key) for key in keys], tally)
            keys = [key for key, ttl in zip(keys, replies, strict=True) if ttl is not None and selection.takes_ttl(ttl)]
        if selection.min_idle:
            replies = self._ask(server, [("OBJECT", "IDLETIME", key) for key in keys], tally)
            keys = [key for key, idle in zip(keys, replies, strict=True) if (idle or 0) * 1000 >= selection.min_idle]
        if selection.min_size:
            replies = self._ask(server, [("MEMORY", "USAGE", key) for key in keys], tally)
            keys = [key for key, size in zip(keys, replies, strict=True) if (size or 0) >= selection.min_size]
        return keys

    def _measure(self, server: Server, keys: list[bytes], number: int, tally: Tally) -> None:
        some = keys[:: max(1, len(keys) // number)] if number else []
        sizes = [size for size in server.batch([("MEMORY", "USAGE", key) for key in some]) if isinstance(size, int)]
        tally.bytes, tally.measured = sum(sizes), len(sizes)

    def _act(self, server: Server, selection: Selection, verb: Verb, keys: list[bytes], tally: Tally) -> None:
        if verb is Verb.UNLINK and not self.clustered:
            tally.done = sum(server.call("UNLINK", *keys[at : at + 1000]) for at in range(0, len(keys), 1000))
        elif verb is Verb.UNLINK:
            tally.done = sum(filter(None, self._ask(server, [("UNLINK", key) for key in keys], tally)))
        elif selection.cap:
            # LT takes a key without a TTL for one with an endless TTL: XX keeps it out.
            only: Command = ("LT",) if selection.cap.persistent else ("XX", "LT")
            condition: Command = only if self.conditional else ()
            commands = [("PEXPIRE", key, selection.cap.drawn(), *condition) for key in keys]
            tally.done = sum(filter(None, self._ask(server, commands, tally)))

    def _ask(self, server: Server, commands: list[Command], tally: Tally) -> list[Any]:
        """Replies in order, None for a key of a moving slot. Another error ends the slice."""
        if self.clustered:
            replies = server.batch([word for command in commands for word in (("ASKING",), command)])[1::2]
        else:
            replies = server.batch(commands)
        for at, reply in enumerate(replies):
            if isinstance(reply, OpsError):
                if reply.code not in ("cluster_node", "slot_moving"):
                    raise reply
                tally.moved += 1
                replies[at] = None
        return replies
