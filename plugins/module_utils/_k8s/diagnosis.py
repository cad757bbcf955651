# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A whole diagnosis in one call: what is read, in which order, and only as far as something asks for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .._core.plan import Finding, Severity
from . import logs, survey
from .causes import Cause
from .client import Kube
from .enrich import enrich, with_evidence
from .errors import Json
from .kinds import DEPLOYMENT, JOB
from .nodes import Node, pressure_cause
from .pods import Around, Health, Judged, judge
from .ranking import Case, group, rank
from .sets import Set, job_cause, refusal_of, refusals_in, rollout_cause, scaler_cause, successes_of, target_of
from .slim import Pod
from .survey import Asked, Census, Eyes, Scope

#: Verdicts that a node may have to do with.
_OF_NODES = (
    "k8s.pod_not_ready",
    "k8s.terminating_stuck",
    "k8s.evicted",
    "k8s.sandbox",
    "k8s.creating_slow",
    "k8s.node.",
    "k8s.volume.mount",
)
_OF_ALL_NODES = ("k8s.unschedulable.resources",)
#: What nobody saw is neither well nor sick: the finding is graver where pods are concerned.
_GRAVE = {"pods", "deployments"}
_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found, the root causes first, with the numbers of what was looked at."""

    cases: tuple[Case, ...]
    summary: Mapping[str, Any]
    workloads: tuple[Mapping[str, Any], ...]
    unseen: Mapping[str, str]
    truncated: tuple[str, ...] = ()
    logs: tuple[Mapping[str, Any], ...] = ()

    def findings(self) -> tuple[Finding, ...]:
        """All that was found, and what was not seen."""
        return (*(case.finding() for case in self.cases), *map(_unseen, self.unseen.items()))

    def facts(self) -> dict[str, Any]:
        """As a module returns it."""
        return {
            "root_causes": [case.root() for case in self.cases if not case.explained],
            "workloads": [dict(one) for one in self.workloads],
            "summary": dict(self.summary),
            "unseen": dict(self.unseen),
            "truncated": list(self.truncated),
            "logs": [dict(one) for one in self.logs],
        }


def diagnose(kube: Kube, asked: Asked, now: float) -> Diagnosis:
    """Looks at everything that is asked for, once."""
    eyes, scope = Eyes(kube), survey.scope_of(kube, asked)
    census = survey.count_pods(eyes, scope, asked, now - asked.since)
    sets, scalers = survey.read_sets(eyes, scope)
    survey.known_namespaces(eyes, scope, _places(census, sets))
    known = _known(eyes, scope, census.suspects, sets)
    around, judged = _judged(eyes, scope, census, known, Around(now, now - asked.since, asked.grace))
    cases = [
        *_pod_cases(judged, known, around, census.serving),
        *_pressed(judged, around.nodes.values()),
        *_set_cases(known, around),
        *_scaler_cases(scalers),
    ]
    ranked = enrich(eyes, rank(group(cases)), around.nodes.values())
    if asked.logs != "none":
        ranked = _with_logs(eyes, ranked, asked)
    pages, cut = logs.everything(eyes, _sick_first(census, judged), asked.tail, asked.max_logs)
    truncated = [name for name, is_cut in (("pods", census.truncated), ("logs", cut)) if is_cut]
    return Diagnosis(
        tuple(ranked),
        _summary(census, judged, sets),
        _workloads(ranked, known),
        eyes.unseen,
        tuple(truncated),
        tuple(pages),
    )


def _places(census: Census, sets: Iterable[Set]) -> set[str]:
    """Namespaces that are there for certain."""
    return {one.namespace for one in sets} | census.namespaces


def _known(eyes: Eyes, scope: Scope, suspects: Iterable[Pod], sets: Iterable[Set]) -> dict[_Key, Set]:
    """Workloads by kind, namespace and name; with a selector also those that only own a selected pod."""
    known = {(one.kind, one.namespace, one.name): one for one in sets}
    if scope.query and not scope.workload:
        beyond = dict.fromkeys(key for key in (home(pod, known) for pod in suspects) if key not in known)
        known |= {(one.kind, one.namespace, one.name): one for one in survey.owners_beyond(eyes, beyond)}
    return known


def home(pod: Pod, known: Mapping[_Key, Set]) -> _Key:
    """The workload that people know a pod by. A Deployment names its ReplicaSets after itself and the template."""
    owner, suffix = pod.owner, f"-{pod.template}"
    if owner.kind == "ReplicaSet" and pod.template and owner.name.endswith(suffix):
        return (DEPLOYMENT.name, pod.namespace, owner.name.removesuffix(suffix))
    if owner.kind == JOB.name:
        job = known.get((JOB.name, pod.namespace, owner.name))
        if job and job.owner.kind == "CronJob":
            return ("CronJob", pod.namespace, job.owner.name)
    if owner.kind in ("", "Node"):  # stands alone, or is a node's own
        return ("Pod", pod.namespace, pod.name)
    return (owner.kind, pod.namespace, owner.name)


def _judged(
    eyes: Eyes, scope: Scope, census: Census, known: Mapping[_Key, Set], around: Around
) -> tuple[Around, list[Judged]]:
    """Judges the suspects, with events where there is one to explain, with nodes where a cause may lie there."""
    successes = successes_of(known.values())
    pods = [pod for pod in census.suspects if not _over(pod, known, successes, around.horizon)]
    short = [one for one in known.values() if one.short and not one.refusal]
    places = {pod.namespace for pod in pods} | {one.namespace for one in short}
    if places:
        uids = {pod.uid for pod in pods} | {one.uid for one in short}
        around = replace(around, events=survey.read_events(eyes, scope, places, uids, around.horizon))
    judged = [judge(pod, around) for pod in pods]
    if any(cause.evidence.get("exit_code") == 137 for one in judged for cause in one.causes):
        around = replace(around, ooms=survey.node_ooms(eyes, around.horizon).general)
    causes = [(one.pod, cause.id) for one in judged for cause in one.causes]
    nodes = {pod.node for pod, name in causes if pod.node and name.startswith(_OF_NODES)}
    every = any(name.startswith(_OF_ALL_NODES) for pod, name in causes)
    if nodes or every:
        around = replace(around, nodes=survey.read_nodes(eyes, nodes, every))
    again = around.nodes or around.ooms
    return around, [judge(pod, around) for pod in pods] if again else judged


def _over(pod: Pod, known: Mapping[_Key, Set], successes: Mapping[str, float], horizon: float) -> bool:
    """A pod of a Job that has come to its end: the Job's outcome counts, not each attempt."""
    job = known.get((pod.owner.kind, pod.namespace, pod.owner.name))
    if job is None or job.kind != JOB.name or pod.phase != "Failed":
        return False
    return job.complete or (bool(job.failed) and job_cause(job, successes, horizon) is None)


