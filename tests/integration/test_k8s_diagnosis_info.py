# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""k8s_diagnosis_info on a real API server with its controllers and scheduler: each fault has its own name."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab import kubernetes_faults as faults
from tests.lab import kubernetes_objects as make
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_witness import mark, writes
from tests.support import call, play

pytestmark = pytest.mark.kubernetes

READ = ("get", "list")


def look(cluster: Cluster, namespace: str, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    given = {"namespaces": [namespace], "grace": "1s", **options}
    return call("k8s_diagnosis_info", check_mode=check_mode, **cluster.connection(), **given)


def causes(result: dict[str, Any]) -> list[str]:
    return [one["id"] for one in result["root_causes"]]


def forbidding(cluster: Cluster, namespace: str, document: make.Document) -> None:
    """A Deployment whose pods the API server does not let be."""
    cluster.apply(document, namespace=namespace)

    def told() -> bool:
        conditions = cluster.get("deployment", "app", namespace).get("status", {}).get("conditions", ())
        return any(one["type"] == "ReplicaFailure" for one in conditions)

    cluster.wait(told, 20, "pods that are refused")


def _ranged(cluster: Cluster, namespace: str) -> None:
    limits = [{"type": "Container", "max": {"cpu": "1"}}]
    cluster.apply(make.named("v1", "LimitRange", "small", spec={"limits": limits}), namespace=namespace)
    resources = {"resources": {"limits": {"cpu": "4"}}}
    forbidding(cluster, namespace, make.deployment("app", container=resources))


def _nobody(cluster: Cluster, namespace: str) -> None:
    forbidding(cluster, namespace, make.deployment("app", serviceAccountName="nobody"))


def _failed_job(cluster: Cluster, namespace: str) -> None:
    cluster.apply(make.job("app", env={"FAULT": "crash"}), namespace=namespace)

    def failed() -> bool:
        conditions = cluster.get("job", "app", namespace).get("status", {}).get("conditions", ())
        return any(one["type"] == "Failed" for one in conditions)

    cluster.wait(failed, 20, "a Job that has given up")


def _gated(cluster: Cluster, namespace: str) -> None:
    cluster.apply(make.deployment("app", schedulingGates=[{"name": "example.org/wait"}]), namespace=namespace)
    cluster.wait(lambda: len(faults.pods(cluster, namespace)) == 2, 20, "gated pods")


def _unready(cluster: Cluster, namespace: str) -> None:
    """Until any pod would have been ready: the probe's own time is half a minute."""
    faults.change_template(cluster, namespace, env={"FAULT": "notready"})
    cluster.wait(lambda: any(faults.waiting(pod) == "" for pod in faults.pods(cluster, namespace)), 20, "running pods")
    time.sleep(2.5)


FAULTS: dict[str, Callable[[Cluster, str], None]] = {
    "k8s.image_pull.not_found": faults.break_image,
    "k8s.image_pull.auth": lambda cluster, space: faults.break_image(cluster, space, private=True),
    "k8s.crash_loop.error": faults.break_crash,
    "k8s.crash_loop.liveness": lambda cluster, space: faults.break_crash(cluster, space, fault="liveness"),
    "k8s.oom_killed": lambda cluster, space: faults.break_crash(cluster, space, fault="oom"),
    "k8s.config_missing": faults.break_config,
    "k8s.init_failed": faults.break_init,
    "k8s.probe.readiness": _unready,
    "k8s.unschedulable.resources": faults.break_scheduling,
    "k8s.unschedulable.affinity": lambda cluster, space: faults.break_scheduling(cluster, space, why="selector"),
    "k8s.quota": faults.break_quota,
    "k8s.volume.pending": faults.break_volume,
    "k8s.volume.mount": lambda cluster, space: faults.break_volume(cluster, space, why="secret"),
    "k8s.limit_range": _ranged,
    "k8s.job_backoff": _failed_job,
    "k8s.scheduling_gated": _gated,
}


@pytest.mark.parametrize("cause", FAULTS)
def test_each_fault_has_its_name(cluster: Cluster, namespace: str, cause: str) -> None:
    neighbours = 0 if cause == "k8s.quota" else 2  # they would use it up
    cluster.apply(make.deployment("well", replicas=neighbours), namespace=namespace)
    FAULTS[cause](cluster, namespace)
    since = mark(cluster)
    result = look(cluster, namespace)
    assert causes(result) == [cause]
    found = result["root_causes"][0]
    assert found["workload"].endswith(f"{namespace}/app")
    assert found["next"]
    assert (result["changed"], writes(cluster, since)) == (False, [])


def test_an_account_that_is_not_there(cluster: Cluster, namespace: str) -> None:
    _nobody(cluster, namespace)
    found = look(cluster, namespace)["root_causes"][0]
    assert (found["id"], found["evidence"]) == ("k8s.config_missing", {"kind": "ServiceAccount", "name": "nobody"})


def test_a_security_level_that_forbids(cluster: Cluster) -> None:
    namespace = cluster.new_namespace(labels={"pod-security.kubernetes.io/enforce": "restricted"})
    forbidding(cluster, namespace, make.deployment("app"))
    assert causes(look(cluster, namespace)) == ["k8s.pod_security"]
    cluster.delete_namespace(namespace)


def test_taints_of_all_nodes(own_cluster: Cluster) -> None:
    namespace = own_cluster.new_namespace()
    with faults.tainted(own_cluster):
        own_cluster.apply(make.deployment("app"), namespace=namespace)
        own_cluster.wait(lambda: causes(look(own_cluster, namespace)), 20, "a cause")
        found = look(own_cluster, namespace)["root_causes"][0]
    assert found["id"] == "k8s.unschedulable.taint"
    assert sum(found["evidence"]["reasons"].values()) == 3


def test_a_node_that_is_lost_explains_all_of_its_pods(own_cluster: Cluster) -> None:
    namespace = own_cluster.new_namespace()
    here = {"nodeSelector": {"kubernetes.io/hostname": "node-3"}}
    faults.settle(own_cluster, namespace, make.deployment("one", **here), make.deployment("two", **here))
    with faults.node_not_ready(own_cluster, "node-3", "Unknown"):
        for pod in (*faults.pods(own_cluster, namespace, "one"), *faults.pods(own_cluster, namespace, "two")):
            # As the node controller does, once it has not heard of a kubelet for long enough.
            unready = [
                {**one, "status": "False"} if one["type"] == "Ready" else one for one in pod["status"]["conditions"]
            ]
            change = {"status": {"conditions": unready}}
            own_cluster.patch("pod", pod["metadata"]["name"], namespace, change, subresource="status")
        result = look(own_cluster, namespace)
    assert causes(result) == ["k8s.node.not_ready"]
    assert (result["root_causes"][0]["workload"], result["root_causes"][0]["pods"]) == ("Node node-3", 4)


def test_who_starts_or_is_done_is_well(cluster: Cluster, namespace: str) -> None:
    cluster.apply(make.job("done"), make.deployment("slow", env={"FAULT": "slow"}), namespace=namespace)
    cluster.wait(lambda: cluster.get("job", "done", namespace).get("status", {}).get("succeeded"), 20, "a Job")
    result = look(cluster, namespace, grace="1m")
    assert causes(result) == []
    assert result["summary"]["starting"] in (1, 2)
    assert result["summary"]["by_phase"]["Succeeded"] == 1


def test_a_rollout_that_passed_its_deadline_follows_from_its_image(cluster: Cluster, namespace: str) -> None:
    faults.break_progress(cluster, namespace)
    result = look(cluster, namespace)
    assert causes(result) == ["k8s.image_pull.not_found"]
    assert result["root_causes"][0]["evidence"]["rollout"] == "stuck"
    assert [one["id"] for one in result["findings"]] == ["k8s.image_pull.not_found", "k8s.rollout.stuck"]


def test_an_autoscaler_without_metrics(cluster: Cluster, namespace: str) -> None:
    faults.break_metrics(cluster, namespace)
    assert causes(look(cluster, namespace)) == ["k8s.hpa.no_metrics"]


def test_one_workload_by_its_name(cluster: Cluster, namespace: str) -> None:
    faults.break_crash(cluster, namespace)
    faults.break_config(cluster, namespace, "other")
    assert causes(look(cluster, namespace, name="other")) == ["k8s.config_missing"]
    assert causes(look(cluster, namespace, selector="app=app")) == ["k8s.crash_loop.error"]
    assert sorted(causes(look(cluster, namespace))) == ["k8s.config_missing", "k8s.crash_loop.error"]


def test_a_user_with_few_rights_is_told_what_he_could_not_see(cluster: Cluster, namespace: str) -> None:
    faults.break_crash(cluster, namespace)
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": [*READ]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": [*READ]},
    ]
    kubeconfig = cluster.user("few-rights", rules, namespace)
    connection = {"kubeconfig": str(kubeconfig), "expect_cluster": cluster.host}
    result = call("k8s_diagnosis_info", **connection, namespaces=[namespace], grace="1s")
    assert causes(result) == ["k8s.crash_loop.error"]
    assert {"statefulsets", "events", "logs"} <= set(result["unseen"])
    blind = call("k8s_diagnosis_info", **connection, namespaces=["kube-system"])
    assert "k8s.unseen.pods" in [one["id"] for one in blind["findings"]]


def test_it_waits_until_a_mended_workload_is_well(cluster: Cluster, namespace: str) -> None:
    faults.break_image(cluster, namespace)
    faults.change_template(cluster, namespace)
    result = look(cluster, namespace, clear_of=["k8s.image_pull.*"], timeout=20, consecutive=2)
    assert result["verify"]["ok"]


@pytest.mark.compat
def test_in_a_play_and_in_check_mode_it_is_the_same(cluster: Cluster, namespace: str) -> None:
    faults.break_crash(cluster, namespace)
    task = {"sre.runbooks.k8s_diagnosis_info": {**cluster.connection(), "namespaces": [namespace]}}
    told = [play([{"name": "Look", **task}], check=check).result("Look")["root_causes"] for check in (False, True)]
    here = look(cluster, namespace)["root_causes"]
    assert {(one["id"], one["workload"]) for one in (*told[0], *told[1], *here)} == {
        ("k8s.crash_loop.error", f"Deployment {namespace}/app")
    }
    assert "cannot reach db:5432" in " ".join(told[0][0]["evidence"]["log"])
