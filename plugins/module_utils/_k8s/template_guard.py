# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What stands in the way of a new template: connections, memory in use, room, things that are not there."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from .._core.errors import Kind, OpsError
from .._core.plan import Finding, Severity
from .budget import Budget, over_budget, surge_of
from .capacity import Need, Short, need_of, over_quota, shortages
from .kinds import CONFIG_MAP, LIMIT_RANGE, QUOTA, SECRET
from .quantity import plain, quantity
from .template_turn import Turn
from .templates import references
from .usage import metrics_of, unseen
from .workload import Workload, pods_of

_KINDS = {kind.name: kind for kind in (CONFIG_MAP, SECRET)}


def refuse_paused(workload: Workload, *, wait: bool) -> None:
    """A paused Deployment takes a template and keeps its old pods: whoever waits would wait in vain."""
    if workload.paused and wait:
        words = f"{workload.title} is paused: its pods would keep the old template"
        hint = "Resume it first, with k8s_rollout and state=resumed; or set wait=false."
        raise OpsError(Kind.PRECONDITION, words, hint, code="paused")


def refuse_connections(workload: Workload, budget: Budget | None) -> None:
    """A rollout's surge opens connections on top of all that are there."""
    surge = surge_of(workload, workload.replicas)
    error = over_budget(budget, workload.title, workload.replicas, surge) if budget else None
    if error is None or budget is None:
        return
    if surge and budget.need(workload.replicas, 0) <= budget.limit:
        error.hint = "Nothing was changed. Without the surge they fit: set maxSurge to 0 first, or free connections."
    raise error


def refuse_missing_references(turn: Turn) -> tuple[Finding, ...]:
    """Raises for a ConfigMap, Secret or key that the new template needs and that is not there."""
    known, hidden = set(references(turn.before.template)), []
    for one in references(turn.after.template):
        if one in known or one.optional:
            continue
        try:
            held = turn.kube.find(_KINDS[one.kind], turn.after.namespace, one.name)
        except OpsError as error:
            if error.kind is not Kind.FORBIDDEN:
                raise
            hidden.append(str(one))
            continue
        if held is None or (one.key and one.key not in {**(held.get("data") or {}), **(held.get("binaryData") or {})}):
            words = f"{turn.after.title} would need {one}, which is not there: its pods could not start"
            raise OpsError(Kind.PRECONDITION, words, "Make it first. Nothing was changed.", code="config_missing")
    suggest = "This user may not read them. Make sure that they are there, or the new pods do not start."
    found = Finding("k8s.env.reference_unseen", Severity.INFO, turn.after.subject, {"objects": hidden}, suggest)
    return (found,) if hidden else ()


def refuse_below_usage(turn: Turn) -> tuple[Finding, ...]:
    """Raises for a memory limit that the running pods are above already: they would be killed at once."""
    lowered = {name: limit for name in turn.changed("limits", "memory") if (limit := _lower(turn, name)) is not None}
    if not lowered:
        return ()
    metrics = metrics_of(turn.kube, turn.before.namespace, turn.before.selector)
    names = [str(pod["metadata"]["name"]) for pod in pods_of(turn.kube, turn.before)]
    used = [
        (quantity(one["usage"].get("memory", "0")), str(one["name"]), name)
        for name in names
        for one in (metrics.by_name.get(name) or {}).get("containers") or []
    ]
    for size, container, pod in sorted(used, reverse=True):
        if container in lowered and size >= lowered[container]:
            words = f"{pod}/{container} uses {plain(size)}, the limit would be {plain(lowered[container])}"
            hint = "Nothing was changed. Want a limit above what the pods use, or find out why they use it."
            raise OpsError(Kind.GUARD_REFUSED, words, hint, code="memory_usage")
    return (unseen(turn.before.namespace, metrics.wrong, names),) if names and not used else ()


def _lower(turn: Turn, name: str) -> Decimal | None:
    """The new limit of a container where it is lower than the old one, or the first one."""
    old = turn.amounts(turn.before, "limits").get(name, {}).get("memory")
    new = turn.amounts(turn.after, "limits")[name].get("memory")
    if new is None or (old is not None and quantity(str(new)) >= quantity(str(old))):
        return None
    return quantity(str(new))


def refuse_no_room(turn: Turn) -> tuple[Finding, ...]:
    """Raises where the namespace's limits or quotas do not let the new pods in, or no node has room for one."""
    try:
        short, hint = _short(turn), "Nothing was changed. Want less, free some, or have it raised."
    except OpsError as error:
        if error.kind is not Kind.FORBIDDEN:
            raise
        suggest = "This user may not read quotas or limit ranges: the new pods may be refused."
        return (Finding("k8s.capacity.unseen", Severity.INFO, turn.after.subject, {"wrong": error.message}, suggest),)
    firm = [one for one in short if one.code != "no_room"]
    if firm:
        raise OpsError(Kind.EXHAUSTED, f"{turn.after.title}: {firm[0].words}", hint, code=firm[0].code)
    evidence = [one.as_dict() for one in short]
    suggest = "New pods may stay pending. Old ones serve until new ones are ready."
    found = Finding("k8s.capacity.no_room", Severity.WARNING, turn.after.subject, {"short": evidence}, suggest)
    return (found,) if short else ()


def _short(turn: Turn) -> list[Short]:
    """A rollout first needs room for its surge, in the end for what all pods ask for more than before."""
    namespace, spec = turn.after.namespace, turn.after.template["spec"]
    surge = surge_of(turn.after, turn.after.replicas)
    found, _room = shortages(turn.kube, namespace, spec, surge) if turn.after.replicas else ([], None)
    ranges = turn.kube.all(LIMIT_RANGE, namespace)
    old, new = need_of(turn.before.template["spec"], ranges), need_of(spec, ranges)
    more = Need(_above(old.requests, new.requests), _above(old.limits, new.limits))
    later = over_quota(turn.kube.all(QUOTA, namespace), spec, more, turn.after.replicas)
    return [*found, *(one for one in later if one.resource not in ("pods", "count/pods"))]


def _above(old: Any, new: Any) -> dict[str, Decimal]:
    return {what: max(Decimal(0), number - old.get(what, Decimal(0))) for what, number in new.items()}
