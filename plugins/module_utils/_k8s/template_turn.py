# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What follows from a new template: pods that roll, scalers that count otherwise, entries that quote in vain."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from .._core.errors import Kind, OpsError
from .._core.plan import Finding, Severity
from .amounts import SIDES, quality, same
from .budget import Budget, surge_of
from .capacity import need_of
from .client import Kube
from .env import unresolved
from .errors import Json
from .kinds import AUTOSCALER, CONFIG_MAP, DAEMON_SET, DEPLOYMENT, SECRET, VERTICAL_AUTOSCALER
from .kinds import Kind as ObjectKind
from .quantity import plain
from .workload import Workload, containers_of

_HIDDEN = (Kind.NOT_FOUND, Kind.FORBIDDEN)


@dataclass(frozen=True, slots=True)
class Turn:
    """A workload as it is, and as it is going to be."""

    kube: Kube
    before: Workload
    after: Workload

    @property
    def resources_differ(self) -> bool:
        return any(self.amounts(self.before, side) != self.amounts(self.after, side) for side in SIDES)

    @staticmethod
    def amounts(workload: Workload, side: str) -> dict[str, Json]:
        """Requests or limits of each container by its name."""
        found = containers_of(workload.template["spec"])
        return {str(one["name"]): (one.get("resources") or {}).get(side) or {} for one in found}

    def changed(self, side: str, what: str) -> list[str]:
        """Containers whose request or limit of a resource changes."""
        old, new = self.amounts(self.before, side), self.amounts(self.after, side)
        return [name for name in new if not _equal(old.get(name, {}).get(what), new[name].get(what))]


def _equal(one: Any, other: Any) -> bool:
    return one is other if one is None or other is None else same(one, other)


def rolling(workload: Workload, why: str, budget: Budget | None) -> Finding:
    """C(k8s.rollout.follows): that all pods are replaced, how, and whether somebody serves meanwhile."""
    strategy = workload.spec.get("strategy" if workload.kind is DEPLOYMENT else "updateStrategy") or {}
    kind, surge = strategy.get("type") or "RollingUpdate", surge_of(workload, workload.replicas)
    evidence: dict[str, Any] = {"why": why, "pods": workload.replicas, "strategy": kind, "surge": surge}
    if kind == "OnDelete":
        suggest = "Pods keep the old template until they are deleted: delete them one by one, with k8s_pod."
        return Finding("k8s.rollout.on_delete", Severity.WARNING, workload.subject, evidence, suggest)
    rolling = strategy.get("rollingUpdate") or {}
    if rolling.get("partition"):
        evidence["partition"] = rolling["partition"]
    if budget:
        evidence["connections"] = budget.as_dict(workload.replicas, surge)
    alone = workload.replicas == 1 and not surge and workload.kind is not DAEMON_SET
    outage = kind == "Recreate" or alone
    suggest = "Nobody serves while the pods are replaced." if outage else "Every pod is replaced, a few at a time."
    severity = Severity.WARNING if outage else Severity.INFO
    return Finding("k8s.rollout.follows", severity, workload.subject, evidence, suggest)


def env_findings(turn: Turn, duplicates: Sequence[str], subject: str) -> tuple[Finding, ...]:
    """Names that stood there twice, and entries that quote a name which none before them bears."""
    found = []
    if duplicates:
        suggest = "Only the last of them counts. They become one as soon as the environment is changed."
        found.append(Finding("k8s.env.duplicate", Severity.WARNING, subject, {"names": list(duplicates)}, suggest))
    broken = sorted(_unresolved(turn.after) - _unresolved(turn.before))
    if broken:
        evidence = {"entries": [f"{name} quotes $({other})" for _container, name, other in broken]}
        suggest = "The pod gets the bare text. An entry can quote only those before it, so put it after."
        found.append(Finding("k8s.env.reference_order", Severity.WARNING, subject, evidence, suggest))
    return tuple(found)


