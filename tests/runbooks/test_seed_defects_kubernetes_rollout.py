# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the prose runbooks got wrong about rollouts, each shown not to happen here."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tests.lab import kubernetes_objects as objects
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_witness import mark, writes
from tests.runbooks.harness import changes, findings, message
from tests.runbooks.rollouts import BAD, GOOD, OLD, ONE_GOES, history, image, runbook, state, uids

pytestmark = pytest.mark.kubernetes


def moment() -> str:
    time.sleep(1.1)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Availability:
    """Reads the number of available pods of C(web) until it is left, and keeps the lowest."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.lowest = 10**6
        self._look = lambda: cluster.get("deployment", "web", namespace)["status"].get("availableReplicas", 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.is_set():
            self.lowest = min(self.lowest, self._look())
            time.sleep(0.02)

    def __enter__(self) -> Availability:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join(timeout=10)


def test_q1_a_restart_is_no_outage_and_keeps_the_history(cluster: Cluster, namespace: str) -> None:
    """The seed deleted the Deployment and applied it again: no pod for a while, no history, and all drift lost."""
    history(cluster, namespace, OLD, GOOD, spec=ONE_GOES)
    cluster.patch("deployment", "web", namespace, {"spec": {"replicas": 3}})  # drift that an autoscaler made
    assert state(cluster, namespace) == "complete"
    uid, since = cluster.get("deployment", "web", namespace)["metadata"]["uid"], mark(cluster)
    with Availability(cluster, namespace) as seen:
        result = runbook("workload_restart", cluster, namespace, k8s_since=moment()).run()
    assert result.rc == 0, result.stdout
    assert 2 <= seen.lowest <= 3
    assert not [one for one in writes(cluster, since, namespace=namespace) if one.verb != "patch"]
    after = cluster.get("deployment", "web", namespace)
    assert (after["metadata"]["uid"], after["spec"]["replicas"]) == (uid, 3)
    back = runbook("deployment_rollback", cluster, namespace, k8s_to_revision=1).run()
    assert (back.rc, image(cluster, namespace)) == (0, OLD)


def test_q5_a_rollback_goes_to_what_was_healthy_not_to_a_fixed_or_the_previous_number(
    cluster: Cluster, namespace: str
) -> None:
    """The seed undid blindly, or to a number it had been told: here the revision before is as broken as the newest."""
    assert history(cluster, namespace, OLD, GOOD, BAD, f"{BAD}-too") == "stuck"
    result = runbook("deployment_rollback", cluster, namespace).run()
    assert result.rc == 0, result.stdout
    assert (state(cluster, namespace), image(cluster, namespace)) == ("complete", GOOD)


def test_q5_what_git_would_put_back_is_not_undone_unseen(cluster: Cluster, namespace: str) -> None:
    """The seed ignored who owns the manifest: Argo CD would have rolled the failing release out again."""
    for name in (GOOD, BAD):
        cluster.apply(objects.owned_by(objects.deployment("web", image=name), "argo"), namespace=namespace)
        ended = state(cluster, namespace)
    assert ended == "stuck"
    since = mark(cluster)
    result = runbook("deployment_rollback", cluster, namespace).run()
    assert (result.rc != 0, changes(result), writes(cluster, since, namespace=namespace)) == (True, [], [])
    assert "argocd" in message(result)
    accepted = runbook("deployment_rollback", cluster, namespace, k8s_accept_drift=True).run()
    assert (accepted.rc, image(cluster, namespace)) == (0, GOOD)


def test_q5_config_that_is_newer_than_the_old_template_is_told(cluster: Cluster, namespace: str) -> None:
    """The seed said nothing of what a rollback does not bring back: config, and what a migration changed."""
    needs: dict[str, Any] = {"SCHEMA": {"configMapKeyRef": {"name": "settings", "key": "schema"}}}
    cluster.apply(objects.configmap("settings", schema="1"), namespace=namespace)
    history(cluster, namespace, GOOD, env=needs)
    time.sleep(1.1)  # the API server counts whole seconds
    cluster.apply(objects.configmap("settings", schema="2"), namespace=namespace)
    history(cluster, namespace, BAD, env=needs)
    result = runbook("deployment_rollback", cluster, namespace).run()
    assert result.rc == 0, result.stdout
    assert "k8s.rollback.config_changed" in findings(result)


def test_q11_a_restart_deletes_no_pod_and_keeps_to_the_budget(cluster: Cluster, namespace: str) -> None:
    """The seed deleted pods by label: that asks no PodDisruptionBudget, and takes all of them at a time."""
    cluster.apply(objects.pdb("web", minAvailable=2), namespace=namespace)
    history(cluster, namespace, GOOD, replicas=3, spec=ONE_GOES)
    old, since = uids(cluster, namespace), mark(cluster)
    with Availability(cluster, namespace) as seen:
        result = runbook("workload_restart", cluster, namespace, k8s_since=moment()).run()
    assert result.rc == 0, result.stdout
    assert 2 <= seen.lowest <= 3
    assert not old & uids(cluster, namespace)
    assert [one.resource for one in writes(cluster, since, namespace=namespace)] == ["deployments"]
