# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""k8s_workload on a real API server with real controllers: what is asked for, by name, once, and nothing else."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.lab import kubernetes_faults as faults
from tests.lab import kubernetes_objects as make
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_usage import measured
from tests.lab.kubernetes_witness import fingerprint, mark, writes
from tests.support import call, play

pytestmark = pytest.mark.kubernetes

SECRET = {"secretKeyRef": {"name": "db", "key": "password"}}
ENV = {"HOST": "db", "DB_PASSWORD": SECRET, "DSN": "pg://$(HOST)", "LEVEL": "info"}
BUILDERS = {"Deployment": make.deployment, "StatefulSet": make.statefulset, "DaemonSet": make.daemonset}


def state(cluster: Cluster, namespace: str, check: bool = False, **options: Any) -> dict[str, Any]:
    wanted = {"namespace": namespace, "name": "web", "timeout": 40, **cluster.connection()}
    return call("k8s_workload", check_mode=check, **{**wanted, **options})


def start(cluster: Cluster, namespace: str, kind: str = "Deployment", **options: Any) -> None:
    """A workload with a Secret and a ConfigMap, next to one that nobody may touch."""
    cluster.apply(
        make.secret("db", password="s3cret"), make.configmap("web", MODE="off", other="x"), namespace=namespace
    )
    made = BUILDERS[kind]("web", **{"env": ENV, **options})
    faults.settle(cluster, namespace, made, make.deployment("other", replicas=1, env=ENV))


def template(cluster: Cluster, namespace: str, kind: str = "deployment") -> dict[str, Any]:
    return dict(cluster.get(kind, "web", namespace)["spec"]["template"])


def env(cluster: Cluster, namespace: str, kind: str = "deployment") -> list[dict[str, Any]]:
    return list(template(cluster, namespace, kind)["spec"]["containers"][0].get("env") or [])


def generation(cluster: Cluster, namespace: str) -> int:
    return int(cluster.get("deployment", "web", namespace)["metadata"]["generation"])


def bystanders(cluster: Cluster, namespace: str) -> dict[str, Any]:
    return fingerprint(cluster, namespace, exclude=("*/web", "*/web-*"))


def ids(result: dict[str, Any]) -> list[str]:
    return [finding["id"] for finding in result["findings"]]


def code(result: dict[str, Any]) -> str:
    assert result.get("failed"), result
    return str(result["error"]["code"])


def test_twice_set_and_twice_unset(cluster: Cluster, namespace: str) -> None:
    """One entry, then none; no rollout without a difference; order and sources of the others stay."""
    start(cluster, namespace)
    before, others, born = env(cluster, namespace), bystanders(cluster, namespace), generation(cluster, namespace)
    assert state(cluster, namespace, env={"FLAG": "on", "LEVEL": "debug"})["changed"] is True
    assert env(cluster, namespace) == [
        *before[:3],
        {"name": "LEVEL", "value": "debug"},
        {"name": "FLAG", "value": "on"},
    ]
    again = state(cluster, namespace, env={"FLAG": "on", "LEVEL": "debug"})
    assert (again["changed"], again["actions"], generation(cluster, namespace)) == (False, [], born + 1)
    assert state(cluster, namespace, env={"LEVEL": "info"}, env_absent=["FLAG"])["changed"] is True
    assert env(cluster, namespace) == before
    assert state(cluster, namespace, env_absent=["FLAG"])["changed"] is False
    assert generation(cluster, namespace) == born + 2
    assert bystanders(cluster, namespace) == others


