# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A Redis in memory that speaks the `Server` protocol, for tests of plans. It runs no scripts, as some users may not.

`tests/contract/test_redis_server.py` holds it to what a real server says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from ansible_collections.sre.runbooks.plugins.module_utils._core.door import Door, Product
from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import Kind, OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._core.plan import Target
from ansible_collections.sre.runbooks.plugins.module_utils._core.spec import Params
from ansible_collections.sre.runbooks.plugins.module_utils._redis.address import Address
from ansible_collections.sre.runbooks.plugins.module_utils._redis.client import Arg, Command, Redis, Server
from ansible_collections.sre.runbooks.plugins.module_utils._redis.errors import translate
from ansible_collections.sre.runbooks.plugins.module_utils._redis.globs import matches
from ansible_collections.sre.runbooks.plugins.module_utils._redis.product import CONNECTION

VERSION = "7.0.15"
_OVERHEAD = 56
_BASE = 1_000_000


@dataclass
class Entry:
    """A key: `expires` is a moment of the fake's clock in milliseconds, None without a TTL."""

    value: bytes | dict[bytes, bytes]
    expires: int | None = None
    touched: int = 0

    @property
    def type(self) -> bytes:
        return b"hash" if isinstance(self.value, dict) else b"string"

    def size(self, key: bytes) -> int:
        held = self.value if isinstance(self.value, bytes) else b"".join(k + v for k, v in self.value.items())
        return _OVERHEAD + len(key) + len(held)


@dataclass
class FakeServer:
    """One primary. `forbidden` names commands that the user may not send; `log` keeps every command sent."""

    address: Address = field(default_factory=Address)
    settings: dict[str, str] = field(default_factory=lambda: {"maxmemory": "0", "maxmemory-policy": "noeviction"})
    role: str = "master"
    forbidden: frozenset[str] = frozenset()
    keys: dict[bytes, Entry] = field(default_factory=dict)
    clients: dict[int, dict[str, str]] = field(default_factory=dict)
    log: list[tuple[bytes, ...]] = field(default_factory=list)
    expired: int = 0
    now: int = field(default_factory=lambda: int(time.time() * 1000))

    def call(self, *command: Arg) -> Any:
        """The reply in the driver's own form; an OpsError is raised for an error reply."""
        words = tuple(word if isinstance(word, bytes) else str(word).encode() for word in command)
        self.log.append(words)
        name = words[0].decode().upper()
        if name in self.forbidden:
            raise _error(Kind.FORBIDDEN, "acl", f"NOPERM this user may not send {name}")
        return _command(name)(self, words[1:])

    def script(self, lua: str, *args: Arg) -> Any:
        self.log.append((b"EVAL",))
        raise _error(Kind.FORBIDDEN, "acl", "NOPERM this user has no permissions to run the 'eval' command")

    def batch(self, commands: Sequence[Command]) -> list[Any]:
        return [self._answer(command) for command in commands]

    def close(self) -> None:
        """Nothing is held."""

    def alive(self) -> dict[bytes, Entry]:
        """The keys; those that have run out go when they are met, as in Redis."""
        for key in [key for key, entry in self.keys.items() if entry.expires is not None and entry.expires <= self.now]:
            del self.keys[key]
            self.expired += 1
        return self.keys

    @property
    def used(self) -> int:
        return _BASE + sum(entry.size(key) for key, entry in self.keys.items())

    def _answer(self, command: Command) -> Any:
        try:
            return self.call(*command)
        except OpsError as error:
            return error


def redis_of(*servers: FakeServer, topology: str = "single") -> Redis:
    """The deployment that a plan gets."""
    fakes: tuple[Server, ...] = servers
    info = {"role": servers[0].role, "maxmemory_policy": servers[0].settings["maxmemory-policy"]}
    if servers[0].role == "slave":
        info |= {"master_host": "10.0.0.1", "master_port": "6379"}
    target = Target("redis", servers[0].address.name, "fake", VERSION, servers[0].role)
    return Redis(target, fakes, info, topology)


def door_of(door: Door, redis: Redis) -> Door:
    """The same module, connected to a fake."""

    @contextmanager
    def connect(_params: Params) -> Iterator[Redis]:
        yield redis

    return Door(Product("redis", "redis", CONNECTION, connect, translate), door.spec, door.plan)


def _error(kind: Kind, code: str, words: str) -> OpsError:
    return OpsError(kind, words, code=code)


Words = tuple[bytes, ...]


def _command(name: str) -> Callable[[FakeServer, Words], Any]:
    if name not in _COMMANDS:
        raise _error(Kind.UNSUPPORTED, "unknown_command", f"ERR unknown command '{name}'")
    return _COMMANDS[name]


def _info(server: FakeServer, _words: Words) -> bytes:
    lines = {
        "redis_version": VERSION,
        "role": server.role,
        "run_id": "fake",
        "used_memory": server.used,
        "used_memory_rss": server.used,
        "maxmemory": server.settings["maxmemory"],
        "maxmemory_policy": server.settings["maxmemory-policy"],
        "lazyfree_pending_objects": 0,
        "expired_keys": server.expired,
        "connected_slaves": 0,
        "master_repl_offset": 0,
    }
    return "".join(f"{name}:{value}\r\n" for name, value in lines.items()).encode()


