# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far a rollout has come, from what its controller says, and whether it still can come to its end.

The rules are those of C(kubectl rollout status), with what it leaves out: a Deployment whose deadline has passed is
failed even while its old pods serve, and a status counts only once the controller has seen the newest generation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import Json
from .kinds import DAEMON_SET, STATEFUL_SET
from .workload import Workload


@dataclass(frozen=True, slots=True)
class Rollout:
    """Pods of a workload: C(desired), of which C(updated) have the newest template; C(failed) says why it is stuck."""

    desired: int
    updated: int
    ready: int
    available: int
    old: int
    observed: bool
    complete: bool
    failed: str = ""
    waiting: str = ""

    def as_dict(self) -> dict[str, Any]:
        names = ("desired", "updated", "ready", "available", "old", "complete", "failed", "waiting")
        return {name: getattr(self, name) for name in names}


def rollout_of(workload: Workload) -> Rollout:
    """The state of a workload's rollout."""
    if workload.kind is DAEMON_SET:
        return _daemon_set(workload)
    if workload.kind is STATEFUL_SET:
        return _stateful_set(workload)
    return _deployment(workload)


def condition(manifest: Json, name: str) -> Json:
    """A condition of an object's status by its type, empty where it has none."""
    found = ((manifest.get("status") or {}).get("conditions")) or []
    return next((dict(one) for one in found if one.get("type") == name), {})


def _deployment(workload: Workload) -> Rollout:
    status, desired = workload.status, workload.replicas
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    old = status.get("replicas", 0) - updated + status.get("terminatingReplicas", 0)
    progressing = condition(workload.manifest, "Progressing")
    failed = ""
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        failed = f"it passed its deadline: {progressing.get('message', '')}"
    return _judged(workload, (desired, updated, status.get("readyReplicas", 0), available, old), failed)


def _stateful_set(workload: Workload) -> Rollout:
    status, desired = workload.status, workload.replicas
    strategy = workload.spec.get("updateStrategy") or {}
    partition = (strategy.get("rollingUpdate") or {}).get("partition") or 0
    on_delete = strategy.get("type") == "OnDelete"
    same = status.get("currentRevision") == status.get("updateRevision")
    updated: int = desired if same else status.get("updatedReplicas", 0)
    # Pods below the partition keep their template, on purpose; so do all of OnDelete.
    kept = desired if on_delete else min(partition, desired)
    old = max(0, desired - kept - updated) if not same else 0
    ready: int = status.get("readyReplicas", 0)
    available: int = status.get("availableReplicas", ready)
    return _judged(workload, (desired, max(updated, desired - old), ready, available, old), "")


def _daemon_set(workload: Workload) -> Rollout:
    status, desired = workload.status, workload.replicas
    on_delete = (workload.spec.get("updateStrategy") or {}).get("type") == "OnDelete"
    updated = desired if on_delete else status.get("updatedNumberScheduled", 0)
    ready, available = status.get("numberReady", 0), status.get("numberAvailable", 0)
    return _judged(workload, (desired, updated, ready, available, desired - updated), "")


def _judged(workload: Workload, numbers: tuple[int, int, int, int, int], failed: str) -> Rollout:
    desired, updated, ready, available, old = numbers
    observed = workload.status.get("observedGeneration", 0) >= workload.manifest["metadata"].get("generation", 0)
    waiting = _waiting(workload, numbers, observed)
    complete = not waiting and not failed
    return Rollout(desired, updated, ready, available, old, observed, complete, failed if observed else "", waiting)


def _waiting(workload: Workload, numbers: tuple[int, int, int, int, int], observed: bool) -> str:
    desired, updated, _ready, available, old = numbers
    if not observed:
        return "its controller has not seen the newest template yet"
    if workload.paused and old > 0:
        return "it is paused"
    if updated < desired:
        return f"{updated} of {desired} pods have the newest template"
    if old > 0:
        return f"{old} old pods are not gone yet"
    if available < desired:
        return f"{available} of {desired} pods are available"
    return ""