def _pod_cases(
    judged: Iterable[Judged], known: Mapping[_Key, Set], around: Around, serving: Mapping[str, int]
) -> list[Case]:
    cases, successes = [], successes_of(known.values())
    for one in judged:
        key = home(one.pod, known)
        job = known.get((one.pod.owner.kind, one.pod.namespace, one.pod.owner.name))
        title = f"{key[0]} {key[1]}/{key[2]}"
        # Where others of the very same template serve, it is not the template.
        others = serving.get(one.pod.owner.uid, 0) if one.pod.owner.uid else 0
        for cause in one.causes:
            failed = job if job and job.failed and one.pod.phase == "Failed" else None
            shown = _of_job(cause, failed, successes, around) if failed else cause
            case = Case(shown, one.pod.namespace, title, (one.pod.name,), one.pod)
            cases.append(with_evidence(case, {"same_template_ready": others} if others else {}))
    return cases


def _of_job(cause: Cause, job: Set, successes: Mapping[str, float], around: Around) -> Cause:
    """The last attempt of a Job that has given up shows why."""
    given_up = job_cause(job, successes, around.horizon)
    if given_up is None:
        return cause
    return replace(
        given_up, evidence={**given_up.evidence, **cause.evidence, "cause": cause.id}, container=cause.container
    )


