# SPDX-License-Identifier: GPL-3.0-or-later
"""Makers of Redis incidents: each bounded, each only on a server that proved to be the lab's own."""

from __future__ import annotations

import contextlib
import itertools
import json
import resource
import secrets
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import redis

from tests.lab.process import LabError, wait_until
from tests.lab.redis_servers import RedisServer, ask

Word = str | bytes | int | float

_MIB = 1024 * 1024
_MAX_SOCKETS = 20_000
# Newer servers stop the clock of TIME inside a script, older ones have no os.clock there.
_BUSY = """
local has_clock, clock = pcall(function() return os.clock end)
local function now()
  if has_clock then return clock() end
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end
local start = now()
while now() - start < tonumber(ARGV[1]) do end
"""


def fill_cache(
    server: RedisServer,
    match_prefix: str = "cache:",
    until: Literal["oom"] | int = "oom",
    value_size: int = 1024,
    ttl: int | None = None,
) -> int:
    """Write keys `<match_prefix><token>:<n>` of `value_size` bytes; returns how many were accepted.

    `until` "oom": to the byte where the server refuses or evicts (needs maxmemory); a number: until used_memory
    reaches so many bytes, or earlier if the server refuses. `ttl` in seconds.
    """
    server.prove_own()
    limit = server.info("memory")["maxmemory"] if until == "oom" else until
    if not limit:
        raise LabError("a server without maxmemory is never full: give it maxmemory, or say until which size to fill")
    names = (f"{match_prefix}{secrets.token_hex(3)}:{number}" for number in itertools.count())
    written = 0
    with server.client() as client:
        evicted = _evicted(client)
    # The last, small steps fill the room that a large batch leaves when it is refused, and when its connection goes.
    for batch in (500, 20, 1) if until == "oom" else (500,):
        with server.client() as client:
            number = client.client_id()
            while _evicted(client) == evicted if until == "oom" else _used(client) < until:
                accepted = _set_all(client, list(itertools.islice(names, batch)), value_size, ttl)
                written += accepted
                if accepted < batch:
                    break
                if written * value_size > 2 * limit:
                    raise LabError(f"still not full after {written} keys of {value_size} bytes")
            client.connection_pool.disconnect()  # redis-py 5.0 leaves that to the garbage collector
        _wait_until_gone(server, number)
    return written


def _wait_until_gone(server: RedisServer, number: int) -> None:
    """Until the server has given back what it held for a connection that was closed."""
    wait_until(lambda: not server.command("CLIENT", "LIST", "ID", number), 10, f"end of client {number}", pause=0.001)


def _evicted(client: redis.Redis) -> int:
    return int(ask(client, "INFO", "stats")["evicted_keys"])


def _used(client: redis.Redis) -> int:
    return int(ask(client, "INFO", "memory")["used_memory"])


def _set_all(client: redis.Redis, names: list[str], size: int, ttl: int | None) -> int:
    """How many of the writes were accepted; LabError when one was refused for another reason than memory."""
    with client.pipeline(transaction=False) as batch:
        for name in names:
            batch.set(name, b"x" * size, ex=ttl)
        answers = batch.execute(raise_on_error=False)
    refusals = [answer for answer in answers if isinstance(answer, Exception)]
    for refusal in refusals:
        if not isinstance(refusal, redis.exceptions.OutOfMemoryError):
            raise LabError(f"the server refused a write: {refusal}") from refusal
    return len(answers) - len(refusals)


def add_bystanders(server: RedisServer) -> None:
    """Keys that no runbook for a cache may touch: a BullMQ queue, a Celery queue, sessions, configuration."""
    server.prove_own()
    with server.client() as client, client.pipeline(transaction=False) as batch:
        _bullmq(batch, "bull:email")
        _celery(batch)
        for number in range(20):
            batch.set(f"sess:{number}", json.dumps({"user": number}), ex=86400)
            batch.set(f"cfg:{number}", f"value-{number}")
        batch.execute()


