# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What stands between an intended number of pods and the first write, and how to tell that they are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from .._core.errors import Kind as ErrorKind
from .._core.errors import OpsError
from .._core.plan import Aftermath, Finding, Forecast, Severity, Step, Verify
from .._core.spec import Params
from .autoscaling import autoscaler_of, health
from .budget import Budget, over_budget, surge_of
from .capacity import Room, Short, shortages
from .client import MANAGER, Kube, Right, demand
from .edits import QUIESCED, RAISED, Edit, note_of
from .errors import Json
from .kinds import AUTOSCALER
from .owners import drift, owner_of, refuse_drift
from .replicas import Asked, Intent, Scene, intent_of
from .workload import Workload, workload_of

#: Who writes C(spec.replicas) as a matter of course: that is no claim on the number.
_CONTROLLERS = ("kube-controller-manager", "keda-operator", MANAGER)


@dataclass(frozen=True, slots=True)
class Work:
    """All that is known before the first write."""

    scene: Scene
    asked: Asked
    intent: Intent
    limits: Params
    seen: bool = True
    budget: Budget | None = None
    room: Room | None = None
    short: Sequence[Short] = ()
    steps: tuple[Step, ...] = ()
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = True

    @property
    def current(self) -> int:
        return self.scene.workload.replicas

    @property
    def more(self) -> int:
        """Pods that are added."""
        return max(0, self.intent.goal - self.current)

    @property
    def confirm(self) -> str:
        """The workload's name where its claims, and what is on them, go with the pods; empty where nothing is lost."""
        policy = self.scene.workload.spec.get("persistentVolumeClaimRetentionPolicy") or {}
        fewer = self.steps and self.intent.goal < self.current
        return self.scene.workload.name if fewer and policy.get("whenScaled") == "Delete" else ""


def prepare(kube: Kube, wanted: Params) -> Work:
    """Looks, decides, and refuses whatever would not work. Writes nothing but dry runs."""
    asked = Asked.of(wanted)
    budget = Budget.of(wanted)
    workload = workload_of(kube, wanted["kind"], wanted["namespace"], wanted["name"])
    demand(kube, Right("list", AUTOSCALER, workload.namespace))
    scaler, seen = autoscaler_of(kube, workload)
    scene = Scene(workload, scaler)
    work = Work(scene, asked, intent_of(scene, asked), wanted, seen, budget)
    if not work.intent.edits:
        return work
    _refuse_protected(workload, wanted["protect"])
    _refuse_numbers(work)
    for edit in work.intent.edits:
        _refuse_revert(edit, accept=wanted["accept_drift"])
    demand(kube, *(edit.right for edit in work.intent.edits))
    return _foreseen(kube, _with_room(kube, work))


def _with_room(kube: Kube, work: Work) -> Work:
    if not work.more:
        return work
    workload = work.scene.workload
    short, room = shortages(kube, workload.namespace, workload.template["spec"], work.more)
    hard = [one for one in short if one.code != "no_room" or work.limits["require_room"]]
    if hard and not work.asked.returns:
        words = f"{workload.title}: {work.more} more pods do not fit: {'; '.join(one.words for one in hard)}"
        hint = "Nothing was changed. Free some, or have it raised" + (
            "; set require_room=false where nodes are added on demand." if hard[0].code == "no_room" else "."
        )
        raise OpsError(ErrorKind.EXHAUSTED, words, hint, code=hard[0].code, facts={"short": _dicts(short)})
    return replace(work, room=room, short=tuple(short))


def _foreseen(kube: Kube, work: Work) -> Work:
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    exact = work.room is None or work.room.exact
    undo = _undo(work)
    for edit in work.intent.edits:
        foreseen, told = edit.foresee(kube)
        now = edit.read(edit.manifest)
        before |= now
        after |= {name: foreseen.get(name) for name in now}
        exact = exact and told
    steps = tuple(edit.step(kube, undo) for edit in work.intent.edits)
    return replace(work, before=before, after=after, exact=exact, steps=steps)


def _undo(work: Work) -> dict[str, Any]:
    """The options of the call that takes it back."""
    workload, asked = work.scene.workload, work.asked
    subject = {"kind": workload.kind.name, "namespace": workload.namespace, "name": workload.name}
    if asked.quiesced is not None:
        return {**subject, "quiesced": not asked.quiesced}
    if asked.temporary or work.scene.owner == "keda":
        return {**subject, "restored": True}
    return {**subject, "replicas": work.current, "temporary": False}


