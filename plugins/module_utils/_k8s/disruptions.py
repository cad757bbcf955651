# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the API server would say to removals: asked by dry runs, and explained by the disruption budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .._core.errors import Kind as ErrorKind
from .._core.errors import OpsError
from .._core.plan import Finding, Severity
from .client import Kube
from .errors import Json
from .kinds import BUDGET
from .pod_choice import Candidate

_NEVER = "Scale the workload up, or lower minAvailable of the budget. Nothing was changed."


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What dry runs of the removals said; C(exact) is false where there can be none."""

    findings: tuple[Finding, ...] = ()
    exact: bool = True


def rehearse(kube: Kube, due: Sequence[Candidate], send: Callable[[Candidate], None]) -> Rehearsal:
    """Asks for each pod whether it might go now. Raises for what waiting cannot mend."""
    held = []
    for one in due:
        try:
            send(one)
        except OpsError as error:
            if error.code == "dry_run":
                return Rehearsal(exact=False)
            if error.code == "disruption_budget":
                held.append(one)
            elif error.kind is not ErrorKind.NOT_FOUND and not error.retryable:
                raise
    return Rehearsal(tuple(_waits(kube, held))) if held else Rehearsal()


def _waits(kube: Kube, held: Sequence[Candidate]) -> list[Finding]:
    """Who holds these pods: a finding for a budget that may let them go later, an error for one that never will."""
    found: dict[str, Finding] = {}
    for one in held:
        budgets = [budget for budget in _budgets(kube, one.pod.namespace) if selects(budget, one.labels)]
        for budget in budgets:
            name, evidence = budget["metadata"]["name"], _numbers(budget)
            if evidence["healthy"] >= evidence["expected"] > 0 and not evidence["allowed"]:
                words = f"PodDisruptionBudget {name} wants {evidence['wanted']} of {evidence['expected']} pods healthy"
                text = f"{words}: it lets none go while all are"
                raise OpsError(ErrorKind.PRECONDITION, text, _NEVER, code="disruption_budget")
            subject = f"PodDisruptionBudget/{one.pod.namespace}/{name}"
            words = "Its pods have to become healthy first. The run waits for that up to budget_timeout."
            found[name] = Finding("k8s.pod.budget", Severity.WARNING, subject, evidence, words)
    return list(found.values())


def _budgets(kube: Kube, namespace: str) -> list[Json]:
    try:
        return kube.all(BUDGET, namespace)
    except OpsError as error:
        if error.kind is not ErrorKind.FORBIDDEN:
            raise
        return []


def selects(budget: Json, labels: object) -> bool:
    """Whether a budget's selector fits these labels. An empty one fits all pods of the namespace."""
    known = dict(labels) if isinstance(labels, dict) else {}
    selector = (budget.get("spec") or {}).get("selector")
    if selector is None:
        return False
    fits = (selector.get("matchLabels") or {}).items() <= known.items()
    return fits and all(_fits(one, known) for one in selector.get("matchExpressions") or [])


def _fits(one: Json, labels: dict[str, str]) -> bool:
    key, values = one["key"], one.get("values") or []
    rules = {
        "In": labels.get(key) in values,
        "NotIn": labels.get(key) not in values,
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
    }
    return rules[one["operator"]]


def _numbers(budget: Json) -> dict[str, int]:
    status = budget.get("status") or {}
    return {
        "allowed": status.get("disruptionsAllowed", 0),
        "healthy": status.get("currentHealthy", 0),
        "wanted": status.get("desiredHealthy", 0),
        "expected": status.get("expectedPods", 0),
    }
