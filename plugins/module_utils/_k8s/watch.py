# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Waiting for a rollout: until it is complete, or until it is plain that it will not be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .._core.errors import Kind, OpsError
from .._core.plan import Finding, Progress, Severity, Verify
from .client import Kube
from .progress import Rollout, rollout_of
from .revisions import Revision, overdue, revisions_of
from .workload import Workload, pods_of, workload_of

_ROLL_BACK = "Roll back: sre.runbooks.k8s_rollout with state=rolled_back and last_healthy=true; or mend the template."


@dataclass(slots=True)
class Watch:
    """Looks at a workload again and again. C(facts) are what it saw last; C(progress) hears of each change."""

    kube: Kube
    workload: Workload
    fail_fast: bool = True
    facts: dict[str, Any] = field(default_factory=dict)
    progress: Progress = lambda _line: None
    _said: str = ""

    def check(self) -> str:
        """What is still missing, empty when the rollout is complete. Raises C(verify_failed) when it cannot be."""
        workload = workload_of(self.kube, self.workload.kind.name, self.workload.namespace, self.workload.name)
        if workload.uid != self.workload.uid:
            words = f"{workload.title} was deleted and made anew while it was waited for"
            raise OpsError(Kind.CONFLICT, words, "Look who did that, then run again.", code="recreated")
        rollout = rollout_of(workload)
        self.facts["rollout"] = rollout.as_dict()
        if rollout.complete:
            return ""
        self._say(rollout.waiting or rollout.failed)
        if not rollout.observed:
            return rollout.waiting
        return self._wrong(workload, rollout)

    def _wrong(self, workload: Workload, rollout: Rollout) -> str:
        newest = next((one for one in look(self.kube, workload) if one.current), None)
        late = overdue(workload, rollout, newest)
        words = late or rollout.waiting
        if self.fail_fast and (late or (newest and newest.failing)):
            raise failed(workload, rollout, newest)
        details = [str(newest.troubles[0])] if newest and newest.troubles else []
        details += [newest.held] if newest and newest.held else []
        return "; ".join([words, *details])

    def _say(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self.progress(f"{self.workload.title}: {line}")


def look(kube: Kube, workload: Workload) -> list[Revision]:
    """The revisions of a workload with their pods, the newest first."""
    return revisions_of(kube, workload, pods_of(kube, workload))


def failed(workload: Workload, rollout: Rollout, newest: Revision | None) -> OpsError:
    """The end of a wait that has become pointless, with its cause as a finding."""
    trouble = newest.failing if newest else None
    why = str(trouble) if trouble else rollout.failed
    return OpsError(
        Kind.VERIFY_FAILED,
        f"{workload.title}: the rollout fails: {why}",
        _ROLL_BACK,
        code="failing",
        findings=(failing(workload, rollout, newest),),
    )


def failing(workload: Workload, rollout: Rollout, newest: Revision | None) -> Finding:
    """C(k8s.rollout.failing): what keeps the newest template's pods from becoming ready."""
    trouble = newest.failing if newest else None
    evidence = {
        "revision": newest.number if newest else 0,
        "images": newest.images if newest else {},
        "desired": rollout.desired,
        "updated": rollout.updated,
        "available": rollout.available,
        "old": rollout.old,
        **({"cause": trouble.as_dict()} if trouble else {"deadline": rollout.failed}),
    }
    return Finding("k8s.rollout.failing", Severity.CRITICAL, workload.subject, evidence, _ROLL_BACK)


def until_complete(watch: Watch, timeout: float) -> Verify:
    """The wait for a rollout's end."""
    return Verify(f"the rollout of {watch.workload.title} is complete", watch.check, 1, 0.5, timeout)
