# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which pods are meant, which of them must not go, and in which order the others do."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from .._core.errors import bad_parameter
from .._core.plan import Finding, Spared
from .._core.spec import Params
from .._core.units import human, parse_moment, parse_seconds, parse_size
from .client import Kube, require_namespace
from .errors import Json
from .kinds import POD
from .slim import Pod, pod_of
from .usage import Metrics, Usage, metrics_of, unseen
from .workload import pods_of, workload_of

#: One of these says what is wrong with the pods that are meant.
CONDITIONS = ("min_age", "older_than", "phase", "reason", "min_restarts", "min_memory")
OVER = ("Failed", "Succeeded")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pod with what its removal needs to know. C(version) changes with every change of the pod."""

    pod: Pod
    version: str
    labels: Mapping[str, str]
    mirror: bool = False
    usage: Usage | None = None

    @property
    def subject(self) -> str:
        """An identity that a StatefulSet's next pod of the same name does not share."""
        return f"Pod/{self.pod.namespace}/{self.pod.name}@{self.pod.uid}"

    @property
    def over(self) -> bool:
        """Whether its containers have ended for good: nobody loses anything when it goes."""
        return self.pod.phase in OVER

    @property
    def ready(self) -> bool:
        return self.pod.ready and not self.pod.deleted and not self.over

    @property
    def restarts(self) -> int:
        return sum(container.restarts for container in self.pod.containers)

    @property
    def reasons(self) -> frozenset[str]:
        """Why the pod, or one of its containers, does not run, or ended the last time."""
        found = {self.pod.reason}
        for one in self.pod.containers:
            found |= {one.reason, one.last.reason if one.last else ""}
        return frozenset(found - {""})

    @property
    def ordinal(self) -> int:
        """Its number in a StatefulSet, 0 for any other."""
        number = self.pod.name.rpartition("-")[2]
        return int(number) if self.pod.owner.kind == "StatefulSet" and number.isdigit() else 0


@dataclass(frozen=True, slots=True)
class Memory:
    """A threshold: bytes of the whole pod, or the share of a container's limit."""

    bytes: int = 0
    share: float = 0.0

    @classmethod
    def parse(cls, text: str, option: str) -> Memory:
        """C(512mb), or C(90%) of the limit."""
        if not text.strip().endswith("%"):
            return cls(bytes=parse_size(text, option))
        try:
            share = float(text.strip()[:-1]) / 100
        except ValueError:
            raise bad_parameter(option, f"{text!r} is not a share", "Write a size, or a share such as 90%.") from None
        return cls(share=share)

    def reached(self, usage: Usage) -> bool:
        return (usage.share or 0.0) >= self.share if self.share else usage.memory >= self.bytes

    def __str__(self) -> str:
        return f"{self.share:.0%} of the limit" if self.share else human(self.bytes)


@dataclass(frozen=True, slots=True)
class Choice:
    """The options of a selection, parsed. Moments are seconds since the epoch; 0 and empty stand for "any"."""

    namespace: str
    born_before: float = 0.0
    phases: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    min_restarts: int = 0
    memory: Memory | None = None
    names: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    bare: bool = False
    daemons: bool = False
    order: str = "oldest"

    @classmethod
    def of(cls, wanted: Params) -> Choice:
        """Reads the options; refuses those that would mean every pod there is."""
        checked(wanted)
        born = 0.0
        if wanted["min_age"] is not None:
            born = time.time() - parse_seconds(wanted["min_age"], "min_age")
        if wanted["older_than"] is not None:
            born = parse_moment(wanted["older_than"], "older_than").timestamp()
        memory = wanted["min_memory"]
        return cls(
            wanted["namespace"],
            born,
            tuple(wanted["phase"] or ()),
            tuple(wanted["reason"] or ()),
            wanted["min_restarts"] or 0,
            None if memory is None else Memory.parse(memory, "min_memory"),
            tuple(wanted["names"] or ()),
            tuple(wanted["protect"] or ()),
            wanted["bare"],
            wanted["kind"] == "DaemonSet" and bool(wanted["name"]),
            wanted["order"],
        )

    def unlike(self, one: Candidate) -> str:
        """Why a pod is not meant; empty for one that is."""
        if self.born_before and one.pod.created >= self.born_before:
            return "it is young enough"
        if self.phases and one.pod.phase not in self.phases:
            return f"its phase is {one.pod.phase}"
        if self.reasons and not one.reasons & set(self.reasons):
            return "it has no such reason any more"
        if one.restarts < self.min_restarts:
            return f"it has restarted {one.restarts} times"
        if self.memory and (one.usage is None or not self.memory.reached(one.usage)):
            return "it uses less memory" if one.usage else "its memory was not measured"
        return ""

    def untouchable(self, one: Candidate) -> str:
        """Why a pod that is meant must stay; empty for one that may go."""
        pod, owner = one.pod, one.pod.owner
        pattern = next((glob for glob in self.protect if fnmatchcase(pod.name, glob)), "")
        rules = (
            (pod.deleted > 0, "is on its way out already"),
            (bool(pattern), f"protected by {pattern}"),
            (one.mirror or owner.kind == "Node", "a static pod: only its node's kubelet can end it"),
            (owner.kind == "DaemonSet" and not self.daemons, f"of DaemonSet {owner.name}; name that one to mean it"),
            (owner.kind == "Job" and one.over, f"a finished pod of Job {owner.name}: the Job keeps it as its record"),
            (owner.kind == "Job" and pod.phase == "Running", f"at work for Job {owner.name}, which would start anew"),
            (not owner.uid and not self.bare, "nothing would make it again; set bare to mean it"),
        )
        return next((words for holds, words in rules if holds), "")

    def sort(self, crowd: Iterable[Candidate]) -> tuple[list[Candidate], tuple[Spared, ...]]:
        """Those that are meant and may go, in their order, and those that are meant and stay."""
        meant = [one for one in crowd if not self.unlike(one)]
        spared = tuple(Spared(one.subject, why) for one in meant if (why := self.untouchable(one)))
        due = [one for one in meant if not self.untouchable(one)]
        return sorted(due, key=self._rank), spared

    def _rank(self, one: Candidate) -> tuple[Any, ...]:
        """Pods that serve nobody first. A StatefulSet counts down, as it does itself."""
        ranks = {
            "oldest": 0.0,
            "worst": -float(one.restarts),
            "most_memory": -float(one.usage.memory if one.usage else 0),
        }
        return (not one.over, one.ready, -one.ordinal, ranks[self.order], one.pod.created, one.pod.name)


