# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Having a volume mounted anew, where its filesystem grows only then: its pods are evicted, and made again."""

from __future__ import annotations

import time
from collections.abc import Callable

from .._core.errors import Kind, OpsError
from .._core.plan import Done, Progress, Step, Undo
from .claims import Claim, claim_of
from .client import Kube, Right, demand
from .errors import Json
from .kinds import CLAIM, POD
from .workload import controller_of

#: Most filesystems grow in use, once the kubelet notices.
PATIENCE = 60.0
_PASSING = ("disruption_budget", "throttled", "conflict", "unavailable")


def restart_step(kube: Kube, claim: Claim, goal: Callable[[Claim], bool], timeout: float) -> Step:
    """Evicts the pods that use the claim, if its filesystem has not grown by itself before long."""
    metadata = claim.manifest["metadata"]
    namespace = str(metadata["namespace"])
    demand(kube, Right("create", POD, namespace, sub="eviction"))
    for name in claim.users:
        _refuse_alone(kube.find(POD, namespace, name))

    def act(progress: Progress) -> Done:
        until = time.monotonic() + timeout
        now = _patient(kube, claim, goal, min(until, time.monotonic() + PATIENCE), progress)
        if not now.waits_for_mount or goal(now):
            return Done(0, note="its filesystem has grown in use")
        for name in now.users:
            _evict(kube, namespace, name, until, progress)
        return Done(len(now.users))

    words = f"Restart {', '.join(claim.users)}, which use {claim.title}, if its filesystem does not grow in use"
    subject = f"{CLAIM.name}/{namespace}/{metadata['name']}@{metadata['uid']}/pods"
    return Step(
        subject, words, act, Undo("A pod cannot be brought back; its controller makes another."), len(claim.users)
    )


def _patient(kube: Kube, claim: Claim, goal: Callable[[Claim], bool], until: float, progress: Progress) -> Claim:
    metadata = claim.manifest["metadata"]
    while True:
        now = claim_of(kube, metadata["namespace"], metadata["name"])
        if goal(now) or now.failure or time.monotonic() >= until:
            return now
        progress(f"{claim.title}: the filesystem grows in use, or not")
        time.sleep(0.5)


def _evict(kube: Kube, namespace: str, name: str, until: float, progress: Progress) -> None:
    pod = kube.find(POD, namespace, name)
    _refuse_alone(pod)
    if pod is None:
        return
    while True:
        try:
            kube.api.post(POD.path(namespace, name, "eviction"), _eviction(pod))
            return
        except OpsError as error:
            if error.kind is Kind.NOT_FOUND or error.code == "conflict":
                return
            if error.code not in _PASSING or time.monotonic() >= until:
                raise
            progress(f"{name} has to stay for now: {error.message}")
        time.sleep(0.5)


def _refuse_alone(pod: Json | None) -> None:
    if pod is not None and not controller_of(pod):
        hint = "Nobody would make it again. Restart it by hand, and do without allow_restart."
        raise OpsError(Kind.PRECONDITION, f"pod {pod['metadata']['name']} stands alone", hint, code="bare_pod")


def _eviction(pod: Json) -> Json:
    metadata = pod["metadata"]
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": metadata["uid"]}}
    subject = {"name": metadata["name"], "namespace": metadata["namespace"]}
    return {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": subject, "deleteOptions": options}