# Refusals.


def _refuse_protected(workload: Workload, patterns: Iterable[str]) -> None:
    names = (workload.name, f"{workload.namespace}/{workload.name}")
    pattern = next((one for one in patterns if any(fnmatchcase(name, one) for name in names)), None)
    if pattern is not None:
        hint = "Nothing was changed. Take it out of protect if it may be scaled."
        raise OpsError(ErrorKind.GUARD_REFUSED, f"{workload.title}: protected by {pattern}", hint, code="protect")


def _refuse_numbers(work: Work) -> None:
    """Too many pods, too many at once taken away, more than the server they talk to has connections for."""
    title, goal, most = work.scene.workload.title, work.intent.goal, work.limits["max_replicas"]
    if work.asked.returns:
        return
    top = max(goal, work.intent.ceiling if work.asked.change_max else 0)
    if work.current < top and top > most:
        words, hint = f"{title}: {top} pods, more than max_replicas {most}", "Raise it only if the number is right."
        raise OpsError(ErrorKind.GUARD_REFUSED, words, f"Nothing was changed. {hint}", code="max_replicas")
    share = (work.current - goal) / work.current if work.current else 0.0
    if work.asked.quiesced is None and share > work.limits["max_fraction"]:
        allowed = f"max_fraction {work.limits['max_fraction']:.0%}"
        words = f"{title}: takes {work.current - goal} of {work.current} pods ({share:.0%}) away, more than {allowed}"
        hint = "Nothing was changed. Go down in smaller steps, or raise max_fraction if it is right."
        raise OpsError(ErrorKind.GUARD_REFUSED, words, hint, code="max_fraction")
    refusal = _overdrawn(work, top) if top > work.current else None
    if refusal:
        raise refusal


def _overdrawn(work: Work, replicas: int) -> OpsError | None:
    workload = work.scene.workload
    if work.budget is None:
        return None
    return over_budget(work.budget, workload.title, replicas, surge_of(workload, replicas))


def _refuse_revert(edit: Edit, *, accept: bool) -> None:
    """Where a tool that reverts has written this very number, it would do so again."""
    owner = owner_of(edit.manifest)
    if owner and any(owner.tool in name or name in _TOOLS.get(owner.tool, ()) for name, _how in _writers(edit)):
        refuse_drift(edit.manifest, edit.title, accept=accept)


_TOOLS: Mapping[str, tuple[str, ...]] = {"flux": ("kustomize-controller", "helm-controller")}


def _writers(edit: Edit) -> list[tuple[str, str]]:
    """Managers that stand for the fields that the edit changes, each with its operation."""
    found = []
    for entry in edit.manifest["metadata"].get("managedFields") or []:
        fields = (entry.get("fieldsV1") or {}).get("f:spec") or {}
        if entry.get("manager") not in _CONTROLLERS and any(f"f:{name}" in fields for name in edit.spec):
            found.append((str(entry.get("manager", "")), str(entry.get("operation", ""))))
    return found


# What is told.


def findings_of(work: Work) -> tuple[Finding, ...]:
    """What is worth knowing beside the number itself."""
    workload = work.scene.workload
    found = [*health(work.scene.scaler), *drift(workload.manifest, workload.title), *_applied(work), *_kept(work)]
    if not work.seen:
        words = "Let this user list scaledobjects.keda.sh; if KEDA scales it, the change will not last."
        found.append(Finding("k8s.replicas.keda_unseen", Severity.INFO, workload.title, {}, words))
    if work.room and work.room.fit is None:
        words = "Let this user list nodes and pods of the cluster, to see whether there is room before it is needed."
        found.append(Finding("k8s.capacity.unseen", Severity.INFO, workload.title, {}, words))
    for short in work.short:
        words = "Pods may stay Pending. Make room, or have the limit raised."
        found.append(Finding(f"k8s.capacity.{short.code}", Severity.WARNING, workload.title, short.as_dict(), words))
    if work.asked.returns and work.more and (refusal := _overdrawn(work, work.intent.goal)):
        found.append(
            Finding(
                "k8s.capacity.connections", Severity.WARNING, workload.title, {"sum": refusal.message}, refusal.hint
            )
        )
    return tuple(found)


def _applied(work: Work) -> list[Finding]:
    """Fields that somebody declares by server-side apply: the next apply sets them again."""
    return [
        Finding(
            "k8s.replicas.applied",
            Severity.WARNING,
            edit.title,
            {"manager": manager, "fields": sorted(edit.spec)},
            "It sets them again with its next apply. Bring its manifest into line, or take the fields out of it.",
        )
        for edit in work.intent.edits
        for manager, how in _writers(edit)
        if how == "Apply"
    ]


