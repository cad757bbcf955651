# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One connection, of which every part ends in time: also a server that sends a byte now and then."""

from __future__ import annotations

import io
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import Empty, Queue
from threading import Thread
from typing import Any

from .model import Certificate, Trace


@dataclass(slots=True)
class Clock:
    """The time that one look has, and what its parts took."""

    seconds: float
    trace: Trace = field(default_factory=Trace)
    stage: str = "dns"
    start: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Seconds that are left; raises TimeoutError where there are none."""
        left = self.start + self.seconds - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    @contextmanager
    def measured(self, stage: str) -> Iterator[None]:
        """Notes what a stage took, and that it is the one where a failure belongs."""
        self.stage, begun = stage, time.monotonic()
        yield
        self.trace.ms[stage] = round((time.monotonic() - begun) * 1000, 1)


class Line:
    """A socket as http.client wants one, whose every read and write has only the time that is left."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._sock = sock
        self._clock = clock

    def sendall(self, data: Any) -> None:
        self._sock.settimeout(self._clock.left())
        self._sock.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Stream(self._sock, self._clock))

    def secure(self, context: ssl.SSLContext, host: str) -> Certificate:
        """Goes on with TLS."""
        self._sock.settimeout(self._clock.left())
        secured = context.wrap_socket(self._sock, server_hostname=host)
        self._sock = secured
        return Certificate(secured.version() or "", _moment((secured.getpeercert() or {}).get("notAfter")))

    def close(self) -> None:
        """http.client closes a connection before its answer has been read; C(end) is for us."""

    def end(self) -> None:
        self._sock.close()


class _Stream(io.RawIOBase):
    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._sock = sock
        self._clock = clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._clock.left())
        return self._sock.recv_into(buffer)


@contextmanager
def dialled(host: str, port: int, clock: Clock) -> Iterator[Line]:
    """A connection to the first address behind a name that takes one."""
    with clock.measured("dns"):
        places = _resolve(host, port, clock)
    with clock.measured("tcp"):
        line = Line(_first(places, port, clock), clock)
    try:
        yield line
    finally:
        line.end()


def _resolve(host: str, port: int, clock: Clock) -> tuple[str, ...]:
    """The system's resolver has no deadline of its own, so it is asked in a thread that is left behind."""
    answers: Queue[tuple[str, ...] | OSError] = Queue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put(tuple(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except OSError as error:
            answers.put(error)

    Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=clock.left())
    except Empty:
        raise TimeoutError from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def _first(places: tuple[str, ...], port: int, clock: Clock) -> socket.socket:
    """Each address has its share of the time, so that a dead one does not take that of those behind it."""
    for number, place in enumerate(places):
        clock.trace.address = place
        try:
            return socket.create_connection((place, port), clock.left() / (len(places) - number))
        except OSError:
            if place == places[-1]:
                raise
    raise TimeoutError


def _moment(words: object) -> datetime | None:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(words)), UTC) if words else None
