# SPDX-License-Identifier: GPL-3.0-or-later
"""What was done to a server, told by the server itself. For the lab only: MONITOR and DUMP cost a real one too much."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis

from tests.lab.process import LabError
from tests.lab.redis_servers import RedisServer, ask, server_version

_LINE = re.compile(rb"[\d.]+ \[(\d+) ([^\]]*)\] (.*)", re.DOTALL)
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|.)", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}
_FENCE_SECONDS = 15.0
_PAGE = 200  # small, so that the replies do not push a full server into evicting

# No key changes, but the server does. MONITOR hides most of these (they are "admin"): commandstats counts them.
_CHANGES_SERVER = frozenset(
    f"{group}|{verb}"
    for group, verbs in {
        "acl": "deluser load save setuser",
        "client": "kill no-evict pause unblock unpause",
        "cluster": "addslots addslotsrange bumpepoch delslots delslotsrange failover flushslots forget meet"
        " replicate reset saveconfig set-config-epoch setslot",
        "config": "resetstat rewrite set",
        "function": "kill",
        "latency": "reset",
        "memory": "purge",
        "module": "load loadex unload",
        "script": "flush kill",
        "slowlog": "reset",
    }.items()
    for verb in verbs.split()
) | {"bgrewriteaof", "bgsave", "debug", "failover", "replicaof", "save", "shutdown", "slaveof"}


@dataclass(frozen=True)
class Command:
    """A command as the server took it. `args` is None when only its count is known (commandstats)."""

    name: str
    args: tuple[bytes, ...] | None
    lua: bool = False
    db: int = 0


class Witness:
    """The commands of all other clients, in the server's order. Complete up to the last `fence()`."""

    def __init__(self, server: RedisServer) -> None:
        # Both connections are ready before MONITOR begins, so that their greetings are not in the record.
        self._fencer = server.client(single_connection_client=True)
        self._own_origin = ask(self._fencer, "CLIENT INFO")["addr"].encode()
        self._write_names = _names_of_writes(self._fencer)
        self._listener = server.client(single_connection_client=True, socket_timeout=None)
        self._listener.ping()
        ask(self._fencer, "ECHO", "")  # so that its count betrays a CONFIG RESETSTAT
        self._counts_before = _counts(self._fencer)
        self._counts_after = self._counts_before
        self._seen: list[Command] = []
        self._fences: dict[bytes, bool] = {}  # nonce -> came back
        self._news = threading.Condition()
        self._error: Exception | None = None
        self._over = False
        self._monitor = _below(self._listener)
        self._monitor.send_command("MONITOR")
        self._monitor.read_response()
        self._thread = threading.Thread(target=self._listen, name="lab-witness", daemon=True)
        self._thread.start()

    @property
    def commands(self) -> tuple[Command, ...]:
        with self._news:
            return tuple(self._seen)

    def writes(self) -> tuple[Command, ...]:
        """Commands that change keys or the server, refused ones included; EVAL counts by its inner calls only.

        Commands that always may write count as writes (SORT and GETEX without options too). Those that MONITOR
        hides come last, without arguments.
        """
        if not self._over:
            self.fence()
        shown = [command for command in self.commands if self._is_write(command.name)]
        told = Counter(command.name for command in shown)
        hidden = [
            Command(name, None)
            for name, count in sorted(self._counts_after.items())
            if name in _CHANGES_SERVER
            # CONFIG RESETSTAT takes the counts back to zero: what is there now then came after it.
            for _call in range(count - min(count, self._baseline(name)) - told[name])
        ]
        return (*shown, *hidden)

    def fence(self) -> None:
        """Return when all that the server took before this call is in the record; LabError after 15 s."""
        nonce = secrets.token_hex(16).encode()
        try:
            self._counts_after = _counts(self._fencer)  # first, so that all it counts is in the record too
            self._fences[nonce] = False
            ask(self._fencer, "ECHO", nonce)
        except redis.RedisError as error:
            raise LabError(f"the witness lost the server: {error}") from error
        with self._news:
            if not self._news.wait_for(lambda: self._fences[nonce] or self._error, _FENCE_SECONDS):
                raise LabError(f"the witness did not see its own fence within {_FENCE_SECONDS:g} s")
            if self._error:
                raise LabError(f"the witness lost the server: {self._error}") from self._error

    def close(self) -> None:
        self._over = True
        self._monitor.disconnect()
        self._thread.join(timeout=5)
        for client in (self._fencer, self._listener):
            client.close()

    def _baseline(self, name: str) -> int:
        was_reset = self._counts_after["echo"] < self._counts_before["echo"] + len(self._fences) - 1
        return 0 if was_reset else self._counts_before[name]

    def _is_write(self, name: str) -> bool:
        return name in self._write_names or name in _CHANGES_SERVER

    def _listen(self) -> None:
        try:
            while True:
                self._take(self._monitor.read_response(disable_decoding=True))
        except Exception as error:  # whatever ends the reading must wake those who wait at a fence
            with self._news:
                self._error = error
                self._news.notify_all()

    def _take(self, line: bytes) -> None:
        origin, command = _parsed(line, self._write_names)
        with self._news:
            if origin != self._own_origin:
                self._seen.append(command)
            elif command.args and command.args[0] in self._fences:
                self._fences[command.args[0]] = True
                self._news.notify_all()


