# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Room for more pods: quotas, limit ranges, nodes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._k8s.capacity import (
    need_of,
    over_limit_range,
    over_quota,
    room_on,
    shortages,
)
from tests.fakes.kubernetes import FakeApi, allow, container, kube_of

GI = 1024**3


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"containers": [*containers], **spec}


def asks(cpu: str = "", memory: str = "", limits: dict[str, str] | None = None) -> dict[str, Any]:
    requests = {name: text for name, text in (("cpu", cpu), ("memory", memory)) if text}
    return container(resources={"requests": requests, **({"limits": limits} if limits else {})})


def limit_range(kind: str = "Container", **item: Any) -> dict[str, Any]:
    return {"metadata": {"name": "bounds"}, "spec": {"limits": [{"type": kind, **item}]}}


def quota(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "few"},
        "spec": {"hard": hard, **spec},
        "status": {"hard": hard, "used": used or dict.fromkeys(hard, "0")},
    }


def node(name: str = "n1", cpu: str = "4", memory: str = "8Gi", pods: str = "110", **more: Any) -> dict[str, Any]:
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": more.pop("labels", {})},
        "spec": more,
        "status": {
            "allocatable": {"cpu": cpu, "memory": memory, "pods": pods},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def test_a_pod_needs_its_containers_or_its_largest_init_container() -> None:
    init = {**asks("2", "100Mi"), "name": "prepare"}
    sidecar = {**asks("50m", "1Gi"), "name": "proxy", "restartPolicy": "Always"}
    found = need_of(pod(asks("250m", "1Gi"), asks("250m", "1Gi"), initContainers=[init, sidecar])).requests
    assert found == {"cpu": Decimal("2.05"), "memory": Decimal(3 * GI)}


def test_overhead_and_pod_level_requests_count() -> None:
    spec = pod(asks("1"), overhead={"cpu": "100m"}, resources={"requests": {"cpu": "2"}})
    assert need_of(spec).requests == {"cpu": Decimal("2.1")}


def test_defaults_of_a_namespace_count_and_a_limit_stands_for_its_request() -> None:
    ranges = [limit_range(defaultRequest={"cpu": "100m", "memory": "1Gi"}, default={"cpu": "1", "memory": "2Gi"})]
    assert need_of(pod(container()), ranges).requests == {"cpu": Decimal("0.1"), "memory": Decimal(GI)}
    limited = need_of(pod(container()), ranges)
    assert limited.limits["cpu"] == 1
    own = need_of(pod(container(resources={"limits": {"cpu": "3"}})), ranges)
    assert (own.requests["cpu"], own.limits["cpu"]) == (3, 3)


def test_a_limit_range_that_would_refuse_the_pods_is_named() -> None:
    spec = pod(container(resources={"limits": {"memory": "4Gi"}}))
    assert over_limit_range(spec, [limit_range(max={"memory": "4Gi"})]) == []
    (short,) = over_limit_range(spec, [limit_range(max={"memory": "3Gi"})])
    assert (short.code, short.words) == (
        "limit_range",
        "LimitRange bounds (Container max) has 3Gi of memory left, 4Gi are needed",
    )
    two = pod(
        container(resources={"limits": {"memory": "2Gi"}}), container("b", resources={"limits": {"memory": "2Gi"}})
    )
    assert [one.where for one in over_limit_range(two, [limit_range("Pod", max={"memory": "3Gi"})])] == [
        "LimitRange bounds (Pod max)"
    ]


@pytest.mark.parametrize(
    ("hard", "used", "short"),
    [
        ({"pods": "5"}, {"pods": "3"}, []),
        ({"pods": "5"}, {"pods": "4"}, ["pods"]),
        ({"count/pods": "1"}, {}, ["count/pods"]),
        ({"requests.cpu": "1", "memory": "2Gi"}, {"requests.cpu": "500m", "memory": "1Gi"}, ["requests.cpu", "memory"]),
        ({"limits.memory": "3Gi"}, {}, ["limits.memory"]),
        ({"services": "0", "secrets": "0"}, {}, []),
    ],
)
def test_quotas_are_held_against_two_pods_more(hard: dict[str, str], used: dict[str, str], short: list[str]) -> None:
    spec = pod(asks("500m", "1Gi", {"memory": "2Gi"}))
    found = over_quota([quota(hard, {**dict.fromkeys(hard, "0"), **used})], spec, need_of(spec), 2)
    assert [one.resource for one in found] == short


@pytest.mark.parametrize(
    ("scope", "counts"),
    [
        ({"scopes": ["NotTerminating"]}, True),
        ({"scopes": ["Terminating"]}, False),
        ({"scopes": ["BestEffort"]}, False),
        ({"scopes": ["NotBestEffort"]}, True),
        (
            {
                "scopeSelector": {
                    "matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]
                }
            },
            True,
        ),
        (
            {
                "scopeSelector": {
                    "matchExpressions": [{"scopeName": "PriorityClass", "operator": "NotIn", "values": ["high"]}]
                }
            },
            False,
        ),
    ],
)
def test_a_quota_counts_only_in_its_scope(scope: dict[str, Any], counts: bool) -> None:
    spec = pod(asks("1"), priorityClassName="high")
    assert bool(over_quota([quota({"pods": "0"}, **scope)], spec, need_of(spec), 1)) is counts


def room(nodes: list[dict[str, Any]], taken: dict[str, Any] | None = None, **spec: Any) -> tuple[int | None, int, bool]:
    wanted = pod(asks("1", "1Gi"), **spec)
    found = room_on(nodes, taken or {}, wanted, need_of(wanted))
    return found.fit, found.nodes, found.exact


def test_room_is_what_the_scarcest_resource_leaves() -> None:
    assert room([node()]) == (4, 1, True)
    assert room([node(memory="2Gi")]) == (2, 1, True)
    assert room([node(pods="1")]) == (1, 1, True)
    assert room([node()], {"n1": {"cpu": Decimal("3.5"), "pods": Decimal(2)}}) == (0, 1, True)
    assert room([node("a"), node("b")], {"a": {"cpu": Decimal(9)}}) == (4, 2, True)


def test_nodes_that_do_not_take_these_pods_have_no_room() -> None:
    down = {**node("down"), "status": {**node()["status"], "conditions": [{"type": "Ready", "status": "Unknown"}]}}
    tainted = node("gpu", taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])
    assert room([node("cordoned", unschedulable=True), down, tainted])[:2] == (0, 0)
    assert room([tainted], tolerations=[{"key": "gpu", "operator": "Exists"}])[:2] == (4, 1)
    assert room([tainted], tolerations=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])[:2] == (4, 1)
    assert room([tainted], tolerations=[{"key": "gpu", "value": "no"}])[:2] == (0, 0)
    assert room([node(taints=[{"key": "a", "effect": "PreferNoSchedule"}])])[:2] == (4, 1)
    assert room([node("a", labels={"disk": "ssd"}), node("b")], nodeSelector={"disk": "ssd"})[:2] == (4, 1)


