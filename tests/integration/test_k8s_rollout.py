# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""k8s_rollout on a real API server with real controllers: back to what worked, once, and nothing else."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.lab import kubernetes_objects as objects
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_witness import fingerprint, mark, writes
from tests.support import call, play

pytestmark = pytest.mark.kubernetes

GOOD, BAD, OLD = "registry.example/app:2", "registry.example/app:3-missing", "registry.example/app:1"
WORKLOADS = {"Deployment": objects.deployment, "StatefulSet": objects.statefulset}


def rollout(cluster: Cluster, namespace: str, **options: Any) -> dict[str, Any]:
    wanted = {"namespace": namespace, "name": "web", "timeout": 30, **cluster.connection()}
    return call("k8s_rollout", **{**wanted, **options})


def complete(cluster: Cluster, namespace: str, kind: str = "Deployment") -> None:
    result = rollout(cluster, namespace, state="complete", kind=kind)
    assert not result.get("failed"), result.get("msg")


def failing(cluster: Cluster, namespace: str, kind: str = "Deployment") -> None:
    result = rollout(cluster, namespace, state="complete", kind=kind)
    assert (result["error"]["kind"], result["error"]["code"]) == ("verify_failed", "failing"), result


def history(cluster: Cluster, namespace: str, *images: str, **options: Any) -> None:
    """Rolls out one image after the other, each to its end but the last, which does not come to one."""
    for image in images:
        cluster.apply(objects.deployment("web", image=image, **options), namespace=namespace)
        (failing if image == BAD else complete)(cluster, namespace)


def image(cluster: Cluster, namespace: str, kind: str = "deployment") -> str:
    found = cluster.get(kind, "web", namespace)["spec"]["template"]["spec"]["containers"][0]["image"]
    return str(found)


def ids(result: dict[str, Any]) -> list[str]:
    return [finding["id"] for finding in result["findings"]]


def test_a_failing_rollout_is_told_at_once(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, GOOD)
    cluster.apply(objects.deployment("web", image=BAD), namespace=namespace)
    started = time.monotonic()
    result = rollout(cluster, namespace, state="complete", timeout=60)
    assert time.monotonic() - started < 20
    assert (result["error"]["kind"], result["changed"]) == ("verify_failed", False)
    found = next(one for one in result["findings"] if one["id"] == "k8s.rollout.failing")
    assert found["evidence"]["cause"]["id"] == "k8s.image_pull"
    assert (found["evidence"]["images"], found["evidence"]["available"]) == ({"app": BAD}, 2)


def test_goes_back_to_what_was_healthy_once(cluster: Cluster, namespace: str) -> None:
    cluster.apply(objects.pdb("web", minAvailable=1), namespace=namespace)
    history(cluster, namespace, OLD, GOOD, BAD)
    before = fingerprint(cluster, namespace, ["deployment/web", "replicaset/web-*", "pod/web-*"])
    since = mark(cluster)
    checked = rollout(cluster, namespace, state="rolled_back", last_healthy=True, check_mode=True)
    assert (checked["changed"], checked["diff"]["after"]) == (True, {"spec.containers[app].image": GOOD})
    assert writes(cluster, since, namespace=namespace) == []
    done = rollout(cluster, namespace, state="rolled_back", last_healthy=True)
    assert (done["changed"], done["verify"]["ok"], done["rollout"]["complete"]) == (True, True, True), done
    assert (checked["actions"], checked["plan"]["id"]) == (done["actions"], done["plan"]["id"])
    assert image(cluster, namespace) == GOOD
    assert [(one.verb, one.resource) for one in writes(cluster, since, namespace=namespace)] == [
        ("patch", "deployments")
    ]
    assert fingerprint(cluster, namespace, ["deployment/web", "replicaset/web-*", "pod/web-*"]) == before
    again = rollout(cluster, namespace, state="rolled_back", last_healthy=True)
    assert (again["changed"], again["verify"]["ok"]) == (False, True)