def test_check_mode_writes_nothing_and_predicts_the_run(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace)
    options: dict[str, Any] = {
        "env": {"DB_PASSWORD": "plain-text", "NEW": "1"},
        "env_from_config": {"LEVEL": {"name": "web", "key": "other"}},
        "env_absent": ["HOST"],
        "image": "registry.example/app:2",
        "resources": {"requests": {"cpu": "0.25", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "pod_annotations": {"team": "shop"},
        "annotations": {"note": "why"},
        "config_map": "web",
        "key": "MODE",
        "value": "on",
        "restart": True,
    }
    since, before = mark(cluster), fingerprint(cluster, namespace)
    checked = state(cluster, namespace, check=True, **options)
    assert writes(cluster, since) == []
    assert fingerprint(cluster, namespace) == before
    done = state(cluster, namespace, **options)
    assert not done.get("failed"), done.get("msg")
    assert (done["actions"], done["diff"], done["plan"]) == (checked["actions"], checked["diff"], checked["plan"])
    assert done["plan"]["exact"] is True
    assert "plain-text" not in str(done["diff"])
    made = [(write.verb, write.resource, write.name) for write in writes(cluster, since)]
    assert made == [("patch", "configmaps", "web"), ("patch", "deployments", "web")]
    after = env(cluster, namespace)
    assert [one["name"] for one in after] == ["DB_PASSWORD", "DSN", "LEVEL", "NEW"]
    assert after[0] == {"name": "DB_PASSWORD", "value": "plain-text"}
    assert after[2] == {"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "web", "key": "other"}}}
    assert {"k8s.rollout.follows", "k8s.env.reference_order"} <= set(ids(done))
    assert state(cluster, namespace, **options)["changed"] is False


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
def test_other_kinds(cluster: Cluster, namespace: str, kind: str) -> None:
    start(cluster, namespace, kind)
    result = state(cluster, namespace, kind=kind, env={"LEVEL": "debug"})
    assert not result.get("failed"), result.get("msg")
    assert (result["changed"], result["rollout"]["complete"]) == (True, True)
    assert [one["name"] for one in env(cluster, namespace, kind)] == list(ENV)
    assert state(cluster, namespace, kind=kind, env={"LEVEL": "debug"})["changed"] is False


def test_sources_and_values_take_each_others_place(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace)
    state(cluster, namespace, env_from_config={"DB_PASSWORD": {"name": "web", "key": "other"}}, wait=False)
    assert env(cluster, namespace)[1]["valueFrom"] == {"configMapKeyRef": {"name": "web", "key": "other"}}
    state(cluster, namespace, env_from_secret={"DB_PASSWORD": {"name": "db", "key": "password"}}, wait=False)
    assert env(cluster, namespace)[1]["valueFrom"] == SECRET
    result = state(cluster, namespace, env_from_secret={"DB_PASSWORD": {"name": "db", "key": "password"}}, wait=False)
    assert result["changed"] is False


def test_init_containers_and_sidecars_go_by_name(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace, initContainers=[make.init_container()])
    sidecar = {"spec": {"template": {"spec": {"containers": [make.init_container("proxy")]}}}}
    cluster.patch("deployment", "web", namespace, sidecar, content="application/strategic-merge-patch+json")
    assert code(state(cluster, namespace, env={"A": "1"})) == "ambiguous_container"
    for name in ("prepare", "proxy"):
        result = state(cluster, namespace, container=name, env={"A": "1"}, image="registry.example/app:2")
        assert not result.get("failed"), result.get("msg")
    spec = template(cluster, namespace)["spec"]
    images = {one["name"]: one["image"] for one in (*spec["containers"], *spec["initContainers"])}
    assert images == {"app": make.IMAGE, "proxy": "registry.example/app:2", "prepare": "registry.example/app:2"}


def test_a_rollout_that_cannot_work_fails_early(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace)
    result = state(cluster, namespace, env={"FAULT": "crash"})
    assert (result["error"]["kind"], result["changed"]) == ("verify_failed", True)
    assert "k8s.rollout.failing" in ids(result)
    assert state(cluster, namespace, env_absent=["FAULT"])["rollout"]["complete"] is True


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"image": "not an image"}, "bad_parameter"),
        ({"env": {"": "1"}}, "invalid"),
        ({"resources": {"limits": {"memory": "32Mi"}, "requests": {"memory": "64Mi"}}}, "request_above_limit"),
        ({"env_from_secret": {"A": {"name": "db", "key": "nope"}}}, "config_missing"),
        ({"env": {"A": "1"}, "connections_per_replica": 30, "connections_limit": 89}, "connection_budget"),
        ({"name": "wbe", "env": {"A": "1"}}, "no_workload"),
    ],
)
def test_what_is_refused_writes_nothing(
    cluster: Cluster, namespace: str, options: dict[str, Any], expected: str
) -> None:
    start(cluster, namespace)
    since = mark(cluster)
    result = state(cluster, namespace, **options)
    assert (code(result), result["changed"], writes(cluster, since)) == (expected, False, [])
    assert result["error"]["hint"]


def test_quotas_and_limit_ranges_are_asked_before(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace, requests={"memory": "64Mi"}, container={"resources": {"limits": {"memory": "64Mi"}}})
    rule = {"type": "Container", "max": {"memory": "256Mi"}}
    cluster.apply(make.named("v1", "LimitRange", "caps", spec={"limits": [rule]}), namespace=namespace)
    over = {"limits": {"memory": "512Mi"}, "requests": {"memory": "64Mi"}}
    assert code(state(cluster, namespace, resources=over)) == "limit_range"
    cluster.delete("limitrange", "caps", namespace)
    cluster.apply(make.quota("mem", **{"limits.memory": "256Mi"}), namespace=namespace)
    cluster.wait(lambda: cluster.get("quota", "mem", namespace)["status"].get("used"), 10, "a counted quota")
    assert code(state(cluster, namespace, resources=over)) == "quota"


