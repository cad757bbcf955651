# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether somebody else does a pod's work: a new pod that is ready, for long enough, and reached by its Services."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from .._core.errors import Kind as ErrorKind
from .._core.errors import OpsError
from .client import Kube
from .errors import Json
from .kinds import DAEMON_SET, ENDPOINT_SLICE, POD, REPLICA_SET, SERVICE, STATEFUL_SET, Kind
from .pod_choice import Candidate
from .progress import condition
from .slim import Pod, Reference, moment
from .workload import is_ready, owned_by, selector_of

_CONTROLLERS: Mapping[str, Kind] = {kind.name: kind for kind in (REPLICA_SET, STATEFUL_SET, DAEMON_SET)}


@dataclass(frozen=True, slots=True)
class Crew:
    """The pods of one controller before one of them goes, by uid. C(desired) is -1 where it is not known."""

    namespace: str
    owner: Reference
    selector: str
    desired: int
    min_ready: int
    known: frozenset[str]
    ready: frozenset[str]


def crew_of(kube: Kube, pod: Pod) -> Crew:
    """The crew of a pod, as its controller wants it."""
    controller = _controller(kube, pod.namespace, pod.owner)
    spec = controller.get("spec") or {}
    selector = selector_of(spec["selector"]) if spec.get("selector") else ""
    members = _members(kube, pod.namespace, pod.owner, selector)
    return Crew(
        pod.namespace,
        pod.owner,
        selector,
        _desired(controller),
        spec.get("minReadySeconds") or 0,
        frozenset(one["metadata"]["uid"] for one in members),
        frozenset(one["metadata"]["uid"] for one in members if is_ready(one)),
    )


def _controller(kube: Kube, namespace: str, owner: Reference) -> Json:
    """The object that controls a pod; empty where it is of a kind that is not known here, or gone."""
    kind = _CONTROLLERS.get(owner.kind)
    found = kube.find(kind, namespace, owner.name) if kind else None
    return found if found and found["metadata"]["uid"] == owner.uid else {}


def _desired(controller: Json) -> int:
    if not controller:
        return -1
    status = controller.get("status") or {}
    if "desiredNumberScheduled" in status:
        return int(status["desiredNumberScheduled"])
    return int((controller.get("spec") or {}).get("replicas", 1))


def _members(kube: Kube, namespace: str, owner: Reference, selector: str) -> list[Json]:
    query = {"labelSelector": selector} if selector else {}
    return owned_by(owner.uid, kube.all(POD, namespace, **query))


def doors_of(kube: Kube, one: Candidate) -> tuple[str, ...]:
    """Names of the Services that send to a pod; none where this user may not see them."""
    try:
        found = kube.all(SERVICE, one.pod.namespace)
    except OpsError as error:
        if error.kind is not ErrorKind.FORBIDDEN:
            raise
        return ()
    selectors = {item["metadata"]["name"]: (item.get("spec") or {}).get("selector") or {} for item in found}
    return tuple(name for name, wanted in selectors.items() if wanted and wanted.items() <= one.labels.items())


@dataclass(frozen=True, slots=True)
class Stand:
    """How far a replacement has come; C(missing) is empty once it does the work."""

    missing: str

    @classmethod
    def now(cls, kube: Kube, crew: Crew, doors: tuple[str, ...]) -> Stand:
        members = _members(kube, crew.namespace, crew.owner, crew.selector)
        fresh = [one for one in members if one["metadata"]["uid"] not in crew.known]
        able = [one for one in members if _available(one, crew.min_ready)]
        newest = next((one for one in able if one in fresh), None)
        if newest is None:
            # Somebody may have scaled it down meanwhile: then nobody has to come.
            wanted = _desired(_controller(kube, crew.namespace, crew.owner))
            return cls("" if 0 <= wanted <= len(able) else _words(fresh, crew.min_ready))
        shut = [name for name in doors if not _reached(kube, crew.namespace, name, newest["metadata"]["uid"])]
        name = newest["metadata"]["name"]
        return cls(f"{name} is not among the ready endpoints of {', '.join(shut)}" if shut else "")


def _words(fresh: list[Json], min_ready: int) -> str:
    if not fresh:
        return "its controller has not made a new pod"
    name = fresh[-1]["metadata"]["name"]
    return f"{name} is not ready" + (f" for {min_ready} s" if min_ready else "")


def _available(pod: Json, min_ready: int) -> bool:
    if not is_ready(pod):
        return False
    return not min_ready or moment(condition(pod, "Ready").get("lastTransitionTime")) + min_ready <= time.time()


def _reached(kube: Kube, namespace: str, service: str, uid: str) -> bool:
    """Whether a Service's ready endpoints hold this pod; taken for granted where this user may not see them."""
    try:
        slices = kube.all(ENDPOINT_SLICE, namespace, labelSelector=f"kubernetes.io/service-name={service}")
    except OpsError as error:
        if error.kind is not ErrorKind.FORBIDDEN:
            raise
        return True
    points = [point for one in slices for point in one.get("endpoints") or []]
    # Where nothing is said of it, the API means yes.
    ready = [point for point in points if (point.get("conditions") or {}).get("ready") is not False]
    return any((point.get("targetRef") or {}).get("uid") == uid for point in ready)
