# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Making pods go, one by one, each only as the disruption budgets allow and once the one before it is replaced."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .._core.errors import Kind as ErrorKind
from .._core.errors import OpsError, bad_parameter
from .._core.plan import Aftermath, Done, Finding, Progress, Severity, Step, Undo, Verify
from .._core.spec import Params
from .._core.units import parse_seconds
from .client import Kube, Right
from .errors import Json
from .kinds import POD
from .pod_choice import Candidate, Choice, again
from .replacement import Crew, Stand, crew_of, doors_of

_UNDO = Undo("A pod cannot be brought back; what controls it has made another.")
#: Answers that may be another one in a moment. A conflict means that the pod has changed: it is looked at again.
_PASSING = ("disruption_budget", "throttled", "conflict", "unavailable")


@dataclass(frozen=True, slots=True)
class Way:
    """How pods are made to go. Times are in seconds; C(grace) None is the pod's own."""

    evict: bool
    grace: int | None
    wait: bool
    wait_timeout: int
    budget_timeout: int
    allow_outage: bool = False

    @classmethod
    def of(cls, wanted: Params) -> Way:
        grace = wanted["grace"]
        if grace is not None and grace < 1:
            hint = "Give seconds from 1: with 0 a pod may still run while another takes its name and its volumes."
            raise bad_parameter("grace", f"{grace} ends a pod without asking its node", hint)
        return cls(
            wanted["via"] == "evict",
            grace,
            wanted["wait"],
            parse_seconds(wanted["wait_timeout"], "wait_timeout"),
            parse_seconds(wanted["budget_timeout"], "budget_timeout"),
            wanted["allow_outage"],
        )

    @property
    def right(self) -> tuple[str, str]:
        """Verb and subresource that a removal needs."""
        return ("create", "eviction") if self.evict else ("delete", "")

    def send(self, kube: Kube, one: Candidate, *, dry_run: bool = False) -> None:
        """Asks the API server to end this pod, and no other: in a real run, as it was when it was last looked at."""
        pod = one.pod
        same = {"uid": pod.uid} if dry_run else {"uid": pod.uid, "resourceVersion": one.version}
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": same}
        if self.grace is not None:
            options["gracePeriodSeconds"] = self.grace
        if not self.evict:
            kube.api.delete(POD.path(pod.namespace, pod.name), options, dry_run=dry_run)
            return
        subject = {"name": pod.name, "namespace": pod.namespace}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": subject, "deleteOptions": options}
        kube.api.post(POD.path(pod.namespace, pod.name, "eviction"), body, dry_run=dry_run)


