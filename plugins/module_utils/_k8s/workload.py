# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Deployments, StatefulSets and DaemonSets as one thing: what keeps pods of one template running."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from .._core.errors import Kind as ErrorKind
from .._core.errors import OpsError
from .client import Kube, require_namespace
from .errors import Json
from .kinds import DEPLOYMENT, POD, REPLICA_SET, WORKLOADS, Kind

_OPERATORS = {"In": "in", "NotIn": "notin"}


@dataclass(frozen=True, slots=True)
class Workload:
    """One workload as the API server gave it. C(manifest) is never changed."""

    kind: Kind
    manifest: Json

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.manifest["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        return str(self.manifest["metadata"]["uid"])

    @property
    def title(self) -> str:
        """C(Deployment shop/web), for people."""
        return f"{self.kind.name} {self.namespace}/{self.name}"

    @property
    def subject(self) -> str:
        """An identity that a workload made anew under the same name does not share."""
        return f"{self.kind.name}/{self.namespace}/{self.name}@{self.uid}"

    @property
    def path(self) -> str:
        return self.kind.path(self.namespace, self.name)

    @property
    def spec(self) -> Json:
        return dict(self.manifest["spec"])

    @property
    def status(self) -> Json:
        return dict(self.manifest.get("status") or {})

    @property
    def template(self) -> Json:
        return dict(self.manifest["spec"]["template"])

    @property
    def annotations(self) -> dict[str, str]:
        return dict(self.manifest["metadata"].get("annotations") or {})

    @property
    def paused(self) -> bool:
        return bool(self.spec.get("paused"))

    @property
    def replicas(self) -> int:
        """Pods wanted: the API server's default where the manifest says nothing, a DaemonSet's nodes."""
        if "desiredNumberScheduled" in self.status:
            return int(self.status["desiredNumberScheduled"])
        return int(self.spec.get("replicas", 1))

    @property
    def selector(self) -> str:
        """Its label selector, as a query of the API."""
        return selector_of(self.spec["selector"])

    @property
    def identity(self) -> Json:
        """Metadata for a patch: with it the API server refuses, as C(conflict), any object but this very version."""
        metadata = self.manifest["metadata"]
        return {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}


def workload_of(kube: Kube, kind: str, namespace: str, name: str) -> Workload:
    """The workload of this kind and name; C(not_found) names those that look alike."""
    known = WORKLOADS[kind]
    try:
        return Workload(known, kube.get(known, namespace, name))
    except OpsError as error:
        if error.kind is not ErrorKind.NOT_FOUND:
            raise
    require_namespace(kube, namespace)
    names = [item["metadata"]["name"] for item in kube.all(known, namespace)]
    close = difflib.get_close_matches(name, names, n=3)
    hint = (
        f"There are {', '.join(close)}."
        if close
        else f"The namespace has {len(names)} of this kind; is it the right one?"
    )
    raise OpsError(ErrorKind.NOT_FOUND, f"there is no {kind} {namespace}/{name}", hint, code="no_workload")


def selector_of(selector: Json) -> str:
    """A manifest's C(matchLabels) and C(matchExpressions) as a query."""
    terms = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for one in selector.get("matchExpressions") or []:
        values = ",".join(one.get("values") or [])
        operator = one["operator"]
        known = {"Exists": one["key"], "DoesNotExist": f"!{one['key']}"}
        terms.append(known.get(operator) or f"{one['key']} {_OPERATORS[operator]} ({values})")
    return ",".join(terms)


def controller_of(manifest: Json) -> Json:
    """The owner reference of what controls an object, empty for one that stands alone."""
    owners = manifest["metadata"].get("ownerReferences") or []
    return next((dict(owner) for owner in owners if owner.get("controller")), {})


def owned_by(uid: str, manifests: Iterable[Json]) -> list[Json]:
    """Those that are controlled by the object with this uid: labels may be shared, an owner is not."""
    return [manifest for manifest in manifests if controller_of(manifest).get("uid") == uid]


def replica_sets_of(kube: Kube, workload: Workload) -> list[Json]:
    """The ReplicaSets of a Deployment, the newest revision first."""
    found = owned_by(workload.uid, kube.all(REPLICA_SET, workload.namespace, labelSelector=workload.selector))
    return sorted(found, key=revision_of, reverse=True)


def revision_of(manifest: Json) -> int:
    """The revision a ReplicaSet, or a Deployment, bears; 0 for none."""
    text = (manifest["metadata"].get("annotations") or {}).get("deployment.kubernetes.io/revision", "0")
    return int(text) if text.isdigit() else 0


def pods_of(kube: Kube, workload: Workload) -> list[Json]:
    """The workload's own pods: selected by its labels and controlled by it, or by one of its ReplicaSets."""
    pods = kube.all(POD, workload.namespace, labelSelector=workload.selector)
    if workload.kind is not DEPLOYMENT:
        return owned_by(workload.uid, pods)
    sets = {one["metadata"]["uid"] for one in replica_sets_of(kube, workload)}
    return [pod for pod in pods if controller_of(pod).get("uid") in sets]


def containers_of(spec: Json) -> tuple[Json, ...]:
    """The containers of a pod's spec, those that initialize it last."""
    return (*spec["containers"], *(spec.get("initContainers") or []))


def container_named(template: Json, name: str) -> Json | None:
    """A container of a pod, or of a pod template, by its name, init containers too."""
    return next((one for one in containers_of(template["spec"]) if one["name"] == name), None)


def is_ready(pod: Json) -> bool:
    """Whether a pod says of itself that it serves, and is not on its way out."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    ready = any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
    return ready and not pod["metadata"].get("deletionTimestamp")
