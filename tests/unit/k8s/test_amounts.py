# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Requests and limits: compared by meaning, bounded, and raised by what was not enough."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import Kind, OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._k8s import amounts
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.out_of_memory import (
    Killed,
    enough_memory,
    killed_for_memory,
)

MIB = Decimal(1 << 20)
NOW = {"requests": {"cpu": "1", "memory": "256Mi"}, "limits": {"memory": "256Mi"}}


def test_the_same_in_other_words_is_no_change() -> None:
    wanted = {"requests": {"cpu": "1000m", "memory": "262144Ki"}, "limits": {"memory": "268435456", "cpu": None}}
    assert amounts.differing(NOW, wanted) == {}


def test_only_what_differs_is_patched_and_null_takes_away() -> None:
    wanted = {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"memory": None, "cpu": "2"}}
    patch = amounts.differing(NOW, wanted)
    assert patch == {"requests": {"cpu": "500m"}, "limits": {"memory": None, "cpu": "2"}}
    assert amounts.merged(NOW, patch) == {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"cpu": "2"}}


@pytest.mark.parametrize(
    "resources",
    [
        {"limit": {"cpu": "1"}},
        {"limits": "1Gi"},
        {"limits": {"memory": "1 GB"}},
        {"limits": {"memory": -1}},
        {"limits": {"cpu": True}},
        {"limits": {"memory": "9" * 50}},
        {"limits": {"memory": "1Gii"}},
    ],
)
def test_what_is_no_amount_is_refused(resources: dict[str, Any]) -> None:
    with pytest.raises(OpsError) as caught:
        amounts.wanted_amounts({"resources": resources})
    assert caught.value.code == "bad_parameter"


def test_a_request_above_its_limit_is_refused() -> None:
    amounts.refuse_upside_down(NOW)
    with pytest.raises(OpsError, match="300Mi memory") as caught:
        amounts.refuse_upside_down({**NOW, "requests": {"memory": "300Mi"}})
    assert caught.value.code == "request_above_limit"


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"limits": {"memory": "1Gi"}}, ""),
        ({"limits": {"memory": "1025Mi"}}, "bounds"),
        ({"requests": {"memory": "63Mi"}}, "bounds"),
        ({"requests": {"cpu": "3"}}, "bounds"),
        ({"limits": {"memory": None}}, ""),
    ],
)
def test_bounds_hold(wanted: dict[str, Any], code: str) -> None:
    bounds = amounts.Bounds.of({"memory_ceiling": "1Gi", "memory_floor": "64Mi", "cpu_ceiling": "2"})
    if not code:
        bounds.judge(wanted)
        return
    with pytest.raises(OpsError) as caught:
        bounds.judge(wanted)
    assert (caught.value.kind, caught.value.code) == (Kind.GUARD_REFUSED, code)


@pytest.mark.parametrize(
    ("resources", "name"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_the_class_of_a_pod(resources: dict[str, Any], name: str) -> None:
    assert amounts.quality({"containers": [{"name": "a", "resources": resources}]}) == name


def pod(limit: str | None, reason: str, state: str = "lastState") -> dict[str, Any]:
    resources = {"limits": {"memory": limit}} if limit else {}
    status = {"name": "app", state: {"terminated": {"reason": reason, "exitCode": 137}}}
    spec = {"containers": [{"name": "app", "resources": resources}]}
    return {"metadata": {"name": "p"}, "spec": spec, "status": {"containerStatuses": [status]}}


def test_only_kills_for_memory_count() -> None:
    pods = [pod("64Mi", "OOMKilled"), pod("128Mi", "OOMKilled", "state"), pod("1Gi", "Error"), pod(None, "OOMKilled")]
    killed = killed_for_memory(pods, "app")
    assert sorted(killed.limits, key=str) == sorted([64 * MIB, 128 * MIB, None], key=str)
    assert killed.largest == 128 * MIB
    assert killed_for_memory(pods, "sidecar").limits == ()


@pytest.mark.parametrize(
    ("limit", "killed", "ceiling", "wanted"),
    [
        ("256Mi", "256Mi", "1Gi", "384Mi"),
        ("256Mi", "256Mi", "300Mi", "300Mi"),
        ("384Mi", "256Mi", "1Gi", None),  # raised already: pods of before are still there
        ("1Gi", "1Gi", "1Gi", None),
        ("100", "100", "1Gi", "1Mi"),
        ("256Mi", None, "1Gi", None),
    ],
)
def test_the_limit_is_so_much_above_what_was_not_enough(
    limit: str, killed: str | None, ceiling: str, wanted: str | None
) -> None:
    found = Killed(() if killed is None else (amounts.amount(killed, "x"),))
    patch = enough_memory({"limits": {"memory": limit}}, found, 1.5, amounts.amount(ceiling, "x"))
    assert patch == ({"limits": {"memory": wanted}} if wanted else {})


def test_a_request_that_equals_the_limit_goes_with_it() -> None:
    killed = Killed((256 * MIB,))
    assert enough_memory(NOW, killed, 2, 1024 * MIB) == {"limits": {"memory": "512Mi"}, "requests": {"memory": "512Mi"}}
    lower = {**NOW, "requests": {"memory": "128Mi"}}
    assert enough_memory(lower, killed, 2, 1024 * MIB) == {"limits": {"memory": "512Mi"}}