@pytest.mark.parametrize("strategy", [{"type": "Recreate"}, {"rollingUpdate": {"maxUnavailable": "100%"}}])
def test_a_deadline_that_passed_before_does_not_end_the_wait(
    cluster: Cluster, namespace: str, strategy: dict[str, Any]
) -> None:
    """Its controller forgets it only when the old template has made progress."""
    spec = {"progressDeadlineSeconds": 2, "strategy": strategy}
    history(cluster, namespace, GOOD, spec=spec)
    cluster.apply(objects.deployment("web", env={"FAULT": "notready"}, spec=spec), namespace=namespace)
    failing(cluster, namespace)
    result = rollout(cluster, namespace, state="rolled_back", last_healthy=True)
    assert (result["changed"], result["verify"].get("ok"), image(cluster, namespace)) == (True, True, GOOD), result


def test_a_failing_template_that_comes_back_is_failing_again(cluster: Cluster, namespace: str) -> None:
    """As when a GitOps tool applies it again. The controller then still calls the rollout complete."""
    history(cluster, namespace, GOOD, BAD)
    assert rollout(cluster, namespace, state="rolled_back", last_healthy=True)["changed"]
    history(cluster, namespace, BAD)
    result = rollout(cluster, namespace, state="rolled_back", last_healthy=True)
    assert (result["changed"], image(cluster, namespace)) == (True, GOOD), result


def test_a_number_finds_its_template_also_when_that_has_another_number_now(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, OLD, GOOD, BAD)
    assert rollout(cluster, namespace, state="rolled_back", to_revision=1)["changed"]
    assert image(cluster, namespace) == OLD
    known = rollout(cluster, namespace, state="complete")["revisions"]
    assert sorted(one["revision"] for one in known) == [2, 3, 4]
    assert not rollout(cluster, namespace, state="rolled_back", to_revision=1)["changed"]
    result = rollout(cluster, namespace, state="rolled_back", to_revision=9)
    assert (result["error"]["kind"], result["error"]["code"]) == ("not_found", "no_revision")
    assert all(f"revision {number}" in result["msg"] for number in (2, 3, 4))


def test_an_image_finds_its_template(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, OLD, GOOD)
    assert rollout(cluster, namespace, state="rolled_back", to_image={"app": OLD})["changed"]
    assert image(cluster, namespace) == OLD
    assert not rollout(cluster, namespace, state="rolled_back", to_image={"app": OLD})["changed"]
    result = rollout(cluster, namespace, state="rolled_back", to_image={"app": "registry.example/app:9"})
    assert result["error"]["code"] == "no_revision"


def test_the_rest_of_the_workload_stays(cluster: Cluster, namespace: str) -> None:
    """Replicas that an autoscaler has set, annotations, strategy: only the template goes back."""
    history(cluster, namespace, GOOD, BAD)
    cluster.patch(
        "deployment", "web", namespace, {"metadata": {"annotations": {"team": "shop"}}, "spec": {"replicas": 3}}
    )
    before = cluster.get("deployment", "web", namespace)
    assert rollout(cluster, namespace, state="rolled_back", last_healthy=True)["changed"]
    after = cluster.get("deployment", "web", namespace)
    assert {**after["spec"], "template": 0} == {**before["spec"], "template": 0}
    notes = after["metadata"]["annotations"]
    assert (notes["team"], notes["kubernetes.io/change-cause"]) == ("shop", f"Rolled back to revision 1: {GOOD}")


def test_replica_sets_of_others_with_the_same_labels_are_no_history(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, GOOD, BAD)
    other = objects.deployment("other", image=OLD)
    other["spec"]["selector"] = {"matchLabels": {"app": "web", "part": "other"}}
    other["spec"]["template"]["metadata"]["labels"] = {"app": "web", "part": "other"}
    cluster.apply(other, namespace=namespace)
    complete_other = call("k8s_rollout", namespace=namespace, name="other", state="complete", **cluster.connection())
    assert complete_other["verify"]["ok"]
    before = fingerprint(cluster, namespace, ["deployment/web", "replicaset/web-*", "pod/web-*"])
    result = rollout(cluster, namespace, state="rolled_back", last_healthy=True)
    assert (result["changed"], image(cluster, namespace)) == (True, GOOD)
    assert fingerprint(cluster, namespace, ["deployment/web", "replicaset/web-*", "pod/web-*"]) == before


