# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What prose runbooks for a service that is down get wrong, and that it does not happen here."""

from __future__ import annotations

import pytest

from tests.lab import kubernetes_faults as faults
from tests.lab import kubernetes_objects as make
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_service import serving
from tests.lab.kubernetes_witness import mark, writes
from tests.runbooks.harness import aimed_at_kubernetes, changes, message

pytestmark = pytest.mark.kubernetes


def test_g1_no_action_without_evidence_limit_stop_rule_and_proof(cluster: Cluster, namespace: str) -> None:
    """Restarted first, then scaled, then rolled back, and looked at the logs afterwards; nothing said when to stop."""
    faults.settle(cluster, namespace, make.deployment("app", replicas=2))
    with serving(cluster, namespace, hangs_always=True) as service:
        runbook = aimed_at_kubernetes(
            "api_down",
            cluster,
            k8s_namespace=namespace,
            k8s_workload="app",
            api_url=service.url,
            api_attempts=2,
            api_interval=0.05,
            api_op_timeout=0.3,
            api_settle=2,
            api_since="0",
            api_max_replicas=10,
        )
        since = mark(cluster)
        result = runbook.run()
        written = [write for write in writes(cluster, since, namespace=namespace) if write.done]
    names = [entry["task"] for entry in result.tasks]
    rung = "Mitigate | Restart its pods, one after the other"
    # Evidence first, and the remedy that it speaks for; one object, written once.
    assert names.index("Diagnose | Choose the remedy") < names.index(rung)
    assert changes(result) == [rung]
    assert [(write.verb, write.resource, write.name) for write in written] == [("patch", "deployments", "app")]
    done = result.result(rung)
    assert (done["plan"]["count"], done["verify"]["ok"], bool(done["undo"][0]["words"])) == (1, True, True)
    # It did not help, which is said: no second remedy is tried, and no success is claimed.
    assert result.rc != 0
    assert "healthy answers in a row" in message(result)
    assert cluster.get("deployment", "app", namespace)["spec"]["replicas"] == 2