@dataclass(slots=True)
class Removal:
    """The work of one run; C(gone) are those that it made go, each with the seconds until it was replaced."""

    kube: Kube
    choice: Choice
    way: Way
    gone: list[tuple[Candidate, float]] = field(default_factory=list)

    def rights(self) -> tuple[Right, ...]:
        """What a real run will ask for."""
        verb, sub = self.way.right
        return Right("get", POD, self.choice.namespace), Right(verb, POD, self.choice.namespace, sub=sub)

    def steps(self, due: Iterable[Candidate]) -> tuple[Step, ...]:
        """A step for each pod."""
        return tuple(self._step(one) for one in due)

    def _step(self, one: Candidate) -> Step:
        verb = "Evict" if self.way.evict else "Delete"
        kind = f" of {one.pod.owner.kind} {one.pod.owner.name}" if one.pod.owner.uid else ""
        words = f"{verb} pod {one.pod.namespace}/{one.pod.name}{kind}: {facts_of(one)['why']}"
        memory = one.usage.memory if one.usage else 0
        return Step(one.subject, words, lambda progress: self._act(one, progress), _UNDO, bytes=memory)

    def _act(self, one: Candidate, progress: Progress) -> Done:
        started = time.monotonic()
        crew = None if one.over or not one.pod.owner.uid else crew_of(self.kube, one.pod)
        if crew and one.ready and not crew.ready - {one.pod.uid} and not self.way.allow_outage:
            raise _outage([one])
        done = self._send(one, progress)
        if done.count and crew and self.way.wait:
            self._replaced(one, crew, progress)
        if done.count:
            self.gone.append((one, round(time.monotonic() - started, 3)))
        return done

    def _send(self, one: Candidate, progress: Progress) -> Done:
        until = time.monotonic() + self.way.budget_timeout
        while True:
            now = again(self.kube, one)
            if now is None:
                return Done(0, note="it has gone by itself")
            why = self.choice.unlike(now) or self.choice.untouchable(now)
            if why:
                return Done(0, note=f"no longer as planned: {why}")
            try:
                self.way.send(self.kube, now)
                return Done()
            except OpsError as error:
                if error.kind is ErrorKind.NOT_FOUND:
                    return Done(0, note="it has gone by itself")
                if error.code not in _PASSING:
                    raise
                if time.monotonic() >= until:
                    raise _held(one, error, self.way.budget_timeout) from error
                progress(f"{one.pod.name} has to stay for now: {error.message}")
            time.sleep(0.5)

    def _replaced(self, one: Candidate, crew: Crew, progress: Progress) -> None:
        """Waits until somebody else does the pod's work, so that the next may go."""
        until, doors, said = time.monotonic() + self.way.wait_timeout, doors_of(self.kube, one), ""
        while True:
            missing = Stand.now(self.kube, crew, doors).missing
            if not missing:
                return
            if missing != said:
                progress(f"waits for the replacement of {one.pod.name}: {missing}")
                said = missing
            if time.monotonic() >= until:
                raise _not_replaced(one, missing, self.way.wait_timeout)
            time.sleep(0.3)

    def gone_for_good(self, due: Sequence[Candidate]) -> Verify:
        """That what was ended is gone, or on its way out."""

        def check() -> str:
            ended = {one.pod.uid for one, _seconds in self.gone}
            asked = [one for one in due if one.pod.uid in ended]
            now = [(one, again(self.kube, one)) for one in asked]
            left = [one.pod.name for one, found in now if found and not found.pod.deleted]
            return f"still there: {', '.join(left)}" if left else ""

        return Verify("the pods are gone or on their way out", check, interval=0.2, timeout=10.0)

    def aftermath(self, facts: dict[str, Any]) -> Callable[[], Aftermath]:
        """The plan's facts with what was done."""

        def look() -> Aftermath:
            done = [{**facts_of(one), "seconds": seconds} for one, seconds in self.gone]
            return Aftermath({"pods": {**facts, "removed": done}})

        return look


def facts_of(one: Candidate) -> dict[str, Any]:
    """A pod in a result."""
    pod = one.pod
    words = [f"phase {pod.phase}", *sorted(one.reasons), f"{one.restarts} restarts"]
    words += [str(one.usage)] if one.usage else []
    return {
        "name": pod.name,
        "uid": pod.uid,
        "owner": f"{pod.owner.kind}/{pod.owner.name}" if pod.owner.uid else "",
        "node": pod.node,
        "ready": one.ready,
        "usage": one.usage.as_dict() if one.usage else {},
        "why": ", ".join(words),
    }


def _held(one: Candidate, error: OpsError, seconds: int) -> OpsError:
    hint = f"It was waited for {seconds} s, and the pod was left alone. {error.hint}"
    words = f"pod {one.pod.name} may not go: {error.message}"
    return replace(error, message=words, hint=hint, retryable=True)


def _not_replaced(one: Candidate, missing: str, seconds: int) -> OpsError:
    hint = "No other pod was touched. Look why the new one does not serve: sre.runbooks.k8s_diagnosis_info."
    words = f"pod {one.pod.name} is gone, but after {seconds} s {missing}"
    return OpsError(ErrorKind.VERIFY_FAILED, words, hint, code="not_replaced", done=Done())


def lonely(kube: Kube, due: Sequence[Candidate], *, allow: bool) -> tuple[Finding, ...]:
    """Pods that serve and that nobody stands in for: neither another, nor the replacement of one that goes before."""
    found = []
    for number, one in enumerate(due):
        if not one.ready or not one.pod.owner.uid:
            continue
        before = [other for other in due[:number] if other.pod.owner.uid == one.pod.owner.uid]
        if not before and not crew_of(kube, one.pod).ready - {one.pod.uid}:
            found.append(one)
    if found and not allow:
        raise _outage(found)
    evidence = {"names": [one.pod.name for one in found]}
    return tuple(Finding("k8s.pod.outage", Severity.WARNING, one.subject, evidence) for one in found[:1])


def _outage(found: Sequence[Candidate]) -> OpsError:
    words = f"{', '.join(one.pod.name for one in found)}: the only pod of its controller that serves"
    hint = "Scale up first (sre.runbooks.k8s_replicas), or set allow_outage if nobody minds."
    return OpsError(ErrorKind.GUARD_REFUSED, words, hint, code="outage")