def test_a_limit_below_what_pods_use_is_refused(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace, container={"resources": {"limits": {"memory": "256Mi"}}})
    uids = [pod["metadata"]["uid"] for pod in faults.pods(cluster, namespace, "web")]
    since = mark(cluster)
    with measured(cluster) as usage:
        usage.memory[uids[1]] = "150Mi"
        result = state(cluster, namespace, resources={"limits": {"memory": "128Mi"}})
        assert (code(result), writes(cluster, since)) == ("memory_usage", [])
        assert "150Mi" in result["msg"]
        assert state(cluster, namespace, resources={"limits": {"memory": "192Mi"}})["changed"] is True


def test_an_autoscaler_that_counts_shares_of_the_request_is_named(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace, requests={"cpu": "100m"})
    cluster.apply(make.hpa("web"), namespace=namespace)
    result = state(cluster, namespace, check=True, resources={"requests": {"cpu": "200m"}})
    finding = next(one for one in result["findings"] if one["id"] == "k8s.hpa.moves")
    assert finding["evidence"] == {"autoscaler": "web", "resource": "cpu", "before": "100m", "after": "200m"}


def test_a_user_without_the_rights_hears_all_of_them(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace)
    everything = [{"apiGroups": ["", "apps", "autoscaling"], "resources": ["*"], "verbs": ["get", "list"]}]
    kubeconfig = cluster.user(f"reader-{namespace}", everything, namespace)
    options = {"kubeconfig": str(kubeconfig), "expect_cluster": None}
    result = state(cluster, namespace, config_map="web", key="MODE", value="on", restart=True, **options)
    assert code(result) == "rbac"
    assert "patch deployments" in result["msg"]
    assert "patch configmaps" in result["msg"]


def test_a_status_that_changes_all_the_time_does_not_hinder(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace)
    ended = threading.Event()

    def busy() -> None:
        number = 0
        while not ended.wait(0.03):
            number += 1
            note = {"metadata": {"annotations": {"beat": str(number)}}}
            cluster.patch("deployment", "web", namespace, note, subresource="status")

    beat = threading.Thread(target=busy)
    beat.start()
    try:
        assert state(cluster, namespace, env={"LEVEL": "debug"})["changed"] is True
    finally:
        ended.set()
        beat.join()


def test_the_switch(cluster: Cluster, namespace: str) -> None:
    """On twice, off twice: one write each, and pods are replaced only where that was asked for."""
    start(cluster, namespace)
    flag: dict[str, Any] = {"config_map": "web", "key": "MODE"}
    since, born = mark(cluster), generation(cluster, namespace)
    on = state(cluster, namespace, **flag, value="on", expect="off")
    assert (on["changed"], "k8s.config.no_restart" in ids(on)) == (True, True)
    assert state(cluster, namespace, **flag, value="on", expect="off")["changed"] is False
    assert code(state(cluster, namespace, **flag, value="other", expect="off")) == "expect"
    assert len(writes(cluster, since)) == 1
    assert generation(cluster, namespace) == born
    for value, change in (("on", True), ("on", False), ("off", True), ("off", False)):
        assert state(cluster, namespace, **flag, value=value, restart=True)["changed"] is change
    assert generation(cluster, namespace) == born + 2
    assert cluster.get("configmap", "web", namespace)["data"] == {"MODE": "off", "other": "x"}


def test_a_secret_is_switched_without_a_word_of_it(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace)
    result = state(cluster, namespace, secret="db", key="password", secret_value="n3w-s3cret", restart=True)
    assert not result.get("failed"), result.get("msg")
    assert "n3w-s3cret" not in str(result)
    assert cluster.get("secret", "db", namespace)["data"] == make.secret("db", password="n3w-s3cret")["data"]


def test_an_immutable_one_is_its_own_error(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace)
    cluster.apply({**make.configmap("fixed", MODE="off"), "immutable": True}, namespace=namespace)
    assert code(state(cluster, namespace, config_map="fixed", key="MODE", value="on")) == "immutable"


def test_memory_follows_the_kills_and_only_once(cluster: Cluster, namespace: str) -> None:
    faults.break_crash(cluster, namespace, "web", fault="oom")
    more = {"memory_factor": 2.0, "memory_ceiling": "1Gi", "wait": False}
    result = state(cluster, namespace, **more)
    assert not result.get("failed"), result.get("msg")
    resources = template(cluster, namespace)["spec"]["containers"][0]["resources"]
    assert resources["limits"] == {"memory": "128Mi"}
    assert "k8s.memory.limit_too_low" in ids(result)


def test_in_a_process_of_its_own_too(cluster: Cluster, namespace: str) -> None:
    start(cluster, namespace)
    options = {"namespace": namespace, "name": "web", "env": {"LEVEL": "debug"}, **cluster.connection()}
    tasks = [{"sre.runbooks.k8s_workload": options}, {"sre.runbooks.k8s_workload": options, "environment": {"X": "y"}}]
    result = play(tasks)
    assert result.rc == 0, result.stdout
    assert [entry["result"]["changed"] for entry in result.tasks] == [True, False]
