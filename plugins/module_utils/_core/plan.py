# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a module found, what it would do about it, and how to tell that it worked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

#: Says one line about work in progress; the runner decides where it is shown, and how often.
Progress = Callable[[str], None]


class Severity(IntEnum):
    """How much a finding matters; ordered, so that findings can be ranked."""

    INFO = 0
    WARNING = 1
    CRITICAL = 2


@dataclass(frozen=True, slots=True)
class Target:
    """Which server this really is. C(identity) must not survive a mix-up (run id, system identifier)."""

    kind: str
    name: str
    identity: str
    version: str = ""
    role: str = ""
    managed: str = ""

    def server(self) -> dict[str, str]:
        """What a module returns under C(server)."""
        return {"name": self.name, "version": self.version, "role": self.role, "managed": self.managed}


@dataclass(frozen=True, slots=True)
class Undo:
    """How to take a step back: in words, as a module call, and as the act itself.

    C(act) is None where the step cannot be undone; C(words) then says why.
    """

    words: str
    act: Callable[[], None] | None = None
    module: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self, subject: str) -> dict[str, Any]:
        call = {"module": self.module, "args": dict(self.args)} if self.module else {}
        return {"subject": subject, "words": self.words, "possible": self.act is not None, **call}


@dataclass(frozen=True, slots=True)
class Done:
    """What a step really did. C(count) 0 means that its subject was no longer what was planned.

    C(finished) is false for bulk work that stopped before its end (deadline, brake): C(note) says why.
    """

    count: int = 1
    bytes: int = 0
    note: str = ""
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """One act on one subject, or one bulk act with a count.

    C(subject) is an identity that cannot be mistaken for another. C(act) must re-check it in
    the server call that acts. C(bytes) is what the step is expected to free, where that applies.
    """

    subject: str
    words: str
    act: Callable[[Progress], Done]
    undo: Undo
    count: int = 1
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Spared:
    """A candidate that was left alone, and why. C(count) is above 1 for a class of subjects."""

    subject: str
    reason: str
    count: int = 1

    def as_dict(self) -> dict[str, Any]:
        return {"subject": self.subject, "reason": self.reason, "count": self.count}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or worth knowing. C(id) is stable; C(suggest) is a module call or words."""

    id: str
    severity: Severity
    subject: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    suggest: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "severity": self.severity.name.lower(),
            "subject": self.subject,
            "evidence": dict(self.evidence),
            "suggest": self.suggest,
        }


@dataclass(frozen=True, slots=True)
class Forecast:
    """The symptom's own number before and, as promised, after. C(measure) reads it again."""

    name: str
    unit: str
    before: float
    after: float
    measure: Callable[[], float] | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "unit": self.unit, "before": self.before, "after": self.after}


@dataclass(frozen=True, slots=True)
class Verify:
    """The condition that must hold C(consecutive) times in a row within C(timeout) seconds.

    C(check) returns an empty string when it holds, else what is still wrong. A condition that is not
    C(required) is only reported: the caller decides what follows.
    """

    words: str
    check: Callable[[], str]
    consecutive: int = 1
    interval: float = 0.5
    timeout: float = 30.0
    required: bool = True


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What only the steps could show: facts that replace the plan's, and findings that join its own."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything a module knows before its first write. An info module's plan has no steps.

    C(facts) is the module's own noun in the result. C(exact) is false where clients may change the
    world between plan and act (bulk work on a live keyspace). C(population) is what the guard takes
    fractions of. C(confirm) names what C(confirm) must repeat, where the work cannot be taken back.
    C(aftermath) looks again once steps have been taken.
    """

    target: Target
    selector: Mapping[str, Any] = field(default_factory=dict)
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    spared: tuple[Spared, ...] = ()
    findings: tuple[Finding, ...] = ()
    forecast: Forecast | None = None
    verify: Verify | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = True
    population: int | None = None
    confirm: str = ""
    aftermath: Callable[[], Aftermath] | None = None

    @property
    def count(self) -> int:
        return sum(step.count for step in self.steps)

    @property
    def bytes(self) -> int:
        return sum(step.bytes for step in self.steps)

    @property
    def id(self) -> str:
        """C(<16 hex digits>.<count>): a hash over target, selector and subjects, then how many.

        The count stands apart, because a living keyspace may shrink between approval and run;
        growth is what an approval must not cover.
        """
        subjects = [step.subject for step in self.steps]
        content = json.dumps([self.target.identity, self.selector, sorted(subjects)], sort_keys=True, default=str)
        return f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.{self.count}"

    def as_dict(self, sample: int = 50) -> dict[str, Any]:
        """What a module returns under C(plan)."""
        return {
            "id": self.id,
            "count": self.count,
            "bytes": self.bytes,
            "sample": [step.subject for step in self.steps[:sample]],
            "exact": self.exact,
            "target": {"kind": self.target.kind, "name": self.target.name, "identity": self.target.identity},
        }
