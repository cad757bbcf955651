# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wrong with one pod, told from its status, what was said of it, and the node it is on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .._core.plan import Severity
from . import images
from .causes import Cause, words
from .endings import could_not_start, ending_cause, probe_cause, probe_events, probe_kind, recovered
from .events import Event, Events
from .nodes import Node, down_cause
from .scheduling import unscheduled
from .slim import Container, Pod
from .waiting import config_cause, mount_cause, sandbox_cause

#: Seconds after its deletion, with all of its grace, from which a pod is stuck.
_GOING = 30.0
#: A container that ended and did not become ready again within this time is still in its loop; back-off ends at 5 m.
_LOOP = 600.0
_OFTEN = 3
_REFUSED = {
    "RunContainerError",
    "CreateContainerError",
    "ContainerCannotRun",
    "StartError",
    "PreStartHookError",
    "PostStartHookError",
    "PreCreateHookError",
}


class Health(StrEnum):
    """How a pod is. C(starting) has not had its time yet; C(left) is what an eviction leaves behind."""

    WELL = "well"
    STARTING = "starting"
    COMPLETED = "completed"
    TERMINATING = "terminating"
    SICK = "sick"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Around:
    """What is known beside the pods. C(grace) are the seconds that any pod may take to start."""

    now: float
    horizon: float
    grace: float = 60.0
    events: Events = field(default_factory=Events)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    ooms: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """How a pod is, and the causes of it, the first the most telling."""

    pod: Pod
    health: Health
    causes: tuple[Cause, ...] = ()


def judge(pod: Pod, around: Around) -> Judged:
    """What is to be said of a pod that is not plainly well."""
    node = around.nodes.get(pod.node)
    if pod.phase == "Succeeded":
        return Judged(pod, Health.COMPLETED)
    if node and node.down and pod.phase != "Failed":
        return Judged(pod, Health.SICK, (down_cause(node),))
    if pod.deleted:
        return _leaving(pod, around)
    if pod.phase == "Failed":
        return _failed(pod, around)
    if not pod.scheduled:
        return _unscheduled(pod, around)
    return _placed(pod, around)


def _leaving(pod: Pod, around: Around) -> Judged:
    target = pod.condition("DisruptionTarget")
    if around.now > pod.deleted + _GOING:
        evidence = {"seconds": int(around.now - pod.deleted), "finalizers": list(pod.finalizers), "node": pod.node}
        return Judged(pod, Health.SICK, (Cause("k8s.terminating_stuck", evidence),))
    causes = (_preempted(target.message),) if target.reason == "PreemptionByScheduler" else ()
    return Judged(pod, Health.TERMINATING, causes)


def _failed(pod: Pod, around: Around) -> Judged:
    target = pod.condition("DisruptionTarget")
    if pod.reason == "Preempting" or target.reason == "PreemptionByScheduler":
        return Judged(pod, Health.LEFT, (_preempted(pod.message or target.message),))
    if pod.reason not in ("", "BackoffLimitExceeded", "DeadlineExceeded") or target.status == "True":
        evidence = {"reason": pod.reason or target.reason, "node": pod.node, "message": words(pod.message, 240)}
        return Judged(pod, Health.LEFT, (Cause("k8s.evicted", evidence, "", Severity.WARNING),))
    bad = [one for one in pod.containers if one.ending and one.ending.code]
    found = tuple(ending_cause(pod, one, around.events, _ooms(pod, around)) for one in bad)
    return Judged(pod, Health.SICK, found or (_not_ready(pod),))


def _preempted(message: str) -> Cause:
    return Cause("k8s.preempted", {"message": words(message, 240)}, "", Severity.WARNING)


def _unscheduled(pod: Pod, around: Around) -> Judged:
    placed = pod.condition("PodScheduled")
    if placed.reason == "SchedulingGated":
        return Judged(pod, Health.SICK, (Cause("k8s.scheduling_gated", {"message": words(placed.message)}),))
    if placed.status == "False":
        return Judged(pod, Health.SICK, (unscheduled(placed.message),))
    if around.now - pod.created < around.grace:
        return Judged(pod, Health.STARTING)
    said = around.events.first(pod.uid, "FailedScheduling")
    nobody: dict[str, Any] = {"message": "no scheduler has looked at it", "seconds": int(around.now - pod.created)}
    return Judged(pod, Health.SICK, (unscheduled(said.message) if said else Cause(_NO_SCHEDULER, nobody),))


_NO_SCHEDULER = "k8s.unschedulable.unknown"