def still_from(kube: Kube, workload: Workload, container: Json, absent: Collection[str]) -> tuple[Finding, ...]:
    """C(k8s.env.still_from): names that must not be there, and that come with a whole ConfigMap or Secret."""
    found: dict[str, str] = {}
    for source in container.get("envFrom") or [] if absent else []:
        for field, kind in (("configMapRef", CONFIG_MAP), ("secretRef", SECRET)):
            name, prefix = (source.get(field) or {}).get("name"), source.get("prefix") or ""
            held = _read(kube, kind, workload.namespace, name) if name else {}
            found |= {f"{prefix}{key}": f"{kind.name} {name}" for key in held if f"{prefix}{key}" in absent}
    suggest = "Take the key away there, or the whole object out of envFrom."
    made = Finding("k8s.env.still_from", Severity.WARNING, workload.subject, {"names": found}, suggest)
    return (made,) if found else ()


def _read(kube: Kube, kind: ObjectKind, namespace: str, name: str) -> Json:
    try:
        return dict((kube.find(kind, namespace, name) or {}).get("data") or {})
    except OpsError as error:
        if error.kind not in _HIDDEN:
            raise
        return {}


def _unresolved(workload: Workload) -> set[tuple[str, str, str]]:
    """What comes from whole objects may bear any name, so there nothing can be told."""
    return {
        (str(one["name"]), name, other)
        for one in containers_of(workload.template["spec"])
        if not one.get("envFrom")
        for name, other in unresolved(one.get("env") or [])
    }


def quality_findings(turn: Turn) -> tuple[Finding, ...]:
    """C(k8s.qos.changes): pods of another class go earlier, or later, when a node runs short."""
    old, new = quality(turn.before.template["spec"]), quality(turn.after.template["spec"])
    if old == new:
        return ()
    severity = Severity.WARNING if new == "BestEffort" or old == "Guaranteed" else Severity.INFO
    suggest = "BestEffort pods are evicted first, Guaranteed ones last."
    return (Finding("k8s.qos.changes", severity, turn.after.subject, {"before": old, "after": new}, suggest),)


def scaler_findings(turn: Turn) -> tuple[Finding, ...]:
    """C(k8s.hpa.moves), where a share of the request decides on the number of pods, and C(k8s.vpa.overrides)."""
    found = []
    for one in _aimed(turn, AUTOSCALER):
        for what in sorted(_utilized(one)):
            if turn.changed("requests", what):
                evidence = {"autoscaler": one["metadata"]["name"], "resource": what, **_requests(turn, what)}
                suggest = "It counts use as a share of the request, so it will want another number of pods."
                found.append(Finding("k8s.hpa.moves", Severity.WARNING, turn.after.subject, evidence, suggest))
    for one in _aimed(turn, VERTICAL_AUTOSCALER):
        mode = (one["spec"].get("updatePolicy") or {}).get("updateMode") or "Auto"
        if mode != "Off":
            evidence = {"autoscaler": one["metadata"]["name"], "mode": mode}
            suggest = (
                "It gives pods its own requests and limits, whatever the template says. Change its bounds instead."
            )
            found.append(Finding("k8s.vpa.overrides", Severity.WARNING, turn.after.subject, evidence, suggest))
    return tuple(found)


def _aimed(turn: Turn, kind: ObjectKind) -> Iterator[Json]:
    """Scalers of this workload; none where the cluster has no such kind or they may not be read."""
    try:
        every = turn.kube.all(kind, turn.after.namespace)
    except OpsError as error:
        if error.kind not in _HIDDEN:
            raise
        return
    name = "targetRef" if kind is VERTICAL_AUTOSCALER else "scaleTargetRef"
    for one in every:
        aim = one["spec"].get(name) or {}
        if (aim.get("kind"), aim.get("name")) == (turn.after.kind.name, turn.after.name):
            yield one


def _utilized(scaler: Json) -> set[str]:
    parts = [
        one.get(form) or {} for one in scaler["spec"].get("metrics") or [] for form in ("resource", "containerResource")
    ]
    return {str(part["name"]) for part in parts if (part.get("target") or {}).get("type") == "Utilization"}


def _requests(turn: Turn, what: str) -> dict[str, str]:
    return {
        moment: plain(need_of(workload.template["spec"]).requests.get(what, Decimal(0)))
        for moment, workload in (("before", turn.before), ("after", turn.after))
    }
