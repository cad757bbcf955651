# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one error that products raise, and the kinds a playbook may branch on."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .plan import Done, Finding


class Kind(StrEnum):
    """Why a run could not do what was asked. Stable: playbooks branch on these, never on text."""

    UNREACHABLE = "unreachable"
    AUTH = "auth"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    TIMEOUT = "timeout"
    UNSUPPORTED = "unsupported"
    EXHAUSTED = "exhausted"
    GUARD_REFUSED = "guard_refused"
    PRECONDITION = "precondition"
    PARTIAL = "partial"
    VERIFY_FAILED = "verify_failed"


@dataclass
class OpsError(Exception):
    """A failure that the caller can do something about.

    C(hint) says what to do next. C(code) names the cause more finely than the kind
    (C(dns), C(tls), C(loading)); C(retryable) is true where the same call may succeed later.
    C(done) is what a step had done before it failed: bulk work that was cut short has changed something.
    C(findings) are what the failure showed; they join those of the plan.
    """

    kind: Kind
    message: str
    hint: str = ""
    code: str = ""
    retryable: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    done: Done | None = None
    findings: tuple[Finding, ...] = ()

    def __str__(self) -> str:
        return self.message

    def as_dict(self) -> dict[str, Any]:
        """What a module returns under C(error)."""
        return {
            "kind": self.kind.value,
            "code": self.code or self.kind.value,
            "retryable": self.retryable,
            "message": self.message,
            "hint": self.hint,
        }


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a product's own error stands for, and what to do about it."""

    kind: Kind
    code: str
    hint: str
    retryable: bool = False

    def error(self, words: str) -> OpsError:
        return OpsError(self.kind, words, self.hint, self.code, self.retryable)


def later(kind: Kind, code: str, hint: str) -> Meaning:
    """Something that may pass by itself."""
    return Meaning(kind, code, hint, retryable=True)


def bad_parameter(name: str, message: str, hint: str = "") -> OpsError:
    """An option whose value is well-formed YAML but makes no sense, or is not safe."""
    return OpsError(Kind.PRECONDITION, f"{name}: {message}", hint, code="bad_parameter")
