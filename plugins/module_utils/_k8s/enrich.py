# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What one more question adds to a case: a quota's numbers, a claim's state, whether a pull secret can be of use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from .causes import words
from .events import event_of
from .images import secret_state
from .kinds import CLAIM, EVENT, QUOTA, SECRET
from .nodes import Node, room
from .ranking import Case
from .slim import Pod
from .survey import Eyes

#: Questions for the cases that come first; a hundred workloads with one cause need no hundred answers.
_MOST = 20
_CLAIMS = 5


def enrich(eyes: Eyes, cases: Iterable[Case], nodes: Iterable[Node]) -> list[Case]:
    """The cases, the first ones with more evidence."""
    known = tuple(nodes)
    found = []
    for number, case in enumerate(cases):
        ask = _ASK.get(case.cause.id) if number < _MOST else None
        more = ask(eyes, case, known) if ask else {}
        found.append(with_evidence(case, more))
    return found


def with_evidence(case: Case, more: Mapping[str, Any]) -> Case:
    """The case with more to show."""
    if not more:
        return case
    return replace(case, cause=replace(case.cause, evidence={**case.cause.evidence, **more}))


def _quota(eyes: Eyes, case: Case, _nodes: tuple[Node, ...]) -> dict[str, Any]:
    """The quota as it is now: the message is as old as the last attempt."""
    found = eyes.find(QUOTA, case.namespace, str(case.cause.evidence.get("quota", "")))
    status = (found or {}).get("status") or {}
    asked = set(case.cause.evidence.get("requested") or status.get("hard") or ())
    now = {name: {key: value for key, value in (status.get(name) or {}).items() if key in asked} for name in _NUMBERS}
    return {"now": now} if found else {}


_NUMBERS = ("used", "hard")


def _claims(eyes: Eyes, case: Case, _nodes: tuple[Node, ...]) -> dict[str, Any]:
    pod = case.pod
    return {"claims": [_claim(eyes, pod, name) for name in pod.claims[:_CLAIMS]]} if pod and pod.claims else {}


def _claim(eyes: Eyes, pod: Pod, name: str) -> dict[str, Any]:
    found = eyes.find(CLAIM, pod.namespace, name)
    if found is None:
        return {"name": name, "phase": "missing"}
    spec, phase = found["spec"], (found.get("status") or {}).get("phase", "")
    shown = {"name": name, "phase": phase, "storage_class": spec.get("storageClassName", "")}
    if phase == "Bound":
        return shown
    selector = f"involvedObject.uid={found['metadata']['uid']}"
    said = [event_of(one) for one in eyes.all(EVENT, (pod.namespace,), fieldSelector=selector)]
    newest = max(said, key=lambda event: event.when, default=None)
    return {**shown, **({"message": words(newest.message)} if newest else {})}


def _pull_secrets(eyes: Eyes, case: Case, _nodes: tuple[Node, ...]) -> dict[str, Any]:
    pod, registry = case.pod, str(case.cause.evidence.get("registry", ""))
    if pod is None:
        return {}
    states = {}
    for name in pod.pull_secrets:
        before = dict(eyes.unseen)
        secret = eyes.find(SECRET, pod.namespace, name)
        hidden = secret is None and eyes.unseen != before
        states[name] = "not seen" if hidden else secret_state(secret, registry)
    return {"pull_secrets": states}


def _room(eyes: Eyes, case: Case, nodes: tuple[Node, ...]) -> dict[str, Any]:
    """What would fit; and whether pods of this template had to go for others, which are then the cause."""
    pod = case.pod
    if pod is None:
        return {}
    said = [event_of(one) for one in eyes.all(EVENT, (pod.namespace,), fieldSelector="reason=Preempted")]
    gone = [event for event in said if pod.owner.name and event.about.name.startswith(f"{pod.owner.name}-")]
    newest = max(gone, key=lambda event: event.when, default=None)
    preempted = {"preempted": len(gone), "preempted_by": words(newest.message)} if newest else {}
    return {**room(nodes, pod.requests), **preempted}


_Ask = Callable[[Eyes, Case, tuple[Node, ...]], dict[str, Any]]
_ASK: Mapping[str, _Ask] = {
    "k8s.quota": _quota,
    "k8s.volume.pending": _claims,
    "k8s.unschedulable.volume": _claims,
    "k8s.image_pull.auth": _pull_secrets,
    "k8s.unschedulable.resources": _room,
}
