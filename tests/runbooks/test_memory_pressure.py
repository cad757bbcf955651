# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""memory_pressure: a leak in some pods is told from a limit that is too low and from a greedy neighbour."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab import kubernetes_faults as faults
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_objects import Document, deployment, pdb, service
from tests.lab.kubernetes_stages import NODE_FAULT
from tests.lab.kubernetes_usage import Usage, measured
from tests.lab.kubernetes_witness import fingerprint, mark, writes
from tests.runbooks.harness import Runbook, actions, aimed_at_kubernetes, changes, findings, message

pytestmark = pytest.mark.kubernetes

LIMIT = {"resources": {"limits": {"memory": "100Mi"}, "requests": {"memory": "50Mi"}}}
REPLACE = "Mitigate | Replace pods that use too much, the largest first"
EVIDENCE = "Mitigate | Keep the evidence while it is there"
QUICK = {"k8s_interval": 0.2, "k8s_settle": 20, "k8s_wait_timeout": "20s", "k8s_budget_timeout": "20s"}


@pytest.fixture(scope="module")
def usage(cluster: Cluster) -> Iterator[Usage]:
    """The metrics API of the session's cluster, while this module runs."""
    with measured(cluster) as found:
        yield found


@pytest.fixture
def shop(cluster: Cluster, namespace: str, usage: Usage) -> str:
    """Five pods behind a Service, and somebody else's."""
    usage.memory.clear()
    web = deployment("web", replicas=5, container=LIMIT)
    faults.settle(cluster, namespace, web, service("web"), deployment("other", container=LIMIT))
    return namespace


def pods(cluster: Cluster, namespace: str, name: str = "web") -> list[Document]:
    return sorted(faults.pods(cluster, namespace, name), key=lambda one: str(one["metadata"]["name"]))


def leak(cluster: Cluster, namespace: str, usage: Usage, count: int = 2) -> list[str]:
    """So many pods are just below their limit, each a little nearer than the one before it; their uids."""
    found = [one["metadata"]["uid"] for one in pods(cluster, namespace)[:count]]
    for number, uid in enumerate(found):
        usage.memory[uid] = f"{92 + number}Mi"
    return found


def relieve(cluster: Cluster, namespace: str, tmp_path: Path, **declared: Any) -> Runbook:
    wanted = {"k8s_namespace": namespace, "k8s_workload": "web", "k8s_evidence_dest": str(tmp_path / "evidence")}
    return aimed_at_kubernetes("memory_pressure", cluster, **{**wanted, **QUICK, **declared})


def present(cluster: Cluster, namespace: str) -> set[str]:
    return {one["metadata"]["uid"] for one in pods(cluster, namespace)}


@pytest.mark.compat
def test_break_and_mend(cluster: Cluster, shop: str, usage: Usage, tmp_path: Path) -> None:
    sick, others = leak(cluster, shop, usage), fingerprint(cluster, shop, ["pod/web-*"])
    well = present(cluster, shop) - set(sick)
    since = mark(cluster)
    result = relieve(cluster, shop, tmp_path).run()
    assert result.rc == 0, result.stdout
    assert "k8s.memory.leak" in findings(result)
    assert changes(result) == [EVIDENCE, REPLACE]
    assert not set(sick) & present(cluster, shop)
    assert well <= present(cluster, shop)
    assert len(present(cluster, shop)) == 5
    assert fingerprint(cluster, shop, ["pod/web-*"]) == others
    done = [write for write in writes(cluster, since, namespace=shop) if write.done]
    assert {write.resource for write in done} == {"pods/eviction"}
    removed = result.result(REPLACE)["pods"]["removed"]
    assert [one["uid"] for one in removed] == list(reversed(sick))  # the largest first
    kept = Path(result.result(EVIDENCE)["evidence"]["path"])
    told = json.loads((kept / "usage.json").read_text())
    assert max(one["share"] for one in told.values()) == 0.93  # from before the restart
    assert all((kept / "logs" / one["name"] / "app.log").exists() for one in removed)


