# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Looking more than once: one healthy answer of two is what a service with one dead pod of two gives."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from .._core.errors import bad_parameter
from .._core.plan import Finding, Verify
from .._core.spec import Params
from . import promql, tcp, web
from .client import Net
from .model import Seen
from .place import place_of_tcp


@dataclass(slots=True)
class Watch:
    """Looks at one endpoint, and what they have shown so far. C(facts) are always of the latest look."""

    origin: str
    look: Callable[[], Seen]
    facts: dict[str, Any] = field(default_factory=dict)
    looks: int = 0
    misses: int = 0

    def again(self) -> Seen:
        """One more look."""
        seen = self.look()
        self.looks += 1
        self.misses += not seen.healthy
        self.facts.update({**seen.facts, "looks": self.looks, "misses": self.misses, "healthy": seen.healthy})
        return seen

    def several(self, attempts: int, interval: float) -> tuple[Finding, ...]:
        """What so many looks have found; healthy are they only together."""
        found: dict[tuple[str, str], list[Finding]] = {}
        for number in range(attempts):
            if number:
                time.sleep(interval)
            for finding in self.again().findings:
                found.setdefault((finding.id, finding.subject), []).append(finding)
        self.facts["healthy"] = not self.misses
        return tuple(_counted(same, attempts) for same in found.values())

    def steady(self, wanted: Params) -> Verify | None:
        """The condition of C(consecutive), None where it is not given."""
        often = wanted["consecutive"]
        if often is None:
            return None
        words = f"{often} healthy answers in a row"
        return Verify(words, lambda: self.again().wrong, often, wanted["interval"], wanted["timeout"], wanted["strict"])


def _counted(same: list[Finding], attempts: int) -> Finding:
    evidence = {**same[-1].evidence, "times": len(same), "looks": attempts} if attempts > 1 else same[-1].evidence
    return replace(same[-1], evidence=evidence)


def watch_of(net: Net, wanted: Params) -> Watch:
    """The endpoint that the options name. Raises for options that make no sense, before anything is asked."""
    for name in ("attempts", "consecutive"):
        if wanted[name] is not None and wanted[name] < 1:
            raise bad_parameter(name, f"{wanted[name]} looks tell nothing", "Give a number from 1.")
    if wanted["url"] is not None:
        page = web.Wanted.of(wanted)
        return Watch(page.request.place.origin, lambda: web.look(net, page))
    if wanted["tcp"] is not None:
        place = place_of_tcp(wanted["tcp"])
        return Watch(place.origin, lambda: tcp.look(net, place))
    asked = promql.Wanted.of(wanted)
    return Watch(asked.request.place.origin, lambda: promql.look(net, asked))
