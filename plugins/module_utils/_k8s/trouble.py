# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a pod can still become ready by itself, read from its container statuses alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .._core.redact import redact_text
from .errors import Json

#: How a container waits for what will not come. A first C(ErrImagePull) may pass; a back-off has seen several.
_WAITING = {
    "ImagePullBackOff": "k8s.image_pull",
    "InvalidImageName": "k8s.image_pull",
    "ErrImageNeverPull": "k8s.image_pull",
    "CrashLoopBackOff": "k8s.crash_loop",
    "CreateContainerConfigError": "k8s.config_missing",
    "CreateContainerError": "k8s.container_create",
    "RunContainerError": "k8s.container_create",
}
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a pod does not become ready. C(final) is false for what may pass without a new template: room on nodes."""

    id: str
    pod: str
    uid: str
    container: str = ""
    reason: str = ""
    message: str = ""
    final: bool = True

    def as_dict(self) -> dict[str, Any]:
        names = ("id", "pod", "container", "reason", "message")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    def __str__(self) -> str:
        where = f"{self.pod}/{self.container}" if self.container else self.pod
        return f"{where}: {self.reason}" + (f", {self.message}" if self.message else "")


def troubles_of(pods: Iterable[Json]) -> list[Trouble]:
    """The trouble of each pod that has one, the final ones first."""
    found = [trouble for trouble in map(trouble_of, pods) if trouble]
    return sorted(found, key=lambda one: (not one.final, one.pod))


def trouble_of(pod: Json) -> Trouble | None:
    """The first trouble of a pod, None for one that is well, on its way, or being deleted."""
    if pod["metadata"].get("deletionTimestamp"):
        return None
    return next(_troubles(pod), None)


def _troubles(pod: Json) -> Iterator[Trouble]:
    metadata, status = pod["metadata"], pod.get("status") or {}
    name, uid = metadata["name"], metadata.get("uid", "")
    for one in (*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])):
        waiting = (one.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason in _WAITING:
            cause, message = _cause(reason, one), waiting.get("message", "")
            yield Trouble(cause, name, uid, one["name"], reason, _short(_ending(one) or message))
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            message = _short(condition.get("message", ""))
            yield Trouble("k8s.unschedulable", name, uid, "", condition.get("reason", ""), message, final=False)
    if status.get("phase") == "Failed":
        reason = status.get("reason", "") or "Failed"
        yield Trouble("k8s.evicted", name, uid, "", reason, _short(status.get("message", "")), final=False)


def _cause(reason: str, status: Json) -> str:
    ended = (status.get("lastState") or {}).get("terminated") or {}
    killed = reason == "CrashLoopBackOff" and ended.get("reason") == "OOMKilled"
    return "k8s.oom_killed" if killed else _WAITING[reason]


def _ending(status: Json) -> str:
    ended = (status.get("lastState") or {}).get("terminated") or {}
    return f"ended with code {ended.get('exitCode')}, {ended.get('reason', '')}".rstrip(", ") if ended else ""


def _short(text: str) -> str:
    line = redact_text(" ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