@pytest.mark.parametrize(
    "spec",
    [
        {"affinity": {"podAntiAffinity": {}}},
        {"topologySpreadConstraints": [{}]},
        {"volumes": [{"persistentVolumeClaim": {"claimName": "data"}}]},
    ],
)
def test_what_else_has_a_say_makes_it_an_estimate(spec: dict[str, Any]) -> None:
    assert room([node()], **spec)[2] is False


def test_reads_nodes_and_pods_of_the_whole_cluster() -> None:
    api = FakeApi()
    api.add(node())
    for number in range(5):  # more than a page
        api.add({"kind": "Pod", "metadata": {"name": f"p{number}"}, "spec": pod(asks("500m"), nodeName="n1")}, "other")
    done = {"kind": "Pod", "metadata": {"name": "done"}, "spec": pod(asks("2"), nodeName="n1")}
    api.add({**done, "status": {"phase": "Succeeded"}})
    found, free = shortages(kube_of(api), "shop", pod(asks("500m")), 4)
    assert (free.fit, [one.code for one in found]) == (3, ["no_room"])


def test_says_what_it_may_not_see() -> None:
    api = FakeApi(rules=(allow("list", "limitranges resourcequotas"),))
    found, free = shortages(kube_of(api), "shop", pod(asks("1")), 4)
    assert (found, free.fit, free.exact) == ([], None, False)
