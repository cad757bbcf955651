# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who will have the last word on an object."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.owners import drift, owner_of, refuse_drift

TRACKING = {"annotations": {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/web"}}
HELM = {"labels": {"app.kubernetes.io/managed-by": "Helm"}, "annotations": {"meta.helm.sh/release-name": "web"}}
OWNED = {"ownerReferences": [{"kind": "Postgres", "name": "main", "uid": "u", "controller": True}]}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, None),
        ({"labels": {"app.kubernetes.io/instance": "web"}}, None),
        (TRACKING, ("argocd", "shop", True)),
        ({"labels": {"argocd.argoproj.io/instance": "shop"}}, ("argocd", "shop", True)),
        ({"managedFields": [{"manager": "argocd-controller"}]}, ("argocd", "", True)),
        ({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps"}}, ("flux", "apps", True)),
        ({"labels": {"helm.toolkit.fluxcd.io/name": "web"}}, ("flux", "web", True)),
        (OWNED, ("operator", "Postgres/main", True)),
        ({"ownerReferences": [{"kind": "X", "name": "x", "uid": "u"}]}, None),
        (HELM, ("helm", "web", False)),
        ({**HELM, **{"labels": {**HELM["labels"], "helm.toolkit.fluxcd.io/name": "web"}}}, ("flux", "web", True)),
        ({**HELM, **OWNED}, ("operator", "Postgres/main", True)),
    ],
)
def test_owners(metadata: dict[str, Any], expected: tuple[str, str, bool] | None) -> None:
    owner = owner_of({"metadata": metadata})
    assert (owner and (owner.tool, owner.name, owner.reverts)) == expected


def test_drift_is_a_finding() -> None:
    (finding,) = drift({"metadata": TRACKING}, "Deployment/shop/web")
    assert (finding.id, finding.severity.name, finding.evidence["reverts"]) == ("k8s.owned.argocd", "WARNING", True)
    (finding,) = drift({"metadata": HELM}, "x")
    assert (finding.id, finding.severity.name) == ("k8s.owned.helm", "INFO")
    assert drift({"metadata": {}}, "x") == ()


def test_what_reverts_is_refused_until_that_is_accepted() -> None:
    with pytest.raises(OpsError) as caught:
        refuse_drift({"metadata": TRACKING}, "Deployment shop/web", accept=False)
    assert (caught.value.kind, caught.value.code) == ("precondition", "gitops_owner")
    refuse_drift({"metadata": TRACKING}, "Deployment shop/web", accept=True)
    refuse_drift({"metadata": HELM}, "Deployment shop/web", accept=False)
