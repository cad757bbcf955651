# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Nodes as far as they explain the state of pods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._core.plan import Severity
from .causes import Cause, words
from .errors import Json
from .quantity import quantity
from .slim import Condition, conditions_of

_PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure")
_NATIVE = {"cpu", "memory", "ephemeral-storage", "pods"}


@dataclass(frozen=True, slots=True)
class Node:
    """A node's word on itself, or that of the controller that no longer hears of it."""

    name: str
    ready: Condition
    pressures: tuple[str, ...] = ()
    cordoned: bool = False
    allocatable: Mapping[str, str] = field(default_factory=dict)

    @property
    def down(self) -> bool:
        return self.ready.status != "True"


def node_of(manifest: Json) -> Node:
    """The slim value of a node's manifest."""
    status = manifest.get("status") or {}
    conditions = conditions_of(status)
    return Node(
        name=manifest["metadata"]["name"],
        ready=conditions.get("Ready", Condition()),
        pressures=tuple(name for name in _PRESSURES if conditions.get(name, Condition()).status == "True"),
        cordoned=bool((manifest.get("spec") or {}).get("unschedulable")),
        allocatable={name: str(amount) for name, amount in (status.get("allocatable") or {}).items()},
    )


def down_cause(node: Node) -> Cause:
    """The node does not serve; C(Unknown) means that its kubelet is not heard of."""
    evidence = {"node": node.name, "ready": node.ready.status, "reason": node.ready.reason}
    return Cause("k8s.node.not_ready", {**evidence, "message": words(node.ready.message)})


def pressure_cause(node: Node) -> Cause:
    return Cause("k8s.node.pressure", {"node": node.name, "pressures": list(node.pressures)}, "", Severity.WARNING)


def room(nodes: Iterable[Node], requests: Mapping[str, str]) -> dict[str, Any]:
    """What the pod asks for beside what one node offers at most, all of its pods together."""
    asked = {name: amount for name, amount in requests.items() if name in _NATIVE or "/" in name}
    if not asked:
        return {}
    known = [node for node in nodes if not node.down and not node.cordoned]
    largest = {
        name: max((node.allocatable[name] for node in known if name in node.allocatable), key=quantity, default="0")
        for name in asked
    }
    return {"requests": asked, "largest_node": largest}
