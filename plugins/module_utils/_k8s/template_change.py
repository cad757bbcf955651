# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From what is wanted of a workload to what will be done: looked at, tried on the API server, judged, then written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .._core.plan import Done, Finding, Plan, Progress, Severity, Step, Undo
from .._core.spec import Params
from .amounts import Bounds, refuse_upside_down
from .budget import Budget
from .client import Kube, Patch, Right, demand
from .config_switch import Switch, switch_findings, switch_of, switch_step, try_switch, uses
from .errors import Json
from .out_of_memory import memory_findings, with_memory
from .owners import drift, refuse_drift
from .progress import rollout_of
from .template_edit import Edit, Wish, edit, meant_container
from .template_guard import (
    refuse_below_usage,
    refuse_connections,
    refuse_missing_references,
    refuse_no_room,
    refuse_paused,
)
from .template_turn import Turn, env_findings, quality_findings, rolling, scaler_findings, still_from
from .templates import differences, same
from .watch import Watch, until_complete
from .workload import Workload, workload_of
from .writes import Change, foreseen, write


@dataclass(frozen=True, slots=True)
class Aim:
    """A workload as it is and how it will be. C(after) is the API server's own answer where C(exact)."""

    workload: Workload
    edit: Edit
    after: Workload
    exact: bool
    watch: Watch
    findings: tuple[Finding, ...] = ()

    @property
    def differs(self) -> bool:
        """A patch that the cluster's own webhooks undo changes nothing."""
        same_notes = self.workload.annotations == self.after.annotations
        return bool(self.edit.patch) and not (same_notes and same(self.workload.template, self.after.template))

    @property
    def diff(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What changes, by its path, without the values that are secret."""
        before, after = differences(self.workload.template, self.after.template)
        notes = _notes(self.workload, self.after), _notes(self.after, self.workload)
        before, after = ({**part, **other} for part, other in zip((before, after), notes, strict=True))
        if self.differs and self.edit.duplicates:
            before["duplicates"], after["duplicates"] = list(self.edit.duplicates), []
        return before, after


def _notes(workload: Workload, other: Workload) -> dict[str, str]:
    return {
        f"annotations[{name}]": text
        for name, text in workload.annotations.items()
        if other.annotations.get(name) != text
    }


def plan_of(kube: Kube, params: Params) -> Plan:
    """A step for the key of a ConfigMap or Secret, one for the template; neither where nothing differs."""
    switch = switch_of(kube, params)
    aim = _aim(kube, params, switch) if params["name"] else None
    steps: list[Step] = []
    findings: list[Finding] = []
    before, after = (dict(part) for part in (aim.diff if aim and aim.differs else ({}, {})))
    exact = aim.exact if aim else True
    if switch:
        how = uses(aim.workload.template, switch) if aim else ()
        findings += switch_findings(switch, how, restart=params["restart"])
        if switch.differs:
            exact = _tried(kube, switch) and exact
            steps.append(switch_step(kube, switch))
            name = f"{switch.title} {switch.key}"
            before[name], after[name] = switch.shown(switch.now), switch.shown(switch.wanted)
    if aim:
        findings += aim.findings
        steps += [_step(kube, aim, Budget.of(params))] if aim.differs else []
    return Plan(
        target=kube.target,
        before=before,
        after=after,
        steps=tuple(steps),
        findings=tuple(findings),
        verify=until_complete(aim.watch, params["timeout"]) if aim and params["wait"] else None,
        facts=_facts_of(switch, aim),
        exact=exact,
    )


def _tried(kube: Kube, switch: Switch) -> bool:
    demand(kube, switch.right)
    return try_switch(kube, switch)


def _facts_of(switch: Switch | None, aim: Aim | None) -> dict[str, Any]:
    """What the module returns; the watch goes on writing to it."""
    facts = aim.watch.facts if aim else {}
    if switch:
        facts["config"] = {"object": switch.title, "key": switch.key, "digest": switch.shown(switch.wanted)}
    return facts


def _aim(kube: Kube, params: Params, switch: Switch | None) -> Aim:
    workload = workload_of(kube, params["kind"], params["namespace"], params["name"])
    wish, killed = with_memory(kube, workload, Wish.of(params), params)
    if switch and params["restart"]:
        wish = wish.with_note(*switch.note)
    Bounds.of(params).judge(wish.resources)
    made = edit(workload, wish)
    if wish.resources:
        refuse_upside_down(meant_container(Workload(workload.kind, made.after), wish.container).get("resources") or {})
    watch = Watch(kube, workload)
    watch.facts |= {"workload": _facts(workload, wish), "rollout": rollout_of(workload).as_dict()}
    findings = memory_findings(workload, wish, killed, params)
    if params["env_absent"]:
        findings += still_from(kube, workload, meant_container(workload, wish.container), params["env_absent"])
    aim = Aim(workload, made, workload, True, watch, findings)
    if made.patch:
        return _judged(kube, params, aim, wish, switch)
    twice = env_findings(Turn(kube, workload, workload), made.duplicates, workload.subject)
    return replace(aim, findings=(*aim.findings, *twice))


def _judged(kube: Kube, params: Params, aim: Aim, wish: Wish, switch: Switch | None) -> Aim:
    """All that can refuse the change, before anything is written."""
    workload = aim.workload
    refuse_drift(workload.manifest, workload.title, accept=params["accept_drift"])
    demand(kube, *_rights(workload, switch))
    after, exact = foreseen(kube, workload, _change(aim.edit.patch))
    after = after if exact else Workload(workload.kind, aim.edit.after)
    turn = Turn(kube, workload, after)
    findings = [*aim.findings, *drift(workload.manifest, workload.subject)]
    if aim.edit.rolls:
        budget = Budget.of(params)
        refuse_paused(workload, wait=params["wait"])
        refuse_connections(after, budget)
        findings.append(rolling(after, "; ".join(aim.edit.words), budget))
        findings += refuse_missing_references(turn)
        findings += env_findings(turn, aim.edit.duplicates, workload.subject)
    if turn.resources_differ:
        findings += [*refuse_below_usage(turn), *refuse_no_room(turn)]
        findings += [*quality_findings(turn), *scaler_findings(turn)]
    made = replace(aim, after=after, exact=exact, findings=tuple(findings))
    return _as_wished(made, edit(after, wish)) if made.differs else _undone(made)


def _as_wished(aim: Aim, left: Edit) -> Aim:
    """Whether what the API server would make of it is all that was wanted."""
    if not left.patch:
        return aim
    suggest = "A webhook or policy of the cluster makes something else of it. Want what it makes, or change it there."
    evidence = {"still_differs": list(left.words)}
    found = Finding("k8s.admission.alters", Severity.WARNING, aim.workload.subject, evidence, suggest)
    return replace(aim, findings=(*aim.findings, found))


def _undone(aim: Aim) -> Aim:
    suggest = "A webhook or policy of the cluster takes the change back at once. Change it there."
    found = Finding("k8s.admission.reverts", Severity.WARNING, aim.workload.subject, {}, suggest)
    return replace(aim, after=aim.workload, findings=(found,))


def _rights(workload: Workload, switch: Switch | None) -> list[Right]:
    own = Right("patch", workload.kind, workload.namespace, workload.name)
    return [own, switch.right] if switch and switch.differs else [own]


def _change(patch: Json, budget: Budget | None = None) -> Change:
    """The patch with the identity of what it was made for. More pods than there were have to fit the budget, too."""

    def body(workload: Workload) -> Json:
        refuse_connections(workload, budget)
        return {**patch, "metadata": {**patch.get("metadata", {}), **workload.identity}}

    return Change(Patch.STRATEGIC, body)


def _step(kube: Kube, aim: Aim, budget: Budget | None) -> Step:
    workload = aim.workload

    def act(progress: Progress) -> Done:
        aim.watch.progress = progress
        write(kube, workload, _change(aim.edit.patch, budget if aim.edit.rolls else None))
        return Done()

    def back() -> None:
        metadata = {**aim.edit.back.get("metadata", {}), "uid": workload.uid}
        kube.api.patch(workload.path, {**aim.edit.back, "metadata": metadata}, Patch.STRATEGIC)

    words = f"{workload.title}: {'; '.join(aim.edit.words)}"
    undo = "put back what it was; the template of before is the newest older revision, see k8s_rollout"
    return Step(workload.subject, words, act, Undo(undo, back))


def _facts(workload: Workload, wish: Wish) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": workload.kind.name, "namespace": workload.namespace, "name": workload.name}
    if wish.of_container:
        container = meant_container(workload, wish.container)
        found["container"], found["image"] = container["name"], container.get("image", "")
        found["resources"] = container.get("resources") or {}
    return found