def _bullmq(batch: Any, queue: str) -> None:
    now = int(time.time() * 1000)
    for job in range(1, 13):
        batch.hset(f"{queue}:{job}", mapping={"name": "send", "data": '{"to":"a@example.org"}', "timestamp": now})
    batch.lpush(f"{queue}:wait", *range(1, 6))
    batch.zadd(f"{queue}:failed", {str(job): now for job in (6, 7)})
    batch.zadd(f"{queue}:completed", {str(job): now for job in (8, 9, 10)})
    batch.zadd(f"{queue}:delayed", {str(job): (now + 3_600_000) * 4096 for job in (11, 12)})
    batch.hset(f"{queue}:meta", mapping={"opts.maxLenEvents": 10000, "version": "bullmq:5.81.5"})
    batch.set(f"{queue}:id", 12)


def _celery(batch: Any) -> None:
    def message(number: int) -> str:
        headers = {"id": f"task-{number}", "task": "app.send"}
        return json.dumps({"body": "W10=", "headers": headers, "properties": {"priority": 0}})

    batch.lpush("celery", *(message(number) for number in range(5)))
    batch.hset("unacked", "tag-1", json.dumps([message(9), "", "celery"]))
    batch.zadd("unacked_index", {"tag-1": time.time()})
    batch.sadd("_kombu.binding.celery", "celery\x06\x16\x06\x16celery")


def hostile_keys(prefix: str = "cache:") -> list[bytes]:
    """Key names that break quoting, line-wise tools, patterns and decoders."""
    tails = (b"", b" ", b"a b", b"a\nb", b"a\r\nDEL cfg:1", b"a\tb", b'say "x"', b"it's", b"*", b"a?b", b"[a-z]", b"\\")
    others = (b"\x00\xff\xfe", "schl\u00fcssel-\u96ea-\U0001f511".encode(), b"{tag}:1", b"$(id)", b"-n", b"{{ 1 + 1 }}")
    return [prefix.encode() + tail for tail in (*tails, *others)]


@dataclass
class ClientFlood:
    """Connections held open. `refused` were turned away (maxclients)."""

    sockets: list[socket.socket] = field(default_factory=list)
    refused: int = 0

    @property
    def accepted(self) -> int:
        return len(self.sockets)

    def close(self) -> None:
        """Harmless when repeated."""
        while self.sockets:
            self.sockets.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def flood_clients(server: RedisServer, n: int, name: str = "flood") -> ClientFlood:
    """Open `n` idle connections called `name`; those that the server turns away are only counted."""
    return _hold(server, n, name, ())


def block_workers(server: RedisServer, n: int, name: str = "worker", key: str = "lab:idle") -> ClientFlood:
    """`n` clients that wait for work: in turn BRPOP `key` and BZPOPMIN `key`:z; the keys must be empty."""
    waits = (("BRPOP", key, 0), ("BZPOPMIN", f"{key}:z", 0))
    before = server.info("clients")["blocked_clients"]
    flood = _hold(server, n, name, waits)
    with _closing_on_error(flood):
        due = before + flood.accepted
        wait_until(lambda: server.info("clients")["blocked_clients"] >= due, 5, f"{due} blocked clients")
    return flood


def subscribe(server: RedisServer, n: int, name: str = "subscriber", channel: str = "lab:news") -> ClientFlood:
    """`n` clients that listen on `channel` and never read what it says."""
    flood = _hold(server, n, name, (("SUBSCRIBE", channel),))
    with _closing_on_error(flood):
        due = flood.accepted
        wait_until(lambda: server.command("PUBSUB", "NUMSUB", channel)[1] >= due, 5, f"{due} subscribers")
    return flood


def _hold(server: RedisServer, n: int, name: str, requests: tuple[tuple[Word, ...], ...]) -> ClientFlood:
    """Open `n` named connections, and send to each one of `requests` in turn, if there are any."""
    if not 0 < n <= _MAX_SOCKETS:
        raise LabError(f"{n} connections: give 1 to {_MAX_SOCKETS}")
    server.prove_own()
    _allow_files(n)
    flood = ClientFlood()
    turns = itertools.cycle(requests or ((),))
    with _closing_on_error(flood):
        for request in itertools.islice(turns, n):
            held = _named_socket(server, name)
            if held is None:
                flood.refused += 1
                continue
            flood.sockets.append(held)
            if request:
                held.sendall(_packed(*request))
    return flood


