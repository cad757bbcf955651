# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Going back to a template that a workload had: which one, by one patch, and what else that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .._core.errors import Kind, OpsError
from .._core.plan import Finding, Severity, Undo
from .._core.spec import Params
from .client import Kube, Patch
from .errors import Json
from .progress import Rollout
from .revisions import MEMORY, Memory, Revision
from .templates import normal
from .verdict import State, Verdict, verdict_of
from .workload import Workload
from .writes import Change, identity_operations, note_operations, write

CHANGE_CAUSE = "kubernetes.io/change-cause"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_MAY_GO_ON = {State.COMPLETE, State.IN_PROGRESS, State.PAUSED}


@dataclass(frozen=True, slots=True)
class Aim:
    """Where to go back to; C(target) is None where the template in use is the one that is wanted."""

    target: Revision | None
    current: Revision | None
    number: int = 0


def aim_of(wanted: Params, workload: Workload, rollout: Rollout, revisions: Sequence[Revision]) -> Aim:
    """The revision that the options mean; an error names those that there are."""
    current = next((one for one in revisions if one.current), None)
    if wanted["last_healthy"]:
        found = _last_healthy(workload, verdict_of(workload, rollout, revisions))
    elif wanted["to_revision"] is not None:
        found = _by_number(workload, wanted["to_revision"], revisions)
    else:
        found = _by_image(workload, wanted["to_image"], current, revisions)
    if found is None or found.current:
        return Aim(None, current)
    return Aim(found, current, wanted["to_revision"] or found.number)


def _last_healthy(workload: Workload, verdict: Verdict) -> Revision | None:
    if verdict.state in _MAY_GO_ON:
        return None
    if verdict.target is None:
        raise OpsError(
            Kind.PRECONDITION,
            f"{workload.title}: a rollback would not mend it, {verdict.state.value.replace('_', ' ')}",
            f"{verdict.suggest} Nothing was changed.",
            code="no_history" if verdict.state is State.NO_OLDER else verdict.state.value,
            findings=verdict.findings(workload),
        )
    return verdict.target


def _by_number(workload: Workload, number: int, revisions: Sequence[Revision]) -> Revision:
    exact = next((one for one in revisions if one.number == number), None)
    found = exact or next((one for one in revisions if number in one.numbers), None)
    if found is None:
        raise _not_found(workload, f"no revision {number}", revisions)
    return found


def _by_image(
    workload: Workload, images: Mapping[str, str], current: Revision | None, revisions: Sequence[Revision]
) -> Revision:
    fitting = [one for one in revisions if images.items() <= one.images.items()]
    if not fitting:
        asked = ", ".join(f"{name}={image}" for name, image in images.items())
        raise _not_found(workload, f"no revision with {asked}", revisions)
    return current if current is not None and current in fitting else fitting[0]


def _not_found(workload: Workload, words: str, revisions: Sequence[Revision]) -> OpsError:
    if all(one.current for one in revisions):
        kept = workload.spec.get("revisionHistoryLimit")
        why = "it keeps none, revisionHistoryLimit is 0" if kept == 0 else "no other template of it is kept"
        hint = "Apply the old manifest instead. Nothing was changed."
        return OpsError(Kind.PRECONDITION, f"{workload.title} has no history: {why}", hint, code="no_history")
    known = "; ".join(one.title + (", in use" if one.current else "") for one in revisions)
    return OpsError(Kind.NOT_FOUND, f"{workload.title} has {words}", f"There are: {known}.", code="no_revision")


def back_to(target: Revision, aim: Aim, cause: str) -> Change:
    """One JSON patch that puts the old template, whole, in the place of the new one, and nothing else."""

    def body(workload: Workload) -> list[Json]:
        left = aim.current.name if aim.current else ""
        notes = {
            CHANGE_CAUSE: cause or f"Rolled back to revision {aim.number}: {', '.join(target.images.values())}",
            MEMORY: Memory.of(workload).after(left, aim.number, target.name),
        }
        return [*identity_operations(workload), *note_operations(workload, notes), _template(target.template)]

    return Change(Patch.JSON, body)


def _template(template: Json) -> Json:
    return {"op": "replace", "path": "/spec/template", "value": normal(template)}


def back_again(kube: Kube, planned: Workload, aim: Aim, changed: list[Workload]) -> Undo:
    """Puts the template back that was there before; C(changed) holds the workload once it has been changed."""

    notes = {CHANGE_CAUSE: planned.annotations.get(CHANGE_CAUSE, "")}

    def body(now: Workload) -> list[Json]:
        return [*identity_operations(now), *note_operations(now, notes), _template(planned.template)]

    def act() -> None:
        for workload in changed:
            write(kube, workload, Change(Patch.JSON, body))

    call = {"kind": planned.kind.name, "namespace": planned.namespace, "name": planned.name, "state": "rolled_back"}
    number = aim.current.number if aim.current else 0
    return Undo(
        f"the template of revision {number} is put back",
        act,
        "sre.runbooks.k8s_rollout",
        {**call, "to_revision": number},
    )


def rollback_findings(workload: Workload, target: Revision) -> tuple[Finding, ...]:
    """What a rollback leaves as it is, and what is not known of its target."""
    found = []
    if not target.ready:
        words = "No pod of it is there to show that it still works. Watch it closely."
        evidence = {"revision": target.number, "images": target.images}
        found.append(Finding("k8s.rollback.unproved", Severity.WARNING, workload.subject, evidence, words))
    if _LAST_APPLIED in workload.annotations:
        words = "The next kubectl apply of the same file brings the left template back. Mend the file first."
        found.append(
            Finding("k8s.rollback.last_applied", Severity.INFO, workload.subject, {"by": "kubectl apply"}, words)
        )
    if (workload.spec.get("updateStrategy") or {}).get("type") == "OnDelete":
        words = "With OnDelete pods take the template only when they are deleted: sre.runbooks.k8s_pod."
        evidence = {"strategy": "OnDelete"}
        found.append(Finding("k8s.rollout.on_delete", Severity.WARNING, workload.subject, evidence, words))
    return tuple(found)
