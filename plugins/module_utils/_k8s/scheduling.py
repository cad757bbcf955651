# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why no node takes a pod: the scheduler's sentence, taken apart."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from .causes import Cause, words

_HEAD = re.compile(r"^\s*\d+/(\d+) nodes? (?:are|is) available:?\s*")
#: Everything from here on is about preemption, or about claims of devices.
_TAIL = re.compile(r"\.?\s*(?:preemption:|no new claims to deallocate).*$", re.DOTALL)
_REASON = re.compile(r"(\d+) (.+?)(?=, \d+ |\.?\s*$)", re.DOTALL)
_RESOURCE = re.compile(r"Insufficient ([\w./-]*\w)")
_TAINT = re.compile(r"taint(?:\(s\))? \{([^}]*?):? ?\}")
_MISSING_CLAIM = re.compile(r'persistentvolumeclaim "([^"]+)" (?:not found|bound to non-existent)')

#: What a node's refusal is about. The scheduler asks in this order and stops at the first, so that a later one came
#: nearer to taking the pod.
_CLASSES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        ("taint", r"taint|were unschedulable"),
        ("host_port", r"free ports"),
        ("volume", r"volume|persistentvolume"),
        ("resources", r"insufficient|too many pods"),
        ("affinity", r"affinity|selector|topology spread|didn't match pod"),
    )
)
#: Nodes that are not for ordinary pods anyhow.
_CONTROL_PLANE = re.compile(r"node-role\.kubernetes\.io/(?:control-plane|master)")
_OWN_NODE = re.compile(r"node affinity|node selector|affinity/selector", re.IGNORECASE)


def unscheduled(message: str) -> Cause:
    """The cause from the message of the C(PodScheduled) condition."""
    missing = _MISSING_CLAIM.search(message)
    if missing:
        return Cause("k8s.volume.missing_claim", {"claim": missing[1], "message": words(message)})
    if "unbound immediate PersistentVolumeClaims" in message:
        return Cause("k8s.volume.pending", {"message": words(message)})
    head = _HEAD.match(message)
    reasons = _reasons(message)
    evidence: dict[str, Any] = {"nodes": int(head[1]) if head else 0, "reasons": reasons}
    evidence |= {
        name: found
        for name, pattern in (("lacking", _RESOURCE), ("taints", _TAINT))
        if (found := sorted(set(pattern.findall(message))))
    }
    if not reasons:
        evidence["message"] = words(message)
    return Cause(f"k8s.unschedulable.{_root(reasons)}", evidence)


def _reasons(message: str) -> dict[str, int]:
    """How many nodes refuse for which reason."""
    body = _TAIL.sub("", _HEAD.sub("", message)) if _HEAD.match(message) else ""
    return {words(text, 200): int(number) for number, text in _REASON.findall(body)}


def _root(reasons: dict[str, int]) -> str:
    """What stands in the way on the nodes that came nearest to taking the pod."""
    near: dict[str, int] = defaultdict(int)
    far: dict[str, int] = defaultdict(int)
    for text, number in reasons.items():
        name = next((name for name, pattern in _CLASSES if pattern.search(text)), "unknown")
        if _CONTROL_PLANE.search(text):
            far.setdefault(name, 0)
        elif name == "taint" or (name == "affinity" and _OWN_NODE.search(text)):
            far[name] += number
        else:
            near[name] += number
    counted = near or far
    return max(counted, key=lambda name: counted[name]) if counted else "unknown"