def _allow_files(n: int) -> None:
    """Raise our own soft limit of open files, so that it is the server that turns clients away."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = n + 512
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise LabError(f"{n} connections: this process may open {hard} files")
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def _closing_on_error(flood: ClientFlood) -> Iterator[None]:
    try:
        yield
    except BaseException:
        flood.close()
        raise


def _named_socket(server: RedisServer, name: str) -> socket.socket | None:
    """A connection that has logged in, or None when the server turned it away."""
    plain = socket.create_connection((server.host, server.port), timeout=5)
    held = _tls_context(server).wrap_socket(plain, server_hostname=server.host) if server.tls else plain
    login = server.connection()
    if password := login.get("password"):
        _ask(held, "AUTH", *([login["username"]] if "username" in login else []), password)
    if _ask(held, "CLIENT", "SETNAME", name):
        return held
    held.close()
    return None


def _ask(held: socket.socket, *words: Word) -> bool:
    """Send one command whose answer is one line; False unless it is +OK."""
    with contextlib.suppress(ConnectionError):
        held.sendall(_packed(*words))
        return held.recv(200).startswith(b"+OK")
    return False


def _tls_context(server: RedisServer) -> ssl.SSLContext:
    if server.tls is None:
        raise LabError("the server has no TLS")
    context = ssl.create_default_context(cafile=str(server.tls.ca_cert))
    context.load_cert_chain(server.tls.client_cert, server.tls.client_key)
    return context


def _packed(*words: Word) -> bytes:
    """A command in the Redis protocol."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


class BusyScript:
    """A read-only script that keeps the server busy. Over after its seconds, or at `close()` if the server lets go."""

    def __init__(self, server: RedisServer, seconds: float) -> None:
        server.prove_own()
        self._server = server
        self._over = threading.Event()
        self._runner = threading.Thread(target=self._run, args=(seconds,), daemon=True)
        self._guard = threading.Thread(target=self._end_after, args=(seconds,), daemon=True)
        self._runner.start()
        self._guard.start()

    @property
    def running(self) -> bool:
        return self._runner.is_alive()

    def close(self) -> None:
        """SCRIPT KILL, which the server obeys after its busy-reply-threshold; then wait for the end."""
        self._kill()
        self._over.set()
        self._runner.join()
        self._guard.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _run(self, seconds: float) -> None:
        # An error here is the script's being killed, or the server's: both end the fault.
        with contextlib.suppress(redis.RedisError), self._server.client(socket_timeout=seconds + 30) as client:
            ask(client, "EVAL", _BUSY, 0, seconds)
        self._over.set()

    def _end_after(self, seconds: float) -> None:
        # os.clock counts the server's CPU seconds, which on a crowded machine are longer than ours.
        if not self._over.wait(seconds + 1):
            self._kill()

    def _kill(self) -> None:
        # The answer may have to wait for the busy-reply-threshold.
        with contextlib.suppress(redis.RedisError), self._server.client(socket_timeout=30) as client:
            ask(client, "SCRIPT", "KILL")


def busy_script(server: RedisServer, seconds: float) -> BusyScript:
    """Run an endless-looking script for `seconds` (at most 60); returns at once."""
    if not 0 < seconds <= 60:
        raise LabError(f"{seconds} s: give at most 60")
    return BusyScript(server, seconds)


def giant_key(server: RedisServer, name: str | bytes, members: int) -> int:
    """One hash of `members` fields; returns its bytes."""
    server.prove_own()
    with server.client() as client:
        for chunk in _chunks(range(members), 1000):
            client.hset(name, mapping={f"field:{number}": f"value-{number:032}" for number in chunk})
        return int(ask(client, "MEMORY", "USAGE", name, "SAMPLES", 0) or 0)


def _chunks(numbers: Iterable[int], size: int) -> Iterator[list[int]]:
    rest = iter(numbers)
    while chunk := list(itertools.islice(rest, size)):
        yield chunk


