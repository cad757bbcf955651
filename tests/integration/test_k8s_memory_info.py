# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""k8s_memory_info on a real API server: against the test's own metrics, and once against the real metrics-server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab import kubernetes_faults as faults
from tests.lab.kubernetes_cluster import Cluster, start_cluster
from tests.lab.kubernetes_objects import deployment
from tests.lab.kubernetes_usage import measured
from tests.lab.kubernetes_witness import mark, writes
from tests.lab.world import Lab
from tests.support import call, play

pytestmark = pytest.mark.kubernetes

LIMIT = {"resources": {"limits": {"memory": "100Mi"}}}


def look(cluster: Cluster, namespace: str, **options: Any) -> dict[str, Any]:
    return call("k8s_memory_info", **cluster.connection(), namespace=namespace, name="web", **options)


def ids(result: dict[str, Any]) -> list[str]:
    return [found["id"] for found in result["findings"]]


def test_tells_a_leak_from_a_limit_that_is_too_low(cluster: Cluster, namespace: str) -> None:
    faults.settle(cluster, namespace, deployment("web", replicas=3, container=LIMIT))
    uids = [one["metadata"]["uid"] for one in faults.pods(cluster, namespace, "web")]
    since = mark(cluster)
    with measured(cluster) as usage:
        fine = look(cluster, namespace)
        assert (fine["memory"]["verdict"], ids(fine), fine["changed"]) == ("fine", [], False)
        usage.memory[uids[0]] = "91Mi"
        leak = look(cluster, namespace)
        assert (leak["memory"]["verdict"], ids(leak)) == ("leak", ["k8s.memory.leak"])
        assert (len(leak["memory"]["sick"]), len(leak["memory"]["well"]), leak["memory"]["largest"]) == (1, 2, 0.91)
        assert look(cluster, namespace, threshold="95%")["memory"]["verdict"] == "fine"
        assert look(cluster, namespace, threshold="50mb")["memory"]["verdict"] == "leak"
        usage.memory[uids[1]] = "95Mi"
        assert look(cluster, namespace)["memory"]["verdict"] == "limit_low"
        usage.memory.clear()
        usage.default = ""
        assert look(cluster, namespace)["memory"]["verdict"] == "unseen"
        blind = look(cluster, namespace, clear_of=["k8s.memory.*"], timeout=0.1)
        assert blind["error"]["kind"] == "verify_failed"
    assert [write for write in writes(cluster, since, namespace=namespace) if write.done] == []


def test_without_a_metrics_api(cluster: Cluster, namespace: str) -> None:
    faults.settle(cluster, namespace, deployment("web", container=LIMIT))
    result = look(cluster, namespace)
    assert (result["memory"]["verdict"], ids(result)) == ("unseen", ["k8s.usage.unseen"])
    assert "not_found" in result["findings"][0]["evidence"]["wrong"]


def test_shipped_and_in_process_alike(cluster: Cluster, namespace: str) -> None:
    faults.settle(cluster, namespace, deployment("web", container=LIMIT))
    task = {"sre.runbooks.k8s_memory_info": {"namespace": namespace, "name": "web", **cluster.connection()}}
    ran = play([{"name": "here", **task}, {"name": "shipped", "environment": {"X": "y"}, **task}])
    here, shipped = ran.result("here"), ran.result("shipped")
    assert (ran.rc, "invocation" in shipped) == (0, True)
    for name in ("changed", "memory", "findings"):
        assert here[name] == shipped[name], name


@pytest.mark.slow
def test_with_the_real_metrics_server(kubernetes_lab: Lab) -> None:
    """Half a minute: it measures every ten seconds, and twice before it tells."""
    cluster = kubernetes_lab.start(start_cluster)
    namespace = cluster.new_namespace()
    faults.settle(cluster, namespace, deployment("web", replicas=3, container=LIMIT))
    found = faults.pods(cluster, namespace, "web")
    for one, memory in zip(found, ("95Mi", "20Mi", "21Mi"), strict=True):
        faults.usage(cluster, one, memory=memory)
    cluster.start_metrics()
    cluster.wait(lambda: look(cluster, namespace)["memory"]["verdict"] == "leak", 90, "a leak that is measured")
    options = {"namespace": namespace, "name": "web", "min_memory": "90%", "wait_timeout": "20s"}
    done = call("k8s_pod", **cluster.connection(), **options)
    assert [one["name"] for one in done["pods"]["removed"]] == [found[0]["metadata"]["name"]]
