# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the API server would say to removals: asked by dry runs, and explained by the disruption budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .._core.errors import Kind as ErrorKind
from .._core.errors import OpsError
from .._core.plan import Finding, Severity
from .client import Kube
from .errors import Json
from .kinds import BUDGET
from .pod_choice import Candidate

_NEVER = "Scale the workload up, or lower minAvailable of the budget. Nothing was changed."


def rehearse(kube: Kube, due: Sequence[Candidate], send: Callable[[Candidate], None]) -> tuple[Finding, ...]:
    """Asks for each pod whether it might go now. Raises for what waiting cannot mend."""
    holding: dict[str, Json] = {}
    for one in due:
        # The API server takes two seconds for a refusal, and this one is known.
        if any(selects(budget, one.labels) for budget in holding.values()):
            continue
        try:
            send(one)
        except OpsError as error:
            if error.code == "dry_run":  # a webhook of the cluster refuses them: the run will see
                break
            if error.code == "disruption_budget":
                holding |= _holding(kube, one)
            elif error.kind is not ErrorKind.NOT_FOUND and not error.retryable:
                raise
    return tuple(_waits(name, budget) for name, budget in holding.items())


def _holding(kube: Kube, one: Candidate) -> dict[str, Json]:
    """The budgets that hold a pod, by name; raises for one that will never let it go."""
    found = {}
    for budget in _budgets(kube, one.pod.namespace):
        if not selects(budget, one.labels):
            continue
        name, numbers = budget["metadata"]["name"], _numbers(budget)
        if numbers["healthy"] >= numbers["expected"] > 0 and not numbers["allowed"]:
            words = f"PodDisruptionBudget {name} wants {numbers['wanted']} of {numbers['expected']} pods healthy"
            text = f"{words}: it lets none go while all are"
            raise OpsError(ErrorKind.PRECONDITION, text, _NEVER, code="disruption_budget")
        found[name] = budget
    return found


def _waits(name: str, budget: Json) -> Finding:
    """That a run will have to wait for a budget."""
    subject = f"PodDisruptionBudget/{budget['metadata'].get('namespace', '')}/{name}"
    words = "Its pods have to become healthy first. The run waits for that up to budget_timeout."
    return Finding("k8s.pod.budget", Severity.WARNING, subject, _numbers(budget), words)


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
