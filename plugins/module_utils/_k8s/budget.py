# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Connections that a workload's pods may open, against what their server grants.

Every pod keeps a pool. More pods are more connections, and during a rollout the surge is on top: a database that has
none left takes everybody down, whoever asked for the pods.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .._core.errors import Kind, OpsError, bad_parameter
from .._core.spec import Params, Spec
from .kinds import DEPLOYMENT
from .workload import Workload

OPTIONS = Spec(
    {
        **{name: {"type": "int"} for name in ("connections_per_replica", "connections_limit")},
        **{name: {"type": "int", "default": 0} for name in ("connections_reserved", "connections_other")},
    },
    required_together=(("connections_per_replica", "connections_limit"),),
)


@dataclass(frozen=True, slots=True)
class Budget:
    """What was declared: C(each) pod's pool with its overflow, the server's C(limit), what is not for these pods."""

    each: int
    limit: int
    reserved: int = 0
    other: int = 0

    @classmethod
    def of(cls, params: Params) -> Budget | None:
        """The declared budget, None where there is none."""
        each, limit = params["connections_per_replica"], params["connections_limit"]
        if each is None:
            return None
        budget = cls(each, limit, params["connections_reserved"], params["connections_other"])
        for name, least in (("each", 1), ("limit", 1), ("reserved", 0), ("other", 0)):
            if getattr(budget, name) < least:
                option = {"each": "connections_per_replica"}.get(name, f"connections_{name}")
                raise bad_parameter(option, f"{getattr(budget, name)} is below {least}", "Give what the server has.")
        return budget

    def need(self, replicas: int, surge: int) -> int:
        """Connections of everybody once there are so many pods, with a rollout's on top."""
        return (replicas + surge) * self.each + self.reserved + self.other

    def most(self, surge: int) -> int:
        """The most pods that the budget bears."""
        return max(0, (self.limit - self.reserved - self.other) // self.each - surge)

    def words(self, replicas: int, surge: int) -> str:
        """The sum, in numbers."""
        pods = f"({replicas} pods + {surge} of a rollout's surge) x {self.each}"
        need = self.need(replicas, surge)
        return f"{pods} + {self.reserved} reserved + {self.other} of others = {need} connections of {self.limit}"

    def as_dict(self, replicas: int, surge: int) -> dict[str, Any]:
        return {
            "per_replica": self.each,
            "limit": self.limit,
            "reserved": self.reserved,
            "other": self.other,
            "surge": surge,
            "need": self.need(replicas, surge),
            "most_replicas": self.most(surge),
        }


def surge_of(workload: Workload, replicas: int) -> int:
    """Pods that a rollout adds for a while: C(maxSurge), rounded up as the controller does."""
    strategy = workload.spec.get("strategy") or {}
    if workload.kind is not DEPLOYMENT or strategy.get("type") == "Recreate":
        return 0
    wanted = (strategy.get("rollingUpdate") or {}).get("maxSurge", "25%")
    if isinstance(wanted, str) and wanted.endswith("%"):
        return math.ceil(replicas * int(wanted[:-1]) / 100)
    return int(wanted)


def over_budget(budget: Budget, title: str, replicas: int, surge: int) -> OpsError | None:
    """The refusal of more pods than the server has connections for; None where they fit."""
    if budget.need(replicas, surge) <= budget.limit:
        return None
    words = f"{title}: {budget.words(replicas, surge)}"
    hint = f"Nothing was changed. {budget.most(surge)} pods would fit. Take smaller pools, a pooler or a higher limit."
    return OpsError(Kind.GUARD_REFUSED, words, hint, code="connection_budget")
