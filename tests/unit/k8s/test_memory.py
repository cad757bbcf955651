# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who is short of memory, and why: from manifests and measurements alone."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.units import parse_moment
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.disruptions import selects
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.memory import findings_of, look_at, neighbours
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.pod_choice import Memory
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.slim import pod_of
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.usage import Metrics
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.workload import workload_of
from tests.fakes.kubernetes import FakeApi, allow, container, kube_of

NOW = "2026-11-21T12:00:00Z"
HORIZON = parse_moment(NOW, "now").timestamp() - 3600


def pod(name: str, limit: str = "100Mi", ready: bool = True, **status: Any) -> dict[str, Any]:
    owner = {"kind": "StatefulSet", "name": "web", "uid": "uid-web", "controller": True}
    metadata = {
        "name": name,
        "uid": f"uid-{name}",
        "labels": {"app": "web"},
        "creationTimestamp": "2026-11-21T10:00:00Z",
        "ownerReferences": [owner],
    }
    resources = {"resources": {"limits": {"memory": limit}}} if limit else {}
    conditions = [{"type": "Ready", "status": str(ready)}]
    spec = {"containers": [container(**resources)], "nodeName": "node-1"}
    return {
        "kind": "Pod",
        "metadata": metadata,
        "spec": spec,
        "status": {"phase": "Running", "conditions": conditions, **status},
    }


def ended(restarts: int, started: str, finished: str) -> dict[str, Any]:
    last = {"terminated": {"reason": "OOMKilled", "exitCode": 137, "startedAt": started, "finishedAt": finished}}
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    return {"containerStatuses": [{"name": "app", "restartCount": restarts, "lastState": last, "state": waiting}]}


def measurement(name: str, memory: str, at: str = NOW) -> dict[str, Any]:
    used = [{"name": "app", "usage": {"memory": memory}}]
    return {
        "kind": "PodMetrics",
        "metadata": {"name": name, "labels": {"app": "web"}},
        "timestamp": at,
        "containers": used,
    }


@pytest.fixture
def api() -> FakeApi:
    made = FakeApi()
    spec = {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {"spec": {"containers": []}}}
    made.add({"kind": "StatefulSet", "metadata": {"name": "web", "uid": "uid-web"}, "spec": spec})
    return made


def seen(api: FakeApi, *memory: str, threshold: str = "90%") -> Any:
    for number, used in enumerate(memory):
        api.add(pod(f"web-{number}"))
        if used:
            api.add(measurement(f"web-{number}", used))
    kube = kube_of(api)
    workload = workload_of(kube, "StatefulSet", "shop", "web")
    return look_at(kube, workload, Memory.parse(threshold, "threshold"), HORIZON), workload, kube


@pytest.mark.parametrize(
    ("memory", "verdict"),
    [
        (("50Mi", "50Mi", "50Mi"), "fine"),
        (("95Mi", "50Mi", "50Mi"), "leak"),
        (("95Mi",), "leak"),
        (("95Mi", "95Mi", "50Mi"), "limit_low"),
        (("95Mi", "95Mi", "50Mi", "50Mi"), "leak"),
        (("95Mi", "95Mi", "50Mi", ""), "limit_low"),
        (("50Mi", "50Mi", ""), "unseen"),
        (("95Mi", "50Mi", ""), "leak"),
        ((), "fine"),
    ],
)
def test_verdicts(api: FakeApi, memory: tuple[str, ...], verdict: str) -> None:
    found, workload, _kube = seen(api, *memory)
    assert found.verdict == verdict
    names = [one.id for one in findings_of(found, workload)]
    assert (f"k8s.memory.{verdict}" in names) is (verdict in ("leak", "limit_low"))
    assert ("k8s.usage.unseen" in names) is ("" in memory)


def test_ran_out_after_a_long_time_is_a_leak_and_at_once_is_a_limit(api: FakeApi) -> None:
    api.add(pod("web-9", ready=False, **ended(1, "2026-11-21T10:00:00Z", "2026-11-21T11:55:00Z")))
    assert seen(api, "50Mi", "50Mi")[0].verdict == "leak"
    api.add(pod("web-9", ready=False, **ended(3, "2026-11-21T11:54:00Z", "2026-11-21T11:55:00Z")))
    assert seen(api)[0].verdict == "limit_low"
    api.add(pod("web-9", ready=False, **ended(3, "2026-11-21T08:00:00Z", "2026-11-21T08:01:00Z")))
    assert seen(api)[0].verdict == "unseen"  # long ago, and not measured


def test_a_measurement_older_than_the_pod_is_anothers() -> None:
    young = pod_of({**pod("web-0"), "metadata": {**pod("web-0")["metadata"], "namespace": "shop"}})
    old = measurement("web-0", "95Mi", "2026-11-21T09:59:59Z")
    assert Metrics({"web-0": old}).of(young) is None
    assert Metrics({"web-0": measurement("web-0", "95Mi")}).of(young) is not None


def test_without_a_limit_only_a_size_can_be_reached(api: FakeApi) -> None:
    api.add(pod("web-0", limit=""))
    api.add(measurement("web-0", "5Gi"))
    assert seen(api)[0].verdict == "fine"
    assert seen(api, threshold="1gb")[0].verdict == "leak"


def test_the_neighbour_who_takes_most_is_named(api: FakeApi) -> None:
    pressure = {"conditions": [{"type": "MemoryPressure", "status": "True"}]}
    api.add({"kind": "Node", "metadata": {"name": "node-1"}, "status": pressure})
    for name, used in (("small", "1Gi"), ("hog", "9Gi")):
        other = pod(name)
        other["metadata"].update(ownerReferences=[], labels={}, namespace="batch")
        api.add(other)
        api.add({**measurement(name, used), "metadata": {"name": name, "namespace": "batch"}})
    found, _workload, kube = seen(api, "50Mi")
    (told,) = neighbours(kube, found)
    assert (told.id, told.evidence["consumer"], told.evidence["uses"]) == (
        "k8s.memory.neighbour",
        "batch/hog",
        "9.0 GiB",
    )
    api.rules = (allow("get list", "pods", "shop"), allow("get", "nodes"))
    (blind,) = neighbours(kube, found)
    assert blind.evidence["consumer"] == "unseen"
    api.rules = (allow("get list", "pods", "shop"),)
    assert neighbours(kube, found) == ()


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "api"}}, False),
        ({}, True),
        (None, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
    ],
)
def test_whom_a_budget_selects(selector: Any, fits: bool) -> None:
    assert selects({"spec": {"selector": selector}}, {"app": "web"}) is fits
