# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether more pods of a template would be let in, and would find a node: quotas, limit ranges, allocatable.

The scheduler alone knows for certain. What is told here is an upper bound: where affinity, spreading, volumes or host
ports have a say as well, C(exact) is false.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from .._core.errors import Kind as ErrorKind
from .._core.errors import OpsError
from .client import Kube
from .errors import Json
from .kinds import LIMIT_RANGE, NODE, POD, QUOTA
from .quantity import plain, quantity

Amounts = Mapping[str, Decimal]
_DONE = "status.phase!=Succeeded,status.phase!=Failed"
_SPREAD = ("topologySpreadConstraints", "affinity", "schedulingGates", "resourceClaims")


@dataclass(frozen=True, slots=True)
class Need:
    """What one pod asks for, after the namespace's defaults."""

    requests: Amounts = field(default_factory=dict)
    limits: Amounts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Short:
    """Something of which there is not enough for the pods to come."""

    where: str
    resource: str
    need: Decimal
    free: Decimal
    code: str

    @property
    def words(self) -> str:
        return f"{self.where} has {plain(self.free)} of {self.resource} left, {plain(self.need)} are needed"

    def as_dict(self) -> dict[str, Any]:
        return {"where": self.where, "resource": self.resource, "need": plain(self.need), "free": plain(self.free)}


@dataclass(frozen=True, slots=True)
class Room:
    """How many more pods C(fit) the C(nodes) that they may run on; None where nodes or pods may not be read."""

    fit: int | None
    nodes: int
    exact: bool

    def as_dict(self) -> dict[str, Any]:
        return {"fit": self.fit, "nodes": self.nodes, "exact": self.exact}


def need_of(spec: Json, ranges: Iterable[Json] = ()) -> Need:
    """The requests and limits of a pod with this spec: as the API server and the scheduler add them up."""
    defaults = _defaults(ranges)
    main = [_of_container(one, defaults) for one in spec["containers"]]
    early = spec.get("initContainers") or []
    aside = [_of_container(one, defaults) for one in early if one.get("restartPolicy") == "Always"]
    once = [_of_container(one, defaults) for one in early if one.get("restartPolicy") != "Always"]
    steady = _sum([*main, *aside])
    peaks = [_sum([one, *aside]) for one in once]
    own = spec.get("resources") or {}
    extra = _amounts(spec.get("overhead"))
    parts = [
        _added(_highest([steady[side], *(peak[side] for peak in peaks)]) | _amounts(own.get(name)), extra)
        for side, name in ((0, "requests"), (1, "limits"))
    ]
    return Need(*parts)


def over_limit_range(spec: Json, ranges: Iterable[Json]) -> list[Short]:
    """Where a pod of this spec is more than a LimitRange takes."""
    found = []
    defaults = _defaults(ranges)
    total = need_of(spec, ranges)
    for one, item in _limits(ranges):
        sizes = {
            "Pod": [total.limits],
            "Container": [_of_container(part, defaults)[1] for part in spec["containers"]],
        }.get(item["type"], [])
        for resource, most in _amounts(item.get("max")).items():
            largest = max((size.get(resource, Decimal(0)) for size in sizes), default=Decimal(0))
            if largest > most:
                where = f"LimitRange {one['metadata']['name']} ({item['type']} max)"
                found.append(Short(where, resource, largest, most, "limit_range"))
    return found


def over_quota(quotas: Iterable[Json], spec: Json, need: Need, more: int) -> list[Short]:
    """What the namespace's quotas lack for so many more pods."""
    found = []
    for quota in quotas:
        if not all(_in_scope(name, operator, values, spec, need) for name, operator, values in _scopes(quota)):
            continue
        hard = _amounts((quota.get("status") or {}).get("hard") or quota["spec"].get("hard"))
        used = _amounts((quota.get("status") or {}).get("used"))
        for resource, most in hard.items():
            each = _quota_use(resource, need)
            free = most - used.get(resource, Decimal(0))
            if each * more > free:
                where = f"ResourceQuota {quota['metadata']['name']}"
                found.append(Short(where, resource, each * more, free, "quota"))
    return found


def room_on(nodes: Iterable[Json], taken: Mapping[str, Amounts], spec: Json, need: Need) -> Room:
    """How many pods more the nodes hold, by what is requested of what is allocatable."""
    fitting = [node for node in nodes if _takes(node, spec)]
    return Room(sum(_fits(node, taken, need) for node in fitting), len(fitting), _certain(spec))


def look_for_room(kube: Kube, spec: Json, need: Need) -> Room:
    """Reads the nodes, and all pods that run on them, a page at a time."""
    try:
        nodes = kube.all(NODE)
        taken: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
        for page in kube.api.pages(POD.path(), fieldSelector=_DONE):
            for pod in page:
                _take(taken[pod["spec"].get("nodeName", "")], pod)
    except OpsError as error:
        if error.kind is not ErrorKind.FORBIDDEN:
            raise
        return Room(None, 0, False)
    return room_on(nodes, taken, spec, need)


def shortages(kube: Kube, namespace: str, spec: Json, more: int) -> tuple[list[Short], Room]:
    """All that stands in the way of so many more pods, and how many there is room for."""
    ranges, quotas = kube.all(LIMIT_RANGE, namespace), kube.all(QUOTA, namespace)
    need = need_of(spec, ranges)
    found = [*over_limit_range(spec, ranges), *over_quota(quotas, spec, need, more)]
    room = look_for_room(kube, spec, need)
    if room.fit is not None and room.fit < more:
        where = f"on the {room.nodes} nodes that take these pods there"
        found.append(Short(where, "pods", Decimal(more), Decimal(room.fit), "no_room"))
    return found, room