def _scan(server: FakeServer, words: Words) -> list[Any]:
    """Pages in a fixed order that is not the order of insertion; a page may be empty, as in Redis."""
    options = {name.upper(): value for name, value in zip(words[1::2], words[2::2], strict=True)}
    count, pattern = int(options.get(b"COUNT", b"10")), options.get(b"MATCH", b"*")
    order = sorted(server.keys, key=crc32)
    start = int(words[0])
    page, last = order[start : start + count], start + count >= len(order)
    alive = server.alive()
    found = [key for key in page if key in alive and (pattern == b"*" or matches(pattern, key))]
    found = [key for key in found if options.get(b"TYPE", alive[key].type) == alive[key].type]
    return [b"0" if last else b"%d" % (start + count), found]


def _unlink(server: FakeServer, words: Words) -> int:
    return sum(server.alive().pop(key, None) is not None for key in words)


def _pttl(server: FakeServer, words: Words) -> int:
    entry = server.alive().get(words[0])
    if entry is None:
        return -2
    return -1 if entry.expires is None else entry.expires - server.now


def _pexpire(server: FakeServer, words: Words) -> int:
    entry, wanted, flags = (
        server.alive().get(words[0]),
        server.now + int(words[1]),
        {word.upper() for word in words[2:]},
    )
    if entry is None or (b"XX" in flags and entry.expires is None):
        return 0
    if b"LT" in flags and entry.expires is not None and wanted >= entry.expires:
        return 0
    entry.expires = wanted
    return 1


def _set(server: FakeServer, words: Words) -> bytes:
    options = {name.upper(): value for name, value in zip(words[2::2], words[3::2], strict=True)}
    lifetime = int(options[b"PX"]) if b"PX" in options else int(options[b"EX"]) * 1000 if b"EX" in options else None
    server.keys[words[0]] = Entry(words[1], None if lifetime is None else server.now + lifetime, server.now)
    return b"OK"


def _hset(server: FakeServer, words: Words) -> int:
    entry = server.alive().setdefault(words[0], Entry({}, None, server.now))
    if not isinstance(entry.value, dict):
        raise _error(
            Kind.PRECONDITION, "refused_command", "WRONGTYPE Operation against a key holding the wrong kind of value"
        )
    before = len(entry.value)
    entry.value |= dict(zip(words[1::2], words[2::2], strict=True))
    return len(entry.value) - before


def _hget(server: FakeServer, words: Words) -> bytes | None:
    entry = server.alive().get(words[0])
    return entry.value.get(words[1]) if entry and isinstance(entry.value, dict) else None


def _type(server: FakeServer, words: Words) -> bytes:
    entry = server.alive().get(words[0])
    return entry.type if entry else b"none"


def _memory(server: FakeServer, words: Words) -> int | None:
    entry = server.alive().get(words[1])
    return entry.size(words[1]) if entry else None


def _object(server: FakeServer, words: Words) -> int | None:
    entry = server.alive().get(words[1])
    return (server.now - entry.touched) // 1000 if entry else None


def _config(server: FakeServer, words: Words) -> Any:
    if words[0].upper() == b"GET":
        found = {name: value for name, value in server.settings.items() if matches(words[1], name.encode())}
        return [part.encode() for pair in found.items() for part in pair]
    changes = {name.decode(): value.decode() for name, value in zip(words[1::2], words[2::2], strict=True)}
    strange = set(changes) - set(server.settings)
    if strange:
        words_ = f"ERR Unknown option or number of arguments for CONFIG SET - '{strange.pop()}'"
        raise _error(Kind.PRECONDITION, "refused_command", words_)
    server.settings |= changes
    return b"OK"


def _client(server: FakeServer, words: Words) -> Any:
    match words[0].upper():
        case b"LIST":
            lines = [{"id": str(number), **fields} for number, fields in server.clients.items()]
            return "".join(" ".join(f"{k}={v}" for k, v in line.items()) + "\n" for line in lines).encode()
        case b"KILL":
            return int(server.clients.pop(int(words[2]), None) is not None)
        case b"ID":
            return 1
    return b"OK"


def _acl(server: FakeServer, words: Words) -> bytes:
    if words[0].upper() == b"WHOAMI":
        return b"default"
    name = words[2].decode().upper()
    return (
        f"User default has no permissions to run the '{name.lower()}' command".encode()
        if name in server.forbidden
        else b"OK"
    )


_COMMANDS: Mapping[str, Callable[[FakeServer, Words], Any]] = {
    "ACL": _acl,
    "CLIENT": _client,
    "CONFIG": _config,
    "DBSIZE": lambda server, _words: len(server.keys),
    "HGET": _hget,
    "HSET": _hset,
    "INFO": _info,
    "MEMORY": _memory,
    "OBJECT": _object,
    "PEXPIRE": _pexpire,
    "PING": lambda _server, _words: b"PONG",
    "PTTL": _pttl,
    "SCAN": _scan,
    "SET": _set,
    "TYPE": _type,
    "UNLINK": _unlink,
}