def _kept(work: Work) -> list[Finding]:
    """Notes that stand for something not yet taken back."""
    objects = [(work.scene.workload.title, work.scene.workload.manifest)]
    if work.scene.scaler:
        objects.append((work.scene.scaler.title, work.scene.scaler.manifest))
    ways = {QUIESCED: "quiesced=false", RAISED: "restored=true"}
    return [
        Finding(f"k8s.replicas.{name.partition('/')[2]}", Severity.INFO, title, kept, f"Taken back with {way}.")
        for title, manifest in objects
        for name, way in ways.items()
        if (kept := note_of(manifest, name))
    ]


def facts_of(work: Work) -> dict[str, Any]:
    """The result's own noun."""
    workload, scaler = work.scene.workload, work.scene.scaler
    bounds = scaler.bounds if scaler else (None, None)
    surge = surge_of(workload, work.intent.goal)
    return {
        "owner": work.scene.owner,
        "autoscaler": scaler.title if scaler else "",
        "replicas": work.current,
        "ready": _ready(workload.manifest),
        "goal": work.intent.goal,
        "min_replicas": bounds[0],
        "max_replicas": bounds[1],
        "quiesced": bool(work.scene.quiesced),
        "surge": surge,
        "room": work.room.as_dict() if work.room else {},
        "connections": work.budget.as_dict(work.intent.goal, surge) if work.budget else {},
    }


def _ready(manifest: Json) -> int:
    return int((manifest.get("status") or {}).get("readyReplicas", 0))


def _dicts(short: Iterable[Short]) -> list[dict[str, Any]]:
    return [one.as_dict() for one in short]


# Afterwards.


def verify_of(kube: Kube, work: Work) -> Verify | None:
    """The pods are there, ready, and no others; or all are gone."""
    workload, intent = work.scene.workload, work.intent
    if not work.limits["wait"]:
        return None
    words = f"{workload.title} has {intent.goal if intent.exact else f'at least {intent.floor}'} ready pods"

    def check() -> str:
        return missing(_same(kube, workload), intent)

    return Verify(words, check, 2, 0.5, work.limits["timeout"])


def missing(now: Workload, intent: Intent) -> str:
    """What still differs from the intended number; empty when nothing does."""
    wanted, status = now.replicas, now.status
    if status.get("observedGeneration", 0) < now.manifest["metadata"].get("generation", 0):
        return "its controller has not seen the change yet"
    if wanted < intent.floor or (intent.exact and wanted != intent.goal):
        return f"its replicas are {wanted}, not {intent.goal if intent.exact else intent.floor}"
    if _ready(now.manifest) < wanted:
        return f"{_ready(now.manifest)} of {wanted} pods are ready"
    left = int(status.get("replicas", 0)) + int(status.get("terminatingReplicas", 0) if wanted == 0 else 0)
    if intent.exact and left > wanted:
        return f"{left - wanted} pods are not gone yet"
    return ""


def _same(kube: Kube, workload: Workload) -> Workload:
    now = workload_of(kube, workload.kind.name, workload.namespace, workload.name)
    if now.uid != workload.uid:
        words = f"{workload.title} was deleted and made anew meanwhile"
        raise OpsError(ErrorKind.CONFLICT, words, "Look who did that, then run again.", code="recreated")
    return now


def forecast_of(kube: Kube, work: Work) -> Forecast | None:
    """Ready pods, before and after."""
    if not work.steps:
        return None
    workload = work.scene.workload
    before = _ready(workload.manifest)
    return Forecast(
        "ready_pods", "pods", before, work.intent.goal, lambda: float(_ready(_same(kube, workload).manifest))
    )


def aftermath_of(kube: Kube, work: Work) -> Aftermath:
    """The numbers as they are then."""
    workload = _same(kube, work.scene.workload)
    scaler, _seen = autoscaler_of(kube, workload)
    scene = Scene(workload, scaler)
    bounds = scaler.bounds if scaler else (None, None)
    now = {
        "owner": scene.owner,
        "replicas": workload.replicas,
        "ready": _ready(workload.manifest),
        "min_replicas": bounds[0],
        "max_replicas": bounds[1],
        "quiesced": bool(scene.quiesced),
    }
    return Aftermath({"scale": {**facts_of(work), **now}})