def test_a_workload_that_keeps_no_history_says_so(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, OLD, GOOD, spec={"revisionHistoryLimit": 0})
    cluster.wait(lambda: len(cluster.objects("replicaset", namespace)) == 1, 10, "one ReplicaSet")
    result = rollout(cluster, namespace, state="rolled_back", to_revision=1)
    assert (result["error"]["kind"], result["error"]["code"]) == ("precondition", "no_history")
    assert "revisionHistoryLimit" in result["msg"]


def test_a_paused_deployment_is_left_alone_unless_forced(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, OLD, GOOD)
    assert rollout(cluster, namespace, state="paused")["changed"]
    assert not rollout(cluster, namespace, state="paused")["changed"]
    for wanted in ({"state": "rolled_back", "to_revision": 1}, {"state": "restarted", "since": "0s"}):
        result = rollout(cluster, namespace, **wanted)
        assert (result["error"]["kind"], result["error"]["code"]) == ("precondition", "paused")
    assert rollout(cluster, namespace, state="rolled_back", to_revision=1, force_paused=True)["changed"]
    assert cluster.get("deployment", "web", namespace)["spec"]["paused"] is True
    resumed = rollout(cluster, namespace, state="resumed")
    assert (resumed["changed"], resumed["verify"]["ok"], image(cluster, namespace)) == (True, True, OLD)
    assert not rollout(cluster, namespace, state="resumed")["changed"]


def test_what_git_owns_is_left_alone_unless_accepted(cluster: Cluster, namespace: str) -> None:
    for name in (GOOD, BAD):
        cluster.apply(objects.owned_by(objects.deployment("web", image=name), "argo"), namespace=namespace)
        (failing if name == BAD else complete)(cluster, namespace)
    since = mark(cluster)
    result = rollout(cluster, namespace, state="rolled_back", last_healthy=True)
    assert (result["error"]["kind"], result["error"]["code"]) == ("precondition", "gitops_owner")
    assert writes(cluster, since, namespace=namespace) == []
    done = rollout(cluster, namespace, state="rolled_back", last_healthy=True, accept_drift=True)
    assert (done["changed"], "k8s.owned.argocd" in ids(done)) == (True, True)


def test_changed_config_is_told_and_missing_config_refuses(cluster: Cluster, namespace: str) -> None:
    needs = {"MODE": {"configMapKeyRef": {"name": "settings", "key": "mode"}}}
    cluster.apply(objects.configmap("settings", mode="a"), namespace=namespace)
    history(cluster, namespace, GOOD, env=needs)
    history(cluster, namespace, BAD)
    cluster.wait(lambda: time.time() % 1 > 0.9, 2, "the next second, as API servers count")
    time.sleep(1)
    cluster.apply(objects.configmap("settings", mode="b"), namespace=namespace)
    told = rollout(cluster, namespace, state="rolled_back", last_healthy=True, check_mode=True)
    assert "k8s.rollback.config_changed" in ids(told)
    cluster.delete("configmap", "settings", namespace)
    refused = rollout(cluster, namespace, state="rolled_back", last_healthy=True)
    assert (refused["error"]["kind"], refused["error"]["code"]) == ("precondition", "config_missing")
    assert image(cluster, namespace) == BAD