def _pressed(judged: Iterable[Judged], nodes: Iterable[Node]) -> list[Case]:
    """Nodes under pressure that have a suspect on them."""
    found = []
    for node in (one for one in nodes if one.pressures and not one.down):
        pods = [one.pod for one in judged if one.pod.node == node.name]
        if pods:
            names = tuple(pod.name for pod in pods)
            found.append(Case(pressure_cause(node), pods[0].namespace, f"Node {node.name}", names, pods[0]))
    return found


def _set_cases(known: Mapping[_Key, Set], around: Around) -> list[Case]:
    cases: list[Case] = []
    said, successes = refusals_in(around.events.general), successes_of(known.values())
    for one in known.values():
        causes = (refusal_of(one, said), rollout_cause(one), job_cause(one, successes, around.horizon))
        title = f"CronJob {one.namespace}/{one.owner.name}" if one.owner.kind == "CronJob" else one.title
        cases += [Case(cause, one.namespace, title) for cause in causes if cause]
    return cases


def _scaler_cases(scalers: Iterable[Json]) -> list[Case]:
    cases = []
    for manifest in scalers:
        cause = scaler_cause(manifest)
        if cause:
            cases.append(Case(cause, manifest["metadata"]["namespace"], target_of(manifest)))
    return cases


def _with_logs(eyes: Eyes, cases: Iterable[Case], asked: Asked) -> list[Case]:
    """The last words of the containers at fault, of the first C(max_logs) cases that have any."""
    found, left = [], asked.max_logs
    for case in cases:
        lines = logs.told(eyes, case, asked.tail) if left > 0 else []
        left -= bool(lines)
        found.append(with_evidence(case, {"log": lines} if lines else {}))
    return found


def _sick_first(census: Census, judged: Iterable[Judged]) -> list[Pod]:
    sick = {one.pod.uid for one in judged if one.health in (Health.SICK, Health.LEFT)}
    return sorted(census.everyone, key=lambda pod: pod.uid not in sick)


def _summary(census: Census, judged: Iterable[Judged], sets: Iterable[Set]) -> dict[str, Any]:
    states = Counter(one.health for one in judged)
    return {
        "pods": census.total,
        "by_phase": dict(census.phases),
        "ready": census.ready,
        "unhealthy": states[Health.SICK],
        "left": states[Health.LEFT],
        "starting": states[Health.STARTING],
        "terminating": states[Health.TERMINATING],
        "workloads": sum(one.kind != JOB.name for one in sets),
    }


def _workloads(cases: Iterable[Case], known: Mapping[_Key, Set]) -> tuple[dict[str, Any], ...]:
    """The workloads that have a case, with their numbers."""
    titles: dict[str, list[str]] = {}
    for case in cases:
        if case.cause.severity > Severity.INFO:
            titles.setdefault(case.workload, []).append(case.cause.id)
    sets = {one.title: one for one in known.values()}
    return tuple({"workload": title, **_numbers(sets.get(title)), "causes": ids} for title, ids in titles.items())


def _numbers(one: Set | None) -> dict[str, int]:
    return {name: getattr(one, name) for name in ("desired", "ready", "updated")} if one else {}


def _unseen(entry: tuple[str, str]) -> Finding:
    what, why = entry
    severity = Severity.WARNING if what in _GRAVE else Severity.INFO
    hint = f"Have 'list {what}' granted, or name the namespaces in which it is."
    return Finding(f"k8s.unseen.{what}", severity, what, {"why": why}, hint)
