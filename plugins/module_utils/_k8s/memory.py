# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether some pods of a workload leak, all of them have too little, or a neighbour takes what their node has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from .._core.errors import Kind as ErrorKind
from .._core.errors import OpsError
from .._core.plan import Finding, Severity
from .._core.units import human
from .client import Kube
from .errors import Json
from .kinds import NODE, POD, POD_METRICS
from .pod_choice import Candidate, Memory, candidate_of
from .progress import condition
from .quantity import quantity
from .slim import moment, pod_of
from .usage import Metrics, metrics_of, unseen
from .workload import Workload, controller_of, pods_of

#: A container that runs out so soon after its start has not leaked: it never had enough.
_SOON = 600.0
#: From this share of the pods on they are short alike.
_ALIKE = 0.5
_RESOURCES = "They are short alike: more memory is needed, not a restart. Run workload_resources."
_LEAK = "Replace these pods (memory_pressure does, one by one), and have the leak found: the evidence tells where."


@dataclass(frozen=True, slots=True)
class Look:
    """The workload's pods with their usage; C(soon) are those that ran out of memory right after their start."""

    pods: tuple[Candidate, ...]
    threshold: Memory
    horizon: float
    soon: frozenset[str] = frozenset()
    wrong: str = ""

    @property
    def running(self) -> list[Candidate]:
        return [one for one in self.pods if not one.over and not one.pod.deleted]

    @property
    def above(self) -> list[Candidate]:
        found = [one for one in self.running if one.usage and self.threshold.reached(one.usage)]
        return sorted(found, key=lambda one: -(one.usage.memory if one.usage else 0))

    @property
    def out(self) -> list[Candidate]:
        """Pods that do not serve because a container ran out of memory."""
        return [one for one in self.running if not one.ready and _ran_out(one, self.horizon)]

    @property
    def sick(self) -> list[Candidate]:
        return [*self.above, *(one for one in self.out if one not in self.above)]

    @property
    def dark(self) -> list[Candidate]:
        """Pods that serve and that nobody has measured."""
        return [one for one in self.running if one.usage is None and one not in self.out]

    @property
    def verdict(self) -> str:
        """C(fine), C(leak), C(limit_low), or C(unseen) where nobody can tell."""
        if self.soon:
            return "limit_low"
        measured = len(self.running) - len(self.dark)
        if len(self.sick) > 1 and len(self.sick) > measured * _ALIKE:
            return "limit_low"
        if self.sick:
            return "leak"
        return "unseen" if self.dark else "fine"


def _ran_out(one: Candidate, horizon: float) -> bool:
    endings = [container.ending for container in one.pod.containers]
    return any(ending and ending.reason == "OOMKilled" and ending.finished >= horizon for ending in endings)


def look_at(kube: Kube, workload: Workload, threshold: Memory, horizon: float) -> Look:
    """The memory of a workload's own pods."""
    metrics = metrics_of(kube, workload.namespace, workload.selector)
    manifests = pods_of(kube, workload)
    soon = frozenset(one["metadata"]["uid"] for one in manifests if _too_soon(one, horizon))
    pods = tuple(candidate_of(one, metrics) for one in manifests)
    return Look(pods, threshold, horizon, soon, metrics.wrong)


def _too_soon(manifest: Json, horizon: float) -> bool:
    """Whether a container has run out of memory again and again, each time right after its start."""
    for one in (manifest.get("status") or {}).get("containerStatuses") or []:
        ended = ((one.get("lastState") or {}).get("terminated")) or (one.get("state") or {}).get("terminated") or {}
        if ended.get("reason") != "OOMKilled" or one.get("restartCount", 0) < 2:
            continue
        finished = moment(ended.get("finishedAt"))
        if finished >= horizon and finished - moment(ended.get("startedAt")) < _SOON:
            return True
    return False


def findings_of(look: Look, workload: Workload) -> tuple[Finding, ...]:
    """What is wrong with the memory of these pods, and what would mend it."""
    found = []
    names = [one.pod.name for one in look.sick]
    if look.verdict == "leak":
        rest = [one.usage.memory for one in look.running if one.usage and one not in look.sick]
        evidence = {**_evidence(look), "others": human(median(rest)) if rest else "nobody to compare with"}
        found.append(Finding("k8s.memory.leak", Severity.CRITICAL, workload.subject, evidence, _LEAK))
    if look.verdict == "limit_low":
        evidence = {**_evidence(look), "right_after_start": len(look.soon)}
        found.append(Finding("k8s.memory.limit_low", Severity.CRITICAL, workload.subject, evidence, _RESOURCES))
    if look.dark:
        dark = [one.pod.name for one in look.dark if one.pod.name not in names]
        found.append(unseen(workload.namespace, look.wrong, dark))
    return tuple(found)


