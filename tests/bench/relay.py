# SPDX-License-Identifier: GPL-3.0-or-later
"""Distance: a relay in a process of its own that holds whatever passes for a quarter of a millisecond, each way.

With what the relay itself takes, a round trip is then about as long as between two zones of a cloud region.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

DELAY = 0.00025


@contextlib.contextmanager
def distant(port: int) -> Iterator[int]:
    """The port on which the server of `port` seems to be further away."""
    command = [sys.executable, "-m", "tests.bench.relay", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as relay:
        assert relay.stdin
        assert relay.stdout
        try:
            yield int(relay.stdout.readline())
        finally:
            relay.stdin.close()


def serve(port: int) -> None:
    """Until somebody closes our stdin."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as door:
        print(door.getsockname()[1], flush=True)
        threading.Thread(target=_accept, args=(door, port), daemon=True).start()
        sys.stdin.read()


def _accept(door: socket.socket, port: int) -> None:
    while True:
        client, _address = door.accept()
        server = socket.create_connection(("127.0.0.1", port))
        for origin, goal in ((client, server), (server, client)):
            origin.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_carry, args=(origin, goal), daemon=True).start()


def _carry(origin: socket.socket, goal: socket.socket) -> None:
    """One direction; the end of it is passed on, too."""
    with contextlib.suppress(OSError):
        while content := origin.recv(1 << 18):
            time.sleep(DELAY)
            goal.sendall(content)
    with contextlib.suppress(OSError):
        goal.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
