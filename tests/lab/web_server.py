# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A small web service of this process on loopback, which is as sick as a test wants it, also below HTTP."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

from tests.lab.certificates import Certificates
from tests.lab.process import HOST

#: How long a service hangs that hangs: longer than anybody waits, and no test waits for its end.
_HANGS = 20.0


@dataclass(frozen=True)
class Reply:
    """What the service says. `fault` is how it misbehaves instead."""

    status: int = 200
    body: bytes = b'{"status": "ok", "checks": [{"name": "db", "up": true}]}'
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    fault: str = ""


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Web:
    """A running service. `replies` may be changed at any time; what came is in `asked`."""

    server: ThreadingHTTPServer
    scheme: str
    replies: Callable[[Asked], Reply]
    asked: list[Asked] = field(default_factory=list)
    closing: Event = field(default_factory=Event)

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    @property
    def url(self) -> str:
        return f"{self.scheme}://{HOST}:{self.port}"


@contextlib.contextmanager
def web(replies: Callable[[Asked], Reply] = lambda _asked: Reply(), tls: Certificates | None = None) -> Iterator[Web]:
    """Serves until the end of the block, each request in a thread of its own."""
    server = ThreadingHTTPServer((HOST, 0), _Handler)
    server.daemon_threads = True
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.server_cert, tls.server_key)
        # The handshake belongs into the thread of its connection, or one that hangs would stop all.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    running = Web(server, "https" if tls else "http", replies)
    server.web = running  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(8)
        yield int(listener.getsockname()[1])


@contextlib.contextmanager
def full_port() -> Iterator[int]:
    """A port whose queue of connections is full: the kernel drops what comes, as a lost route does."""
    with socket.socket() as listener, contextlib.ExitStack() as held:
        listener.bind((HOST, 0))
        listener.listen(0)
        for _number in range(4):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        time.sleep(0.05)
        yield int(listener.getsockname()[1])


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        web: Web = self.server.web  # type: ignore[attr-defined]
        size = int(self.headers.get("Content-Length") or 0)
        asked = Asked(self.command, self.path, dict(self.headers), self.rfile.read(size))
        web.asked.append(asked)
        reply = web.replies(asked)
        with contextlib.suppress(OSError):  # whoever asked may have gone
            getattr(self, f"_{reply.fault or 'say'}")(reply, web)

    do_HEAD = do_GET
    do_POST = do_GET
    do_CONNECT = do_GET

    def log_message(self, *_arguments: object) -> None:
        """Tests look at what was asked; nobody reads a log."""

    def _say(self, reply: Reply, _web: Web) -> None:
        self._head(reply, len(reply.body))
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def _head(self, reply: Reply, size: int) -> None:
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(size)}.items():
            self.send_header(name, value)
        self.end_headers()

    def _hang(self, _reply: Reply, web: Web) -> None:
        web.closing.wait(_HANGS)

    def _drip(self, reply: Reply, web: Web) -> None:
        """A byte now and then: no single read waits long."""
        self._head(reply, 1000)
        for _number in range(100):
            self.wfile.write(b"x")
            if web.closing.wait(0.05):
                return

    def _cut(self, reply: Reply, _web: Web) -> None:
        self._head(reply, len(reply.body) + 10)
        self.wfile.write(reply.body)

    def _close(self, _reply: Reply, _web: Web) -> None:
        self.close_connection = True

    def _reset(self, _reply: Reply, _web: Web) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _garbage(self, _reply: Reply, _web: Web) -> None:
        self.wfile.write(b"-ERR unknown command\r\n\r\n")
