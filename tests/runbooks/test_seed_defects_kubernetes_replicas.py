# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What prose runbooks get wrong about numbers of pods, each shown not to happen here. The ids are the catalogue's."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_faults import settle
from tests.lab.kubernetes_objects import deployment, hpa
from tests.lab.kubernetes_witness import mark, writes
from tests.lab.postgres_faults import idle_sessions
from tests.lab.postgres_servers import PostgresServer, start_postgres
from tests.lab.world import Lab
from tests.runbooks.harness import Runbook, aimed_at_kubernetes, changes, message

pytestmark = pytest.mark.kubernetes


def scale(cluster: Cluster, namespace: str, **declared: Any) -> Runbook:
    wanted = {"k8s_namespace": namespace, "k8s_workload": "web", "k8s_settle": 30, **declared}
    return aimed_at_kubernetes("workload_scale", cluster, **wanted)


def wanted(cluster: Cluster, namespace: str) -> int:
    return int(cluster.get("deployment", "web", namespace)["spec"]["replicas"])


def test_q4_a_constant_takes_no_pods_away(cluster: Cluster, namespace: str) -> None:
    """C(kubectl scale --replicas=5), meant to help, halves a workload that has grown to ten."""
    settle(cluster, namespace, deployment("web", replicas=10))
    since = mark(cluster)
    result = scale(cluster, namespace, k8s_min_replicas=5).run()
    assert (result.rc, changes(result), wanted(cluster, namespace)) == (0, [], 10)
    refused = scale(cluster, namespace, k8s_replicas=4).run()
    assert refused.rc != 0
    assert "takes 6 of 10 pods (60%) away" in message(refused)
    assert (wanted(cluster, namespace), writes(cluster, since, namespace=namespace)) == (10, [])


def test_q4_an_autoscaler_does_not_take_it_back(cluster: Cluster, namespace: str) -> None:
    """The number that C(kubectl scale) writes lasts until the autoscaler looks; its own bounds last until restored."""
    settle(cluster, namespace, deployment("web", replicas=2, requests={"cpu": "10m"}), hpa("web", low=2, high=4))
    spec = cluster.get("horizontalpodautoscaler", "web", namespace)["spec"]
    assert cluster.kubectl("scale", "deployment/web", "--replicas=6", "-n", namespace).returncode == 0
    cluster.wait(lambda: wanted(cluster, namespace) == 4, 30, "an autoscaler that takes it back")
    cluster.kubectl("scale", "deployment/web", "--replicas=2", "-n", namespace)
    refused = scale(cluster, namespace, k8s_min_replicas=6).run()
    assert "change_max=true" in message(refused)
    result = scale(cluster, namespace, k8s_min_replicas=6, k8s_change_max=True).run()
    assert result.rc == 0, result.stdout
    time.sleep(2)  # several of the autoscaler's looks
    assert wanted(cluster, namespace) == 6
    assert scale(cluster, namespace, k8s_restored=True).run().rc == 0
    assert cluster.get("horizontalpodautoscaler", "web", namespace)["spec"] == spec
    cluster.wait(lambda: wanted(cluster, namespace) == 4, 30, "the number within its old bounds")


@pytest.fixture
def database(postgres_lab: Lab) -> PostgresServer:
    return postgres_lab.start(start_postgres, config={"max_connections": "60"})


def test_p4_workers_are_not_scaled_into_an_exhausted_database(
    cluster: Cluster, namespace: str, database: PostgresServer
) -> None:
    """Every replica adds a pool: ten workers more would take the connections that the others wait for."""
    settle(cluster, namespace, deployment("web", replicas=2))
    declared = {
        "postgres_connection": database.connection(),
        "k8s_connections_per_replica": 8,
        "k8s_connections_role": "app",
    }
    since = mark(cluster)
    with idle_sessions(database, 12, role="app"), idle_sessions(database, 20, role="monitor"):
        # 60 - 3 reserved - 20 of others is room for four pools; a surge of one or two included.
        result = scale(cluster, namespace, k8s_min_replicas=4, **declared).run()
        assert result.rc != 0
        assert "(4 pods + 1 of a rollout's surge) x 8 + 3 reserved + 20 of others = 63 connections of 60" in message(
            result
        )
        assert writes(cluster, since, namespace=namespace) == []
        fits = scale(cluster, namespace, k8s_min_replicas=3, **declared).run()
        assert fits.rc == 0, fits.stdout
    assert wanted(cluster, namespace) == 3
