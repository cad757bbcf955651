# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The last lines of containers: bounded in lines, in their length and in number, without secrets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .._core.errors import Kind as ErrorKind
from .._core.errors import OpsError
from .._core.redact import printable
from .causes import words
from .errors import translate
from .kinds import POD
from .ranking import Case
from .slim import Container, Pod
from .survey import Eyes

#: The kubelet counts bytes from the first of the asked lines on, so that less would cut the newest.
_BYTES = 256 * 1024
_LONGEST = 400
_TELLING = (
    "k8s.crash_loop.",
    "k8s.oom_killed",
    "k8s.init_failed",
    "k8s.probe.",
    "k8s.job_backoff",
    "k8s.node.oom",
    "k8s.creating_slow",
)


def tail(eyes: Eyes, pod: Pod, container: str, lines: int, *, previous: bool = False) -> list[str]:
    """The last lines, none where there is no log (any more). Raises for what is no matter of this pod."""
    query = {"container": container, "tailLines": str(lines), "limitBytes": str(_BYTES)}
    query |= {"previous": "true"} if previous else {}
    try:
        raw = eyes.kube.api.text(POD.path(pod.namespace, pod.name, "log"), **query)
    except Exception as error:
        known = translate(error)
        if known is None:
            raise
        if known.kind is ErrorKind.FORBIDDEN:
            eyes.note("logs", pod.namespace, known)
            return []
        return [] if _no_log(known) else [f"({known.code}: {words(known.message, 200)})"]
    return [words(printable(line), _LONGEST) for line in raw.splitlines()[-lines:]]


def told(eyes: Eyes, case: Case, lines: int) -> list[str]:
    """What a case's container said before it ended; of one that runs, what it says now."""
    pod = case.pod
    name = case.cause.container
    container = next((one for one in pod.containers if one.name == name), None) if pod else None
    if pod is None or container is None or not case.cause.id.startswith(_TELLING):
        return []
    gone = container.ended is None and container.last is not None and not case.cause.id.startswith("k8s.probe.")
    found = tail(eyes, pod, name, lines, previous=True) if gone else []
    return found or tail(eyes, pod, name, lines)


def everything(eyes: Eyes, pods: Iterable[Pod], lines: int, most: int) -> tuple[list[dict[str, Any]], bool]:
    """The logs of all containers of all pods, previous ones too, at most so many; and whether that cut it short."""
    wanted = [(pod, one, previous) for pod in pods for one in pod.containers for previous in _lives(one)]
    found: list[dict[str, Any]] = [
        {
            "namespace": pod.namespace,
            "pod": pod.name,
            "container": one.name,
            "previous": previous,
            "lines": tail(eyes, pod, one.name, lines, previous=previous),
        }
        for pod, one, previous in wanted[:most]
    ]
    return found, len(wanted) > most


def _lives(container: Container) -> tuple[bool, ...]:
    """Which logs there are: one of a container that ran before, one of that which runs, or ran last."""
    previous = (True,) if container.last else ()
    current = (False,) if container.state in ("running", "terminated") else ()
    return (*previous, *current)


def _no_log(error: OpsError) -> bool:
    """A container that has not started, or whose log was removed, has none: that is no failure."""
    return error.kind is ErrorKind.NOT_FOUND or error.code == "bad_request"
