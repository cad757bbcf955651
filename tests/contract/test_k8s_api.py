# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One suite over the fake and a real API server: what plans, and the tests of plans, rely on is the same in both."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import Kind as ErrorKind
from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._k8s import client
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.client import Api, Kube, Patch, Right, connect, demand
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.kinds import (
    BUDGET,
    CONFIG_MAP,
    DEPLOYMENT,
    NAMESPACE,
    POD,
    POD_METRICS,
    Kind,
)
from tests.fakes.kubernetes import FakeApi, allow, kube_of
from tests.lab import fixtures
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.process import wait_until

kubernetes_session_lab = fixtures.kubernetes_session_lab
cluster = fixtures.cluster
Json = dict[str, Any]
WAYS = (Patch.STRATEGIC, Patch.MERGE)


@dataclass
class World:
    """A namespace, seen by a user who may do anything, and what only the test may do."""

    kube: Kube
    namespace: str
    add: Callable[[Json], Any]
    limited: Callable[[str, str], Kube]
    fake: FakeApi | None = None

    @property
    def api(self) -> Api:
        return self.kube.api

    def deployment(self, *containers: Json, **more: Any) -> Json:
        """One that has no pods and gets none."""
        spec = {"containers": list(containers) or [{"name": "app", "image": "app:1"}], **more}
        labels = {"app": "web"}
        self.add(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "web", "labels": labels},
                "spec": {
                    "replicas": 0,
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": spec},
                },
            }
        )
        self.settle(lambda: self.fake or self.get(DEPLOYMENT, "web")["status"].get("observedGeneration") == 1)
        return self.get(DEPLOYMENT, "web")

    def config(self, name: str, **labels: str) -> Json:
        meta = {"name": name, "labels": labels}
        self.add({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"a": "1", "b": "2"}})
        return self.get(CONFIG_MAP, name)

    def pod(self, name: str, **labels: str) -> Json:
        """A ready one."""
        containers = [{"name": "app", "image": "app:1"}]
        spec = {"nodeName": "node-1", "containers": containers, "terminationGracePeriodSeconds": 0}
        manifest: Json = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
        if self.fake:
            manifest["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        self.add(manifest)
        self.settle(lambda: self.get(POD, name).get("status", {}).get("phase") == "Running")
        return self.get(POD, name)

    def budget(self, name: str, least: int, allowed: int, healthy: int, **labels: str) -> None:
        spec = {"minAvailable": least, "selector": {"matchLabels": labels}}
        manifest: Json = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}}
        if self.fake:
            status = {"disruptionsAllowed": allowed, "desiredHealthy": least, "currentHealthy": healthy}
            manifest["status"] = {**status, "expectedPods": healthy}
        self.add({**manifest, "spec": spec})
        self.settle(lambda: self.allowed(name) == allowed and self.budget_status(name).get("currentHealthy") == healthy)

    def budget_status(self, name: str) -> Json:
        return dict(self.get(BUDGET, name).get("status") or {})

    def allowed(self, name: str) -> Any:
        return self.budget_status(name).get("disruptionsAllowed")

    def get(self, kind: Kind, name: str) -> Json:
        return self.kube.get(kind, self.namespace, name)

    def path(self, kind: Kind, name: str = "", sub: str = "") -> str:
        return kind.path(self.namespace, name, sub)

    def settle(self, check: Callable[[], Any]) -> None:
        wait_until(lambda: bool(check()), 10, "the world of this test", pause=0.02)


