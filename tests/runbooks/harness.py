# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the five proofs of every runbook share: a target, a run, a run that is killed, what changed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab.process import ProcessId, children
from tests.lab.redis_servers import RedisServer
from tests.support import ROOT, PlayResult, play, prepare

if TYPE_CHECKING:
    from tests.lab.kubernetes_cluster import Cluster
    from tests.lab.postgres_servers import PostgresServer


@dataclass(frozen=True)
class Runbook:
    """A runbook aimed at one target, with what is declared for it. C(product) names group and connection."""

    name: str
    connection: dict[str, Any]
    declared: dict[str, Any] = field(default_factory=dict)
    product: str = "redis"

    @property
    def playbook(self) -> Path:
        return ROOT / "playbooks" / f"{self.name}.yml"

    @property
    def inventory(self) -> dict[str, Any]:
        variables = {f"{self.product}_connection": self.connection, **self.declared}
        return {self.product: {"hosts": {"patient": variables}}}

    def run(self, *options: str, check: bool = False, **extra: Any) -> PlayResult:
        """Runs it to its end, whatever that is."""
        return play(self.playbook, *options, check=check, inventory=self.inventory, extra_vars=extra)

    def run_and_kill(self, when: Callable[[], bool], **extra: Any) -> None:
        """Kills the run and all its workers as soon as C(when) holds; fails if it ended before."""
        with tempfile.TemporaryDirectory(prefix="killed-") as folder:
            command, environment = prepare(Path(folder), self.playbook, inventory=self.inventory, extra_vars=extra)
            running = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                until = time.monotonic() + 60
                while not when():
                    assert running.poll() is None, "the run ended before it could be killed"
                    assert time.monotonic() < until, "the moment to kill the run never came"
                    time.sleep(0.005)
                assert running.poll() is None, "the run ended before it could be killed"
            finally:
                for worker in _below(running.pid):
                    worker.send(signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):  # it ended, which was said above
                    os.killpg(running.pid, signal.SIGKILL)
                running.wait()


def _below(pid: int) -> list[ProcessId]:
    """All that a process has started: from ansible-core 2.19 on a worker leaves the group, and would go on alone."""
    found = children(pid)
    return [*found, *(one for child in found for one in _below(child.pid))]


def aimed(name: str, server: RedisServer, user: str | None = None, **declared: Any) -> Runbook:
    """The runbook, aimed at a Redis of the lab."""
    return Runbook(name, server.connection(user), declared)


def aimed_at_postgres(name: str, server: PostgresServer, role: str = "operator", **declared: Any) -> Runbook:
    """The runbook, aimed at a PostgreSQL of the lab."""
    return Runbook(name, server.connection(role), declared, "postgres")


def aimed_at_kubernetes(name: str, cluster: Cluster, **declared: Any) -> Runbook:
    """The runbook, aimed at a workload or a namespace of the lab's cluster, by C(k8s_namespace) and C(k8s_workload)."""
    return Runbook(name, cluster.connection(), declared, "k8s")


def changes(result: PlayResult) -> list[str]:
    """Tasks that changed the patient: taking and giving back the lease is no remedy."""
    return [entry["task"] for entry in result.tasks if entry["result"].get("changed") and "lease" not in entry["task"]]


def actions(result: PlayResult) -> list[str]:
    """What was done, or would be, in words, in order."""
    return [
        words
        for entry in result.tasks
        if "lease" not in entry["task"]
        for part in entry["result"].get("results") or [entry["result"]]
        if part.get("changed")
        for words in part.get("actions", [])
    ]


def findings(result: PlayResult) -> list[str]:
    """Ids of everything that was found, in order."""
    return [found["id"] for entry in result.tasks for found in entry["result"].get("findings") or []]


def message(result: PlayResult) -> str:
    """Why the run failed."""
    failed = [entry["result"] for entry in result.tasks if entry["status"] == "failed"]
    assert failed, f"nothing failed\n{result.stdout}"
    return str(failed[-1].get("msg"))
