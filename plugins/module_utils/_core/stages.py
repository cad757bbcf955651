# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The parts of the way to a server, each with how it went."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from .plan import Finding, Severity


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of the way. C(ok) is None where it was not tried, or not needed."""

    name: str
    ok: bool | None
    ms: float = 0.0
    detail: str = ""
    code: str = ""
    hint: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {"stage": self.name, "ok": self.ok, "ms": self.ms, "detail": self.detail, "code": self.code}


def milliseconds_since(start: float) -> float:
    """What a part of the way took that began at this moment of C(time.monotonic)."""
    return round((time.monotonic() - start) * 1000, 1)


def where_it_ended(product: str, subject: str, stages: tuple[Stage, ...]) -> tuple[Finding, ...]:
    """What stopped one on the way, as C(<product>.unreachable.<code>), or C(unwritable) at the last stage."""
    ended = next((stage for stage in stages if stage.ok is False), None)
    if ended is None:
        return ()
    name = "unwritable" if ended.name == "writes" else "unreachable"
    evidence = {"stage": ended.name, "detail": ended.detail}
    return (Finding(f"{product}.{name}.{ended.code}", Severity.CRITICAL, subject, evidence, ended.hint),)
