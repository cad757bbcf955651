# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a cause is: an id on which playbooks branch, what proves it, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .._core.plan import Severity
from .._core.redact import redact_text

#: Longer words of a kubelet or a webhook are cut: the start says what happened.
_LONGEST = 400


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something is not well. C(container) is empty where it is not about one."""

    id: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    container: str = ""
    severity: Severity = Severity.CRITICAL


def words(text: str, longest: int = _LONGEST) -> str:
    """Somebody else's message as evidence: one line, without secrets, of bounded length."""
    line = redact_text(" ".join(text.split()))
    return line if len(line) <= longest else f"{line[: longest - 3]}..."
