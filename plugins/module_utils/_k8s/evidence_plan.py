# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""An incident's bundle as a plan: what it will hold, how it is made, and what one says that is there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .._core.errors import bad_parameter
from .._core.plan import Aftermath, Done, Finding, Forecast, Plan, Progress, Severity, Step, Undo, Verify
from .bundle import Place, gathering, harm, seal, sealed
from .client import Kube
from .errors import Json
from .evidence import Gathered, Scope, gather, logs_of

#: Events, histogram and summary; usage is there only where it is measured.
_ALWAYS = 3


@dataclass(slots=True)
class Incident:
    """One incident: C(outcome) is what the seal says once there is one."""

    kube: Kube
    scope: Scope
    place: Place
    outcome: Mapping[str, Any] = field(default_factory=dict)
    gathered: Gathered | None = None

    @property
    def subject(self) -> str:
        return f"Evidence/{self.place.path}"

    def about(self) -> dict[str, Any]:
        """What tells a bundle from another one of the same name."""
        return {"cluster": self.kube.target.identity, **self.scope.about()}

    def kept(self, found: Mapping[str, Any]) -> Plan:
        """Nothing to do: the bundle is there, and as it was sealed. Another incident's is refused."""
        if found.get("about") != self.about():
            words = f"{self.place.path} holds evidence of something else: {found.get('about')}"
            raise bad_parameter("incident", words, "Give this incident an id of its own.")
        return Plan(
            target=self.kube.target,
            selector=self._selector(),
            before={"bundle": str(self.place.path)},
            after={"bundle": str(self.place.path)},
            facts={"evidence": self._facts(found)},
            verify=self._verify(),
        )

    def wanted(self, pods: Sequence[Json]) -> Plan:
        """One step. How many files it makes is nearly known: some logs are refused, and that is noted instead."""
        names = [pod["metadata"]["name"] for pod in pods]
        logs = logs_of(pods)
        words = f"Gather {len(logs)} logs of {len(pods)} pods of namespace {self.scope.namespace} in {self.place.path}"
        undo = Undo("Delete the folder once nobody needs it.")
        expected = len(logs) + len(pods) + _ALWAYS
        empty = {"files": {}, "pods": names, "histogram": {}, "said": []}
        return Plan(
            target=self.kube.target,
            selector=self._selector(),
            before={"bundle": ""},
            after={"bundle": str(self.place.path)},
            steps=(Step(self.subject, words, lambda progress: self._act(pods, progress), undo),),
            findings=() if pods else (self._nobody(),),
            forecast=Forecast("files", "files", 0, expected, lambda: len(self.outcome.get("files", ()))),
            verify=self._verify(),
            facts={"evidence": self._facts(empty)},
            exact=False,
            aftermath=self._aftermath,
        )

    def _selector(self) -> dict[str, Any]:
        return {**self.scope.about(), "incident": self.place.incident, "dest": str(self.place.dest)}

    def _nobody(self) -> Finding:
        advice = "Check namespace and selection; only events and manifests are kept."
        return Finding("k8s.evidence.no_pods", Severity.WARNING, f"Namespace/{self.scope.namespace}", suggest=advice)

    def _act(self, pods: Sequence[Json], progress: Progress) -> Done:
        with gathering(self.place, self.scope.max_bytes) as writer:
            if sealed(self.place) is not None:
                return Done(0, note="another run has gathered it meanwhile")
            found = self.gathered = gather(self.kube, self.scope, pods, writer, progress)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            told = {"incident": self.place.incident, "about": self.about(), "gathered": now, "said": found.said}
            told |= {"pods": [pod["metadata"]["name"] for pod in pods], "histogram": found.histogram.as_dict()}
            seal(self.place, writer, {**told, "cut": found.cut, "unseen": found.unseen})
            return Done(bytes=writer.size)

    def _verify(self) -> Verify:
        def check() -> str:
            self.outcome = sealed(self.place) or {}
            return harm(self.place, self.outcome["files"]) if self.outcome else "there is no bundle"

        return Verify("the bundle is as it was sealed", check, timeout=1.0)

    def _aftermath(self) -> Aftermath:
        findings = self.gathered.findings(self.subject) if self.gathered else ()
        return Aftermath({"evidence": self._facts(self.outcome)}, findings)

    def _facts(self, found: Mapping[str, Any]) -> dict[str, Any]:
        files: Mapping[str, Any] = found.get("files") or {}
        return {
            "path": str(self.place.path),
            "incident": self.place.incident,
            "files": len(files),
            "bytes": sum(one["bytes"] for one in files.values()),
            "pods": list(found.get("pods") or ()),
            "histogram": found.get("histogram") or {},
            "said": found.get("said") or [],
        }