def test_again(cluster: Cluster, shop: str, usage: Usage, tmp_path: Path) -> None:
    leak(cluster, shop, usage)
    runbook = relieve(cluster, shop, tmp_path)
    assert runbook.run().rc == 0
    second = runbook.run()
    assert (second.rc, changes(second), second.changed) == (0, [], False)


def test_check_tells_the_truth(cluster: Cluster, shop: str, usage: Usage, tmp_path: Path) -> None:
    leak(cluster, shop, usage)
    runbook = relieve(cluster, shop, tmp_path)
    since = mark(cluster)
    checked = runbook.run(check=True)
    assert checked.rc == 0, checked.stdout
    assert [write for write in writes(cluster, since, namespace=shop) if write.done] == []
    assert not (tmp_path / "evidence").exists()
    done = runbook.run()
    assert (done.rc, actions(checked)) == (0, actions(done))
    for task in (EVIDENCE, REPLACE):
        assert checked.result(task)["plan"] == done.result(task)["plan"]


def test_killed_half_way(cluster: Cluster, shop: str, usage: Usage, tmp_path: Path) -> None:
    sick = leak(cluster, shop, usage, 2)
    # A replacement that takes its time leaves time to kill the run.
    cluster.patch("deployment", "web", shop, {"spec": {"minReadySeconds": 3}})
    cluster.wait(lambda: _settled(cluster, shop), 20, "a Deployment that has seen it")
    runbook = relieve(cluster, shop, tmp_path)
    runbook.run_and_kill(lambda: len(present(cluster, shop) & set(sick)) == 1)
    assert len(present(cluster, shop) & set(sick)) == 1
    result = runbook.run()
    assert result.rc == 0, result.stdout
    assert not set(sick) & present(cluster, shop)
    assert runbook.run().changed is False


@contextmanager
def under_pressure(cluster: Cluster, node: str) -> Iterator[None]:
    """The node's kubelet says that its memory is short."""
    strategic = {"content": "application/strategic-merge-patch+json", "subresource": "status"}

    def tell(status: str) -> None:
        condition = {"type": "MemoryPressure", "status": status, "reason": "lab"}
        cluster.patch("node", node, None, {"status": {"conditions": [condition]}}, **strategic)

    cluster.patch("node", node, None, {"metadata": {"annotations": {NODE_FAULT: "pressure"}}})
    tell("True")
    try:
        yield
    finally:
        tell("False")
        cluster.patch("node", node, None, {"metadata": {"annotations": {NODE_FAULT: None}}})


def _settled(cluster: Cluster, namespace: str) -> bool:
    sets = cluster.objects("replicaset", namespace, "app=web")
    return any(one["spec"].get("minReadySeconds") == 3 for one in sets)


def test_wrong_cause_a_limit_that_is_too_low(cluster: Cluster, shop: str, usage: Usage, tmp_path: Path) -> None:
    """All pods grow alike: restarts would only start it again."""
    leak(cluster, shop, usage, 5)
    before = fingerprint(cluster, shop)
    result = relieve(cluster, shop, tmp_path).run()
    assert result.rc != 0
    assert "k8s.memory.limit_low" in findings(result)
    assert "workload_resources" in message(result)
    assert (changes(result), fingerprint(cluster, shop)) == ([], before)
    assert not (tmp_path / "evidence").exists()


def test_wrong_cause_out_of_memory_right_after_the_start(
    cluster: Cluster, namespace: str, usage: Usage, tmp_path: Path
) -> None:
    usage.memory.clear()
    faults.break_crash(cluster, namespace, "web", fault="oom")
    result = relieve(cluster, namespace, tmp_path).run()
    assert result.rc != 0
    assert {"k8s.memory.limit_low", "k8s.oom_killed"} <= set(findings(result))
    assert "workload_resources" in message(result)
    assert changes(result) == []


