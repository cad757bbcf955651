# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Defects of the source runbooks that have to do with single pods: each is shown not to be ours."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.lab import kubernetes_faults as faults
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_objects import deployment, pdb
from tests.lab.kubernetes_witness import mark, writes
from tests.support import call

pytestmark = pytest.mark.kubernetes


def test_q2_evidence_has_all_pods_and_more_than_ten_lines_of_each(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """The seeds took a Deployment's logs from one pod, ten lines a pod with a selector, and followed without an end."""
    faults.settle(cluster, namespace, deployment("web", replicas=3))
    for one in faults.pods(cluster, namespace, "web"):
        name = one["metadata"]["name"]
        faults.write_logs(cluster, one, [f"{name} line {number}" for number in range(200)])
    # What they would have had.
    of_one = cluster.kubectl("logs", "-n", namespace, "deployment/web").stdout
    ten_each = cluster.kubectl("logs", "-n", namespace, "-l", "app=web").stdout
    names = [one["metadata"]["name"] for one in faults.pods(cluster, namespace, "web")]
    assert sum(name in of_one for name in names) == 1
    assert len(ten_each.splitlines()) == 30
    for options in ({"name": "web"}, {"selector": "app=web"}):
        started = time.monotonic()
        wanted = {"namespace": namespace, "dest": str(tmp_path), "incident": f"q2-{len(options)}-{next(iter(options))}"}
        result = call("k8s_evidence", **cluster.connection(), **wanted, since="24h", **options)
        assert time.monotonic() - started < 10, "it followed"
        folder = Path(result["evidence"]["path"])
        kept = {name: (folder / "logs" / name / "app.log").read_text().splitlines() for name in names}
        assert {name: len(lines) for name, lines in kept.items()} == dict.fromkeys(names, 200)
        assert all(lines[-1].endswith(f"{name} line 199") for name, lines in kept.items())


def test_q2_evidence_has_what_was_said_before_the_restart(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """A container that crashed has said why before it was restarted, and the seeds read what came after."""
    faults.break_crash(cluster, namespace, "web")
    crashed = [one for one in faults.pods(cluster, namespace, "web") if faults.waiting(one) == "CrashLoopBackOff"]
    result = call(
        "k8s_evidence", **cluster.connection(), namespace=namespace, name="web", dest=str(tmp_path), incident="q2"
    )
    folder = Path(result["evidence"]["path"])
    previous = folder / "logs" / crashed[0]["metadata"]["name"] / "app.previous.log"
    assert "cannot reach db:5432" in previous.read_text()
    assert "cannot reach db" in result["evidence"]["histogram"]["top"][0]["message"]


def test_q11_a_pod_goes_only_as_its_disruption_budget_allows(cluster: Cluster, namespace: str) -> None:
    """The seeds ran kubectl delete pod, which asks no budget."""
    faults.settle(cluster, namespace, deployment("web", replicas=2))
    cluster.apply(pdb("web", minAvailable=2), namespace=namespace)
    counted = "a budget that has counted its pods"
    budget = "poddisruptionbudget"
    cluster.wait(lambda: cluster.get(budget, "web", namespace)["status"].get("currentHealthy") == 2, 20, counted)
    since = mark(cluster)
    wanted = {"namespace": namespace, "name": "web", "min_age": "0s", "max_count": 2}
    refused = call("k8s_pod", **cluster.connection(), **wanted)
    assert (refused["error"]["code"], refused["changed"]) == ("disruption_budget", False)
    asked = call("k8s_pod", **cluster.connection(), **wanted, via="delete")
    assert (asked["error"]["kind"], asked["error"]["code"]) == ("guard_refused", "confirm")
    assert [write for write in writes(cluster, since, namespace=namespace) if write.done] == []
    # What the seeds did: the budget is no obstacle to a deletion.
    name = faults.pods(cluster, namespace, "web")[0]["metadata"]["name"]
    assert cluster.kubectl("delete", "pod", "-n", namespace, name, "--wait=false").returncode == 0
