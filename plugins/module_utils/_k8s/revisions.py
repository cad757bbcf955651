# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The templates that a workload had: ReplicaSets of a Deployment, ControllerRevisions of the others.

A number is no identity: a template that comes back gets a new one, and its old number is gone. So a revision here knows
all numbers it is known to have had, and two revisions are told apart by their templates.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .client import Kube
from .errors import Json
from .kinds import DEPLOYMENT, REVISION
from .progress import Rollout, condition
from .templates import images, same
from .trouble import Trouble, troubles_of
from .workload import Workload, controller_of, is_ready, owned_by, replica_sets_of, revision_of

#: What our rollbacks leave on a workload: where they came from, and the number that was asked for.
MEMORY = "sre.runbooks/rolled-back"

_HISTORY = "deployment.kubernetes.io/revision-history"
_CAUSE = "kubernetes.io/change-cause"
_REMEMBERED = 10


@dataclass(frozen=True, slots=True)
class Memory:
    """What earlier rollbacks of this collection left: revisions they came from, and names by number."""

    left: tuple[str, ...] = ()
    numbers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, workload: Workload) -> Memory:
        """Anything that is not ours, or was cut, is no memory."""
        try:
            found = json.loads(workload.annotations.get(MEMORY, "{}"))
            left = tuple(str(name) for name in found.get("left", []))
            return cls(left, {str(number): str(name) for number, name in found.get("numbers", {}).items()})
        except (ValueError, AttributeError, TypeError):
            return cls()

    def after(self, left: str, number: int, name: str) -> str:
        """The annotation once C(left) has been rolled back to the revision C(name), that had this number."""
        names = [one for one in (*self.left, left) if one != name]
        kept = dict.fromkeys(reversed(names))
        numbers = list({**self.numbers, str(number): name}.items())[-_REMEMBERED:]
        content = {"left": list(reversed(list(kept)[:_REMEMBERED])), "numbers": dict(numbers)}
        return json.dumps(content, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Revision:
    """One template in the history of a workload, and how the pods that have it are."""

    name: str
    uid: str
    number: int
    numbers: frozenset[int]
    template: Json
    created: datetime
    current: bool
    pods: int = 0
    ready: int = 0
    troubles: tuple[Trouble, ...] = ()
    held: str = ""
    cause: str = ""
    oldest: datetime | None = None

    @property
    def failing(self) -> Trouble | None:
        """A pod of it that will not become ready by itself."""
        return next((one for one in self.troubles if one.final), None)

    @property
    def images(self) -> dict[str, str]:
        return images(self.template)

    @property
    def title(self) -> str:
        return f"revision {self.number} ({', '.join(self.images.values())})"

    def as_dict(self) -> dict[str, Any]:
        return {
            "revision": self.number,
            "name": self.name,
            "images": self.images,
            "current": self.current,
            "pods": self.pods,
            "ready": self.ready,
            "created": self.created.isoformat(),
            "change_cause": self.cause,
            "troubles": [one.as_dict() for one in self.troubles[:3]],
        }


def moment_of(text: str) -> datetime:
    """A time of the API server."""
    return datetime.fromisoformat(text)


def revisions_of(kube: Kube, workload: Workload, pods: Iterable[Json]) -> list[Revision]:
    """All that is left of the history, the newest first. C(pods) are the workload's own."""
    mine, memory = list(pods), Memory.of(workload)
    kept = _replica_sets(kube, workload) if workload.kind is DEPLOYMENT else _controller_revisions(kube, workload)
    known: dict[str, set[int]] = {}
    for number, name in memory.numbers.items():
        known.setdefault(name, set()).add(int(number) if number.isdigit() else 0)
    found = [_revision(workload, one, mine, known) for one in kept]
    current = next((one.name for one in found if one.current), "")
    # Should two have the same template, as after a collision of hashes, the newest is the one in use.
    return [one for one in found if not one.current or one.name == current]


def _replica_sets(kube: Kube, workload: Workload) -> list[Json]:
    return replica_sets_of(kube, workload)


def _controller_revisions(kube: Kube, workload: Workload) -> list[Json]:
    kept = owned_by(workload.uid, kube.all(REVISION, workload.namespace, labelSelector=workload.selector))
    return sorted(kept, key=lambda one: int(one.get("revision", 0)), reverse=True)


def _revision(workload: Workload, kept: Json, pods: Sequence[Json], known: dict[str, set[int]]) -> Revision:
    metadata = kept["metadata"]
    notes = metadata.get("annotations") or {}
    replica_set = workload.kind is DEPLOYMENT
    template = kept["spec"]["template"] if replica_set else kept["data"]["spec"]["template"]
    number = revision_of(kept) if replica_set else int(kept.get("revision", 0))
    earlier = {int(text) for text in notes.get(_HISTORY, "").split(",") if text.isdigit()}
    mine = [pod for pod in pods if made_from(workload, pod, kept)]
    failure = condition(kept, "ReplicaFailure")
    return Revision(
        name=metadata["name"],
        uid=metadata["uid"],
        number=number,
        numbers=frozenset({number} | earlier | known.get(metadata["name"], set())),
        template=template,
        created=moment_of(metadata["creationTimestamp"]),
        current=same(template, workload.template),
        pods=len(mine),
        ready=sum(map(is_ready, mine)),
        troubles=tuple(troubles_of(mine)),
        held=str(failure.get("message", "")) if failure.get("status") == "True" else "",
        cause=str(notes.get(_CAUSE, "")),
        oldest=min((moment_of(pod["metadata"]["creationTimestamp"]) for pod in mine), default=None),
    )


def overdue(workload: Workload, rollout: Rollout, newest: Revision | None) -> str:
    """Why the rollout has failed, empty where that was said of the template before.

    A template that comes back does not make the controller forget the deadline at once: it does when there is progress.
    """
    if newest is None or not newest.oldest:
        return rollout.failed if newest and newest.held else ""
    said = condition(workload.manifest, "Progressing").get("lastUpdateTime")
    return "" if said and newest.oldest >= moment_of(said) else rollout.failed


def made_from(workload: Workload, pod: Json, kept: Json) -> bool:
    """Whether a pod has the template of this ReplicaSet or ControllerRevision."""
    if workload.kind is DEPLOYMENT:
        return bool(controller_of(pod).get("uid") == kept["metadata"]["uid"])
    mark = (pod["metadata"].get("labels") or {}).get("controller-revision-hash", "")
    return bool(mark) and mark in (
        kept["metadata"]["name"],
        str(kept["metadata"]["name"]).removeprefix(f"{workload.name}-"),
    )
