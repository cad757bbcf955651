# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""workload_scale: numbers of pods that stay, and come back exactly, whoever decides about them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_faults import break_crash, settle
from tests.lab.kubernetes_objects import deployment, hpa, pdb, scaled_object, service, statefulset
from tests.lab.kubernetes_webhook import admission
from tests.lab.kubernetes_witness import fingerprint, mark, writes
from tests.lab.postgres_servers import PostgresServer
from tests.runbooks.harness import Runbook, actions, aimed_at_kubernetes, changes, findings, message

pytestmark = pytest.mark.kubernetes

CPU = {"cpu": "10m"}
MITIGATE = "Mitigate | Bring the workload to its number of pods"
#: What belongs to the workload itself, or moves with it.
OWN = ("deployment/web", "replicaset/web-*", "pod/web-*")


@pytest.fixture
def shop(cluster: Cluster, namespace: str) -> str:
    """A workload among others that look like it: same labels' prefix, an autoscaler, a budget, a StatefulSet."""
    others = (deployment("web-2", replicas=1), hpa("web-2"), pdb("web", minAvailable=1), service("web"))
    stateful = statefulset("web", replicas=1)
    stateful["spec"]["selector"] = {"matchLabels": {"app": "store"}}
    stateful["spec"]["template"]["metadata"]["labels"] = {"app": "store"}
    settle(cluster, namespace, deployment("web", replicas=2, requests=CPU), *others, stateful)
    return namespace


def scale(cluster: Cluster, namespace: str, **declared: Any) -> Runbook:
    wanted = {"k8s_namespace": namespace, "k8s_workload": "web", "k8s_settle": 30, **declared}
    return aimed_at_kubernetes("workload_scale", cluster, **wanted)


def bystanders(cluster: Cluster, namespace: str, *more: str) -> dict[str, Any]:
    return fingerprint(cluster, namespace, (*OWN, "pod/web-2-*", *more))


def pods(cluster: Cluster, namespace: str) -> tuple[int, int]:
    """Wanted, and ready."""
    found = cluster.get("deployment", "web", namespace)
    return found["spec"]["replicas"], found.get("status", {}).get("readyReplicas", 0)


def notes(cluster: Cluster, kind: str, namespace: str) -> list[str]:
    found = cluster.get(kind, "web", namespace)["metadata"].get("annotations") or {}
    return [name for name in found if name.startswith(("sre.runbooks/", "autoscaling.keda.sh/"))]


@pytest.mark.compat
def test_break_and_mend_too_few_pods_under_an_autoscaler(cluster: Cluster, shop: str) -> None:
    """It has no metrics, so it adds none by itself; its lower bound does."""
    cluster.apply(hpa("web", low=1, high=6), namespace=shop)
    before = fingerprint(cluster, shop, OWN)
    result = scale(cluster, shop, k8s_min_replicas=4).run()
    assert result.rc == 0, result.stdout
    assert changes(result) == [MITIGATE]
    assert actions(result) == [f"set bounds of HorizontalPodAutoscaler {shop}/web from 1..6 to 4..6"]
    assert pods(cluster, shop) == (4, 4)
    mine = "horizontalpodautoscaler/web"
    assert bystanders(cluster, shop, mine) == {
        name: value for name, value in before.items() if name != mine and not name.startswith("pod/web-2-")
    }
    restored = scale(cluster, shop, k8s_restored=True).run()
    assert restored.rc == 0, restored.stdout
    after = cluster.get("horizontalpodautoscaler", "web", shop)
    assert (after["spec"], notes(cluster, "horizontalpodautoscaler", shop)) == (before[mine]["spec"], [])


def test_break_and_mend_no_pods_for_a_while_under_keda(cluster: Cluster, shop: str) -> None:
    cluster.apply(scaled_object("web"), namespace=shop)
    before = fingerprint(cluster, shop, OWN)
    assert scale(cluster, shop, k8s_quiesced=True).run().rc == 0
    assert pods(cluster, shop) == (0, 0)
    result = scale(cluster, shop, k8s_quiesced=False).run()
    assert result.rc == 0, result.stdout
    assert pods(cluster, shop) == (2, 2)
    assert notes(cluster, "deployment", shop) == []
    assert fingerprint(cluster, shop, OWN) == before


def test_again(cluster: Cluster, shop: str) -> None:
    for wanted in ({"k8s_min_replicas": 3}, {"k8s_quiesced": True}):
        runbook = scale(cluster, shop, **wanted)
        first = runbook.run()
        assert (first.rc, changes(first)) == (0, [MITIGATE]), first.stdout
        second = runbook.run()
        assert (second.rc, changes(second), second.changed) == (0, [], False), wanted


def test_check_tells_the_truth(cluster: Cluster, shop: str) -> None:
    cluster.apply(scaled_object("web"), namespace=shop)
    runbook = scale(cluster, shop, k8s_min_replicas=5)
    since = mark(cluster)
    checked = runbook.run("--diff", check=True)
    assert checked.rc == 0, checked.stdout
    assert writes(cluster, since, namespace=shop) == []
    done = runbook.run()
    assert actions(checked) == actions(done) != []
    forecast, plan = checked.result(MITIGATE), done.result(MITIGATE)
    assert (forecast["plan"], forecast["diff"]) == (plan["plan"], plan["diff"])
    assert [(write.verb, write.resource, write.done) for write in writes(cluster, since, namespace=shop)] == [
        ("patch", "scaledobjects", True),
        ("patch", "deployments", True),
    ]


