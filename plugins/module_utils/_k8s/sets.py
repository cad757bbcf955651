# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Workloads, Jobs and autoscalers as a diagnosis needs them: numbers, and what their controllers say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .._core.plan import Severity
from .causes import Cause, words
from .errors import Json
from .events import Event
from .kinds import DAEMON_SET, DEPLOYMENT, JOB, STATEFUL_SET, Kind
from .progress import rollout_of
from .refusals import refused
from .slim import Reference, conditions_of, moment, reference_of
from .workload import Workload, controller_of

_Key = tuple[str, str, str]

#: What is listed in one go; each is one request where everything is well.
LISTED = (DEPLOYMENT, STATEFUL_SET, DAEMON_SET, JOB)


@dataclass(frozen=True, slots=True)
class Set:
    """What keeps pods running. C(present) are the pods that are there, well or not."""

    kind: str
    namespace: str
    name: str
    uid: str
    owner: Reference = field(default_factory=Reference)
    desired: int = 0
    present: int = 0
    updated: int = 0
    ready: int = 0
    paused: bool = False
    old: int = 0
    failed: str = ""
    refusal: str = ""
    finished: float = 0.0
    complete: bool = False
    created: float = 0.0

    @property
    def title(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def short(self) -> bool:
        """Whether pods that should be there are not."""
        return self.present < self.desired


def set_of(kind: Kind, manifest: Json) -> Set:
    """The slim value of a workload's, or a Job's, manifest."""
    return _job(manifest) if kind is JOB else _workload(Workload(kind, manifest))


def _workload(workload: Workload) -> Set:
    status, rollout = workload.status, rollout_of(workload)
    failure = conditions_of(status).get("ReplicaFailure")
    return Set(
        kind=workload.kind.name,
        namespace=workload.namespace,
        name=workload.name,
        uid=workload.uid,
        owner=reference_of(controller_of(workload.manifest)),
        desired=rollout.desired,
        present=status.get("currentNumberScheduled") or status.get("replicas") or 0,
        updated=rollout.updated,
        ready=rollout.ready,
        paused=workload.paused,
        old=rollout.old,
        failed=rollout.failed,
        refusal=failure.message if failure and failure.status == "True" else "",
    )


def _job(manifest: Json) -> Set:
    metadata, spec, status = manifest["metadata"], manifest["spec"], manifest.get("status") or {}
    conditions = conditions_of(status)
    failed, complete = conditions.get("Failed"), conditions.get("Complete")
    over = bool((failed and failed.status == "True") or (complete and complete.status == "True"))
    begun = sum(status.get(name) or 0 for name in ("active", "succeeded", "failed"))
    return Set(
        kind=JOB.name,
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        owner=reference_of(controller_of(manifest)),
        desired=0 if over or spec.get("suspend") else 1,
        present=begun,
        ready=status.get("ready") or 0,
        failed=f"{failed.reason}: {failed.message}" if failed and failed.status == "True" else "",
        finished=failed.since if failed else moment(status.get("completionTime")),
        complete=bool(complete and complete.status == "True"),
        created=moment(metadata.get("creationTimestamp")),
    )


def refusals_in(events: Iterable[Event]) -> dict[_Key, Event]:
    """The newest C(FailedCreate) by the workload (kind, namespace, name); a ReplicaSet stands for its Deployment."""
    found: dict[_Key, Event] = {}
    for event in events:
        if event.reason == "FailedCreate":
            kind, name = event.about.kind, event.about.name
            if kind == "ReplicaSet":
                kind, name = DEPLOYMENT.name, name.rpartition("-")[0]
            found.setdefault((kind, event.namespace, name), event)
    return found


def refusal_of(one: Set, said: Mapping[_Key, Event]) -> Cause | None:
    """Why pods are missing: the Deployment's own condition, else what was said to it, or to its ReplicaSet."""
    if one.refusal:
        return refused(one.refusal)
    found = said.get((one.kind, one.namespace, one.name)) if one.short else None
    return refused(found.message) if found else None


def rollout_cause(one: Set) -> Cause | None:
    """A rollout that passed its deadline, or was paused half-way."""
    if one.kind == JOB.name or not one.desired:
        return None
    numbers = {"desired": one.desired, "updated": one.updated, "ready": one.ready}
    if one.failed:
        return Cause("k8s.rollout.stuck", {**numbers, "message": words(one.failed)})
    if one.paused and (one.old > 0 or one.updated < one.desired):
        return Cause("k8s.rollout.paused", numbers, "", Severity.WARNING)
    return None


def successes_of(sets: Iterable[Set]) -> dict[str, float]:
    """When the latest Job that has succeeded was made, by the uid of its CronJob."""
    found: dict[str, float] = {}
    for one in sets:
        if one.complete and one.owner.uid:
            found[one.owner.uid] = max(one.created, found.get(one.owner.uid, 0.0))
    return found


def job_cause(one: Set, successes: Mapping[str, float], horizon: float) -> Cause | None:
    """A Job that has given up, unless it is long ago, or its CronJob has succeeded since."""
    if one.kind != JOB.name or not one.failed or one.finished < horizon:
        return None
    if successes.get(one.owner.uid, 0.0) > one.created:
        return None
    return Cause("k8s.job_backoff", {"job": one.name, "message": words(one.failed)})


def target_of(scaler: Json) -> str:
    """The title of what an autoscaler scales."""
    target = scaler["spec"]["scaleTargetRef"]
    return f"{target['kind']} {scaler['metadata']['namespace']}/{target['name']}"


def scaler_cause(manifest: Json) -> Cause | None:
    """What keeps an autoscaler from its work, or that it has come to its end."""
    spec, status = manifest["spec"], manifest.get("status") or {}
    conditions = conditions_of(status)
    numbers = {
        "autoscaler": manifest["metadata"]["name"],
        "current": status.get("currentReplicas", 0),
        "desired": status.get("desiredReplicas", 0),
        "max": spec["maxReplicas"],
    }
    for name in ("AbleToScale", "ScalingActive"):
        one = conditions.get(name)
        if one and one.status == "False" and one.reason != "BackoffBoth":
            return _halted(one.reason, {**numbers, "reason": one.reason, "message": words(one.message)})
    limited = conditions.get("ScalingLimited")
    full = limited and limited.status == "True" and limited.reason == "TooManyReplicas"
    if full and numbers["current"] >= spec["maxReplicas"]:
        return Cause("k8s.hpa.at_max", numbers, "", Severity.WARNING)
    return None


def _halted(reason: str, evidence: Json) -> Cause:
    if reason == "ScalingDisabled":  # its target is scaled to 0, on purpose
        return Cause("k8s.hpa.inactive", evidence, "", Severity.INFO)
    name = "no_metrics" if "Metric" in reason else "inactive"
    return Cause(f"k8s.hpa.{name}", evidence, "", Severity.WARNING)