def test_wrong_cause_a_greedy_neighbour(cluster: Cluster, shop: str, usage: Usage, tmp_path: Path) -> None:
    """The node is short, and not because of this workload."""
    web = pods(cluster, shop)[0]
    node = web["spec"]["nodeName"]
    hog = {"nodeName": node, "container": {"resources": {"requests": {"memory": "10Mi"}}}}
    faults.settle(cluster, shop, deployment("hog", replicas=1, **hog))
    usage.memory[pods(cluster, shop, "hog")[0]["metadata"]["uid"]] = "12Gi"
    name = pods(cluster, shop, "hog")[0]["metadata"]["name"]
    with under_pressure(cluster, node):
        result = relieve(cluster, shop, tmp_path).run()
    assert result.rc != 0
    assert "k8s.memory.neighbour" in findings(result)
    assert f"{shop}/{name}" in message(result)
    assert changes(result) == []


def test_wrong_cause_nobody_has_measured(cluster: Cluster, shop: str, usage: Usage, tmp_path: Path) -> None:
    usage.default = ""
    try:
        result = relieve(cluster, shop, tmp_path).run()
    finally:
        usage.default = "20Mi"
    assert result.rc != 0
    assert "k8s.usage.unseen" in findings(result)
    assert "metrics-server" in message(result)
    assert changes(result) == []


def test_a_budget_that_lets_none_go_is_told_before_the_first(
    cluster: Cluster, shop: str, usage: Usage, tmp_path: Path
) -> None:
    """K5: minAvailable is the number of pods."""
    sick = leak(cluster, shop, usage)
    cluster.apply(pdb("web", minAvailable=5), namespace=shop)
    cluster.wait(lambda: _healthy(cluster, shop) == 5, 20, "a budget that has counted")
    since = mark(cluster)
    result = relieve(cluster, shop, tmp_path).run()
    assert result.rc != 0
    assert "wants 5 of 5 pods healthy" in message(result)
    assert [write for write in writes(cluster, since, namespace=shop) if write.done] == []
    assert set(sick) <= present(cluster, shop)


def test_never_below_the_budget(cluster: Cluster, shop: str, usage: Usage, tmp_path: Path) -> None:
    """K5: one may be missing, and two have to go."""
    leak(cluster, shop, usage)
    cluster.apply(pdb("web", minAvailable=4), namespace=shop)
    cluster.wait(lambda: _healthy(cluster, shop) == 5, 20, "a budget that has counted")
    seen: list[int] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.append(sum(map(_ready, pods(cluster, shop))))
            time.sleep(0.02)

    watcher = threading.Thread(target=look)
    watcher.start()
    result = relieve(cluster, shop, tmp_path).run()
    stop.set()
    watcher.join()
    assert result.rc == 0, result.stdout
    assert min(seen) >= 4


def test_the_only_pod_goes_only_when_that_is_said(
    cluster: Cluster, namespace: str, usage: Usage, tmp_path: Path
) -> None:
    usage.memory.clear()
    faults.settle(cluster, namespace, deployment("web", replicas=1, container=LIMIT))
    leak(cluster, namespace, usage, 1)
    refused = relieve(cluster, namespace, tmp_path).run()
    assert (refused.rc != 0, changes(refused)) == (True, [EVIDENCE])
    assert "allow_outage" in message(refused)
    accepted = relieve(cluster, namespace, tmp_path, k8s_accept_outage=True).run()
    assert (accepted.rc, changes(accepted)) == (0, [REPLACE])  # the evidence was kept already


def _healthy(cluster: Cluster, namespace: str) -> int:
    status = cluster.get("poddisruptionbudget", "web", namespace).get("status", {})
    return int(status.get("currentHealthy", 0))


def _ready(one: Document) -> bool:
    conditions = one.get("status", {}).get("conditions", ())
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)