def killed_at(cluster: Cluster, namespace: str, resource: str, runbook: Runbook) -> None:
    """Kills a run while the server still thinks about its write to this resource, which is then refused."""
    with admission(cluster, namespace, seconds=0.5, resources=(resource,)) as webhook:

        def asked() -> bool:
            if not any(_is_write(request) for request in webhook.seen):
                return False
            webhook.deny = "whoever asked is dead"
            return True

        runbook.run_and_kill(asked)


def _is_write(request: dict[str, Any]) -> bool:
    return bool(request["userInfo"]["username"] == "runbooks" and not request.get("dryRun"))


def test_killed_half_way(cluster: Cluster, shop: str) -> None:
    """Between the first of two writes and the second: what was there is known to the next run all the same."""
    cluster.apply(scaled_object("web"), namespace=shop)
    before = fingerprint(cluster, shop, OWN)
    down, up = scale(cluster, shop, k8s_quiesced=True), scale(cluster, shop, k8s_quiesced=False)
    killed_at(cluster, shop, "deployments", down)
    assert (len(notes(cluster, "scaledobject", shop)), pods(cluster, shop)) == (2, (2, 2)), "paused, and no more"
    result = down.run()
    assert result.rc == 0, result.stdout
    assert pods(cluster, shop) == (0, 0)
    killed_at(cluster, shop, "scaledobjects", up)
    assert len(notes(cluster, "scaledobject", shop)) == 2, "still paused"
    assert cluster.get("deployment", "web", shop)["spec"]["replicas"] == 2
    result = up.run()
    assert result.rc == 0, result.stdout
    assert pods(cluster, shop) == (2, 2)
    assert fingerprint(cluster, shop, OWN) == before


def test_wrong_cause_the_pods_crash(cluster: Cluster, shop: str) -> None:
    break_crash(cluster, shop, "web")
    before, since = fingerprint(cluster, shop, ("pod/*",)), mark(cluster)
    result = scale(cluster, shop, k8s_min_replicas=6).run()
    assert result.rc != 0
    assert any(one.startswith("k8s.crash_loop") for one in findings(result))
    assert "More pods would not help" in message(result)
    assert (changes(result), writes(cluster, since, namespace=shop)) == ([], [])
    assert fingerprint(cluster, shop, ("pod/*",)) == before


def test_wrong_cause_no_node_has_room(cluster: Cluster, namespace: str) -> None:
    cluster.apply(deployment("web", replicas=1, requests={"cpu": "64"}), namespace=namespace)
    cluster.wait(lambda: _pending(cluster, namespace), 20, "a pod that no node takes")
    since = mark(cluster)
    result = scale(cluster, namespace, k8s_min_replicas=2, k8s_require_room=False).run()
    assert result.rc != 0
    assert "k8s.unschedulable.resources" in findings(result)
    assert "More pods would not help" in message(result)
    assert (changes(result), writes(cluster, since, namespace=namespace)) == ([], [])


def _pending(cluster: Cluster, namespace: str) -> bool:
    conditions = [one for pod in cluster.objects("pod", namespace) for one in pod["status"].get("conditions", ())]
    return any(one.get("reason") == "Unschedulable" for one in conditions)


def test_wrong_cause_the_database_has_no_connections_left(
    cluster: Cluster, shop: str, postgres_single: PostgresServer
) -> None:
    """More pods of what waits for connections would only take the last ones."""
    declared = {
        "postgres_connection": postgres_single.connection("operator"),
        "k8s_connections_per_replica": 10,
        "k8s_connections_role": "app",
        "k8s_settle": 30,
    }
    allowed = int(postgres_single.query("SHOW max_connections")[0][0])
    since = mark(cluster)
    result = scale(cluster, shop, k8s_min_replicas=allowed // 10, **declared).run()
    assert result.rc != 0
    assert "Nothing was changed" in message(result)
    assert f"connections of {allowed}" in message(result)
    assert (changes(result), writes(cluster, since, namespace=shop)) == ([], [])
    assert pods(cluster, shop) == (2, 2)
    fits = scale(cluster, shop, k8s_min_replicas=3, **declared).run()
    assert fits.rc == 0, fits.stdout
    budget = fits.result(MITIGATE)["scale"]["connections"]
    assert (budget["limit"], budget["need"] < allowed, pods(cluster, shop)) == (allowed, True, (3, 3))


def test_without_a_wish_it_only_says_who_decides(cluster: Cluster, shop: str) -> None:
    cluster.apply(hpa("web", low=1, high=6), namespace=shop)
    result = scale(cluster, shop).run()
    assert (result.rc, changes(result)) == (0, []), result.stdout
    seen = result.result("Diagnose | See who decides about the number, and what would change")
    assert (seen["scale"]["owner"], seen["scale"]["max_replicas"]) == ("hpa", 6)