class Writer:
    """An application that goes on writing: a ring of 10,000 small keys `writer:<n>`, and what became of each write."""

    def __init__(self, server: RedisServer, interval: float) -> None:
        server.prove_own()
        self.accepted = 0
        self.refused = 0
        self.last_error: Exception | None = None
        # (time.monotonic() of the answer, seconds it took, accepted), newest last
        self.history: deque[tuple[float, float, bool]] = deque(maxlen=100_000)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(server, interval), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Harmless when repeated."""
        self._over.set()
        self._thread.join(timeout=10)

    def accepted_again_after(self, moment: float) -> float | None:
        """time.monotonic() of the first accepted write after `moment`; None when there was none."""
        return next((at for at, _took, accepted in tuple(self.history) if accepted and at > moment), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def _run(self, server: RedisServer, interval: float) -> None:
        with server.client(socket_timeout=2, client_name="writer") as client:
            for number in itertools.count():
                self._write(client, f"writer:{number % 10_000}")
                if self._over.wait(interval):
                    return

    def _write(self, client: redis.Redis, key: str) -> None:
        begun = time.monotonic()
        try:
            client.set(key, "x" * 64)
        except redis.RedisError as error:
            self.refused += 1
            self.last_error = error
            accepted = False
        else:
            self.accepted += 1
            accepted = True
        now = time.monotonic()
        self.history.append((now, now - begun, accepted))


def writer(server: RedisServer, interval: float = 0.002) -> Writer:
    """A background client that writes every `interval` seconds until `.stop()`."""
    return Writer(server, interval)


def fragment(server: RedisServer, mb: int, prefix: str = "frag:") -> float:
    """Write `mb` MiB in values of mixed sizes and delete three of four; returns allocator_frag_ratio."""
    server.prove_own()
    sizes = (128, 320, 768, 1280)
    count = mb * _MIB * len(sizes) // sum(sizes)
    with server.client() as client:
        for chunk in _chunks(range(count), 500):
            with client.pipeline(transaction=False) as batch:
                for number in chunk:
                    batch.set(f"{prefix}{number}", b"x" * sizes[number // 4 % len(sizes)])
                batch.execute()
        for chunk in _chunks((number for number in range(count) if number % 4), 500):
            client.delete(*(f"{prefix}{number}" for number in chunk))
        time.sleep(0.3)  # the server samples its allocator ten times a second
        return float(ask(client, "INFO", "memory")["allocator_frag_ratio"])


def waste(server: RedisServer, mb: int) -> None:
    """Write and delete `mb` MiB in large values: for some seconds the allocator holds pages that hold nothing."""
    server.prove_own()
    before = int(server.info("memory")["used_memory"])
    names = [f"waste:{number}" for number in range(mb)]
    with server.client() as client:
        for name in names:
            client.set(name, b"x" * _MIB)
        client.unlink(*names)
    wait_until(lambda: server.info("memory")["used_memory"] < before + _MIB, 5, "deletion")


class OutputBufferHog(ClientFlood):
    """One client that asks and never reads; `.close()` ends it."""


def output_buffer_hog(server: RedisServer, mb: int, key: str = "lab:hog") -> OutputBufferHog:
    """Make the output buffer of a client called `hog` at least `mb` MiB (1 to 1024); writes `key`, 1 MiB."""
    if not 0 < mb <= 1024:
        raise LabError(f"{mb} MiB: give 1 to 1024")
    server.prove_own()
    server.command("SET", key, b"x" * _MIB)
    held = _named_socket(server, "hog")
    if held is None:
        raise LabError("the server turned the hog away")
    hog = OutputBufferHog([held])
    with _closing_on_error(hog):
        # A few more than asked, for what the kernel's socket buffers swallow.
        held.sendall(_packed("GET", key) * (mb + 8))
        wait_until(lambda: _output_of_hog(server) >= mb * _MIB, 20, f"an output buffer of {mb} MiB")
    return hog


def _output_of_hog(server: RedisServer) -> int:
    with server.client() as client:
        return sum(int(told["omem"]) for told in client.client_list() if told["name"] == "hog")
