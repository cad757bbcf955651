# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who holds the memory: a walk over the keyspace that adds up prefixes, classes, types and TTLs.

The server adds up each slice itself and sends sums, so that no key travels but the largest. Memory
here is bounded: prefixes beyond a number are folded into one, the smallest first.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from .._core.errors import OpsError
from .._core.redact import printable
from .client import Arg, Command, DriverServer, Redis, Server
from .errors import translate
from .globs import SESSIONS, WORK, literal_prefix, matches, test_of
from .replies import parse_fields, parse_info
from .walk import Deadline, Pace

#: Upper ends of the TTL classes, in milliseconds, with their names. Before them stand the keys without a TTL.
TTL_CLASSES = (("1m", 60_000), ("1h", 3_600_000), ("1d", 86_400_000), ("7d", 604_800_000))
TTL_NAMES = ("none", *(f"below {name}" for name, _end in TTL_CLASSES), "7d and more")

OTHER = b"(other)"
#: Prefixes to remember, and queues to name.
_PREFIXES = 10_000
_NAMES = 200
_KEPT = (*WORK, *SESSIONS)
_BINDING = b"_kombu.binding."


def _by_first() -> dict[int, list[tuple[int, bytes]]]:
    """The built-in patterns with their places, by the first byte of what they match: most keys need no test."""
    found: dict[int, list[tuple[int, bytes]]] = {}
    for number, kept in enumerate(_KEPT, start=1):
        found.setdefault(literal_prefix(kept.pattern)[0], []).append((number, kept.pattern))
    return found


_BY_FIRST = _by_first()


@dataclass(slots=True)
class Group:
    """Sums over some keys. C(lifetime) adds up TTLs in milliseconds; C(above) are keys over a class's cap."""

    count: int = 0
    bytes: int = 0
    no_ttl: int = 0
    lifetime: int = 0
    above: int = 0
    above_bytes: int = 0

    def add(self, other: Group) -> None:
        self.count += other.count
        self.bytes += other.bytes
        self.no_ttl += other.no_ttl
        self.lifetime += other.lifetime
        self.above += other.above
        self.above_bytes += other.above_bytes

    def one(self, size: int, ttl: int, cap: int | None) -> None:
        self.count += 1
        self.bytes += size
        self.no_ttl += ttl < 0
        self.lifetime += max(ttl, 0)
        if cap is not None and ttl > cap:
            self.above += 1
            self.above_bytes += size

    def scaled(self, factor: float) -> Group:
        if factor == 1:
            return self
        names = ("count", "bytes", "no_ttl", "lifetime", "above", "above_bytes")
        return Group(*(round(getattr(self, name) * factor) for name in names))

    @property
    def average_ttl(self) -> float:
        """Seconds, over the keys that have a TTL."""
        return round(self.lifetime / (self.count - self.no_ttl) / 1000, 1) if self.count > self.no_ttl else 0.0


