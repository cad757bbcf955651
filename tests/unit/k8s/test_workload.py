# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Workloads and what is theirs: by owner, never by labels alone."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.kinds import DAEMON_SET, DEPLOYMENT
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.workload import (
    Workload,
    container_named,
    controller_of,
    is_ready,
    pods_of,
    replica_sets_of,
    revision_of,
    selector_of,
    workload_of,
)
from tests.fakes.kubernetes import FakeApi, allow, container, kube_of

LABELS = {"app": "web"}


def manifest(kind: str, name: str, owner: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": "shop", "labels": LABELS, **fields.pop("metadata", {})}
    if owner:
        meta = owner["metadata"]
        reference = {"kind": owner["kind"], "name": meta["name"], "uid": meta["uid"], "controller": True}
        metadata["ownerReferences"] = [reference]
    return {"kind": kind, "metadata": metadata, **fields}


SPEC = {
    "selector": {"matchLabels": LABELS},
    "template": {"metadata": {"labels": LABELS}, "spec": {"containers": [container()]}},
}


def numbered(revision: str) -> dict[str, Any]:
    return {"annotations": {"deployment.kubernetes.io/revision": revision}}


@pytest.fixture
def api() -> FakeApi:
    """Two Deployments that share their labels, by mistake."""
    fake = FakeApi()
    for name in ("web", "twin"):
        made = fake.add(manifest("Deployment", name, spec=SPEC))
        for revision in ("2", "10"):
            kept = fake.add(manifest("ReplicaSet", f"{name}-{revision}", made, spec=SPEC, metadata=numbered(revision)))
            fake.add(manifest("Pod", f"{name}-{revision}-a", kept, spec={}))
    fake.add(manifest("Pod", "alone", spec={}))
    return fake


def test_what_belongs_to_a_deployment(api: FakeApi) -> None:
    kube = kube_of(api)
    web = workload_of(kube, "Deployment", "shop", "web")
    assert [one["metadata"]["name"] for one in replica_sets_of(kube, web)] == ["web-10", "web-2"]
    assert {one["metadata"]["name"] for one in pods_of(kube, web)} == {"web-2-a", "web-10-a"}
    assert (web.title, web.selector) == ("Deployment shop/web", "app=web")
    assert web.subject == f"Deployment/shop/web@{web.uid}"
    assert web.identity == {"uid": web.uid, "resourceVersion": web.manifest["metadata"]["resourceVersion"]}


def test_what_belongs_to_a_daemon_set() -> None:
    fake = FakeApi()
    made = fake.add(manifest("DaemonSet", "log", spec=SPEC, status={"desiredNumberScheduled": 2}))
    fake.add(manifest("Pod", "log-a", made, spec={}))
    fake.add(manifest("Pod", "other", spec={}))
    found = workload_of(kube_of(fake), "DaemonSet", "shop", "log")
    assert [one["metadata"]["name"] for one in pods_of(kube_of(fake), found)] == ["log-a"]
    assert found.replicas == 2


@pytest.mark.parametrize(
    ("namespace", "name", "code", "hint"),
    [
        ("shop", "wep", "no_workload", "There are web."),
        ("shop", "billing", "no_workload", "The namespace has 2 of this kind"),
        ("shoop", "web", "no_namespace", "another cluster"),
    ],
)
def test_a_workload_that_is_not_there(api: FakeApi, namespace: str, name: str, code: str, hint: str) -> None:
    with pytest.raises(OpsError) as caught:
        workload_of(kube_of(api), "Deployment", namespace, name)
    assert (caught.value.kind, caught.value.code) == ("not_found", code)
    assert hint in caught.value.hint


def test_who_may_not_look_is_told_so(api: FakeApi) -> None:
    api.rules = (allow("get", "pods"),)
    with pytest.raises(OpsError) as caught:
        workload_of(kube_of(api), "Deployment", "shop", "web")
    assert caught.value.kind == "forbidden"


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({}, ""),
        ({"matchLabels": {"a": "1", "b": "2"}}, "a=1,b=2"),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, "a in (1,2)"),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, "a notin (1)"),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "DoesNotExist"}]}, "a,!b"),
        ({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}, "a=1,b"),
    ],
)
def test_selectors(selector: dict[str, Any], expected: str) -> None:
    assert selector_of(selector) == expected


@pytest.mark.parametrize(("text", "expected"), [("12", 12), ("", 0), ("x", 0)])
def test_revisions(text: str, expected: int) -> None:
    assert revision_of({"metadata": numbered(text)}) == expected
    assert revision_of({"metadata": {}}) == 0


def test_replicas_have_the_servers_default() -> None:
    metadata = {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "1"}
    assert Workload(DEPLOYMENT, {"metadata": metadata, "spec": {}}).replicas == 1
    assert Workload(DEPLOYMENT, {"metadata": metadata, "spec": {"replicas": 0}}).replicas == 0
    assert (
        Workload(DAEMON_SET, {"metadata": metadata, "spec": {}, "status": {"desiredNumberScheduled": 0}}).replicas == 0
    )
    assert not Workload(DEPLOYMENT, {"metadata": metadata, "spec": {}}).paused


def test_containers_by_name() -> None:
    template = {"spec": {"containers": [container("app")], "initContainers": [container("first")]}}
    assert [(container_named(template, name) or {}).get("name") for name in ("app", "first", "x")] == [
        "app",
        "first",
        None,
    ]


@pytest.mark.parametrize(
    ("status", "metadata", "expected"),
    [
        ({"conditions": [{"type": "Ready", "status": "True"}]}, {}, True),
        ({"conditions": [{"type": "Ready", "status": "False"}]}, {}, False),
        ({"conditions": [{"type": "Ready", "status": "True"}]}, {"deletionTimestamp": "now"}, False),
        ({}, {}, False),
    ],
)
def test_ready_pods(status: dict[str, Any], metadata: dict[str, Any], expected: bool) -> None:
    assert is_ready({"metadata": metadata, "status": status}) is expected
    assert controller_of({"metadata": metadata}) == {}