def _evidence(look: Look) -> dict[str, Any]:
    shown = {one.pod.name: str(one.usage) if one.usage else "OOMKilled" for one in look.sick[:10]}
    return {"pods": shown, "sick": len(look.sick), "of": len(look.running), "threshold": str(look.threshold)}


def facts_of(look: Look, findings: Sequence[Finding]) -> dict[str, Any]:
    """What a playbook needs: whom it is about, and how to tell afterwards that nobody else was touched."""
    sick = {one.pod.uid for one in look.sick}
    hashed = hashlib.sha256(" ".join(sorted(sick | look.soon)).encode()).hexdigest()[:10]
    bad = [one for one in findings if one.severity > Severity.INFO]
    return {
        "verdict": look.verdict if look.verdict != "fine" or not bad else "neighbour",
        "pods": {one.pod.name: one.usage.as_dict() if one.usage else {} for one in look.running},
        "above": [one.pod.name for one in look.above],
        "out": [one.pod.name for one in look.out],
        "sick": [one.pod.name for one in look.sick],
        "well": [_stand(one) for one in look.running if one.pod.uid not in sick],
        "present": [_stand(one) for one in look.running],
        "largest": max((one.usage.share or 0.0 for one in look.running if one.usage), default=0.0),
        "incident": f"memory-{hashed}",
        "next": " ".join(f"{one.id} on {one.subject}: {one.suggest}" for one in bad),
    }


def _stand(one: Candidate) -> str:
    return f"{one.pod.name}@{one.pod.uid} restarts={one.restarts}"


def neighbours(kube: Kube, look: Look) -> tuple[Finding, ...]:
    """For each node of these pods that is short of memory: who takes most of it. Our own pods are told apart."""
    found = []
    own = {one.pod.uid for one in look.pods}
    for name in sorted({one.pod.node for one in look.pods} - {""}):
        node = _readable(lambda name=name: kube.find(NODE, "", name))
        if not node or condition(node, "MemoryPressure").get("status") != "True":
            continue
        manifests = _readable(lambda name=name: kube.all(POD, fieldSelector=f"spec.nodeName={name}")) or []
        used = _used(kube, manifests)
        top = next((one for one in used if one[1]["metadata"]["uid"] not in own), None)
        mine = sum(size for size, one in used if one["metadata"]["uid"] in own)
        evidence = {"node": name, "own": human(mine), **(_taker(*top) if top else {"consumer": "unseen"})}
        words = f"Node {name} is short of memory. Look at {evidence['consumer']}: it takes most of what others use."
        found.append(Finding("k8s.memory.neighbour", Severity.CRITICAL, f"Node/{name}", evidence, words))
    return tuple(found)


def _used(kube: Kube, manifests: Iterable[Json]) -> list[tuple[int, Json]]:
    """Pods of a node with their memory, the largest first."""
    listed = _readable(lambda: kube.all(POD_METRICS)) or []
    known = {(one["metadata"]["namespace"], one["metadata"]["name"]): one for one in listed}
    found = []
    for manifest in manifests:
        place = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        usage = Metrics({place[1]: known[place]}).of(pod_of(manifest)) if place in known else None
        found.append((usage.memory if usage else 0, manifest))
    return sorted(found, key=lambda pair: -pair[0])


def _taker(size: int, manifest: Json) -> dict[str, str]:
    metadata, owner = manifest["metadata"], controller_of(manifest)
    containers = manifest["spec"].get("containers") or []
    asked = [((one.get("resources") or {}).get("requests") or {}).get("memory", "0") for one in containers]
    return {
        "consumer": f"{metadata['namespace']}/{metadata['name']}",
        "owner": f"{owner['kind']}/{owner['name']}" if owner else "",
        "uses": human(size),
        "requests": human(float(sum(quantity(one) for one in asked))),
    }


def _readable(read: Any) -> Any:
    """What may be read, None for what may not."""
    try:
        return read()
    except OpsError as error:
        if error.kind not in (ErrorKind.FORBIDDEN, ErrorKind.NOT_FOUND, ErrorKind.UNREACHABLE):
            raise
        return None
