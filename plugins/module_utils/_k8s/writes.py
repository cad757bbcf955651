# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One change of a workload: first as a dry run, then for real, and only while its template is the planned one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .._core.errors import Kind, OpsError
from .client import Kube, Patch, Right, demand
from .errors import Json
from .templates import same
from .workload import Workload, workload_of

#: A status changes often, and each time the version; the template is what must not have changed.
_TRIES = 8


@dataclass(frozen=True, slots=True)
class Change:
    """A patch of a workload. C(body) takes the metadata that make the server refuse any other version of it."""

    how: Patch
    body: Callable[[Workload], Any]


def foreseen(kube: Kube, workload: Workload, change: Change) -> tuple[Workload, bool]:
    """The workload as the API server says it would be, after asking for the right to change it.

    False, and the workload unchanged, where a webhook of the cluster does not let dry runs through.
    """
    demand(kube, Right("patch", workload.kind, workload.namespace, workload.name))
    try:
        return Workload(workload.kind, _patch(kube, workload, change, dry_run=True)), True
    except OpsError as error:
        if error.code != "dry_run":
            raise
        return workload, False


def write(kube: Kube, workload: Workload, change: Change) -> Workload:
    """Makes the change; raises C(conflict) when somebody changed the template, or made the workload anew, meanwhile."""
    return Workload(workload.kind, _patch(kube, workload, change, dry_run=False))


def _patch(kube: Kube, workload: Workload, change: Change, *, dry_run: bool) -> Json:
    planned = workload
    for _again in range(_TRIES):
        try:
            return kube.api.patch(workload.path, change.body(workload), change.how, dry_run=dry_run)
        except OpsError as error:
            if error.kind is not Kind.CONFLICT:
                raise
            workload = workload_of(kube, planned.kind.name, planned.namespace, planned.name)
            if workload.uid != planned.uid or not _as_planned(workload, planned):
                raise
    hint = "Its status changes faster than it can be written. Run again."
    raise OpsError(Kind.CONFLICT, f"{planned.title} changed {_TRIES} times meanwhile", hint, "conflict", retryable=True)


def _as_planned(workload: Workload, planned: Workload) -> bool:
    """An autoscaler may have changed the replicas: that is no other template, and none of our changes touches them."""
    return same(workload.template, planned.template) and workload.paused is planned.paused


def identity_operations(workload: Workload) -> list[Json]:
    """The same precondition for a JSON patch: a version that is not the newest is a C(conflict)."""
    return [{"op": "replace", "path": f"/metadata/{name}", "value": value} for name, value in workload.identity.items()]


def note_operations(workload: Workload, notes: dict[str, str]) -> list[Json]:
    """Sets some annotations and leaves all others as they are."""
    first = [] if workload.annotations else [{"op": "add", "path": "/metadata/annotations", "value": {}}]
    return first + [
        {"op": "add", "path": f"/metadata/annotations/{name.replace('~', '~0').replace('/', '~1')}", "value": value}
        for name, value in notes.items()
    ]