@contextlib.contextmanager
def monitor(server: RedisServer) -> Iterator[Witness]:
    """Record what others do to `server` during the block; needs a server of version 7 or later."""
    if server_version() < (7,):
        raise LabError("the witness needs the counts by subcommand of Redis 7")
    server.prove_own()
    seen = Witness(server)
    try:
        yield seen
        seen.fence()
    finally:
        seen.close()


@dataclass(frozen=True)
class Fingerprint:
    """`digest` over names and values, `ttl_digest` over the names that have a TTL (not over its moving value)."""

    count: int
    digest: str
    ttl_digest: str


def fingerprint(server: RedisServer, match: str | bytes = "*", db: int = 0) -> Fingerprint:
    """The same before and after, unless a matching key was touched. Reading resets the idle time of these keys."""
    values, ttls = hashlib.sha256(), hashlib.sha256()
    with server.client(db=db) as client:
        keys = sorted(set(client.scan_iter(match=match, count=1000)))
        for start in range(0, len(keys), _PAGE):
            page = keys[start : start + _PAGE]
            for key, (value, has_ttl) in zip(page, _described(client, page), strict=True):
                name = b"%d:%s" % (len(key), key)
                values.update(b"%s%d:%s" % (name, len(value), value))
                ttls.update(name if has_ttl else b"")
    return Fingerprint(len(keys), values.hexdigest(), ttls.hexdigest())


def _described(client: redis.Redis, keys: list[bytes]) -> list[tuple[bytes, bool]]:
    """(value, has a TTL) by key. DUMP, but for sets and hashes: their order changes while the server rehashes them."""
    with client.pipeline(transaction=False) as batch:
        for key in keys:
            batch.type(key)
            batch.pttl(key)
        heads: list[Any] = batch.execute()
        reads = {b"set": batch.smembers, b"hash": batch.hgetall}
        for key, kind in zip(keys, heads[::2], strict=True):
            reads.get(kind, batch.dump)(key)
        return [(_canonical(value), ttl >= 0) for value, ttl in zip(batch.execute(), heads[1::2], strict=True)]


def _canonical(value: Any) -> bytes:
    match value:
        case dict():
            return repr(sorted(value.items())).encode()
        case set() | list():
            return repr(sorted(value)).encode()
        case None:
            return b"(gone)"
    return bytes(value)


def _below(client: Any) -> Any:
    """The client's one connection: above it redis-py loses binary arguments of MONITOR and trips over COMMAND LIST."""
    return client.connection


def _names_of_writes(client: redis.Redis) -> frozenset[str]:
    """As the server classifies its own commands; subcommands as `xgroup|create`."""
    connection = _below(client)
    connection.send_command("COMMAND", "LIST", "FILTERBY", "ACLCAT", "write")
    return frozenset(name.decode() for name in connection.read_response())


def _counts(client: redis.Redis) -> Counter[str]:
    told = ask(client, "INFO", "commandstats")
    return Counter({name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in told.items()})


def _parsed(line: bytes, writes: frozenset[str]) -> tuple[bytes, Command]:
    """(address of the client, or `lua`; the command)"""
    found = _LINE.fullmatch(line)
    if found is None:
        raise LabError(f"not a line of MONITOR: {line!r}")
    db, origin, rest = found.groups()
    words = [_ESCAPE.sub(_unescaped, word) for word in _WORD.findall(rest)]
    name = words[0].decode(errors="replace").lower()
    full = f"{name}|{words[1].decode(errors='replace').lower()}" if len(words) > 1 else name
    known_pair = full in writes or full in _CHANGES_SERVER
    args = tuple(words[2 if known_pair else 1 :])
    return origin, Command(full if known_pair else name, args, origin == b"lua", int(db))


def _unescaped(found: re.Match[bytes]) -> bytes:
    code = found[1]
    return bytes.fromhex(code[1:].decode()) if len(code) == 3 else _ESCAPED.get(code, code)