@pytest.fixture(params=["fake", pytest.param("real", marks=[pytest.mark.kubernetes, pytest.mark.compat])])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Pages of two."""
    if request.param == "fake":
        api = FakeApi(page=2)
        api.add({"kind": "Namespace", "metadata": {"name": "shop"}})

        def limited(verbs: str, resources: str) -> Kube:
            return kube_of(FakeApi(rules=(allow(verbs, resources, "shop"),), store=api.store))

        yield World(kube_of(api), "shop", api.add, limited, api)
        return
    monkeypatch.setattr(client, "PAGE", 2)
    lab: Cluster = request.getfixturevalue("cluster")
    space = lab.new_namespace("contract")

    def limited_user(verbs: str, resources: str) -> Kube:
        rule = {"apiGroups": ["*"], "verbs": verbs.split(), "resources": resources.split()}
        return opened(lab.user(f"limited-{space}", [rule], space))

    opened_lines: list[Any] = []

    def opened(path: Path) -> Kube:
        line = connect({"kubeconfig": str(path)})
        opened_lines.append(line)
        return line.__enter__()

    yield World(opened(lab.kubeconfig), space, lambda manifest: lab.api.create(manifest, space), limited_user)
    for line in opened_lines:
        line.__exit__(None, None, None)
    lab.delete_namespace(space)


def refusal(act: Callable[..., Any], *args: Any, **options: Any) -> tuple[str, str]:
    """Kind and code of the error."""
    with pytest.raises(OpsError) as caught:
        act(*args, **options)
    return caught.value.kind.value, caught.value.code


# Reading


def test_version_is_that_of_kubernetes(world: World) -> None:
    assert world.api.get("/version")["gitVersion"].startswith("v1.")


def test_what_is_not_there(world: World) -> None:
    assert refusal(world.get, CONFIG_MAP, "none") == ("not_found", "not_found")
    assert world.kube.find(CONFIG_MAP, world.namespace, "none") is None
    assert world.kube.all(CONFIG_MAP, "no-such-namespace") == []
    assert refusal(world.api.get, POD_METRICS.path(world.namespace)) == ("not_found", "not_found")
    manifest = {"metadata": {"name": "a"}}
    absent = CONFIG_MAP.path("no-such-namespace")
    assert refusal(world.api.post, absent, manifest)[0] == "not_found"
    assert refusal(client.require_namespace, world.kube, "no-such-namespace") == ("not_found", "no_namespace")
    client.require_namespace(world.kube, world.namespace)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("", "a b c d"),
        ("tier=x", "a b"),
        ("tier==x,size!=big", "a"),
        ("tier!=x", "c d"),
        ("tier in (x, y)", "a b c"),
        ("tier in (y),size notin (small,huge)", "c"),
        ("size notin (big)", "a d"),
        ("size", "b c"),
        ("!size", "a d"),
        ("!tier,!size", "d"),
    ],
)
def test_label_selectors(world: World, selector: str, expected: str) -> None:
    world.config("a", test="1", tier="x")
    world.config("b", test="1", tier="x", size="big")
    world.config("c", test="1", tier="y", size="big")
    world.config("d", test="1")
    query = ",".join(filter(None, ("test=1", selector)))
    found = world.kube.all(CONFIG_MAP, world.namespace, labelSelector=query)
    assert " ".join(one["metadata"]["name"] for one in found) == expected
    assert all("kind" not in one and "apiVersion" not in one for one in found)


def test_pages_are_read_one_by_one(world: World) -> None:
    for name in "abcde":
        world.config(name, test="1")
    pages = [[one["metadata"]["name"] for one in page] for page in world.api.pages(world.path(CONFIG_MAP))]
    # The controllers add one of their own to a real namespace.
    names = [name for page in pages for name in page if name != "kube-root-ca.crt"]
    assert names == list("abcde")
    assert all(len(page) <= 2 for page in pages)
    assert [list(page) for page in world.api.pages(world.path(BUDGET))] == [[]]


def test_field_selectors(world: World) -> None:
    world.pod("one")
    world.config("a")
    pods = world.kube.all(POD, world.namespace, fieldSelector="spec.nodeName=node-1,status.phase!=Failed")
    assert [pod["metadata"]["name"] for pod in pods] == ["one"]
    assert world.kube.all(POD, world.namespace, fieldSelector="spec.nodeName=node-2") == []
    assert len(world.kube.all(CONFIG_MAP, world.namespace, fieldSelector="metadata.name=a")) == 1
    assert len(world.kube.all(NAMESPACE, fieldSelector=f"metadata.name={world.namespace}")) == 1
    for wrong in ({"fieldSelector": "spec.hostname=x"}, {"labelSelector": "a b"}):
        assert refusal(world.kube.all, POD, world.namespace, **wrong) == ("precondition", "bad_request")


# Patches


def env(*names: str) -> list[Json]:
    """Variables, each with its name in lower case as its value."""
    return [{"name": name, "value": name.lower()} for name in names]


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({"env": [{"name": "B", "value": "2"}]}, "A=a B=2 C=c"),
        # Without an order, what is new comes first: references like $(A) would break.
        ({"env": [{"name": "D", "value": "4"}]}, "D=4 A=a B=b C=c"),
        ({"env": [{"name": "D", "value": "4"}, {"name": "B", "value": "2"}]}, "D=4 A=a B=2 C=c"),
        ({"env": [{"name": "C", "value": "3"}, {"name": "A", "value": "1"}]}, "B=b C=3 A=1"),
        (
            {"env": [{"name": "D", "value": "4"}], "$setElementOrder/env": [{"name": name} for name in "ABCD"]},
            "A=a B=b C=c D=4",
        ),
        ({"$setElementOrder/env": [{"name": name} for name in "CA"]}, "B=b C=c A=a"),
        ({"env": [{"name": "B", "$patch": "delete"}]}, "A=a C=c"),
        ({"env": [{"name": "none", "$patch": "delete"}]}, "A=a B=b C=c"),
        ({"env": [{"name": "B", "$patch": "delete"}, {"name": "D", "value": "4"}]}, "D=4 A=a C=c"),
        ({"env": [{"$patch": "replace"}, {"name": "Z", "value": "9"}]}, "Z=9"),
        ({"env": None}, ""),
        ({"env": []}, "A=a B=b C=c"),
        (
            {"env": [{"name": "A", "value": None, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]},
            "A B=b C=c",
        ),
    ],
)
def test_strategic_merge_of_env(world: World, patch: Json, expected: str) -> None:
    world.deployment({"name": "app", "image": "app:1", "env": env("A", "B", "C")}, {"name": "side", "image": "side:1"})
    body = {"spec": {"template": {"spec": {"containers": [{"name": "app", **patch}]}}}}
    answer = world.api.patch(world.path(DEPLOYMENT, "web"), body, Patch.STRATEGIC)
    containers = world.get(DEPLOYMENT, "web")["spec"]["template"]["spec"]["containers"]
    assert [(one["name"], one["image"]) for one in containers] == [("app", "app:1"), ("side", "side:1")]
    assert containers == answer["spec"]["template"]["spec"]["containers"]
    found = [f"{one['name']}={one['value']}" if "value" in one else one["name"] for one in containers[0].get("env", [])]
    assert " ".join(found) == expected


def test_a_map_to_be_replaced_is_dropped_where_there_is_none(world: World) -> None:
    ref = {"configMapKeyRef": {"name": "web", "key": "x"}}
    source = {"$patch": "replace", **ref}
    before = [{"name": "A", "value": "a"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    world.deployment({"name": "app", "image": "app:1", "env": before})
    patch = [{"name": "A", "value": None, "valueFrom": source}, {"name": "B", "valueFrom": source}]
    body = {"spec": {"template": {"spec": {"containers": [{"name": "app", "env": patch}]}}}}
    answer = world.api.patch(world.path(DEPLOYMENT, "web"), body, Patch.STRATEGIC)
    found = answer["spec"]["template"]["spec"]["containers"][0]["env"]
    assert found == [{"name": "A"}, {"name": "B", "valueFrom": ref}]


def test_strategic_merge_of_other_parts(world: World) -> None:
    limits = {"limits": {"cpu": "1", "memory": "1Gi"}}
    mounts = [{"name": "v", "mountPath": "/v"}]
    world.deployment(
        {"name": "app", "image": "app:1", "resources": limits, "args": ["a", "b"], "volumeMounts": mounts},
        initContainers=[{"name": "first", "image": "first:1"}, {"name": "second", "image": "second:1"}],
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    app = {
        "name": "app",
        "args": ["c"],
        "resources": {"limits": {"cpu": None, "memory": "2Gi"}},
        "volumeMounts": [{"name": "v", "mountPath": "/w"}],
    }
    body = {
        "metadata": {"annotations": {"note": "x"}},
        "spec": {
            "template": {
                "metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now", "gone": None}},
                "spec": {
                    "containers": [app],
                    "initContainers": [{"name": "second", "image": "second:2"}],
                    "volumes": [{"name": "w", "emptyDir": {}}],
                },
            }
        },
    }
    world.api.patch(world.path(DEPLOYMENT, "web"), body, Patch.STRATEGIC)
    made = world.get(DEPLOYMENT, "web")
    assert made["metadata"]["annotations"]["note"] == "x"
    template = made["spec"]["template"]
    assert template["metadata"]["annotations"] == {"kubectl.kubernetes.io/restartedAt": "now"}
    container = template["spec"]["containers"][0]
    assert (container["args"], container["resources"]["limits"]) == (["c"], {"memory": "2Gi"})
    assert [one["mountPath"] for one in container["volumeMounts"]] == ["/w", "/v"]
    assert [one["image"] for one in template["spec"]["initContainers"]] == ["first:1", "second:2"]
    assert [one["name"] for one in template["spec"]["volumes"]] == ["w", "v"]


def test_duplicates_in_env_are_changed_once_and_deleted_all(world: World) -> None:
    world.deployment({"name": "app", "image": "app:1", "env": [*env("A"), *env("B"), {"name": "A", "value": "again"}]})
    path = world.path(DEPLOYMENT, "web")

    def patched(*entries: Json) -> list[tuple[str, str]]:
        body = {"spec": {"template": {"spec": {"containers": [{"name": "app", "env": list(entries)}]}}}}
        made = world.api.patch(path, body, Patch.STRATEGIC, dry_run=True)
        return [(one["name"], one["value"]) for one in made["spec"]["template"]["spec"]["containers"][0]["env"]]

    assert sorted(patched({"name": "A", "value": "1"})) == [("A", "1"), ("A", "again"), ("B", "b")]
    assert patched({"name": "A", "$patch": "delete"}) == [("B", "b")]


def test_merge_patch(world: World) -> None:
    world.deployment({"name": "app", "image": "app:1", "env": env("A", "B")})
    path = world.path(DEPLOYMENT, "web")
    world.api.patch(path, {"metadata": {"annotations": {"a": "1", "b": "2"}}}, Patch.MERGE)
    containers = [{"name": "app", "image": "app:2"}]
    body = {
        "metadata": {"annotations": {"a": None, "c": "3"}},
        "spec": {"template": {"spec": {"containers": containers}}},
    }
    made = world.api.patch(path, body, Patch.MERGE)
    notes = {name: value for name, value in made["metadata"]["annotations"].items() if "/" not in name}
    assert notes == {"b": "2", "c": "3"}
    container = made["spec"]["template"]["spec"]["containers"][0]
    assert (container["image"], "env" in container) == ("app:2", False)


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ([("test", "/data/a", "1"), ("replace", "/data/a", "9")], {"a": "9", "b": "2"}),
        ([("add", "/data/c", "3"), ("remove", "/data/b", None)], {"a": "1", "c": "3"}),
        ([("add", "/data/x~1y", "3")], {"a": "1", "b": "2", "x/y": "3"}),
        ([("add", "/data", {"z": "1"})], {"z": "1"}),
        ([("test", "/data/a", "2"), ("replace", "/data/a", "9")], None),
        ([("remove", "/data/c", None)], None),
        ([("replace", "/data/c", "3")], {"a": "1", "b": "2", "c": "3"}),
        ([("add", "/none/c", "3")], None),
    ],
)
def test_json_patch(world: World, operations: list[tuple[str, str, Any]], expected: Json | None) -> None:
    world.config("a")
    path = world.path(CONFIG_MAP, "a")
    # A slash in a key of data is not allowed, but one in a label's is.
    if "x~1y" in operations[0][1]:
        operations, place = [("add", "/metadata/labels/x~1y", "3")], "labels"
        world.api.patch(path, {"metadata": {"labels": {"a": "1", "b": "2"}}}, Patch.MERGE)
    else:
        place = "data"
    body = [
        {"op": op, "path": where, **({} if op == "remove" else {"value": value})} for op, where, value in operations
    ]
    if expected is None:
        assert refusal(world.api.patch, path, body, Patch.JSON) == ("precondition", "invalid")
        expected = {"a": "1", "b": "2"}
    else:
        world.api.patch(path, body, Patch.JSON)
    made = world.get(CONFIG_MAP, "a")
    assert (made["metadata"]["labels"] if place == "labels" else made["data"]) == expected


def test_json_patch_of_a_list(world: World) -> None:
    world.deployment({"name": "app", "image": "app:1", "env": env("A", "B")})
    where = "/spec/template/spec/containers/0/env"
    body = [
        {"op": "test", "path": f"{where}/1/name", "value": "B"},
        {"op": "add", "path": f"{where}/-", "value": {"name": "D", "value": "d"}},
        {"op": "add", "path": f"{where}/1", "value": {"name": "C", "value": "c"}},
        {"op": "remove", "path": f"{where}/0"},
    ]
    made = world.api.patch(world.path(DEPLOYMENT, "web"), body, Patch.JSON)
    assert made["spec"]["template"]["spec"]["containers"][0]["env"] == env("C", "B", "D")


def test_generation_counts_changes_of_the_spec(world: World) -> None:
    before = world.deployment()
    path = world.path(DEPLOYMENT, "web")
    noted = world.api.patch(path, {"metadata": {"labels": {"x": "y"}}}, Patch.MERGE)
    assert noted["metadata"]["generation"] == before["metadata"]["generation"]
    assert noted["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]
    again = world.api.patch(path, {"metadata": {"labels": {"x": "y"}}}, Patch.MERGE)
    assert again["metadata"]["resourceVersion"] == noted["metadata"]["resourceVersion"]
    rehearsed = world.api.patch(path, {"spec": {"paused": True}}, Patch.MERGE, dry_run=True)
    assert rehearsed["metadata"]["generation"] == before["metadata"]["generation"] + 1
    assert rehearsed["metadata"]["resourceVersion"] == again["metadata"]["resourceVersion"]
    assert "paused" not in world.get(DEPLOYMENT, "web")["spec"]
    paused = world.api.patch(path, {"spec": {"paused": True}}, Patch.MERGE)
    assert paused["metadata"]["generation"] == before["metadata"]["generation"] + 1
    # The status is the controllers'.
    made = world.api.patch(path, {"status": {"replicas": 7}}, Patch.MERGE)
    assert (made.get("status") or {}).get("replicas", 0) == 0


# Identity


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("wrong", ["resourceVersion", "uid"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_patch_of_another_version_is_a_conflict(world: World, how: Patch, wrong: str, dry_run: bool) -> None:
    before = world.deployment()
    path = world.path(DEPLOYMENT, "web")
    now = world.api.patch(path, {"metadata": {"labels": {"x": "y"}}}, Patch.MERGE)
    identity = {name: now["metadata"][name] for name in ("uid", "resourceVersion")}
    stale = {"uid": "11111111-1111-4111-8111-111111111111", "resourceVersion": before["metadata"]["resourceVersion"]}
    body = {"metadata": {**identity, wrong: stale[wrong]}, "spec": {"paused": True}}
    assert refusal(world.api.patch, path, body, how, dry_run=dry_run) == ("conflict", "conflict")
    assert "paused" not in world.get(DEPLOYMENT, "web")["spec"]
    made = world.api.patch(path, {"metadata": identity, "spec": {"paused": True}}, how, dry_run=dry_run)
    assert made["spec"]["paused"] is True


def test_put(world: World) -> None:
    before = world.config("a")
    path = world.path(CONFIG_MAP, "a")
    changed = {**copy.deepcopy(before), "data": {"a": "9"}}
    assert world.api.put(path, changed, dry_run=True)["data"] == {"a": "9"}
    assert world.get(CONFIG_MAP, "a")["data"] == before["data"]
    assert world.api.put(path, changed)["data"] == {"a": "9"}
    assert refusal(world.api.put, path, changed) == ("conflict", "conflict")
    absent = {**before, "metadata": {"name": "none", "namespace": world.namespace}}
    assert refusal(world.api.put, world.path(CONFIG_MAP, "none"), absent)[0] == "not_found"


def test_create(world: World) -> None:
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}}
    path = world.path(CONFIG_MAP)
    assert world.api.post(path, manifest, dry_run=True)["metadata"]["uid"]
    assert world.kube.find(CONFIG_MAP, world.namespace, "a") is None
    made = world.api.post(path, manifest)
    assert world.get(CONFIG_MAP, "a")["metadata"]["uid"] == made["metadata"]["uid"]
    assert refusal(world.api.post, path, manifest) == ("conflict", "exists")


def test_delete(world: World) -> None:
    made = world.config("a")["metadata"]
    path = world.path(CONFIG_MAP, "a")
    for wrong in ({"uid": "11111111-1111-4111-8111-111111111111"}, {"resourceVersion": "1"}):
        assert refusal(world.api.delete, path, {"preconditions": wrong}) == ("conflict", "conflict")
    world.api.delete(path, {"preconditions": {"uid": made["uid"]}}, dry_run=True)
    assert world.get(CONFIG_MAP, "a")
    world.api.delete(path, {"preconditions": {"uid": made["uid"], "resourceVersion": made["resourceVersion"]}})
    assert refusal(world.api.delete, path, {})[0] == "not_found"


def test_what_has_a_finalizer_stays_until_that_is_gone(world: World) -> None:
    meta = {"name": "a", "finalizers": ["example.com/hold"]}
    world.add({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})
    path = world.path(CONFIG_MAP, "a")
    world.api.delete(path, {})
    assert world.get(CONFIG_MAP, "a")["metadata"]["deletionTimestamp"]
    world.api.patch(path, {"metadata": {"finalizers": None}}, Patch.MERGE)
    assert world.kube.find(CONFIG_MAP, world.namespace, "a") is None


# Subresources


def test_scale(world: World) -> None:
    before = world.deployment()
    path = world.path(DEPLOYMENT, "web", "scale")
    assert world.api.get(path)["spec"].get("replicas", 0) == 0
    identity = {name: before["metadata"][name] for name in ("uid", "resourceVersion")}
    stale = {"metadata": {**identity, "resourceVersion": "1"}, "spec": {"replicas": 3}}
    assert refusal(world.api.patch, path, stale, Patch.MERGE) == ("conflict", "conflict")
    rehearsed = world.api.patch(path, {"spec": {"replicas": 3}}, Patch.MERGE, dry_run=True)
    assert (rehearsed["kind"], rehearsed["spec"]["replicas"]) == ("Scale", 3)
    assert world.get(DEPLOYMENT, "web")["spec"]["replicas"] == 0
    world.api.patch(path, {"spec": {"replicas": 1}}, Patch.MERGE)
    assert world.get(DEPLOYMENT, "web")["spec"]["replicas"] == 1


def evict(world: World, name: str, dry_run: bool = False, **options: Any) -> Json:
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": world.namespace},
        "deleteOptions": options,
    }
    return world.api.post(world.path(POD, name, "eviction"), body, dry_run=dry_run)


def test_eviction_keeps_to_the_budget(world: World) -> None:
    uids = {name: world.pod(name, app="web")["metadata"]["uid"] for name in ("one", "two")}
    wrong = {"uid": "11111111-1111-4111-8111-111111111111"}
    assert refusal(evict, world, "one", preconditions=wrong) == ("conflict", "conflict")
    world.budget("web", 1, 1, 2, app="web")
    evict(world, "one", dry_run=True)
    assert world.get(POD, "one")["metadata"].get("deletionTimestamp") is None
    evict(world, "one", preconditions={"uid": uids["one"]})
    world.settle(lambda: world.kube.find(POD, world.namespace, "one") is None)
    world.settle(lambda: world.allowed("web") == 0)
    assert refusal(evict, world, "two") == ("precondition", "disruption_budget")
    assert world.get(POD, "two")["metadata"]["uid"] == uids["two"]
    assert refusal(evict, world, "none")[0] == "not_found"


def test_eviction_of_a_pod_with_two_budgets(world: World) -> None:
    world.pod("one", app="web")
    world.budget("a", 0, 1, 1, app="web")
    world.budget("b", 0, 1, 1, app="web")
    assert refusal(evict, world, "one") == ("precondition", "several_budgets")


def test_eviction_without_a_budget(world: World) -> None:
    world.pod("one", app="other")
    world.pod("two", app="web")
    world.budget("web", 1, 0, 1, app="web")
    evict(world, "one")
    world.settle(lambda: world.kube.find(POD, world.namespace, "one") is None)


def test_logs_of_which_container(world: World) -> None:
    containers = [{"name": name, "image": "app:1"} for name in ("app", "side")]
    spec = {"nodeName": "node-1", "containers": containers}
    world.add({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "two"}, "spec": spec})
    path = world.path(POD, "two", "log")
    assert refusal(world.api.text, path) == ("precondition", "bad_request")
    assert refusal(world.api.text, path, container="none") == ("precondition", "bad_request")
    assert refusal(world.api.text, world.path(POD, "none", "log"))[0] == "not_found"


# Rights


def test_rights(world: World) -> None:
    world.config("a")
    world.pod("one")
    limited = world.limited("get list create", "configmaps pods/eviction")
    space = world.namespace
    demand(limited, Right("list", CONFIG_MAP, space), Right("create", POD, space, "one", "eviction"))
    with pytest.raises(OpsError) as caught:
        demand(limited, Right("get", CONFIG_MAP, space), Right("patch", CONFIG_MAP, space), Right("delete", POD, space))
    assert (caught.value.kind, caught.value.code) == (ErrorKind.FORBIDDEN, "rbac")
    assert str(caught.value) == f"this user may not patch configmaps in {space}, nor delete pods in {space}"
    assert limited.get(CONFIG_MAP, space, "a")["data"]
    path = world.path(CONFIG_MAP, "a")
    assert refusal(limited.api.patch, path, {"data": {"a": "9"}}, Patch.MERGE) == ("forbidden", "rbac")
    assert refusal(limited.api.patch, path, {}, Patch.MERGE, dry_run=True) == ("forbidden", "rbac")
    assert refusal(limited.get, POD, space, "one") == ("forbidden", "rbac")
    assert refusal(limited.all, CONFIG_MAP) == ("forbidden", "rbac")
    assert world.get(CONFIG_MAP, "a")["data"]["a"] == "1"
