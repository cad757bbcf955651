# SPDX-License-Identifier: GPL-3.0-or-later
"""A front before an API server that answers, on demand, what the server itself does not: 429, 410, a broken line.

It speaks plain HTTP and asks the server behind it as the user of a kubeconfig.
"""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import urllib3
import yaml

from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_pki import write_kubeconfig
from tests.lab.process import HOST


@dataclass(frozen=True)
class Answer:
    """What is said instead of what the server says; nothing is forwarded."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Reset:
    """The connection breaks before the request gets anywhere."""


@dataclass(frozen=True)
class Cut:
    """The request is forwarded; the connection breaks in the middle of the answer."""


@dataclass(frozen=True)
class First:
    """Something happens, then the request goes on."""

    act: Callable[[], Any]


@dataclass(frozen=True)
class Rewrite:
    """The request goes on with another path and query."""

    change: Callable[[str], str]


Fault = Answer | Reset | Cut | First | Rewrite | None


@dataclass
class Rule:
    """The next requests that fit get these, one each; None lets one pass."""

    method: str
    path: re.Pattern[str]
    faults: list[Fault]


class Proxy:
    """`on("GET", "/pods", None, Reset())` lets the first list of pods pass and breaks the second."""

    def __init__(self, cluster: Cluster, scratch: Path, kubeconfig: Path | None = None) -> None:
        self.upstream, self.pool = cluster.url, _pool(kubeconfig or cluster.kubeconfig, scratch)
        self.rules: list[Rule] = []
        self.seen: list[tuple[str, str]] = []
        self.answers: list[int] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer((HOST, 0), _handler(self))
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.url = f"http://{HOST}:{self.server.server_port}"
        self.kubeconfig = write_kubeconfig(scratch / "proxied.kubeconfig", self.url, cluster.ca, "proxied")
        self.uid = cluster.uid

    def connection(self, **more: Any) -> dict[str, Any]:
        return {"kubeconfig": str(self.kubeconfig), "expect_cluster": self.uid, **more}

    def on(self, method: str, path: str, *faults: Fault) -> None:
        """`path` is a regular expression, sought in path and query."""
        with self.lock:
            self.rules.append(Rule(method, re.compile(path), list(faults)))

    def next_fault(self, method: str, path: str) -> Fault:
        with self.lock:
            self.seen.append((method, path))
            fitting = (one for one in self.rules if one.faults and one.method == method and one.path.search(path))
            rule = next(fitting, None)
            return rule.faults.pop(0) if rule else None


@contextlib.contextmanager
def proxied(cluster: Cluster, scratch: Path, kubeconfig: Path | None = None) -> Iterator[Proxy]:
    """A front before `cluster`, for the time of a test."""
    proxy = Proxy(cluster, scratch, kubeconfig)
    thread = threading.Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join(timeout=5)


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.next_fault(self.command, self.path)
            if isinstance(fault, Reset):
                _break(self.connection)
                self.close_connection = True
                return
            if isinstance(fault, First):
                fault.act()
            if isinstance(fault, Rewrite):
                self.path = fault.change(self.path)
            try:
                answer = fault if isinstance(fault, Answer) else self.ask(body)
            except urllib3.exceptions.HTTPError:  # the server behind is gone, or frozen
                _break(self.connection)
                self.close_connection = True
                return
            proxy.answers.append(answer.status)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if isinstance(fault, Cut):
                self.wfile.write(answer.body[: len(answer.body) // 2])
                self.wfile.flush()
                _break(self.connection)
                self.close_connection = True
                return
            self.wfile.write(answer.body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

        def ask(self, body: bytes) -> Answer:
            dropped = ("host", "content-length", "connection", "accept-encoding")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
            answer = proxy.pool.request(
                self.command, proxy.upstream + self.path, body=body or None, headers=headers, retries=False, timeout=60
            )
            kept = ("content-type", "retry-after", "location")
            return Answer(
                answer.status, answer.data, {name: v for name, v in answer.headers.items() if name.lower() in kept}
            )

        def log_message(self, format: str, *args: Any) -> None:
            """Silent: `seen` tells."""

    return Handler


def _pool(kubeconfig: Path, scratch: Path) -> urllib3.PoolManager:
    """Connections as the user of the kubeconfig, which holds what it needs itself, as all of the lab do."""
    known = yaml.safe_load(kubeconfig.read_text())
    who, place = known["users"][0]["user"], known["clusters"][0]["cluster"]
    held = {
        "cert_file": who["client-certificate-data"],
        "key_file": who["client-key-data"],
        "ca_certs": place["certificate-authority-data"],
    }
    for name, content in held.items():
        file = scratch / f"proxy-{name}"
        file.touch(mode=0o600)
        file.write_bytes(base64.b64decode(content))
    return urllib3.PoolManager(maxsize=8, **{name: str(scratch / f"proxy-{name}") for name in held})


def _break(connection: socket.socket) -> None:
    """With a reset, as when a machine is gone or a balancer gives up."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
