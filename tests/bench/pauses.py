# SPDX-License-Identifier: GPL-3.0-or-later
"""A bystander: a client in a process of its own that says PING every millisecond and keeps how long it waited."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.bench.stats import Reading, percentile

_EVERY = 0.001


@contextlib.contextmanager
def bystander(port: int) -> Iterator[Reading]:
    """Fills the reading with `worst` and `p99` in seconds when the block ends."""
    command = [sys.executable, "-m", "tests.bench.pauses", str(port)]
    reading: Reading = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin
        assert client.stdout
        client.stdout.readline()  # it is connected
        try:
            yield reading
        finally:
            client.stdin.close()
            said = client.stdout.read()
    reading |= json.loads(said)


def watch(port: int) -> None:
    """Until somebody closes our stdin."""
    waits = []
    with socket.create_connection(("127.0.0.1", port)) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _ping(server)
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], _EVERY)[0]:
            waits.append(_ping(server))
    print(json.dumps({"worst": max(waits), "p99": percentile(waits, 0.99), "pings": len(waits)}))


def _ping(server: socket.socket) -> float:
    begun = time.monotonic()
    server.sendall(b"PING\r\n")
    if server.recv(16) != b"+PONG\r\n":
        raise ConnectionError("no PONG")
    return time.monotonic() - begun


if __name__ == "__main__":
    watch(int(sys.argv[1]))