@dataclass(frozen=True, slots=True)
class KeyClass:
    """A declared class of keys. C(cap) is a highest TTL in milliseconds."""

    name: str
    patterns: tuple[bytes, ...]
    cap: int | None = None

    def has(self, key: bytes) -> bool:
        return any(matches(pattern, key) for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class Chain:
    """Classes of which a key belongs to the first that matches. C(spares): kept keys belong to none.

    Sessions count as kept only where C(sessions) says so: their TTL may be lowered.
    """

    classes: tuple[KeyClass, ...]
    spares: bool = False
    sessions: bool = True

    def place(self, key: bytes, kept: int) -> int | None:
        if kept and self.spares and (self.sessions or kept <= len(WORK)):
            return None
        return next((at for at, one in enumerate(self.classes) if one.has(key)), None)


@dataclass(frozen=True, slots=True)
class Question:
    """What to add up. C(samples) is MEMORY USAGE's number of members to measure of a key.

    C(every): of how many keys one is asked for its type, which is what a walk over many would spend most on.
    """

    match: bytes = b"*"
    separator: bytes = b":"
    depth: int = 1
    samples: int = 5
    top: int = 20
    chains: tuple[Chain, ...] = ()
    every: int = 1


@dataclass(slots=True)
class Census:
    """The sums so far. C(kept) counts by place in the built-in list, from 1."""

    prefixes: dict[bytes, Group] = field(default_factory=dict)
    chains: list[list[Group]] = field(default_factory=list)
    kept: dict[int, Group] = field(default_factory=dict)
    ttl: list[int] = field(default_factory=lambda: [0] * len(TTL_NAMES))
    types: dict[str, int] = field(default_factory=dict)
    largest: list[tuple[int, bytes, str, int]] = field(default_factory=list)
    marks: set[bytes] = field(default_factory=set)
    total: Group = field(default_factory=Group)
    moved: int = 0
    visited: int = 0
    population: int = 0
    complete: bool = True
    method: str = ""

    @classmethod
    def empty(cls, question: Question) -> Census:
        return cls(chains=[[Group() for _class in chain.classes] for chain in question.chains])

    @property
    def fraction(self) -> float:
        """Share of the keyspace that was looked at. SCAN goes in the order of a hash, so it is a fair sample."""
        if self.complete or not self.population:
            return 1.0
        return min(1.0, self.visited / self.population)

    @property
    def factor(self) -> float:
        """From what was looked at to the whole."""
        return 1 / self.fraction if self.fraction else 1.0

    def threshold(self, top: int) -> int:
        """Bytes above which a key is among the largest."""
        return self.largest[0][0] if len(self.largest) >= top else 0

    def add(self, other: Census, top: int) -> None:
        for prefix, group in other.prefixes.items():
            self.prefixes.setdefault(prefix, Group()).add(group)
        if len(self.prefixes) > 2 * _PREFIXES:
            self._fold()
        for mine, others in zip(self.chains, other.chains, strict=True):
            for group, more in zip(mine, others, strict=True):
                group.add(more)
        for kept, group in other.kept.items():
            self.kept.setdefault(kept, Group()).add(group)
        for name, count in other.types.items():
            self.types[name] = self.types.get(name, 0) + count
        self.ttl = [a + b for a, b in zip(self.ttl, other.ttl, strict=True)]
        self.total.add(other.total)
        self.moved += other.moved
        if len(self.marks) < _NAMES:
            self.marks |= other.marks
        for entry in other.largest:
            # SCAN may show a key twice.
            if all(entry[1] != known[1] for known in self.largest):
                heapq.heappush(self.largest, entry)
        while len(self.largest) > top:
            heapq.heappop(self.largest)

    def _fold(self) -> None:
        order = sorted(self.prefixes, key=lambda prefix: self.prefixes[prefix].bytes, reverse=True)
        rest = self.prefixes.pop(OTHER, Group())
        for prefix in order[_PREFIXES:]:
            if prefix != OTHER:
                rest.add(self.prefixes.pop(prefix))
        self.prefixes[OTHER] = rest


class Counter(Protocol):
    """How one slice is added up; returns the next cursor with the sums."""

    @property
    def name(self) -> str:
        """What the result calls it."""

    def slice(
        self, server: Server, question: Question, cursor: bytes, count: int, threshold: int
    ) -> tuple[bytes, Census]:
        """Looks at about C(count) keys from a cursor on."""


@dataclass(frozen=True, slots=True)
class Tour:
    """A walk over the keyspace. C(fraction) is the share after which it has seen enough."""

    question: Question
    counter: Counter
    pace: Pace
    deadline: Deadline
    fraction: float = 1.0

    def take(self, servers: Sequence[Server]) -> Census:
        """Walks over every server until the end, the deadline, or the wanted fraction of it."""
        census = Census.empty(self.question)
        census.method = self.counter.name
        for server in servers:
            size = server.call("DBSIZE")
            census.population += size
            census.visited += self._walk(server, census, size * self.fraction)
        return census

    def _walk(self, server: Server, census: Census, enough: float) -> int:
        """Adds one server; returns how many keys, matching or not, were looked at."""
        cursor, visited = b"0", 0
        while not self.deadline.over:
            size = self.pace.size
            began = time.monotonic()
            threshold = census.threshold(self.question.top)
            cursor, part = self.counter.slice(server, self.question, cursor, size, threshold)
            self.pace.took(time.monotonic() - began, 0)
            visited += max(size, part.total.count)
            census.add(part, self.question.top)
            if cursor == b"0":
                return visited
            if self.fraction < 1 and visited >= enough:
                break
        census.complete = False
        return visited


@contextmanager
def readers(redis: Redis, prefer_replica: bool) -> Iterator[tuple[tuple[Server, ...], tuple[str, ...]]]:
    """The servers to read from, one for each primary, and the names of those that are replicas."""
    with ExitStack() as stack:
        chosen = [_reader(server, redis, stack) if prefer_replica else server for server in redis.servers]
        replicas = [mine.address.name for mine, own in zip(chosen, redis.servers, strict=True) if mine is not own]
        yield tuple(chosen), tuple(replicas)


def _reader(primary: Server, redis: Redis, stack: ExitStack) -> Server:
    """An online replica that can be reached from here, else the primary itself."""
    info = parse_info(primary.call("INFO", "replication"))
    lines = [parse_fields(info[name], ",") for name in info if name.startswith("slave") and name[5:].isdigit()]
    for line in lines:
        if line.get("state") != "online":
            continue
        address = replace(primary.address, host=line["ip"], port=int(line["port"]), connect_timeout=2.0)
        server = DriverServer(address)
        stack.callback(server.close)
        try:
            server.call("READONLY" if redis.clustered else "PING")
        except Exception as error:
            if translate(error) is None:
                raise
            continue
        return server
    return primary


# --- by script ---

_LUA = """
local found = redis.call('SCAN', ARGV[1], 'COUNT', ARGV[2], 'MATCH', ARGV[3])
local call, pcall, sub, find, byte = redis.call, redis.pcall, string.sub, string.find, string.byte
local separator, samples, threshold = ARGV[4], ARGV[5], tonumber(ARGV[6])
local prefixes, kinds, types, marks, largest, moved = {}, {}, {}, {}, {}, 0
local ttls = {0, 0, 0, 0, 0, 0}
local chains = {--CHAINS--}
local kept_by = {--KEPT--}
local function put(group, size, ttl, cap)
  group[1] = group[1] + 1
  group[2] = group[2] + size
  if ttl < 0 then group[3] = group[3] + 1 else group[4] = group[4] + ttl end
  if cap and ttl > cap then
    group[5] = group[5] + 1
    group[6] = group[6] + size
  end
end
for i, key in ipairs(found[2]) do
  local size = pcall('MEMORY', 'USAGE', key, 'SAMPLES', samples)
  if type(size) == 'table' then
    if not find(size.err, 'non local key', 1, true) and not find(size.err, 'MOVED', 1, true) then error(size.err) end
    moved = moved + 1
  elseif size then
    local ttl = call('PTTL', key)
    local kind
    if i % --EVERY-- == 0 or size > threshold then kind = call('TYPE', key)['ok'] end
    if i % --EVERY-- == 0 then types[kind] = (types[kind] or 0) + 1 end
    local at = 0
    --DEPTH--
    local prefix = sub(key, 1, at)
    local group = prefixes[prefix]
    if not group then
      group = {0, 0, 0, 0, 0, 0}
      prefixes[prefix] = group
    end
    put(group, size, ttl)
    local class = --TTL--
    ttls[class] = ttls[class] + 1
    if size > threshold then
      largest[#largest + 1] = {key, size, kind, ttl}
    end
    local first = byte(key, 1)
    local kept = kept_by[first]
    kept = kept and kept(key) or 0
    if kept > 0 then
      kinds[kept] = kinds[kept] or {0, 0, 0, 0, 0, 0}
      put(kinds[kept], size, ttl)
    end
    if byte(key, -1) == 97 and sub(key, -5) == ':meta' or first == 95 and sub(key, 1, 15) == '_kombu.binding.' then
      marks[#marks + 1] = key
    end
    --PLACES--
  end
end
local function flat(groups)
  local list = {}
  for name, group in pairs(groups) do list[#list + 1] = {name, unpack(group)} end
  return list
end
local kind_list = {}
for name, count in pairs(types) do kind_list[#kind_list + 1] = {name, count} end
return {found[1], moved, flat(prefixes), flat(kinds), kind_list, ttls, largest, marks, chains}
"""


_DEPTH_ONE = "at = (find(key, separator, 1, true) or 1 - #separator) + #separator - 1"
_DEPTH = """for dummy = 1, {} do
      local next = find(key, separator, at + 1, true)
      if not next then break end
      at = next + #separator - 1
    end"""


@dataclass(frozen=True, slots=True)
class Scripted:
    """A slice as one Lua call."""

    clustered: bool
    name: str = "lua"

    def slice(
        self, server: Server, question: Question, cursor: bytes, count: int, threshold: int
    ) -> tuple[bytes, Census]:
        lua, patterns = _script(question)
        args: list[Arg] = [cursor, count, question.match, question.separator, question.samples, threshold, *patterns]
        if self.clustered:
            # ASKING opens keys that have just arrived in a slot that is still on its way to this node.
            reply = server.batch([("ASKING",), ("EVAL", lua, 0, *args)])[1]
            if isinstance(reply, OpsError):
                raise reply
        else:
            reply = server.script(lua, *args)
        return reply[0], _read(reply)


def _read(reply: Sequence[Any]) -> Census:
    _cursor, moved, prefixes, kinds, types, ttls, largest, marks, chains = reply
    groups = {name: Group(*sums) for name, *sums in prefixes}
    total = Group()
    for group in groups.values():
        total.add(group)
    return Census(
        prefixes=groups,
        chains=[[Group(*sums) for sums in chain] for chain in chains],
        kept={int(number): Group(*sums) for number, *sums in kinds},
        ttl=list(ttls),
        types={name.decode(): count for name, count in types},
        largest=[(size, key, kind.decode(), ttl) for key, size, kind, ttl in largest],
        marks=set(marks),
        total=total,
        moved=moved,
    )


_FIXED = 6
_scripts: dict[Question, tuple[str, list[bytes]]] = {}


def _script(question: Question) -> tuple[str, list[bytes]]:
    """The text for a question, and the patterns to hand over. Nothing of the caller's stands in the text itself."""
    if question not in _scripts:
        patterns: list[bytes] = []
        groups = ", ".join(f"{{{', '.join(['{0, 0, 0, 0, 0, 0}'] * len(c.classes))}}}" for c in question.chains)
        places = "\n    ".join(_chain(number, chain, patterns) for number, chain in enumerate(question.chains, 1))
        parts = {
            "CHAINS": groups,
            "KEPT": _kept(patterns),
            "DEPTH": _DEPTH_ONE if question.depth == 1 else _DEPTH.format(question.depth),
            "TTL": _ttl(),
            "EVERY": str(question.every),
            "PLACES": places,
        }
        lua = _LUA
        for name, text in parts.items():
            lua = lua.replace(f"--{name}--", text)
        _scripts.clear()
        _scripts[question] = (lua, patterns)
    return _scripts[question]


def _condition(pattern: bytes, patterns: list[bytes]) -> str:
    test = test_of(pattern)
    patterns.append(test.text)
    return test.expression(_FIXED + len(patterns))


def _chain(number: int, chain: Chain, patterns: list[bytes]) -> str:
    lines = []
    for place, one in enumerate(chain.classes, start=1):
        either = " or ".join(f"({_condition(pattern, patterns)})" for pattern in one.patterns) or "false"
        cap = "nil" if one.cap is None else str(int(one.cap))
        lines.append(f"if {either} then put(chains[{number}][{place}], size, ttl, {cap})")
    if not lines:
        return ""
    spared = f"kept == 0 or kept > {len(WORK)}" if not chain.sessions else "kept == 0"
    body = " else".join(lines) + " end"
    return f"if {spared} then {body} end" if chain.spares else body


def _kept(patterns: list[bytes]) -> str:
    """Lua functions by first byte, each returning a key's place among the built-in patterns."""
    functions = []
    for first, some in _BY_FIRST.items():
        lines = [f"if {_condition(pattern, patterns)} then return {number} end" for number, pattern in some]
        functions.append(f"[{first}] = function(key) {' '.join(lines)} end")
    return ", ".join(functions)


def _ttl() -> str:
    """A Lua expression for the place of C(ttl) among the classes."""
    steps = " or ".join(f"ttl < {end} and {at}" for at, (_name, end) in enumerate(TTL_CLASSES, start=2))
    return f"ttl < 0 and 1 or {steps} or {len(TTL_NAMES)}"


# --- by pipeline ---


@dataclass(frozen=True, slots=True)
class Piped:
    """The same sums for users who may not run scripts; each key costs three commands."""

    clustered: bool
    name: str = "pipeline"

    def slice(
        self, server: Server, question: Question, cursor: bytes, count: int, threshold: int
    ) -> tuple[bytes, Census]:
        cursor, keys = server.call("SCAN", cursor, "COUNT", count, "MATCH", question.match)
        census = Census.empty(question)
        commands: list[Command] = []
        for key in keys:
            three: list[Command] = [
                ("MEMORY", "USAGE", key, "SAMPLES", question.samples),
                ("PTTL", key),
                ("TYPE", key),
            ]
            commands += [
                word for command in three for word in ((("ASKING",), command) if self.clustered else (command,))
            ]
        replies = iter(server.batch(commands)[1::2] if self.clustered else server.batch(commands))
        for at, (key, size, ttl, kind) in enumerate(zip(keys, replies, replies, replies, strict=False), start=1):
            if isinstance(size, OpsError):
                if size.code not in ("cluster_node", "slot_moving"):
                    raise size
                census.moved += 1
            elif size is not None and isinstance(ttl, int):
                if at % question.every == 0:
                    census.types[kind.decode()] = census.types.get(kind.decode(), 0) + 1
                _count(census, question, _Seen(key, size, ttl, kind.decode()), threshold)
        return cursor, census


@dataclass(frozen=True, slots=True)
class _Seen:
    """One key as the server describes it; TTL in milliseconds, negative without one."""

    key: bytes
    size: int
    ttl: int
    kind: str


def _count(census: Census, question: Question, seen: _Seen, threshold: int) -> None:
    key, size, ttl = seen.key, seen.size, seen.ttl
    census.prefixes.setdefault(prefix_of(key, question), Group()).one(size, ttl, None)
    census.total.one(size, ttl, None)
    census.ttl[_ttl_class(ttl)] += 1
    if size > threshold:
        census.largest.append((size, key, seen.kind, ttl))
    kept = next((number for number, pattern in _BY_FIRST.get(key[0] if key else -1, ()) if matches(pattern, key)), 0)
    if kept:
        census.kept.setdefault(kept, Group()).one(size, ttl, None)
    if key.endswith(b":meta") or key.startswith(_BINDING):
        census.marks.add(key)
    for chain, groups in zip(question.chains, census.chains, strict=True):
        place = chain.place(key, kept)
        if place is not None:
            groups[place].one(size, ttl, chain.classes[place].cap)


def prefix_of(key: bytes, question: Question) -> bytes:
    """The key up to and with its n-th separator, fewer where it has fewer."""
    at = 0
    for _level in range(question.depth):
        found = key.find(question.separator, at)
        if found < 0:
            break
        at = found + len(question.separator)
    return key[:at]


def _ttl_class(ttl: int) -> int:
    if ttl < 0:
        return 0
    return next((at for at, (_name, end) in enumerate(TTL_CLASSES, start=1) if ttl < end), len(TTL_NAMES) - 1)


# --- as facts ---


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue that lives in this database."""

    kind: str
    name: str
    version: str = ""


Shown = Callable[[bytes], str]


def queues(servers: Sequence[Server], census: Census, name: Shown = printable) -> tuple[Queue, ...]:
    """The queues whose marks were met: BullMQ's meta hash says its own version, kombu keeps bindings."""
    marks = sorted(census.marks)
    bindings = [mark.removeprefix(_BINDING) for mark in marks if mark.startswith(_BINDING)]
    if not bindings and any(_KEPT[number - 1].what == "Celery queue" for number in census.kept):
        bindings = [b"celery"]
    found = [Queue("celery", name(binding)) for binding in bindings]
    metas = [mark for mark in marks if mark.endswith(b":meta")]
    for server in servers:
        replies = server.batch([("HGET", meta, "version") for meta in metas]) if metas else []
        for meta, version in zip(metas, replies, strict=True):
            if isinstance(version, bytes) and version.startswith(b"bullmq"):
                found.append(Queue("bullmq", name(meta.removesuffix(b":meta")), printable(version)))
    return tuple(found)


def as_facts(census: Census, top: int, name: Shown = printable) -> dict[str, Any]:
    """The sums, scaled to the whole where only a part was looked at. C(name) shows a key, or hides it."""
    factor, whole, typed = census.factor, census.total.scaled(census.factor), sum(census.types.values())
    ranked = sorted(census.prefixes.items(), key=lambda item: (item[0] == OTHER, -item[1].bytes, item[0]))
    return {
        "keys_total": whole.count,
        "bytes_total": whole.bytes,
        "prefixes": [
            {"prefix": _shown(prefix, name), **_sums(group.scaled(factor), whole)} for prefix, group in ranked[:top]
        ],
        "prefixes_more": max(0, len(ranked) - top),
        "largest": [
            {"key": name(key), "bytes": size, "type": kind, "ttl": _seconds(ttl)}
            for size, key, kind, ttl in sorted(census.largest, key=lambda entry: (-entry[0], entry[1]))
        ],
        "ttl": {label: round(count * factor) for label, count in zip(TTL_NAMES, census.ttl, strict=True)},
        "types": {kind: round(count * whole.count / typed) for kind, count in sorted(census.types.items())},
        "no_ttl_share": round(census.total.no_ttl / census.total.count, 4) if census.total.count else 0.0,
        "protected": _protected(census),
        "coverage": {
            "keys_seen": census.total.count,
            "dbsize": census.population,
            "fraction": round(census.fraction, 4),
            "complete": census.complete,
            "moved": census.moved,
            "method": census.method,
        },
    }


def _shown(prefix: bytes, name: Shown) -> str:
    return prefix.decode() if prefix == OTHER else name(prefix) if prefix else "(none)"


def _sums(group: Group, whole: Group) -> dict[str, Any]:
    return {
        "count": group.count,
        "bytes": group.bytes,
        "share": round(group.bytes / whole.bytes, 4) if whole.bytes else 0.0,
        "no_ttl": group.no_ttl,
        "avg_ttl": group.average_ttl,
    }


def class_sums(group: Group, whole: Group) -> dict[str, Any]:
    """A class as it is returned: like a prefix, with what is above its cap."""
    return {**_sums(group, whole), "above_max_ttl": group.above, "bytes_above_max_ttl": group.above_bytes}


def _seconds(ttl: int) -> int:
    """-1 stands for none, as Redis has it."""
    return ttl if ttl < 0 else ttl // 1000


def _protected(census: Census) -> list[Mapping[str, Any]]:
    """The built-in classes of keys that are never touched, with what was found of each."""
    found: dict[str, Group] = {}
    for number, group in census.kept.items():
        found.setdefault(_KEPT[number - 1].what, Group()).add(group)
    scaled = {what: group.scaled(census.factor) for what, group in found.items()}
    return [{"what": what, "count": group.count, "bytes": group.bytes} for what, group in sorted(scaled.items())]
