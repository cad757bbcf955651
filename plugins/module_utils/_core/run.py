# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one way from parameters to outcome: plan, guard, steps, verify, measure, redact, return.

Check mode is decided here and nowhere else, after the same code that a real run goes through.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from .door import Door
from .errors import Kind, OpsError
from .guard import Guard
from .plan import Aftermath, Done, Plan, Progress, Spared, Step
from .redact import redact
from .spec import Params
from .wait import Verdict, hold


@dataclass(slots=True)
class _Taken:
    """What has been done so far; survives the exception that ends a run half-way."""

    plan: Plan | None = None
    done: list[tuple[Step, Done]] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    verdict: Verdict | None = None
    measured: dict[str, Any] | None = None
    aftermath: Aftermath = field(default_factory=Aftermath)
    started: float = field(default_factory=time.monotonic)

    @property
    def acted(self) -> bool:
        """Whether anything was really changed."""
        return any(done.count for step, done in self.done)


def run(door: Door) -> None:
    """A module's C(main): everything that concerns Ansible, once."""
    module = AnsibleModule(argument_spec=door.spec.arguments(), supports_check_mode=True, **door.spec.rules())
    result = execute(door, module.params, check_mode=module.check_mode)
    if result.get("failed"):
        module.fail_json(**result)
    module.exit_json(**result)


def execute(
    door: Door,
    params: Params,
    *,
    check_mode: bool,
    progress: Progress = lambda _line: None,
) -> dict[str, Any]:
    """Runs a door and returns the module's result, redacted. A bug keeps its traceback.

    The result of a failure holds what was done before it, so that nobody has to guess.
    """
    taken = _Taken()
    try:
        plan = _carry_out(door, params, taken, check_mode, progress)
        result = _outcome(plan, taken, check_mode)
    except ImportError as error:
        if not (error.name or "").startswith(door.product.driver):
            raise
        result = _failure(taken, _missing(door.product.driver))
    except Exception as error:
        known = error if isinstance(error, OpsError) else door.product.translate(error)
        if known is None:
            raise
        result = _failure(taken, known)
    clean: dict[str, Any] = redact(result, door.spec.secrets(params))
    return clean


def _carry_out(door: Door, params: Params, taken: _Taken, check_mode: bool, progress: Progress) -> Plan:
    guard = Guard.of(params)
    with door.product.connect(params) as client:
        taken.plan = plan = door.plan(client, params)
        guard.judge(plan)
        if check_mode and plan.steps:
            return plan
        _take(plan, taken, progress)
        if plan.verify and (taken.done or not plan.steps):
            taken.verdict = hold(plan.verify)
        _measure(plan, taken)
        if plan.aftermath and taken.done:
            taken.aftermath = plan.aftermath()
        if plan.verify and plan.verify.required and taken.verdict and not taken.verdict.ok:
            raise _not_verified(plan, taken.verdict)
        return plan


def _take(plan: Plan, taken: _Taken, progress: Progress) -> None:
    """Takes the steps in order. When one fails, those before it are undone where they can be."""
    for step in plan.steps:
        try:
            done = step.act(progress)
        except Exception as error:
            if isinstance(error, OpsError) and error.done:
                taken.done.append((step, error.done))
            _unwind(taken)
            raise
        taken.done.append((step, done))
        if not done.finished:
            hint = "What was done stays done. Run again: it goes on where this run stopped."
            raise OpsError(Kind.PARTIAL, f"{step.words}: stopped early, {done.note}", hint, retryable=True)


def _unwind(taken: _Taken) -> None:
    for step, done in reversed(taken.done):
        if step.undo.act is not None and done.count:
            step.undo.act()
            taken.undone.append(step.undo.words)


def _measure(plan: Plan, taken: _Taken) -> None:
    forecast = plan.forecast
    if forecast and forecast.measure and taken.acted:
        taken.measured = {
            **forecast.as_dict(),
            "forecast": forecast.after,
            "after": forecast.measure(),
            "count": sum(done.count for step, done in taken.done),
            "bytes": sum(done.bytes for step, done in taken.done),
            "seconds": round(time.monotonic() - taken.started, 3),
        }


def _outcome(plan: Plan, taken: _Taken, check_mode: bool) -> dict[str, Any]:
    stopped = check_mode and bool(plan.steps)
    changed = bool(plan.steps) if stopped else taken.acted
    words = [step.words for step in plan.steps] if stopped else _words(taken)
    return {"changed": changed, "actions": words, **_described(plan, taken)}


def _described(plan: Plan, taken: _Taken) -> dict[str, Any]:
    """The part of a result that success and failure share."""
    steps = [step for step, done in taken.done if done.count] if taken.done else plan.steps
    findings = (*plan.findings, *taken.aftermath.findings)
    return {
        **plan.facts,
        **taken.aftermath.facts,
        "diff": {"before": plan.before, "after": plan.after},
        "plan": plan.as_dict(),
        "spared": [spared.as_dict() for spared in (*plan.spared, *_missed(taken))],
        "findings": [finding.as_dict() for finding in sorted(findings, key=lambda f: -f.severity)],
        "forecast": plan.forecast.as_dict() if plan.forecast else {},
        "measured": taken.measured or {},
        "undo": [step.undo.as_dict(step.subject) for step in steps],
        "verify": taken.verdict.as_dict() if taken.verdict else {},
        "server": plan.target.server(),
    }


def _words(taken: _Taken) -> list[str]:
    """The record of the steps taken; a count that differs from the planned one is said."""
    return [
        step.words if done.count == step.count else f"{step.words} (done: {done.count})"
        for step, done in taken.done
        if done.count
    ]


def _missed(taken: _Taken) -> list[Spared]:
    return [Spared(step.subject, done.note or "no longer as planned") for step, done in taken.done if not done.count]


def _failure(taken: _Taken, error: OpsError) -> dict[str, Any]:
    left = [step for step, done in taken.done if done.count and step.undo.words not in taken.undone]
    seen = taken.aftermath
    taken.aftermath = Aftermath(seen.facts, (*seen.findings, *error.findings))
    described = _described(taken.plan, taken) if taken.plan else _found(error)
    extra: Mapping[str, Any] = {name: value for name, value in error.facts.items() if name not in described}
    return {
        **described,
        **extra,
        "failed": True,
        "changed": bool(left),
        "actions": _words(taken),
        "undone": taken.undone,
        "msg": f"{error.message}. {error.hint}".rstrip() if error.hint else error.message,
        "error": error.as_dict(),
    }


def _found(error: OpsError) -> dict[str, Any]:
    return {"findings": [finding.as_dict() for finding in error.findings]} if error.findings else {}


def _missing(driver: str) -> OpsError:
    return OpsError(
        Kind.PRECONDITION,
        missing_required_lib(driver),
        f"Install it for the interpreter that runs the module: pip install {driver}",
        code="missing_library",
    )


def _not_verified(plan: Plan, verdict: Verdict) -> OpsError:
    text = f"{plan.target.name}: {verdict.words}: {verdict.wrong} (after {verdict.seconds:.0f} s)"
    return OpsError(Kind.VERIFY_FAILED, text, "Look at findings and measured before you try anything stronger.")
