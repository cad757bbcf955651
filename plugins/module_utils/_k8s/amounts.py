# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Requests and limits of a container: what is wanted of them, and between which bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from .._core.errors import Kind, OpsError, bad_parameter
from .._core.spec import Params
from .errors import Json
from .quantity import quantity
from .workload import containers_of

SIDES = ("requests", "limits")
_LONGEST = 40


def amount(text: Any, option: str) -> Decimal:
    """The number of a quantity that somebody gave. Raises a bad-parameter error that names the option."""
    try:
        if isinstance(text, bool) or len(str(text)) > _LONGEST:
            raise ValueError(text)
        return quantity(str(text).strip())
    except (OpsError, ValueError, ArithmeticError):
        hint = "Write it as Kubernetes does: 250m or 0.5 for CPU, 512Mi or 1Gi for memory."
        raise bad_parameter(option, f"{str(text)[:_LONGEST]!r} is not a quantity", hint) from None


def same(one: Any, other: Any) -> bool:
    """Whether two quantities mean the same: C(1) and C(1000m) do."""
    return quantity(str(one)) == quantity(str(other))


@dataclass(frozen=True, slots=True)
class Bounds:
    """Between which amounts each resource may be set: None is no bound."""

    floor: Mapping[str, Decimal]
    ceiling: Mapping[str, Decimal]

    @classmethod
    def of(cls, params: Params) -> Bounds:
        given = {name: params.get(name) for name in ("memory_floor", "memory_ceiling", "cpu_floor", "cpu_ceiling")}
        read = {name: amount(text, name) for name, text in given.items() if text is not None}
        floor, ceiling = (
            {what: read[f"{what}_{side}"] for what in ("memory", "cpu") if f"{what}_{side}" in read}
            for side in ("floor", "ceiling")
        )
        return cls(floor, ceiling)

    def judge(self, wanted: Mapping[str, Mapping[str, Any]]) -> None:
        """Raises C(guard_refused) for an amount that lies outside."""
        for side, amounts in wanted.items():
            for what, text in amounts.items():
                if text is not None:
                    self._one(f"{side}.{what}", what, str(text))

    def _one(self, option: str, what: str, text: str) -> None:
        number = amount(text, option)
        for name, broken in (
            ("floor", what in self.floor and number < self.floor[what]),
            ("ceiling", what in self.ceiling and number > self.ceiling[what]),
        ):
            if broken:
                hint = f"Nothing was changed. Want another amount, or declare another {what}_{name}."
                words = f"{option} {text} is beyond {what}_{name}"
                raise OpsError(Kind.GUARD_REFUSED, words, hint, code="bounds")


def wanted_amounts(params: Params) -> dict[str, dict[str, Any]]:
    """Requests and limits that the options want, each a quantity or None for none."""
    given = params.get("resources") or {}
    wanted: dict[str, dict[str, Any]] = {}
    for side, amounts in given.items():
        if side not in SIDES or not isinstance(amounts, Mapping):
            hint = "Write {requests: {cpu: 250m, memory: 256Mi}, limits: {memory: 512Mi}}."
            raise bad_parameter("resources", f"{side} is not requests or limits with amounts", hint)
        for what, text in amounts.items():
            if text is not None and amount(text, f"resources.{side}.{what}") < 0:
                raise bad_parameter("resources", f"{side}.{what} is below zero", "Leave it out, or null, for none.")
        wanted[side] = {str(what): None if text is None else str(text).strip() for what, text in amounts.items()}
    return wanted


def differing(now: Json, wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The part of what is wanted that is not so yet, as a merge patch. C(1) and C(1000m) are the same."""
    found: dict[str, dict[str, Any]] = {}
    for side, amounts in wanted.items():
        held = now.get(side) or {}
        other = {what: text for what, text in amounts.items() if _other(held.get(what), text)}
        if other:
            found[side] = other
    return found


def _other(held: Any, wanted: Any) -> bool:
    return held is not wanted if held is None or wanted is None else not same(held, wanted)


def merged(now: Json, patch: Mapping[str, Mapping[str, Any]]) -> Json:
    """A container's resources with a patch of P(differing) in them."""
    after = dict(now)
    for side, amounts in patch.items():
        both = {**(now.get(side) or {}), **amounts}
        after[side] = {what: text for what, text in both.items() if text is not None}
    return after


def refuse_upside_down(after: Json) -> None:
    """Raises for a request above its limit, which the API server would refuse in more words."""
    requests, limits = (after.get(side) or {} for side in SIDES)
    for what in sorted(set(requests) & set(limits)):
        if quantity(requests[what]) > quantity(limits[what]):
            words = f"the request of {requests[what]} {what} would be above the limit of {limits[what]}"
            raise OpsError(Kind.PRECONDITION, words, "Set both in one call.", code="request_above_limit")


def quality(spec: Json) -> str:
    """The class in which the kubelet puts pods of this spec: the last to go when memory is short is Guaranteed."""
    containers = containers_of(spec)
    sides = [((one.get("resources") or {}).get(side) or {}) for one in containers for side in SIDES]
    if not any(what in side for side in sides for what in ("cpu", "memory")):
        return "BestEffort"
    return "Guaranteed" if all(_guaranteed(one.get("resources") or {}) for one in containers) else "Burstable"


def _guaranteed(resources: Json) -> bool:
    requests, limits = (resources.get(side) or {} for side in SIDES)
    return all(what in limits and same(requests.get(what, limits[what]), limits[what]) for what in ("cpu", "memory"))