def _placed(pod: Pod, around: Around) -> Judged:
    found = []
    for container in pod.containers:
        cause = _container(pod, container, around)
        found += [cause] if cause else []
        if cause and container.init:
            break  # what follows has to wait for it
    if any(cause.severity is Severity.CRITICAL for cause in found):
        return Judged(pod, Health.SICK, tuple(found))
    if pod.ready:
        return Judged(pod, Health.WELL, tuple(found))
    return _unready(pod, around)


def _unready(pod: Pod, around: Around) -> Judged:
    """No container is at fault, and still it does not serve."""
    creating = any(one.state in ("", "waiting") for one in pod.containers)
    cause = (mount_cause(pod, around.events) or sandbox_cause(pod, around.events)) if creating else None
    if cause:
        return Judged(pod, Health.SICK, (cause,))
    if pod.containers and all(one.ready for one in pod.containers if not one.init):
        gates = pod.condition("Ready").reason == "ReadinessGatesNotReady"
        unmet = Cause("k8s.readiness_gate", {"message": words(pod.condition("Ready").message)})
        return Judged(pod, Health.SICK, (unmet if gates else _not_ready(pod),))
    if pod.phase == "Unknown":
        return Judged(pod, Health.SICK, (_not_ready(pod),))
    if not creating or around.now - pod.created < max(5 * around.grace, _LOOP):
        return Judged(pod, Health.STARTING)
    evidence: dict[str, Any] = {"node": pod.node, "seconds": int(around.now - pod.created)}
    first = next((one for one in pod.containers if one.init and one.state == "running" and not one.sidecar), None)
    evidence |= {"init": True} if first else {}
    name = first.name if first else ""
    return Judged(pod, Health.SICK, (Cause("k8s.creating_slow", evidence, name, Severity.WARNING),))


def _not_ready(pod: Pod) -> Cause:
    said = pod.condition("Ready")
    evidence = {"phase": pod.phase, "node": pod.node, "reason": pod.reason or said.reason}
    return Cause("k8s.pod_not_ready", {**evidence, "message": words(pod.message or said.message)})


def _container(pod: Pod, container: Container, around: Around) -> Cause | None:
    if container.state == "waiting":
        return _waiting(pod, container, around)
    if container.state == "terminated" and container.ended:
        if container.ended.code == 0 and _may_end(pod, container):
            return None
        return ending_cause(pod, container, around.events, _ooms(pod, around))
    if container.state == "running" and (not container.init or container.sidecar):
        return _running(pod, container, around)
    return None


def _may_end(pod: Pod, container: Container) -> bool:
    return (container.init and not container.sidecar) or pod.restart != "Always"


def _waiting(pod: Pod, container: Container, around: Around) -> Cause | None:
    if container.reason in images.REASONS:
        names = ("", f"spec.containers{{{container.name}}}", f"spec.initContainers{{{container.name}}}")
        said = [one.message for one in around.events.of(pod.uid, "Failed", "InspectFailed") if one.path in names]
        return images.pull_cause(container, said)
    if container.reason == "CreateContainerConfigError":
        return config_cause(container)
    if container.reason in _REFUSED:
        return could_not_start(container)
    if container.reason == "CrashLoopBackOff":
        return ending_cause(pod, container, around.events, _ooms(pod, around))
    return None


def _running(pod: Pod, container: Container, around: Around) -> Cause | None:
    last = container.last
    upset = last is not None and last.finished > around.now - _LOOP
    if container.ready:
        return _restarted(pod, container, around)
    if upset and last and (last.code or container.restarts >= _OFTEN):
        return ending_cause(pod, container, around.events, _ooms(pod, around))
    kind = "startup" if container.started is False and "startup" in container.probes else "readiness"
    said = {probe_kind(event) for event in probe_events(pod, container, around.events)}
    if "liveness" in said and kind == "readiness":
        return probe_cause(pod, container, "liveness", around.events)
    allowed = max(around.grace, container.probes.get(kind, 0.0))
    if around.now - container.running_since < allowed:
        return None
    return probe_cause(pod, container, kind, around.events)


def _restarted(pod: Pod, container: Container, around: Around) -> Cause | None:
    """It serves, but ended lately. Out of memory once is worth a word; anything else when it comes again and again."""
    last = container.last
    if last is None or last.finished < around.horizon or (last.reason != "OOMKilled" and container.restarts < _OFTEN):
        return None
    cause = ending_cause(pod, container, around.events, _ooms(pod, around))
    looping = container.restarts >= _OFTEN and around.now - container.running_since < 2 * around.grace
    return cause if looping else recovered(cause)


def _ooms(pod: Pod, around: Around) -> tuple[Event, ...]:
    return tuple(event for event in around.ooms if event.about.name == pod.node)
