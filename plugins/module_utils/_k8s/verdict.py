# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a rollback would help: is it the newest template that fails, or would every template fail alike?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from .._core.plan import Finding, Severity
from .._core.spec import Params
from .client import Kube
from .kinds import DEPLOYMENT
from .owners import drift
from .progress import Rollout, condition, rollout_of
from .restart import Ages, ages_of, anchor_of, is_due
from .revisions import Memory, Revision, overdue, revisions_of
from .stuck import is_updated
from .templates import placement
from .trouble import Trouble
from .workload import Workload, pods_of, workload_of


class State(StrEnum):
    """How a rollout stands. Stable: a finding C(k8s.rollout.<state>) tells of each but C(COMPLETE)."""

    COMPLETE = "complete"
    IN_PROGRESS = "in_progress"
    STUCK = "stuck"
    PAUSED = "paused"
    ALL_FAIL = "all_fail"
    REGRESSED = "regressed"
    NO_ROOM = "no_room"
    NO_OLDER = "no_older"


_SUGGEST = {
    State.IN_PROGRESS: "Wait: nothing has failed so far.",
    State.STUCK: "Roll back: sre.runbooks.k8s_rollout with state=rolled_back and last_healthy=true.",
    State.PAUSED: "Resume it: sre.runbooks.k8s_rollout with state=resumed.",
    State.ALL_FAIL: "Pods of older templates fail alike, so look at what they share: a dependency, a node, a Secret.",
    State.REGRESSED: "This template was complete once, so look at what changed since: a dependency, config, nodes.",
    State.NO_ROOM: "The older template asks for the same room, so make some: nodes, quota, affinity, claims.",
    State.NO_OLDER: "There is no older template to go back to; mend this one.",
}
_SEVERITY = {State.IN_PROGRESS: Severity.INFO, State.PAUSED: Severity.WARNING}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is the matter with a rollout, and the revision to go back to where that would mend it."""

    state: State
    newest: Revision | None = None
    target: Revision | None = None
    proved: bool = True
    evidence: dict[str, Any] = field(default_factory=dict)

    def findings(self, workload: Workload) -> tuple[Finding, ...]:
        if self.state is State.COMPLETE:
            return ()
        severity = _SEVERITY.get(self.state, Severity.CRITICAL)
        return (Finding(f"k8s.rollout.{self.state}", severity, workload.subject, self.evidence, _SUGGEST[self.state]),)

    @property
    def suggest(self) -> str:
        return _SUGGEST.get(self.state, "")


def verdict_of(workload: Workload, rollout: Rollout, revisions: Sequence[Revision]) -> Verdict:
    """Judges a rollout by its own numbers and by the pods of each revision."""
    if rollout.complete:
        return Verdict(State.COMPLETE)
    newest = next((one for one in revisions if one.current), None)
    evidence = _evidence(rollout, newest)
    if not rollout.observed or newest is None:
        return Verdict(State.IN_PROGRESS, newest, evidence=evidence)
    older = [one for one in revisions if one is not newest]
    blocked = None if newest.failing else _blocked(workload, older)
    if blocked:
        return Verdict(State.STUCK, newest, newest, evidence={**evidence, "blocked_by": str(blocked)})
    if not newest.failing and not overdue(workload, rollout, newest):
        return Verdict(State.PAUSED if workload.paused else State.IN_PROGRESS, newest, evidence=evidence)
    return _failing(workload, newest, older, evidence)


def _failing(workload: Workload, newest: Revision, older: Sequence[Revision], evidence: dict[str, Any]) -> Verdict:
    sick = [one for one in older if one.failing]
    if sick and not _serving(older):
        return Verdict(State.ALL_FAIL, newest, evidence={**evidence, "also": [one.as_dict() for one in sick[:3]]})
    memory = Memory.of(workload)
    if _was_complete(workload) and newest.name not in memory.left:
        return Verdict(State.REGRESSED, newest, evidence=evidence)
    return _target(memory, newest, older, evidence)


def _blocked(workload: Workload, older: Sequence[Revision]) -> Trouble | None:
    """A broken pod of an older template for which an ordered StatefulSet waits before it takes the newest one."""
    failing = [trouble for one in older for trouble in one.troubles if trouble.final]
    return next((one for one in failing if is_updated(workload, one.pod)), None)


def _serving(revisions: Sequence[Revision]) -> list[Revision]:
    return [one for one in revisions if one.ready and not one.failing]


def _was_complete(workload: Workload) -> bool:
    """Whether the newest template was once rolled out to its end: then it is not the template that broke it.

    The reason alone does not tell: it stays where a template comes back that fails. Old pods then still serve.
    """
    if workload.kind is DEPLOYMENT:
        reason = condition(workload.manifest, "Progressing").get("reason")
        status = workload.status
        return reason == "NewReplicaSetAvailable" and status.get("replicas", 0) <= status.get("updatedReplicas", 0)
    status = workload.status
    return bool(status.get("updateRevision") and status["updateRevision"] == status.get("currentRevision"))


def _target(memory: Memory, newest: Revision, older: Sequence[Revision], evidence: dict[str, Any]) -> Verdict:
    serving = _serving(older)
    untried = [one for one in older if one.name not in memory.left]
    target = next(iter((*serving, *untried)), None)
    if target is None:
        return Verdict(State.NO_OLDER, newest, evidence=evidence)
    trouble = newest.failing
    short_of_room = not trouble and (newest.held or any(not one.final for one in newest.troubles))
    if short_of_room and placement(newest.template) == placement(target.template):
        return Verdict(State.NO_ROOM, newest, evidence=evidence)
    found = {**evidence, "older": {"revision": target.number, "ready": target.ready, "images": target.images}}
    return Verdict(State.STUCK, newest, target, bool(serving), found)


def _evidence(rollout: Rollout, newest: Revision | None) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(rollout, name) for name in ("desired", "updated", "available", "old")}
    found["waiting"] = rollout.failed or rollout.waiting
    if newest:
        found["revision"], found["images"] = newest.number, newest.images
        if newest.troubles:
            found["cause"] = newest.troubles[0].as_dict()
        if newest.held:
            found["held"] = newest.held
    return found


_RESTARTABLE = {State.COMPLETE, State.IN_PROGRESS, State.REGRESSED}

#: What a new pod would wait for just as the old one does.
_PAST_HELP = ("k8s.image_pull", "k8s.config_missing", "k8s.container_create", "k8s.unschedulable")


@dataclass(frozen=True, slots=True)
class Judged:
    """A workload with what was seen of its rollout, and the verdict on it."""

    workload: Workload
    rollout: Rollout
    revisions: tuple[Revision, ...]
    verdict: Verdict
    anchor: datetime | None = None
    ages: Ages | None = None

    @property
    def restartable(self) -> bool:
        """Whether new pods of the same template could become ready where the present ones are not."""
        newest = next((one for one in self.revisions if one.current), None)
        causes = {one.id for one in newest.troubles} if newest else set()
        held = bool(newest and newest.held)
        return self.verdict.state in _RESTARTABLE and not causes & set(_PAST_HELP) and not held

    @property
    def findings(self) -> tuple[Finding, ...]:
        found = self.verdict.findings(self.workload)
        return (*found, *self._due(), *drift(self.workload.manifest, self.workload.subject))

    def _due(self) -> tuple[Finding, ...]:
        if not (self.anchor and self.ages and is_due(self.workload, self.ages, self.anchor)):
            return ()
        evidence = {
            "older": self.ages.older,
            "pods": self.ages.total,
            "oldest": self.ages.oldest.isoformat() if self.ages.oldest else "",
        }
        words = "Restart: sre.runbooks.k8s_rollout with state=restarted."
        return (Finding("k8s.rollout.restart_due", Severity.INFO, self.workload.subject, evidence, words),)

    def facts(self) -> dict[str, Any]:
        target = self.verdict.target
        rollout = {
            **self.rollout.as_dict(),
            "state": self.verdict.state.value,
            "target": target.number if target else 0,
            "restartable": self.restartable,
            "proven": self.rollout.complete or _was_complete(self.workload),
            "suggest": self.verdict.suggest,
        }
        return {"rollout": rollout, "revisions": [one.as_dict() for one in self.revisions]}


def judged(kube: Kube, wanted: Params, facts: dict[str, Any]) -> Judged:
    """Looks at a workload, and puts what was seen into C(facts)."""
    workload = workload_of(kube, wanted["kind"], wanted["namespace"], wanted["name"])
    rollout, pods = rollout_of(workload), pods_of(kube, workload)
    revisions = tuple(revisions_of(kube, workload, pods))
    anchor = anchor_of(wanted["since"], datetime.now(UTC)) if wanted["since"] else None
    ages = ages_of(workload, pods, anchor) if anchor else None
    seen = Judged(workload, rollout, revisions, verdict_of(workload, rollout, revisions), anchor, ages)
    facts.update(seen.facts())
    return seen
