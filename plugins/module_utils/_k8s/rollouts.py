# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What each wanted state of a rollout takes: no step where it is so already, else one change of the workload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from .._core.errors import Kind, OpsError, bad_parameter
from .._core.plan import Aftermath, Done, Finding, Progress, Severity, Step, Undo, Verify
from .._core.spec import Params
from .client import Kube
from .configs import config_findings
from .errors import Json
from .kinds import DEPLOYMENT
from .owners import drift, refuse_drift
from .progress import Rollout, rollout_of
from .restart import UNDO, ages_of, anchor_of, is_due, pause, refuse_on_delete, refuse_outage, restart
from .revisions import Revision, revisions_of
from .rollback import Aim, aim_of, back_again, back_to, rollback_findings
from .stuck import deletions, stuck_pods
from .templates import differences
from .verdict import verdict_of
from .watch import Watch, look, until_complete
from .workload import Workload, pods_of, workload_of
from .writes import Change, foreseen, write


@dataclass(frozen=True, slots=True)
class Scene:
    """A workload as it was found, with its history and pods."""

    kube: Kube
    wanted: Params
    workload: Workload
    rollout: Rollout
    pods: tuple[Json, ...]
    revisions: tuple[Revision, ...]
    watch: Watch

    @classmethod
    def of(cls, kube: Kube, wanted: Params) -> Scene:
        """Reads all that the states need."""
        _sensible(wanted)
        workload = workload_of(kube, wanted["kind"], wanted["namespace"], wanted["name"])
        rollout, pods = rollout_of(workload), tuple(pods_of(kube, workload))
        revisions = tuple(revisions_of(kube, workload, pods))
        watch = Watch(kube, workload, wanted["fail_fast"], {"rollout": rollout.as_dict()})
        watch.facts["revisions"] = [one.as_dict() for one in revisions]
        return cls(kube, wanted, workload, rollout, pods, revisions, watch)

    @property
    def current(self) -> Revision | None:
        return next((one for one in self.revisions if one.current), None)


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done; C(awaited) is false where there is no end to wait for."""

    steps: tuple[Step, ...] = ()
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    exact: bool = True
    awaited: bool = True

    def told(self) -> dict[str, Any]:
        """Its part of a plan."""
        return {name: getattr(self, name) for name in ("steps", "before", "after", "findings", "exact")}


def work_of(scene: Scene) -> Work:
    """What the wanted state takes."""
    return _STATES[scene.wanted["state"]](scene)


def wait_for(scene: Scene, work: Work) -> Verify | None:
    """The wait that follows, or that is all of the work."""
    if not (scene.wanted["wait"] and work.awaited):
        return None
    return until_complete(scene.watch, scene.wanted["timeout"])


def afterwards(scene: Scene) -> Callable[[], Aftermath]:
    """The history as it is once the work is done."""

    def again() -> Aftermath:
        workload = workload_of(scene.kube, scene.workload.kind.name, scene.workload.namespace, scene.workload.name)
        scene.watch.facts["rollout"] = rollout_of(workload).as_dict()
        return Aftermath({"revisions": [one.as_dict() for one in look(scene.kube, workload)]})

    return again


def _sensible(wanted: Params) -> None:
    if wanted["state"] == "rolled_back":
        given = [name for name in ("to_revision", "to_image", "last_healthy") if wanted[name]]
        if len(given) != 1:
            hint = "Give one of to_revision (from 1), to_image and last_healthy=true."
            raise bad_parameter("state", "rolled_back needs to know where to", hint)
    if wanted["timeout"] <= 0:
        raise bad_parameter("timeout", f"{wanted['timeout']} is no time to wait", "Give seconds, or wait=false.")
    names = (wanted["name"], f"{wanted['namespace']}/{wanted['name']}")
    pattern = next((one for one in wanted["protect"] if any(fnmatchcase(name, one) for name in names)), None)
    if pattern is not None and wanted["state"] != "complete":
        hint = "Nothing was changed. Take it out of protect if it is really meant."
        raise OpsError(Kind.GUARD_REFUSED, f"{names[1]} is protected by {pattern!r}", hint, code="protected")


def _complete(scene: Scene) -> Work:
    if scene.workload.paused and not scene.rollout.complete:
        raise _is_paused(scene.workload, "its rollout does not go on")
    return Work(findings=_verdict(scene))


def _restarted(scene: Scene) -> Work:
    workload, now = scene.workload, datetime.now(UTC)
    anchor = anchor_of(scene.wanted["since"], now)
    if anchor > now:
        raise bad_parameter("since", f"{scene.wanted['since']!r} is still to come", "Give a moment that has passed.")
    refuse_on_delete(workload)
    ages = ages_of(workload, scene.pods, anchor)
    if not is_due(workload, ages, anchor):
        return Work(findings=_verdict(scene))
    _may_change(scene)
    refuse_outage(workload, scene.rollout, accept=scene.wanted["accept_outage"])
    words = f"restart {workload.title}, all {ages.total} pods as its strategy allows"
    return _changed(scene, restart(now), words, lambda _changed: UNDO)


def _rolled_back(scene: Scene) -> Work:
    workload = scene.workload
    aim = aim_of(scene.wanted, workload, scene.rollout, scene.revisions)
    wanted = aim.target or aim.current
    broken = stuck_pods(workload, scene.pods, wanted.name) if wanted else []
    if aim.target is None:
        return Work(deletions(scene.kube, workload, broken), findings=_verdict(scene))
    _may_change(scene)
    told = (*_verdict(scene), *rollback_findings(workload, aim.target))
    findings = (*config_findings(scene.kube, workload, aim.target), *told)
    cause = scene.wanted["change_cause"] or ""
    words = f"roll {workload.title} back from {_title(aim.current)} to {_title(aim.target, aim.number)}"
    work = _changed(
        scene,
        back_to(aim.target, aim, cause),
        words,
        lambda changed: back_again(scene.kube, workload, aim, changed),
        aim,
    )
    more = deletions(scene.kube, workload, broken)
    return Work((*work.steps, *more), work.before, work.after, (*work.findings, *findings), work.exact, work.awaited)


def _title(revision: Revision | None, number: int = 0) -> str:
    if revision is None:
        return "a template that is not kept"
    return f"revision {number or revision.number} ({', '.join(revision.images.values())})"


def _paused(scene: Scene) -> Work:
    return _pausing(scene, True)


def _resumed(scene: Scene) -> Work:
    return _pausing(scene, False)


def _pausing(scene: Scene, value: bool) -> Work:
    workload = scene.workload
    if workload.kind is not DEPLOYMENT:
        hint = "Only a Deployment can be. A StatefulSet's partition holds its update back."
        raise OpsError(Kind.UNSUPPORTED, f"{workload.title} cannot be paused", hint, code="not_pausable")
    if workload.paused is value:
        return Work(awaited=not value)
    _may_change(scene, paused=True)

    def undo(changed: list[Workload]) -> Undo:
        def act() -> None:
            for one in changed:
                write(scene.kube, one, pause(not value))

        call = {"namespace": workload.namespace, "name": workload.name, "state": "resumed" if value else "paused"}
        return Undo(f"{workload.title} is {call['state']}", act, "sre.runbooks.k8s_rollout", call)

    work = _changed(scene, pause(value), f"{'pause' if value else 'resume'} {workload.title}", undo)
    return Work(work.steps, {"paused": not value}, {"paused": value}, work.findings, work.exact, not value)


def _may_change(scene: Scene, *, paused: bool = False) -> None:
    """Refuses what its owner would undo, and what a paused Deployment would not follow."""
    refuse_drift(scene.workload.manifest, scene.workload.title, accept=scene.wanted["accept_drift"])
    if scene.workload.paused and not paused and not scene.wanted["force_paused"]:
        raise _is_paused(scene.workload, "its pods would not follow")


def _is_paused(workload: Workload, why: str) -> OpsError:
    hint = "Resume it first, with state=resumed, or let it stay paused with force_paused=true. Nothing was changed."
    return OpsError(Kind.PRECONDITION, f"{workload.title} is paused, so {why}", hint, code="paused")


def _changed(
    scene: Scene,
    change: Change,
    words: str,
    undo: Callable[[list[Workload]], Undo],
    aim: Aim | None = None,
) -> Work:
    """The step that makes a change which the API server has already looked at."""
    workload = scene.workload
    then, exact = foreseen(scene.kube, workload, change)
    template = aim.target.template if aim and aim.target and not exact else then.template
    before, after = differences(workload.template, template)
    changed: list[Workload] = []

    def act(progress: Progress) -> Done:
        scene.watch.progress = progress
        changed.append(write(scene.kube, workload, change))
        return Done()

    # By the name of its template: an approval outlives what an autoscaler does meanwhile.
    now = scene.current.name if scene.current else ""
    goal = f">{aim.target.name}" if aim and aim.target else ""
    step = Step(f"{workload.subject}#{now}{goal}", words, act, undo(changed))
    findings = (*drift(workload.manifest, workload.subject), *_partition(workload))
    return Work((step,), before, after, findings, exact, not workload.paused)


def _verdict(scene: Scene) -> tuple[Finding, ...]:
    return verdict_of(scene.workload, scene.rollout, scene.revisions).findings(scene.workload)


def _partition(workload: Workload) -> tuple[Finding, ...]:
    strategy = (workload.spec.get("updateStrategy") or {}).get("rollingUpdate") or {}
    if not strategy.get("partition"):
        return ()
    words = "Pods with a lower number keep their template until the partition is lowered."
    evidence = {"partition": strategy["partition"]}
    return (Finding("k8s.rollout.partition", Severity.INFO, workload.subject, evidence, words),)


_STATES: dict[str, Callable[[Scene], Work]] = {
    "complete": _complete,
    "restarted": _restarted,
    "rolled_back": _rolled_back,
    "paused": _paused,
    "resumed": _resumed,
}