def checked(wanted: Params) -> None:
    """Refuses a selection without a condition, or without bounds."""
    if all(wanted[name] in (None, [], "", 0) for name in CONDITIONS):
        raise bad_parameter("min_age", "nothing says what is wrong with the pods", f"Give one of {_list(CONDITIONS)}.")
    passing = set(wanted["phase"] or ()) - set(OVER)
    if passing and all(wanted[name] in (None, [], "", 0) for name in CONDITIONS if name != "phase"):
        words = f"{_list(sorted(passing))} is what a pod is that was just made, too"
        raise bad_parameter("phase", words, "Give min_age, older_than, reason, min_restarts or min_memory beside it.")
    if wanted["selector"] is not None and not wanted["selector"].strip():
        raise bad_parameter("selector", "it is empty, which would mean every pod", "Give labels, or leave it out.")
    narrow = wanted["selector"] or wanted["name"] or wanted["names"]
    if not narrow and not (wanted["phase"] and set(wanted["phase"]) <= set(OVER)):
        hint = f"Only pods of phase {_list(OVER)} may be meant throughout a namespace."
        raise bad_parameter("selector", "one of selector, name and names has to be given", hint)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def candidate_of(manifest: Json, metrics: Metrics | None = None) -> Candidate:
    """The slim value of a pod's manifest."""
    metadata = manifest["metadata"]
    pod = pod_of(manifest)
    return Candidate(
        pod,
        metadata["resourceVersion"],
        dict(metadata.get("labels") or {}),
        "kubernetes.io/config.mirror" in (metadata.get("annotations") or {}),
        metrics.of(pod) if metrics else None,
    )


@dataclass(frozen=True, slots=True)
class Crowd:
    """All pods that the selection speaks of, and what could not be seen of them."""

    pods: tuple[Candidate, ...]
    findings: tuple[Finding, ...] = ()


def look(kube: Kube, choice: Choice, wanted: Params) -> Crowd:
    """The pods of a workload, of a label selector or of these names."""
    metrics = metrics_of(kube, choice.namespace) if choice.memory else None
    found = tuple(candidate_of(manifest, metrics) for manifest in _manifests(kube, choice, wanted))
    if not found:
        require_namespace(kube, choice.namespace)
    if metrics is None:
        return Crowd(found)
    # Only those that all else speaks against: what is not meant need not be measured.
    rest = replace(choice, memory=None)
    dark = [one.pod.name for one in found if one.usage is None and not one.over and not rest.unlike(one)]
    return Crowd(found, (unseen(choice.namespace, metrics.wrong, dark),) if dark or metrics.wrong else ())


def _manifests(kube: Kube, choice: Choice, wanted: Params) -> Iterator[Json]:
    if wanted["name"]:
        found = iter(pods_of(kube, workload_of(kube, wanted["kind"], choice.namespace, wanted["name"])))
    else:
        query = {"labelSelector": wanted["selector"]} if wanted["selector"] else {}
        pages = kube.api.pages(POD.path(choice.namespace), **query)
        found = (item for page in pages for item in page)
    names = set(choice.names)
    return (one for one in found if not names or one["metadata"]["name"] in names)


def again(kube: Kube, one: Candidate) -> Candidate | None:
    """The same pod as it is now, with the memory that was measured; None when it is gone or another has its name."""
    manifest = kube.find(POD, one.pod.namespace, one.pod.name)
    if manifest is None or manifest["metadata"]["uid"] != one.pod.uid:
        return None
    return replace(candidate_of(manifest), usage=one.usage)


def confirmation(due: Iterable[Candidate], wanted: Params) -> str:
    """What C(confirm) must repeat: a removal that breaks budgets, or after which nobody comes, is asked about."""
    risky = [one for one in due if not one.pod.owner.uid or (wanted["via"] == "delete" and not one.over)]
    return str(wanted["name"] or wanted["namespace"]) if risky else ""
