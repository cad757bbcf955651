# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Containers that were killed because their limit was too low, and the limit with which they might live."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any

from .._core.errors import bad_parameter
from .._core.plan import Finding, Severity
from .._core.spec import Params
from .amounts import SIDES, amount, merged, same
from .client import Kube
from .errors import Json
from .quantity import plain, quantity
from .template_edit import Wish, meant_container
from .workload import Workload, container_named, pods_of

_MEBIBYTE = Decimal(1 << 20)


@dataclass(frozen=True, slots=True)
class Killed:
    """Memory limits under which containers of a workload's pods ran out of memory; None stands for no limit."""

    limits: tuple[Decimal | None, ...]

    @property
    def largest(self) -> Decimal | None:
        return max((limit for limit in self.limits if limit is not None), default=None)


def killed_for_memory(pods: Sequence[Json], name: str) -> Killed:
    """Which limits were not enough for this container, by the pods' own words."""
    return Killed(tuple(_limit_of(pod, name) for pod in pods if _out_of_memory(pod, name)))


def _out_of_memory(pod: Json, name: str) -> bool:
    status = pod.get("status") or {}
    found = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
    states = [one.get(state) or {} for one in found if one["name"] == name for state in ("state", "lastState")]
    return any((state.get("terminated") or {}).get("reason") == "OOMKilled" for state in states)


def _limit_of(pod: Json, name: str) -> Decimal | None:
    own = container_named(pod, name) or {}
    text = ((own.get("resources") or {}).get("limits") or {}).get("memory")
    return None if text is None else quantity(text)


def enough_memory(now: Json, killed: Killed, factor: float, ceiling: Decimal) -> dict[str, dict[str, Any]]:
    """Amounts with which the limit is at least C(factor) times the largest that was not enough, up to the ceiling.

    A condition and not an event: pods that ran out under an older limit ask for no more than what is there already.
    A request that equals its limit goes with it, which keeps the class of the pod.
    """
    largest = killed.largest
    requests, limits = (now.get(side) or {} for side in SIDES)
    if largest is None or "memory" not in limits:
        return {}
    goal = min(_rounded(largest * Decimal(str(factor))), ceiling)
    if goal <= quantity(limits["memory"]):
        return {}
    wanted: dict[str, dict[str, Any]] = {"limits": {"memory": plain(goal)}}
    if "memory" in requests and same(requests["memory"], limits["memory"]):
        wanted["requests"] = {"memory": plain(goal)}
    return wanted


def _rounded(size: Decimal) -> Decimal:
    """Up to whole mebibytes, as people write them."""
    return (size / _MEBIBYTE).to_integral_value(rounding=ROUND_CEILING) * _MEBIBYTE


def with_memory(kube: Kube, workload: Workload, wish: Wish, params: Params) -> tuple[Wish, Killed]:
    """The wish, with more memory where pods of the container ran out of it."""
    factor = params["memory_factor"]
    if factor is None:
        return wish, Killed(())
    if factor <= 1:
        raise bad_parameter(
            "memory_factor", f"{factor} would not raise anything", "Give a number above 1, such as 1.5."
        )
    container = meant_container(workload, wish.container)
    killed = killed_for_memory(pods_of(kube, workload), str(container["name"]))
    now = merged(container.get("resources") or {}, wish.resources)
    more = enough_memory(now, killed, factor, amount(params["memory_ceiling"], "memory_ceiling"))
    return wish.with_resources(more) if more else wish, killed


def memory_findings(workload: Workload, wish: Wish, killed: Killed, params: Params) -> tuple[Finding, ...]:
    """What the kills say: a limit to raise, one that may not be raised, or none to raise."""
    if not killed.limits:
        return ()
    container = meant_container(workload, wish.container)
    limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
    evidence = {"container": container["name"], "limit": limit or "none", "killed": len(killed.limits)}
    evidence["ceiling"] = params["memory_ceiling"]
    wanted = (wish.resources.get("limits") or {}).get("memory")
    if killed.largest is None or limit is None:
        name, suggest = "no_limit", "It has no limit to raise: its node ran out. Look at the node, and set a limit."
    elif wanted is not None and quantity(wanted) > quantity(str(limit)):
        name, suggest = "limit_too_low", "It needs more than its limit."
        evidence["wanted"] = wanted
    elif killed.largest < quantity(str(limit)):
        return ()
    else:
        name = "at_ceiling"
        suggest = (
            "It uses all that it may have: a leak, or a ceiling that is too low. Look at its heap before raising it."
        )
    return (Finding(f"k8s.memory.{name}", Severity.CRITICAL, workload.subject, evidence, suggest),)
