# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Claims on volumes: how large they are on paper and as a filesystem, and who uses them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from .._core.errors import Kind, OpsError
from .client import Kube
from .errors import Json
from .kinds import CLAIM, POD
from .progress import condition
from .quantity import plain, quantity

#: How a resizer says that it gives up on a size, in C(allocatedResourceStatuses).
_FAILED = ("ControllerResizeInfeasible", "NodeResizeInfeasible", "ControllerResizeFailed", "NodeResizeFailed")


@dataclass(frozen=True, slots=True)
class Claim:
    """A PersistentVolumeClaim as the API server gave it. C(manifest) is never changed."""

    manifest: Json
    users: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        metadata = self.manifest["metadata"]
        return f"PersistentVolumeClaim {metadata['namespace']}/{metadata['name']}"

    @property
    def subject(self) -> str:
        metadata = self.manifest["metadata"]
        return f"PersistentVolumeClaim/{metadata['namespace']}/{metadata['name']}@{metadata['uid']}"

    @property
    def path(self) -> str:
        metadata = self.manifest["metadata"]
        return CLAIM.path(metadata["namespace"], metadata["name"])

    @property
    def status(self) -> Json:
        return dict(self.manifest.get("status") or {})

    @property
    def wanted(self) -> Decimal:
        return quantity(self.manifest["spec"]["resources"]["requests"]["storage"])

    @property
    def size(self) -> Decimal:
        """What its filesystem, or block device, really has."""
        return quantity((self.status.get("capacity") or {}).get("storage", "0"))

    @property
    def bound(self) -> bool:
        return self.status.get("phase") == "Bound" and bool(self.manifest["spec"].get("volumeName"))

    @property
    def storage_class(self) -> str:
        return str(self.manifest["spec"].get("storageClassName") or "")

    @property
    def waits_for_mount(self) -> bool:
        """The volume has grown; its filesystem grows when a node mounts it, which a running pod may hinder."""
        return condition(self.manifest, "FileSystemResizePending").get("status") == "True"

    @property
    def failure(self) -> str:
        """Why the size cannot be had, by what the resizer says; empty while it may still come."""
        held = (self.status.get("allocatedResourceStatuses") or {}).get("storage", "")
        if held in _FAILED:
            return str(held)
        for name in ("ControllerResizeError", "NodeResizeError"):
            found = condition(self.manifest, name)
            if found.get("status") == "True":
                return f"{name}: {str(found.get('message', ''))[:300]}"
        return ""

    def as_dict(self) -> dict[str, Any]:
        metadata = self.manifest["metadata"]
        return {
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "phase": str(self.status.get("phase", "")),
            "requested": plain(self.wanted),
            "size": plain(self.size),
            "storage_class": self.storage_class,
            "volume": str(self.manifest["spec"].get("volumeName", "")),
            "used_by": list(self.users),
            "resizing": condition(self.manifest, "Resizing").get("status") == "True",
            "waits_for_mount": self.waits_for_mount,
        }


def claim_of(kube: Kube, namespace: str, name: str) -> Claim:
    """The claim with the pods that use it."""
    manifest = kube.get(CLAIM, namespace, name)
    return Claim(manifest, tuple(sorted(_users(kube, namespace, name))))


def _users(kube: Kube, namespace: str, name: str) -> Iterable[str]:
    try:
        for page in kube.api.pages(POD.path(namespace)):
            for pod in page:
                claims = [(one.get("persistentVolumeClaim") or {}).get("claimName") for one in _volumes(pod)]
                if name in claims and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
                    yield str(pod["metadata"]["name"])
    except OpsError as error:
        if error.kind is not Kind.FORBIDDEN:
            raise


def _volumes(pod: Json) -> list[Json]:
    return list(pod["spec"].get("volumes") or [])
