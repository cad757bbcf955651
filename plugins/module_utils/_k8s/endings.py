# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why a container ended, or was ended: the kubelet's reason counts, not the number alone, since 137 has many causes."""

from __future__ import annotations

import re
from typing import Any

from .._core.plan import Severity
from .causes import Cause, words
from .events import Event, Events
from .slim import Container, Ending, Pod

_KILLED = {137, 143}
#: Seconds between a node's own word on its memory and a container's end.
_NEAR = 120.0
_SIGNALS = {129: "HUP", 130: "INT", 131: "QUIT", 132: "ILL", 134: "ABRT", 135: "BUS", 136: "FPE", 137: "KILL"}
_SIGNALS |= {139: "SEGV", 143: "TERM"}
_FAULTS = {132, 134, 135, 136, 139}
_COMMAND = re.compile(
    r"executable file not found|no such file or directory|permission denied|exec format error|is a directory|"
    r"failed to create shim|oci runtime|starting container process",
    re.IGNORECASE,
)
_PROBE = re.compile(r"\b(Liveness|Startup|Readiness) probe (?:failed|errored)", re.IGNORECASE)
_STATUS = re.compile(r"statuscode: (\d{3})")


def ending_cause(pod: Pod, container: Container, events: Events, node_ooms: tuple[Event, ...] = ()) -> Cause:
    """Why the container is not up, from how it ended."""
    ended = container.ending
    if ended is None:
        return Cause("k8s.crash_loop.unknown", _evidence(container, None), container.name)
    name, more = _named(pod, container, ended, events, node_ooms)
    if container.init and not container.sidecar and name in ("crash_loop.error", "crash_loop.unknown"):
        name = "init_failed"
    return Cause(f"k8s.{name}", {**_evidence(container, ended), **more}, container.name)


def could_not_start(container: Container) -> Cause:
    """C(RunContainerError), C(CreateContainerError) and their like: the runtime refused."""
    text = container.message or (container.ending.message if container.ending else "")
    name = "command" if _COMMAND.search(text) else "unknown"
    evidence = {**_evidence(container, container.ending), "reason": container.reason, "message": words(text)}
    return Cause(f"k8s.crash_loop.{name}", evidence, container.name)


def probe_cause(pod: Pod, container: Container, kind: str, events: Events) -> Cause:
    """A probe that fails on a running container, and how it fails."""
    found = next((event for event in probe_events(pod, container, events) if probe_kind(event) == kind), None)
    evidence = {"probe": kind, **_marks(container), **(how(found.message) if found else {"how": "unknown"})}
    if found:
        evidence |= {"times": found.count, "message": words(found.message, 240)}
    return Cause(f"k8s.probe.{kind}", evidence, container.name)


def probe_events(pod: Pod, container: Container, events: Events) -> tuple[Event, ...]:
    """What was said of this container's probes, the newest first."""
    names = ("", f"spec.containers{{{container.name}}}", f"spec.initContainers{{{container.name}}}")
    return tuple(event for event in events.of(pod.uid, "Unhealthy", "ProbeWarning") if event.path in names)


def probe_kind(event: Event) -> str:
    """C(liveness), C(readiness) or C(startup); empty where the event is not about a probe."""
    found = _PROBE.search(event.message)
    return found[1].lower() if found else ""


def how(message: str) -> dict[str, Any]:
    """How a probe failed: refused and timeout lead to different places."""
    status = _STATUS.search(message)
    if status:
        return {"how": "status", "status": int(status[1])}
    text = message.lower()
    if "connection refused" in text:
        return {"how": "refused"}
    if "timeout" in text or "timed out" in text or "deadline exceeded" in text:
        return {"how": "timeout"}
    if "no such host" in text or "no route" in text or "reset by peer" in text:
        return {"how": "network"}
    return {"how": "command"}


def _named(
    pod: Pod, container: Container, ended: Ending, events: Events, node_ooms: tuple[Event, ...]
) -> tuple[str, dict[str, Any]]:
    if ended.reason == "OOMKilled":
        return "oom_killed", {"limit": container.memory_limit or "none"}
    killed = _killed(pod, container, ended, events, node_ooms) if ended.code in _KILLED else None
    if killed:
        return killed
    said = {"message": words(ended.message)} if ended.message else {}
    if ended.code in (126, 127) or ended.reason in ("ContainerCannotRun", "StartError"):
        return "crash_loop.command", said
    if ended.code in _FAULTS or ended.signal in (4, 6, 7, 8, 11):
        return "crash_loop.segfault", said
    return ("crash_loop.error" if ended.code else "crash_loop.completed"), said


def _killed(
    pod: Pod, container: Container, ended: Ending, events: Events, node_ooms: tuple[Event, ...]
) -> tuple[str, dict[str, Any]] | None:
    """Who killed it: a kubelet says so in an event. Without one, its probe is the likeliest to have asked for it."""
    for event in probe_events(pod, container, events):
        kind = probe_kind(event)
        if kind in ("liveness", "startup"):
            name = "crash_loop.liveness" if kind == "liveness" else "probe.startup"
            return name, {**how(event.message), "times": event.count, "message": words(event.message, 240)}
    if ended.code == 137 and any(abs(event.when - ended.finished) < _NEAR for event in node_ooms):
        return "node.oom", {"node": pod.node, "message": words(node_ooms[0].message)}
    if "liveness" in container.probes and ended.reason == "Error":
        return "crash_loop.liveness", {"how": "unknown", "certain": False}
    return None


def _evidence(container: Container, ended: Ending | None) -> dict[str, Any]:
    found: dict[str, Any] = {"restarts": container.restarts, "image": container.image, **_marks(container)}
    found |= {"digest": container.digest} if container.digest else {}
    if ended:
        found["exit_code"] = ended.code
        signal = _SIGNALS.get(ended.code)
        found |= {"signal": signal} if signal else {}
        found |= {"ended": ended.reason} if ended.reason else {}
    return found


def _marks(container: Container) -> dict[str, Any]:
    return {"init": True} if container.init else {}


def recovered(cause: Cause) -> Cause:
    """The same, of a container that serves again: worth knowing, no outage."""
    return Cause(cause.id, {**cause.evidence, "serves_again": True}, cause.container, Severity.WARNING)
