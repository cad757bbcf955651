# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where objects are. A name never becomes a path."""

from __future__ import annotations

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._k8s import kinds
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.kinds import Kind


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (kinds.POD.path("shop", "web-1", "log"), "/api/v1/namespaces/shop/pods/web-1/log"),
        (kinds.POD.path("shop"), "/api/v1/namespaces/shop/pods"),
        (kinds.POD.path(), "/api/v1/pods"),
        (kinds.DEPLOYMENT.path("shop", "web"), "/apis/apps/v1/namespaces/shop/deployments/web"),
        (kinds.NODE.path("shop", "node-1"), "/api/v1/nodes/node-1"),
        (kinds.NAMESPACE.path(name="shop"), "/api/v1/namespaces/shop"),
        (kinds.AUTOSCALER.path("a"), "/apis/autoscaling/v2/namespaces/a/horizontalpodautoscalers"),
        (kinds.POD.path("shop", "../../nodes"), "/api/v1/namespaces/shop/pods/..%2F..%2Fnodes"),
        (kinds.POD.path("shop", "a?b#c"), "/api/v1/namespaces/shop/pods/a%3Fb%23c"),
        (kinds.POD.path("a/b"), "/api/v1/namespaces/a%2Fb/pods"),
    ],
)
def test_paths(path: str, expected: str) -> None:
    assert path == expected


def test_versions() -> None:
    assert (kinds.POD.api, kinds.DEPLOYMENT.api, kinds.AUTOSCALER.api) == ("v1", "apps/v1", "autoscaling/v2")


def test_no_two_kinds_are_at_one_place() -> None:
    found = [kind for kind in vars(kinds).values() if isinstance(kind, Kind)]
    assert len({kind.path() for kind in found}) == len(found)
