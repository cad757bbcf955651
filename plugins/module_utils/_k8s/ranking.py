# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the causes of many pods to a few cases, the root first: severity, then what explains others, then pods."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from .._core.plan import Finding, Severity
from .advice import advice
from .causes import Cause
from .slim import Pod

_SAMPLE = 3

#: The smaller, the more it explains: a node its pods, a refusal the pods that are missing.
_DEPTH = (
    ("k8s.node.", 0),
    ("k8s.quota", 1),
    ("k8s.limit_range", 1),
    ("k8s.pod_security", 1),
    ("k8s.admission_denied", 1),
    ("k8s.rollout.", 8),
    ("k8s.hpa.", 9),
    ("k8s.evicted", 7),
    ("k8s.preempted", 7),
    ("k8s.pod_not_ready", 7),
)
_SYMPTOMS = ("k8s.rollout.stuck", "k8s.hpa.no_metrics", "k8s.hpa.at_max")


@dataclass(frozen=True, slots=True)
class Case:
    """One cause in one workload: however many pods have it. C(pod) stands for all of them, C(explained) names the
    root that it follows from."""

    cause: Cause
    namespace: str
    workload: str
    pods: tuple[str, ...] = ()
    pod: Pod | None = None
    explained: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        if self.cause.id in ("k8s.node.not_ready", "k8s.node.pressure"):
            return (self.cause.id, str(self.cause.evidence.get("node")))
        # A Job gives up once, whichever of its containers it was that failed.
        container = "" if self.cause.id == "k8s.job_backoff" else self.cause.container
        return (self.cause.id, self.namespace, self.workload, container)

    @property
    def subject(self) -> str:
        if self.key[0].startswith("k8s.node.") and len(self.key) == 2:
            return f"Node {self.key[1]}"
        return self.workload

    def finding(self) -> Finding:
        """As a module returns it."""
        place = {"container": self.cause.container} if self.cause.container else {}
        count = {"pods": len(self.pods), "sample": list(self.pods[:_SAMPLE])} if self.pods else {}
        why = {"explained_by": self.explained} if self.explained else {}
        evidence = {**count, **place, **self.cause.evidence, **why}
        return Finding(self.cause.id, self.cause.severity, self.subject, evidence, advice(self.cause))

    def root(self) -> dict[str, Any]:
        """As one of the root causes."""
        return {
            "id": self.cause.id,
            "severity": self.cause.severity.name.lower(),
            "namespace": self.namespace,
            "workload": self.subject,
            "container": self.cause.container,
            "pods": len(self.pods),
            "sample": list(self.pods[:_SAMPLE]),
            "evidence": dict(self.cause.evidence),
            "next": advice(self.cause),
        }


def group(cases: Iterable[Case]) -> list[Case]:
    """Those with the same cause in the same workload as one; the first one's evidence stands for all."""
    first: dict[tuple[str, ...], Case] = {}
    pods: dict[tuple[str, ...], dict[str, None]] = {}
    for case in cases:
        kept = first.setdefault(case.key, case)
        if case.cause.severity > kept.cause.severity:
            first[case.key] = case
        pods.setdefault(case.key, {}).update(dict.fromkeys(case.pods))
    return [replace(case, pods=tuple(pods[key])) for key, case in first.items()]


def rank(cases: Iterable[Case]) -> list[Case]:
    """The root causes first. What follows from another one is kept, as a warning, and names it."""
    ordered = sorted(cases, key=_order)
    worst: dict[str, Case] = {}
    for case in ordered:
        if case.cause.severity is Severity.CRITICAL and case.cause.id not in _SYMPTOMS:
            worst.setdefault(case.workload, case)
    stuck = {case.workload for case in ordered if case.cause.id == "k8s.rollout.stuck"}
    return sorted((_explained(case, worst, stuck) for case in ordered), key=_order)


def _explained(case: Case, worst: dict[str, Case], stuck: set[str]) -> Case:
    cause, root = case.cause, worst.get(case.workload)
    if cause.id in _SYMPTOMS and root:
        lower = Cause(cause.id, cause.evidence, cause.container, min(cause.severity, Severity.WARNING))
        return replace(case, cause=lower, explained=root.cause.id)
    if case is root and case.workload in stuck:
        return replace(case, cause=replace(cause, evidence={**cause.evidence, "rollout": "stuck"}))
    return case


def _order(case: Case) -> tuple[bool, int, int, int, str, str]:
    cause = case.cause
    depth = next((depth for name, depth in _DEPTH if cause.id.startswith(name)), 4)
    return (bool(case.explained), -cause.severity, depth, -len(case.pods), case.workload, cause.id)
