# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Waiting for a condition that has to hold more than once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from .plan import Verify


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a wait ended: C(held) in a row out of those wanted, after C(seconds)."""

    ok: bool
    words: str
    wrong: str
    held: int
    seconds: float

    def as_dict(self) -> dict[str, object]:
        return {
            "ok": self.ok,
            "condition": self.words,
            "wrong": self.wrong,
            "consecutive": self.held,
            "seconds": round(self.seconds, 3),
        }


def hold(
    verify: Verify,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Verdict:
    """Asks until the condition held C(verify.consecutive) times in a row, or time is up.

    At least one question is asked, however short the timeout.
    """
    start, held, wrong = clock(), 0, ""
    while True:
        wrong = verify.check()
        held = 0 if wrong else held + 1
        passed = clock() - start
        if held >= verify.consecutive:
            return Verdict(True, verify.words, "", held, passed)
        if passed >= verify.timeout:
            return Verdict(False, verify.words, wrong or "did not hold long enough", held, passed)
        sleep(min(verify.interval, max(0.0, verify.timeout - passed)))
