# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a rollback does not bring back: the ConfigMaps and Secrets that the old template refers to."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from .._core.errors import Kind, OpsError
from .._core.plan import Finding, Severity
from .client import Kube
from .errors import Json
from .kinds import CONFIG_MAP, SECRET
from .revisions import Revision, moment_of
from .templates import Reference, references
from .workload import Workload

_KINDS = {kind.name: kind for kind in (CONFIG_MAP, SECRET)}
_CHANGED = (
    "A rollback does not bring config back, nor undo a migration. Make sure that the old pods bear the new config."
)
_UNSEEN = "This user may not read them. Have somebody look whether they still fit the old template."


def config_findings(kube: Kube, workload: Workload, target: Revision) -> tuple[Finding, ...]:
    """What changed since the revision was new; raises C(precondition) where its pods could not even start."""
    missing: list[str] = []
    changed: list[dict[str, Any]] = []
    unseen: list[str] = []
    found: dict[tuple[str, str], Json | None] = {}
    for reference in references(target.template):
        try:
            held = _read(kube, workload.namespace, reference, found)
        except OpsError as error:
            if error.kind is not Kind.FORBIDDEN:
                raise
            unseen.append(str(reference))
            continue
        if held is None or (reference.key and reference.key not in held["keys"]):
            missing += [] if reference.optional else [str(reference)]
        elif held["changed"] > target.created:
            changed.append({"object": f"{reference.kind} {reference.name}", "changed": held["changed"].isoformat()})
    if missing:
        words = f"{target.title} needs what is no longer there: {', '.join(dict.fromkeys(missing))}"
        hint = f"Its pods could not start. Bring it back first. Nothing was changed on {workload.title}."
        raise OpsError(Kind.PRECONDITION, words, hint, code="config_missing")
    return _told(workload, target, changed, unseen)


def _told(
    workload: Workload, target: Revision, changed: list[dict[str, Any]], unseen: list[str]
) -> tuple[Finding, ...]:
    told = []
    if changed:
        once = list({one["object"]: one for one in changed}.values())
        evidence = {"objects": once, "revision": target.number, "since": target.created.isoformat()}
        told.append(Finding("k8s.rollback.config_changed", Severity.WARNING, workload.subject, evidence, _CHANGED))
    if unseen:
        evidence = {"objects": list(dict.fromkeys(unseen))}
        told.append(Finding("k8s.rollback.config_unseen", Severity.INFO, workload.subject, evidence, _UNSEEN))
    return tuple(told)


def _read(kube: Kube, namespace: str, reference: Reference, found: dict[tuple[str, str], Json | None]) -> Json | None:
    """Names of keys and the moment of the latest change; values are dropped at once."""
    name = (reference.kind, reference.name)
    if name not in found:
        manifest = kube.find(_KINDS[reference.kind], namespace, reference.name)
        found[name] = None
        if manifest is not None:
            names = [*(manifest.get("data") or {}), *(manifest.get("binaryData") or {})]
            found[name] = {"keys": names, "changed": _changed(manifest["metadata"])}
    return found[name]


def _changed(metadata: Json) -> datetime:
    moments = [one["time"] for one in metadata.get("managedFields") or [] if one.get("time")]
    return max(moment_of(text) for text in (metadata["creationTimestamp"], *moments))
