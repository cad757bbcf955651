# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which one remedy fits a service that is down: a rollback, a restart, more pods, or none that this runbook has.

It joins what several diagnoses have found, by their ids alone. The first rule that fits decides: causes that no pod can
mend come before those that one can, and a restart comes last, because it fits everything and proves least.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._core.spec import Params

#: The runbook of each dependency that is asked for by its own module.
_RUNBOOKS = {"redis": "redis_unreachable", "postgres": "postgres_connect_failure"}

#: What stops a request before it comes to a pod: neither a pod nor its template can mend it.
_BEFORE_THE_PODS = {"probe.dns", "probe.no_route", "probe.proxy", "probe.refused", "probe.tls"}

#: What a service shows that runs and does not work.
_HANGS = {"probe.timeout", "probe.reset", "probe.body", "probe.protocol"}

_SHEDS = {429, 502, 503, 504}

#: Causes that lie outside the workload. Of an image that does not come, only a wrong name is the template's fault.
_OUTSIDE = (
    "k8s.node.",
    "k8s.quota",
    "k8s.limit_range",
    "k8s.admission_denied",
    "k8s.pod_security",
    "k8s.create_failed",
    "k8s.unschedulable.",
    "k8s.volume.",
    "k8s.sandbox",
    "k8s.scheduling_gated",
    "k8s.terminating_stuck",
    "k8s.unseen.",
    "k8s.image_pull.auth",
    "k8s.image_pull.tls",
    "k8s.image_pull.rate_limit",
    "k8s.image_pull.network",
    "k8s.image_pull.throttled",
    "k8s.image_pull.unknown",
)

Found = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found about a service, and what is declared for it. C(rollout) is as C(k8s_rollout_info) tells it."""

    symptoms: tuple[Found, ...]
    causes: tuple[Found, ...]
    rollout: Found
    dependencies: Mapping[str, tuple[Found, ...]]
    allowed: frozenset[str]
    least: int = 0
    most: int = 0

    @classmethod
    def of(cls, params: Params) -> Evidence:
        """Reads the module's options."""
        return cls(
            _critical(params["symptoms"]),
            tuple(params["causes"]),
            params["rollout"],
            {name: _critical(found) for name, found in params["dependencies"].items()},
            frozenset(params["allowed"]),
            params["min_replicas"] or 0,
            params["max_replicas"] or 0,
        )

    @property
    def signs(self) -> set[str]:
        return {str(one["id"]) for one in self.symptoms}

    @property
    def state(self) -> str:
        return str(self.rollout.get("state", ""))

    def number(self, name: str) -> int:
        return int(self.rollout.get(name) or 0)


@dataclass(frozen=True, slots=True)
class Remedy:
    """The one thing to do: C(rollback), C(restart) or C(scale). With C(none), C(advice) says why not, and what else."""

    choice: str
    reason: str
    because: tuple[str, ...] = ()
    advice: str = ""
    runbook: str = ""
    replicas: int = 0

    @property
    def mendable(self) -> bool:
        return self.choice != "none"

    def as_dict(self) -> dict[str, Any]:
        return {
            "choice": self.choice,
            "mendable": self.mendable,
            "reason": self.reason,
            "because": list(self.because),
            "next": self.advice,
            "runbook": self.runbook,
            "replicas": self.replicas,
        }


def choose(evidence: Evidence) -> Remedy:
    """The remedy that the evidence speaks for, if it is declared."""
    found = next(remedy for remedy in (rule(evidence) for rule in _RULES) if remedy)
    if found.mendable and found.choice not in evidence.allowed:
        words = f"A {found.choice} would mend it and is not declared for this service."
        return _none("undeclared", words, found.because)
    return found


def _well(evidence: Evidence) -> Remedy | None:
    return None if evidence.symptoms else _none("healthy", "It is healthy: there is nothing to mend.")


def _dependency(evidence: Evidence) -> Remedy | None:
    """Pods of a service whose database is gone fail whatever their template, and more of them do so, too."""
    for name, found in evidence.dependencies.items():
        broken = [one for one in found if _is(one, f"{name}.unreachable.", f"{name}.unwritable.")]
        if broken:
            runbook = _RUNBOOKS.get(name, "")
            where = f" Run {runbook} on it first." if runbook else ""
            words = f"Its dependency {name} is down ({_ids(broken)}): {broken[0].get('subject', '')}.{where}"
            return _none("dependency", words, _names(broken), runbook)
    return None


def _outside(evidence: Evidence) -> Remedy | None:
    broken = [one for one in evidence.causes if _grave(one) and _is(one, *_OUTSIDE)]
    if not broken:
        return None
    advice = str(broken[0].get("suggest") or broken[0].get("next") or "")
    return _none("outside", f"The cause lies outside the workload ({_ids(broken)}). {advice}", _names(broken))


def _rollback(evidence: Evidence) -> Remedy | None:
    if evidence.state != "stuck":
        return None
    because = ("k8s.rollout.stuck", *_names(evidence.causes))
    words = f"the newest revision fails, revision {evidence.number('target')} was healthy"
    return Remedy("rollback", words, tuple(dict.fromkeys(because)))


