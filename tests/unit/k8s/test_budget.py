# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Budgets of connections."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.budget import Budget, over_budget, surge_of
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.kinds import DEPLOYMENT, STATEFUL_SET, Kind
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.workload import Workload


def workload(kind: Kind = DEPLOYMENT, **spec: Any) -> Workload:
    return Workload(kind, {"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})


@pytest.mark.parametrize(
    ("strategy", "replicas", "surge"),
    [
        ({}, 10, 3),  # a quarter, rounded up
        ({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%"}}, 5, 3),
        ({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0}}, 5, 0),
        ({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2}}, 5, 2),
        ({"type": "Recreate"}, 5, 0),
    ],
)
def test_surge_is_that_of_the_controller(strategy: dict[str, Any], replicas: int, surge: int) -> None:
    assert surge_of(workload(strategy=strategy), replicas) == surge


def test_a_stateful_set_has_no_surge() -> None:
    assert surge_of(workload(STATEFUL_SET), 10) == 0


def test_refuses_the_first_pod_too_many_with_the_numbers() -> None:
    budget = Budget(each=10, limit=100, reserved=3, other=17)
    assert over_budget(budget, "web", 6, 2) is None  # 80 + 20 = 100
    refused = over_budget(budget, "web", 7, 2)
    assert refused is not None
    assert (refused.kind, refused.code) == ("guard_refused", "connection_budget")
    assert "(7 pods + 2 of a rollout's surge) x 10 + 3 reserved + 17 of others = 110 connections of 100" in str(refused)
    assert "6 pods would fit" in refused.hint


def params(**given: Any) -> dict[str, Any]:
    names = ("per_replica", "limit", "reserved", "other")
    return {f"connections_{name}": given.get(name, 0 if name in ("reserved", "other") else None) for name in names}


def test_no_budget_is_declared_by_default() -> None:
    assert Budget.of(params()) is None


@pytest.mark.parametrize("given", [{"per_replica": 0}, {"limit": 0}, {"reserved": -1}, {"other": -1}])
def test_refuses_numbers_that_would_switch_it_off(given: dict[str, int]) -> None:
    with pytest.raises(OpsError) as caught:
        Budget.of(params(**{"per_replica": 5, "limit": 100, **given}))
    assert caught.value.code == "bad_parameter"
    assert f"connections_{next(iter(given))}" in str(caught.value)