def _take(taken: dict[str, Decimal], pod: Json) -> None:
    for resource, amount in need_of(pod["spec"]).requests.items():
        taken[resource] += amount
    taken["pods"] += 1


def _amounts(manifest: Mapping[str, Any] | None) -> dict[str, Decimal]:
    return {name: quantity(text) for name, text in (manifest or {}).items()}


def _of_container(container: Json, defaults: tuple[Amounts, Amounts]) -> tuple[Amounts, Amounts]:
    """Requests and limits. A limit without a request is the request, before a namespace's default for it."""
    own = container.get("resources") or {}
    given = _amounts(own.get("limits"))
    limits = {**defaults[1], **given}
    return {**limits, **defaults[0], **given, **_amounts(own.get("requests"))}, limits


def _defaults(ranges: Iterable[Json]) -> tuple[Amounts, Amounts]:
    requests: dict[str, Decimal] = {}
    limits: dict[str, Decimal] = {}
    for _range, item in _limits(ranges):
        if item["type"] == "Container":
            requests |= _amounts(item.get("defaultRequest"))
            limits |= _amounts(item.get("default"))
    return requests, limits


def _limits(ranges: Iterable[Json]) -> list[tuple[Json, Json]]:
    return [(one, item) for one in ranges for item in one["spec"].get("limits") or []]


def _sum(parts: Sequence[tuple[Amounts, Amounts]]) -> tuple[dict[str, Decimal], dict[str, Decimal]]:
    sums: tuple[dict[str, Decimal], dict[str, Decimal]] = ({}, {})
    for part in parts:
        for side in (0, 1):
            sums[side].update(_added(sums[side], part[side]))
    return sums


def _added(one: Amounts, other: Amounts) -> dict[str, Decimal]:
    return {name: one.get(name, Decimal(0)) + other.get(name, Decimal(0)) for name in {**one, **other}}


def _highest(parts: Sequence[Amounts]) -> dict[str, Decimal]:
    highest: dict[str, Decimal] = {}
    for part in parts:
        for name, amount in part.items():
            highest[name] = max(amount, highest.get(name, amount))
    return highest


def _quota_use(resource: str, need: Need) -> Decimal:
    """What one pod takes of a quota's resource."""
    if resource in ("pods", "count/pods"):
        return Decimal(1)
    side, dot, name = resource.partition(".")
    if dot and side == "limits":
        return need.limits.get(name, Decimal(0))
    if dot and side == "requests":
        return need.requests.get(name, Decimal(0))
    return need.requests.get(resource, Decimal(0)) if resource in ("cpu", "memory", "ephemeral-storage") else Decimal(0)


def _scopes(quota: Json) -> list[tuple[str, str, list[str]]]:
    spec = quota["spec"]
    chosen = [(name, "Exists", list[str]()) for name in spec.get("scopes") or []]
    terms = (spec.get("scopeSelector") or {}).get("matchExpressions") or []
    return chosen + [(one["scopeName"], one["operator"], list(one.get("values") or [])) for one in terms]


def _in_scope(name: str, operator: str, values: list[str], spec: Json, need: Need) -> bool:
    if name == "PriorityClass":
        given = str(spec.get("priorityClassName") or "")
        known = {"In": given in values, "NotIn": given not in values, "Exists": bool(given)}
        return known.get(operator, not given)
    effort = any(need.requests.get(one) or need.limits.get(one) for one in ("cpu", "memory"))
    terms = [*((spec.get("affinity") or {}).get("podAffinity") or {}).items()]
    terms += ((spec.get("affinity") or {}).get("podAntiAffinity") or {}).items()
    across = any(one.get("namespaces") or one.get("namespaceSelector") for _term, many in terms for one in many)
    return {
        "Terminating": spec.get("activeDeadlineSeconds") is not None,
        "NotTerminating": spec.get("activeDeadlineSeconds") is None,
        "BestEffort": not effort,
        "NotBestEffort": effort,
        "CrossNamespacePodAffinity": across,
    }.get(name, True)


def _takes(node: Json, spec: Json) -> bool:
    """Whether a node is up, not cordoned, chosen by the node selector, and has no taint that is not tolerated."""
    conditions = (node.get("status") or {}).get("conditions") or []
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    labels = node["metadata"].get("labels") or {}
    chosen = all(labels.get(key) == value for key, value in (spec.get("nodeSelector") or {}).items())
    taints = [one for one in node["spec"].get("taints") or [] if one["effect"] in ("NoSchedule", "NoExecute")]
    borne = all(any(_tolerates(one, taint) for one in spec.get("tolerations") or []) for taint in taints)
    return ready and chosen and borne and not node["spec"].get("unschedulable")


def _tolerates(toleration: Json, taint: Json) -> bool:
    same = toleration.get("effect") in (None, "", taint["effect"])
    if toleration.get("operator", "Equal") == "Exists":
        return same and toleration.get("key") in (None, "", taint["key"])
    return same and toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", "")


def _fits(node: Json, taken: Mapping[str, Amounts], need: Need) -> int:
    allocatable = _amounts(node["status"].get("allocatable"))
    used: Amounts = taken.get(node["metadata"]["name"], {})
    wants = {**need.requests, "pods": Decimal(1)}
    free = {name: allocatable.get(name, Decimal(0)) - used.get(name, Decimal(0)) for name in wants}
    return max(0, min(int(free[name] // amount) for name, amount in wants.items() if amount > 0))


def _certain(spec: Json) -> bool:
    claims = any("persistentVolumeClaim" in one for one in spec.get("volumes") or [])
    ports = any(port.get("hostPort") for one in spec["containers"] for port in one.get("ports") or [])
    return not (claims or ports or any(spec.get(name) for name in _SPREAD))