def _unmendable_rollout(evidence: Evidence) -> Remedy | None:
    advice = _STATES.get(evidence.state)
    if not advice:
        return None
    because = (f"k8s.rollout.{evidence.state}", *_names([one for one in evidence.causes if _grave(one)]))
    return _none(evidence.state, advice, tuple(dict.fromkeys(because)))


_STATES = {
    "paused": "Its rollout is paused: somebody meant that. Resume it, or roll back: deployment_rollback.",
    "all_fail": "Pods of every revision fail alike: look at what they share, a dependency, a Secret, a node.",
    "regressed": "Its template worked once, and fails since: look at what changed around it. Run pods_not_starting.",
    "no_room": "There is no room for its pods: nodes, quota or claims.",
    "no_older": "It fails to start, and there is no older revision to go back to. Run pods_not_starting.",
}


def _too_few(evidence: Evidence) -> Remedy | None:
    """Healthy pods, but fewer than are needed, or as many as the autoscaler may have."""
    desired = evidence.number("desired")
    full = _swamped(evidence) and any(one["id"] == "k8s.hpa.at_max" for one in evidence.causes)
    if desired >= max(1, evidence.least) and not full:
        return None
    if evidence.state != "complete" or (desired and evidence.signs & _BEFORE_THE_PODS):
        return None
    goal = max(evidence.least, 1, desired + max(1, math.ceil(desired / 2)) if full else 0)
    if full:
        goal = max(min(goal, evidence.most), evidence.least)
    because = ("k8s.hpa.at_max",) if full else ("api.too_few_pods",)
    if not desired < goal <= evidence.most:
        words = f"It has {desired} pods and needs more, of which at most {evidence.most} are declared. "
        return _none("too_few", f"{words}Declare max_replicas if what the pods use bears them.", because)
    words = "the autoscaler is at its end" if full else f"{max(evidence.least, 1)} pods are needed at least"
    return Remedy("scale", f"it has {desired} pods, and {words}", because, replicas=goal)


def _swamped(evidence: Evidence) -> bool:
    """Whether it looks like more requests than it can bear: it is slow, or sheds them. An error 500 is no such sign."""
    return "probe.timeout" in evidence.signs or any(_status(one) in _SHEDS for one in evidence.symptoms)


def _before_the_pods(evidence: Evidence) -> Remedy | None:
    if not evidence.signs & _BEFORE_THE_PODS or evidence.number("ready") == 0:
        return None
    words = f"Its pods are ready, and requests do not come to them ({', '.join(sorted(evidence.signs))}). "
    advice = str(evidence.symptoms[0].get("suggest", "")) or "Look at DNS, certificate, ingress and Service."
    return _none("before_the_pods", words + advice, tuple(sorted(evidence.signs)))


def _restart(evidence: Evidence) -> Remedy | None:
    """All pods have one template that worked once, and still it does not answer as it should: they hang."""
    there = evidence.number("old") == 0 and evidence.number("updated") == evidence.number("desired") > 0
    settled = evidence.state == "complete" or (there and evidence.rollout.get("proven", False))
    hangs = evidence.signs & _HANGS or any(_status(one) >= 500 for one in evidence.symptoms)
    hangs = hangs or evidence.number("ready") == 0
    if not settled or not hangs or not evidence.rollout.get("restartable", False):
        return None
    words = f"its pods run ({evidence.number('ready')} of {evidence.number('desired')} ready) and do not work"
    return Remedy("restart", words, tuple(sorted(evidence.signs)))


def _unknown(evidence: Evidence) -> Remedy:
    signs = ", ".join(sorted(evidence.signs))
    words = f"Nothing that was seen explains {signs} (rollout: {evidence.state or 'not seen'}). "
    if evidence.state == "in_progress":
        words += "A rollout is still going on: wait for its end, then run again. "
    return _none("unknown", f"{words}Look at the logs of its pods.", tuple(sorted(evidence.signs)))


_RULES: Sequence[Callable[[Evidence], Remedy | None]] = (
    _well,
    _dependency,
    _outside,
    _rollback,
    _unmendable_rollout,
    _too_few,
    _before_the_pods,
    _restart,
    _unknown,
)


def _none(reason: str, advice: str, because: tuple[str, ...] = (), runbook: str = "") -> Remedy:
    return Remedy("none", reason, because, " ".join(advice.split()), runbook)


def _critical(found: Sequence[Found]) -> tuple[Found, ...]:
    return tuple(one for one in found if _grave(one))


def _grave(one: Found) -> bool:
    return bool(one.get("severity") == "critical")


def _is(one: Found, *starts: str) -> bool:
    return str(one["id"]).startswith(starts)


def _names(found: Sequence[Found]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(one["id"]) for one in found))


def _ids(found: Sequence[Found]) -> str:
    return ", ".join(_names(found))


def _status(one: Found) -> int:
    return int((one.get("evidence") or {}).get("status") or 0) if one["id"] == "probe.status" else 0
