# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who will put an object back to what it was: GitOps tools, Helm, operators.

A change that they do not know of lasts until their next round. So they are told apart: those that revert by
themselves, and those that revert with the next release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .._core.errors import Kind, OpsError
from .._core.plan import Finding, Severity
from .errors import Json
from .workload import controller_of


@dataclass(frozen=True, slots=True)
class Owner:
    """What manages an object from outside. C(reverts) is true where it undoes what it has not made itself."""

    tool: str
    name: str
    reverts: bool
    hint: str


_ARGO = "Change it in Git, or roll back there: argocd app rollback. Argo CD undoes this where self-heal is on."
_FLUX = "Change it in Git, or suspend its reconciliation first: flux suspend. Flux undoes this at its next round."
_HELM = "The next helm upgrade or rollback of the release undoes this; bring its values into line."
_OPERATOR = "The object that controls it undoes this; change that one."


def owner_of(manifest: Json) -> Owner | None:
    """The outermost owner that an object's labels, annotations, managers and references tell of."""
    return next(
        (owner for owner in (_argo(manifest), _flux(manifest), _operator(manifest), _helm(manifest)) if owner), None
    )


def _argo(manifest: Json) -> Owner | None:
    labels, notes = _labels(manifest), _notes(manifest)
    managers = [str(one.get("manager", "")) for one in manifest["metadata"].get("managedFields") or []]
    tracked = "argocd.argoproj.io/tracking-id" in notes or "argocd.argoproj.io/instance" in labels
    if not tracked and not any(manager.startswith("argocd-") for manager in managers):
        return None
    name = notes.get("argocd.argoproj.io/tracking-id", "").partition(":")[0]
    name = name or labels.get("argocd.argoproj.io/instance", "") or labels.get("app.kubernetes.io/instance", "")
    return Owner("argocd", name, True, _ARGO)


def _flux(manifest: Json) -> Owner | None:
    labels = _labels(manifest)
    names = (labels.get(f"{kind}.toolkit.fluxcd.io/name", "") for kind in ("kustomize", "helm"))
    name = next((name for name in names if name), "")
    return Owner("flux", name, True, _FLUX) if name else None


def _operator(manifest: Json) -> Owner | None:
    controller = controller_of(manifest)
    return Owner("operator", f"{controller['kind']}/{controller['name']}", True, _OPERATOR) if controller else None


def _helm(manifest: Json) -> Owner | None:
    labels = _labels(manifest)
    name = _notes(manifest).get("meta.helm.sh/release-name", "")
    if not name and labels.get("app.kubernetes.io/managed-by") != "Helm":
        return None
    return Owner("helm", name or labels.get("app.kubernetes.io/instance", ""), False, _HELM)


def _labels(manifest: Json) -> Mapping[str, str]:
    return manifest["metadata"].get("labels") or {}


def _notes(manifest: Json) -> Mapping[str, str]:
    return manifest["metadata"].get("annotations") or {}


def drift(manifest: Json, subject: str) -> tuple[Finding, ...]:
    """A finding C(k8s.owned.<tool>) where somebody else has the last word on the object."""
    owner = owner_of(manifest)
    if owner is None:
        return ()
    severity = Severity.WARNING if owner.reverts else Severity.INFO
    evidence = {"tool": owner.tool, "name": owner.name, "reverts": owner.reverts}
    return (Finding(f"k8s.owned.{owner.tool}", severity, subject, evidence, owner.hint),)


def refuse_drift(manifest: Json, title: str, *, accept: bool) -> None:
    """Raises C(precondition) for a change that its owner would undo, unless that is accepted."""
    owner = owner_of(manifest)
    if owner and owner.reverts and not accept:
        words = f"{title} belongs to {owner.tool} ({owner.name or 'unnamed'}), which would undo the change"
        raise OpsError(Kind.PRECONDITION, words, f"{owner.hint} Or set accept_drift=true.", code="gitops_owner")