def test_an_ordered_stateful_set_is_freed_of_its_broken_pod(cluster: Cluster, namespace: str) -> None:
    for name in (GOOD, BAD):
        cluster.apply(objects.statefulset("web", replicas=3, image=name), namespace=namespace)
        (failing if name == BAD else complete)(cluster, namespace, "StatefulSet")
    kept = {one["metadata"]["uid"] for one in cluster.objects("pod", namespace) if one["metadata"]["name"] != "web-2"}
    since = mark(cluster)
    checked = rollout(cluster, namespace, kind="StatefulSet", state="rolled_back", last_healthy=True, check_mode=True)
    result = rollout(cluster, namespace, kind="StatefulSet", state="rolled_back", last_healthy=True)
    assert (result["changed"], result["verify"]["ok"]) == (True, True), result
    assert (result["actions"], result["plan"]["id"]) == (checked["actions"], checked["plan"]["id"])
    done = [(one.verb, one.resource, one.name) for one in writes(cluster, since, namespace=namespace)]
    assert done == [("patch", "statefulsets", "web"), ("delete", "pods", "web-2")]
    assert kept < {one["metadata"]["uid"] for one in cluster.objects("pod", namespace)}
    again = rollout(cluster, namespace, kind="StatefulSet", state="rolled_back", to_revision=1)
    assert (again["changed"], again["verify"]["ok"]) == (False, True)


def test_a_mended_template_is_freed_of_the_pod_that_an_ordered_stateful_set_waits_for(
    cluster: Cluster, namespace: str
) -> None:
    """What a rollback leaves that was killed before its second step, and what a new release after a bad one meets."""
    for name in (GOOD, BAD):
        cluster.apply(objects.statefulset("web", replicas=3, image=name), namespace=namespace)
        (failing if name == BAD else complete)(cluster, namespace, "StatefulSet")
    cluster.apply(objects.statefulset("web", replicas=3, image="registry.example/app:4"), namespace=namespace)
    cluster.wait(
        lambda: (
            "k8s.rollout.stuck" in ids(rollout(cluster, namespace, kind="StatefulSet", state="complete", wait=False))
        ),
        10,
        "a StatefulSet that is stuck",
    )
    result = rollout(cluster, namespace, kind="StatefulSet", state="rolled_back", last_healthy=True)
    assert (result["changed"], result["verify"]["ok"], len(result["actions"])) == (True, True, 1), result
    assert image(cluster, namespace, "statefulset") == "registry.example/app:4"


def test_a_partition_is_respected(cluster: Cluster, namespace: str) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}
    for name in (GOOD, BAD):
        made = objects.statefulset("web", replicas=3, image=name, spec={"updateStrategy": strategy})
        cluster.apply(made, namespace=namespace)
        (failing if name == BAD else complete)(cluster, namespace, "StatefulSet")
    result = rollout(cluster, namespace, kind="StatefulSet", state="rolled_back", last_healthy=True)
    assert (result["verify"]["ok"], "k8s.rollout.partition" in ids(result)) == (True, True), result
    assert cluster.get("statefulset", "web", namespace)["spec"]["updateStrategy"] == strategy


def test_a_daemon_set_goes_back(cluster: Cluster, namespace: str) -> None:
    for name in (GOOD, BAD):
        cluster.apply(objects.daemonset("web", image=name), namespace=namespace)
        (failing if name == BAD else complete)(cluster, namespace, "DaemonSet")
    result = rollout(cluster, namespace, kind="DaemonSet", state="rolled_back", last_healthy=True)
    assert (result["changed"], result["verify"]["ok"]) == (True, True), result
    assert image(cluster, namespace, "daemonset") == GOOD
    assert not rollout(cluster, namespace, kind="DaemonSet", state="rolled_back", to_revision=1)["changed"]


@pytest.mark.parametrize("kind", WORKLOADS)
def test_restarts_once_since_a_moment(cluster: Cluster, namespace: str, kind: str) -> None:
    cluster.apply(WORKLOADS[kind]("web", replicas=2, image=GOOD), namespace=namespace)
    complete(cluster, namespace, kind)
    old = {one["metadata"]["uid"] for one in cluster.objects("pod", namespace)}
    assert not rollout(cluster, namespace, kind=kind, state="restarted", since="10m")["changed"]
    time.sleep(1.1)
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    result = rollout(cluster, namespace, kind=kind, state="restarted", since=moment)
    assert (result["changed"], result["verify"]["ok"]) == (True, True), result
    assert not old & {one["metadata"]["uid"] for one in cluster.objects("pod", namespace)}
    assert not rollout(cluster, namespace, kind=kind, state="restarted", since=moment)["changed"]
    notes = cluster.get(kind.lower(), "web", namespace)["spec"]["template"]["metadata"]["annotations"]
    assert notes["kubectl.kubernetes.io/restartedAt"][:19] >= moment[:19]


