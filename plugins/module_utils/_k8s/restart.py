# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restarting all pods of a workload one after the other, once, and never all at the same time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from .._core.errors import Kind, OpsError
from .._core.plan import Undo
from .._core.units import parse_moment, parse_seconds
from .client import Patch
from .errors import Json
from .kinds import DEPLOYMENT, STATEFUL_SET
from .progress import Rollout
from .revisions import moment_of
from .workload import Workload
from .writes import Change

RESTARTED = "kubectl.kubernetes.io/restartedAt"

UNDO = Undo("a restart is not taken back: the old pods are gone, and the template differs only in its annotation")


@dataclass(frozen=True, slots=True)
class Ages:
    """How old the pods are that a restart would replace."""

    oldest: datetime | None
    older: int
    total: int


def anchor_of(text: str, now: datetime) -> datetime:
    """The moment that O(since) means: itself, or so long ago."""
    if text.strip()[:1].isdigit() and "-" not in text:
        return now - timedelta(seconds=parse_seconds(text, "since"))
    return parse_moment(text, "since")


def restarted_at(workload: Workload) -> datetime | None:
    """When the template was last told to restart; None for never, or for words that are no time."""
    notes = (workload.template.get("metadata") or {}).get("annotations") or {}
    try:
        found = moment_of(str(notes.get(RESTARTED, "")))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def ages_of(workload: Workload, pods: Iterable[Json], anchor: datetime) -> Ages:
    """The pods that a restart reaches: those below a StatefulSet's partition keep their template."""
    born = [moment_of(pod["metadata"]["creationTimestamp"]) for pod in pods if _reached(workload, pod)]
    return Ages(min(born, default=None), sum(one < anchor for one in born), len(born))


def _reached(workload: Workload, pod: Json) -> bool:
    strategy = (workload.spec.get("updateStrategy") or {}).get("rollingUpdate") or {}
    partition = (strategy.get("partition") or 0) if workload.kind is STATEFUL_SET else 0
    ordinal = str(pod["metadata"]["name"]).rpartition("-")[2]
    return not (partition and ordinal.isdigit() and int(ordinal) < partition)


def is_due(workload: Workload, ages: Ages, anchor: datetime) -> bool:
    """Whether a restart is still to be begun: a restart, or a rollout that replaced all pods since, was one."""
    told = restarted_at(workload)
    return ages.older > 0 and not (told and told >= anchor)


def restart(now: datetime) -> Change:
    """What kubectl does: a new annotation in the template. Fractions of a second keep two restarts apart."""
    notes = {RESTARTED: now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")}
    spec = {"template": {"metadata": {"annotations": notes}}}
    return Change(Patch.STRATEGIC, lambda workload: {"metadata": workload.identity, "spec": spec})


def pause(value: bool) -> Change:
    """Pauses a Deployment, or lets it go on."""
    return Change(Patch.MERGE, lambda workload: {"metadata": workload.identity, "spec": {"paused": value or None}})


def refuse_outage(workload: Workload, rollout: Rollout, *, accept: bool) -> None:
    """Raises C(guard_refused) where the strategy would take all pods away at once, and one of them serves."""
    why = _outage(workload)
    if why and rollout.available and not accept:
        words = f"{workload.title}: a restart would take away all of its pods at once: {why}"
        hint = "Change its strategy or replicas, or set accept_outage=true. Nothing was changed."
        raise OpsError(Kind.GUARD_REFUSED, words, hint, code="outage")


def refuse_on_delete(workload: Workload) -> None:
    """Raises C(unsupported) where the controller would not restart anything."""
    if (workload.spec.get("updateStrategy") or {}).get("type") == "OnDelete":
        words = f"{workload.title} has the update strategy OnDelete: it restarts no pod by itself"
        hint = "Evict its pods one by one: sre.runbooks.k8s_pod."
        raise OpsError(Kind.UNSUPPORTED, words, hint, code="on_delete")


def _outage(workload: Workload) -> str:
    spec, desired = workload.spec, workload.replicas
    strategy = spec.get("strategy" if workload.kind is DEPLOYMENT else "updateStrategy") or {}
    if strategy.get("type") == "Recreate":
        return "its strategy is Recreate"
    rolling = strategy.get("rollingUpdate") or {}
    deployment = workload.kind is DEPLOYMENT
    surge = _resolved(rolling.get("maxSurge", "25%" if deployment else 0), desired, up=True)
    gone = _resolved(rolling.get("maxUnavailable", "25%" if deployment else 1), desired, up=not deployment)
    # Where both come to nothing, controllers let one pod go, or no rollout would ever move.
    gone = max(gone, 0 if surge else 1)
    return (
        f"maxUnavailable comes to {gone} of {desired}, with a surge of {surge}" if desired and gone >= desired else ""
    )


def _resolved(value: int | str, desired: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    share = int(value.rstrip("%")) * desired / 100
    return math.ceil(share) if up else math.floor(share)
