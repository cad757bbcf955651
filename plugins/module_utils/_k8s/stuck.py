# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Broken pods that keep an ordered StatefulSet from ever taking a mended template.

Its controller waits for each pod to be ready before it looks at the next one, also for a pod whose template was already
taken back. Such a pod has to be deleted. One that is ready, or becomes ready meanwhile, never is.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from .._core.errors import Kind, OpsError
from .._core.plan import Done, Progress, Step, Undo
from .client import Kube, Right, demand
from .errors import Json
from .kinds import POD, STATEFUL_SET
from .trouble import trouble_of
from .workload import Workload, is_ready, workload_of

_MARK = "controller-revision-hash"
_OBSERVE = 30.0
_UNDO = Undo("a deleted pod does not come back; its controller makes a new one under the same name")


def stuck_pods(workload: Workload, pods: Iterable[Json], wanted: str) -> list[Json]:
    """Failing pods that are not of the revision C(wanted), in the part of an ordered StatefulSet that is updated."""
    return [pod for pod in pods if is_updated(workload, pod["metadata"]["name"]) and _stuck(pod, wanted)]


def is_updated(workload: Workload, pod: str) -> bool:
    """Whether a pod of this name, were it deleted, would let an ordered StatefulSet go on with its newest template."""
    strategy = workload.spec.get("updateStrategy") or {}
    ordered = workload.spec.get("podManagementPolicy", "OrderedReady") == "OrderedReady"
    if workload.kind is not STATEFUL_SET or not ordered or strategy.get("type") == "OnDelete":
        return False
    ordinal = pod.rpartition("-")[2]
    return ordinal.isdigit() and int(ordinal) >= ((strategy.get("rollingUpdate") or {}).get("partition") or 0)


def _stuck(pod: Json, wanted: str) -> bool:
    trouble = trouble_of(pod)
    return bool(trouble and trouble.final and not is_ready(pod) and _revision(pod) not in ("", wanted))


def _revision(pod: Json) -> str:
    return str((pod["metadata"].get("labels") or {}).get(_MARK, ""))


def deletions(kube: Kube, workload: Workload, pods: list[Json]) -> tuple[Step, ...]:
    """A step for each of these pods, once the right to delete them is sure."""
    if pods:
        demand(kube, Right("delete", POD, workload.namespace), Right("get", POD, workload.namespace))
    return tuple(_deletion(kube, workload, pod) for pod in pods)


def _deletion(kube: Kube, workload: Workload, pod: Json) -> Step:
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]

    def act(progress: Progress) -> Done:
        """What was rolled back stays so, whatever becomes of this: the wait that follows tells."""
        try:
            _observed(kube, workload, _revision(pod))
            now = kube.get(POD, workload.namespace, name)
            if now["metadata"]["uid"] != uid or is_ready(now):
                return Done(0, note="is another pod, or well, by now")
            preconditions = {"uid": uid, "resourceVersion": now["metadata"]["resourceVersion"]}
            kube.api.delete(POD.path(workload.namespace, name), {"preconditions": preconditions})
        except OpsError as error:
            return Done(0, note=error.message)
        progress(f"deleted the broken pod {name}")
        return Done()

    words = f"delete the broken pod {workload.namespace}/{name}, for which its StatefulSet would wait for ever"
    return Step(f"Pod/{workload.namespace}/{name}@{uid}", words, act, _UNDO)


def _observed(kube: Kube, planned: Workload, broken: str) -> None:
    """Waits until the controller would make the pod anew from another revision than the broken one."""
    until = time.monotonic() + _OBSERVE
    while True:
        workload = workload_of(kube, planned.kind.name, planned.namespace, planned.name)
        seen = workload.status.get("observedGeneration", 0) >= workload.manifest["metadata"].get("generation", 0)
        if seen and workload.status.get("updateRevision") != broken:
            return
        if time.monotonic() > until:
            words = f"{planned.title}: its controller has not taken the template back within {_OBSERVE:.0f} s"
            raise OpsError(
                Kind.TIMEOUT, words, "See whether the controller manager runs.", "controller", retryable=True
            )
        time.sleep(0.2)