@pytest.mark.parametrize(
    ("replicas", "strategy"),
    [
        (2, {"type": "Recreate"}),
        (1, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}),
        (3, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "100%"}}),
    ],
)
def test_a_restart_that_is_an_outage_has_to_be_accepted(
    cluster: Cluster, namespace: str, replicas: int, strategy: dict[str, Any]
) -> None:
    made = objects.deployment("web", replicas=replicas, image=GOOD, spec={"strategy": strategy})
    cluster.apply(made, namespace=namespace)
    complete(cluster, namespace)
    time.sleep(1.1)
    result = rollout(cluster, namespace, state="restarted", since="0s")
    assert (result["error"]["kind"], result["error"]["code"]) == ("guard_refused", "outage")
    assert rollout(cluster, namespace, state="restarted", since="0s", accept_outage=True)["verify"]["ok"]


def test_a_restart_that_fails_stays_and_is_told(cluster: Cluster, namespace: str) -> None:
    """The config that the pods need was deleted after they had started."""
    env = {"MODE": {"configMapKeyRef": {"name": "settings", "key": "mode"}}}
    cluster.apply(objects.configmap("settings", mode="a"), namespace=namespace)
    history(cluster, namespace, GOOD, env=env)
    time.sleep(1.1)
    cluster.apply(objects.deployment("web", image=GOOD, env={**env, "FAULT": "crash"}), namespace=namespace)
    result = rollout(cluster, namespace, state="complete")
    cause = next(one for one in result["findings"] if one["id"] == "k8s.rollout.failing")["evidence"]["cause"]
    assert cause["id"] == "k8s.crash_loop"


def test_without_the_right_nothing_is_begun(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, GOOD, BAD)
    kubeconfig = cluster.user(
        "looker",
        [{"apiGroups": ["", "apps"], "resources": ["*"], "verbs": ["get", "list"]}],
        namespace,
    )
    result = rollout(
        cluster, namespace, state="rolled_back", last_healthy=True, kubeconfig=str(kubeconfig), expect_cluster=None
    )
    assert (result["error"]["kind"], result["error"]["code"]) == ("forbidden", "rbac")
    assert "patch deployments" in result["msg"]


def test_a_template_that_was_complete_once_is_no_case_for_a_rollback(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, OLD, GOOD)
    for one in cluster.objects("pod", namespace):
        status = one["status"]
        status["containerStatuses"][0] |= {
            "ready": False,
            "restartCount": 9,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
        }
        conditions = [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "False"}]
        body = {"status": {"containerStatuses": status["containerStatuses"], "conditions": conditions}}
        cluster.patch("pod", one["metadata"]["name"], namespace, body, subresource="status")
    cluster.wait(
        lambda: not cluster.get("deployment", "web", namespace)["status"].get("availableReplicas"), 10, "no pod"
    )
    result = rollout(cluster, namespace, state="rolled_back", last_healthy=True)
    assert (result["error"]["kind"], result["error"]["code"]) == ("precondition", "regressed"), result
    assert ids(result) == ["k8s.rollout.regressed"]
    assert image(cluster, namespace) == GOOD


def test_both_ways_give_the_same(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, GOOD, BAD)
    task = {"namespace": namespace, "name": "web", "state": "rolled_back", "last_healthy": True, **cluster.connection()}
    shipped = play([{"sre.runbooks.k8s_rollout": task, "environment": {"A": "b"}}], check=True).result()
    inside = play([{"sre.runbooks.k8s_rollout": task}], check=True).result()
    assert json.dumps(shipped["plan"]) == json.dumps(inside["plan"])
    assert shipped["changed"] is True
