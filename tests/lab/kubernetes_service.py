# SPDX-License-Identifier: GPL-3.0-or-later
"""The service behind a workload of the lab. KWOK's pods serve nothing, so this process does, by the pods there are.

Every request asks the API server for the pods: the answer is that of the real control plane at this moment. A service
has a capacity (so many ready pods or it sheds), pods of it can hang until they are replaced, and it may need a port.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Event, Thread

from tests.lab.kubernetes_cluster import Cluster
from tests.lab.process import HOST
from tests.lab.web_server import Asked, Reply, Web, web

_OK = b'{"status": "ok"}'
_BAD = b'{"status": "bad"}'


@dataclass
class Service:
    """What answers for a workload. `needs` ready pods, and where it is not 0 the port `depends_on`."""

    cluster: Cluster
    namespace: str
    name: str = "app"
    needs: int = 1
    depends_on: int = 0
    hangs_always: bool = False
    hanging: set[str] = field(default_factory=set)
    answers: Counter[int] = field(default_factory=Counter)
    turns: Iterator[int] = field(default_factory=itertools.count)
    web: Web | None = None

    @property
    def url(self) -> str:
        assert self.web
        return f"{self.web.url}/health"

    def ready(self) -> list[str]:
        """Uids of the pods that would be asked."""
        found = self.cluster.objects("pod", self.namespace, f"app={self.name}")
        return sorted(pod["metadata"]["uid"] for pod in found if _serves(pod))

    def hang(self, share: float = 1.0) -> None:
        """From now on these very pods take requests and do not answer; their successors will."""
        pods = self.ready()
        self.hanging.update(pods[: max(1, round(len(pods) * share))])

    def reply(self, asked: Asked) -> Reply:
        if asked.path == "/metrics":
            lines = [f'http_requests_total{{code="{code}"}} {count}\n' for code, count in sorted(self.answers.items())]
            return Reply(200, "".join(lines).encode(), {"Content-Type": "text/plain; version=0.0.4"})
        reply = self._judged() if asked.path == "/health" else Reply(404, b"")
        self.answers[500 if reply.fault else reply.status] += 1
        return reply

    def _judged(self) -> Reply:
        pods = self.ready()
        if len(pods) < max(1, self.needs) or not self._has_its_port():
            return Reply(503, _BAD)
        if self.hangs_always or pods[next(self.turns) % len(pods)] in self.hanging:
            return Reply(fault="hang")
        return Reply(200, _OK)

    def _has_its_port(self) -> bool:
        if not self.depends_on:
            return True
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.depends_on), 1):
            return True
        return False


@contextlib.contextmanager
def serving(cluster: Cluster, namespace: str, **options: object) -> Iterator[Service]:
    """The service of a workload, until the end of the block."""
    made = Service(cluster, namespace, **options)  # type: ignore[arg-type]
    with web(made.reply) as running:
        made.web = running
        yield made


@contextlib.contextmanager
def users(service: Service, pause: float = 0.05) -> Iterator[None]:
    """Requests that come all the time, so that there is a rate."""
    done = Event()

    def ask() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError), urllib.request.urlopen(service.url, timeout=0.3) as answer:
                answer.read()
            time.sleep(pause)

    thread = Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _serves(pod: dict[str, object]) -> bool:
    """Ready, and not on its way out: as a Service's endpoints are chosen."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    assert isinstance(metadata, dict)
    assert isinstance(status, dict)
    conditions = {one["type"]: one["status"] for one in status.get("conditions", ())}
    return "deletionTimestamp" not in metadata and conditions.get("Ready") == "True"
