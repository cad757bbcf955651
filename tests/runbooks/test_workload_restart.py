# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""workload_restart: pods that are too old, restarted once and never all at a time."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.lab import kubernetes_objects as objects
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_witness import mark, writes
from tests.runbooks.harness import Runbook, actions, changes, findings, message
from tests.runbooks.rollouts import (
    BAD,
    GOOD,
    ONE_GOES,
    add_bystanders,
    bystanders,
    history,
    restarted_at,
    runbook,
    state,
    uids,
)

pytestmark = pytest.mark.kubernetes

RESTART = "Mitigate | Restart the pods as the strategy of the workload allows"


def restart(cluster: Cluster, namespace: str, since: str, **declared: Any) -> Runbook:
    return runbook("workload_restart", cluster, namespace, k8s_since=since, **declared)


def a_moment_later() -> str:
    """A moment after all pods that there are: the API server counts whole seconds."""
    time.sleep(1.1)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@pytest.mark.compat
def test_break_and_mend(cluster: Cluster, namespace: str) -> None:
    add_bystanders(cluster, namespace)
    history(cluster, namespace, GOOD)
    before, old, moment = bystanders(cluster, namespace), uids(cluster, namespace), a_moment_later()
    since = mark(cluster)
    result = restart(cluster, namespace, moment).run()
    assert result.rc == 0, result.stdout
    assert "k8s.rollout.restart_due" in findings(result)
    assert state(cluster, namespace) == "complete"
    assert not old & uids(cluster, namespace)
    done = [(one.verb, one.resource, one.name) for one in writes(cluster, since, namespace=namespace)]
    assert done == [("patch", "deployments", "web")]
    assert bystanders(cluster, namespace) == before


def test_again(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, GOOD)
    moment = a_moment_later()
    assert restart(cluster, namespace, moment).run().rc == 0
    first = restarted_at(cluster, namespace)
    second = restart(cluster, namespace, moment).run()
    assert (second.rc, changes(second), second.changed) == (0, [], False)
    assert first == restarted_at(cluster, namespace) != ""


def test_check_tells_the_truth(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, GOOD)
    moment, since = a_moment_later(), mark(cluster)
    checked = restart(cluster, namespace, moment).run(check=True)
    assert (checked.rc, writes(cluster, since, namespace=namespace)) == (0, []), checked.stdout
    foreseen = checked.result(RESTART)["plan"]
    done = restart(cluster, namespace, moment, approved_plan=foreseen["id"]).run()
    assert done.rc == 0, done.stdout
    assert (actions(done), done.result(RESTART)["plan"]) == (actions(checked), foreseen)


def test_killed_half_way(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, GOOD, env={"FAULT": "slow"}, spec=ONE_GOES)
    moment = a_moment_later()
    restart(cluster, namespace, moment).run_and_kill(lambda: _updated(cluster, namespace) == 1)
    first = restarted_at(cluster, namespace)
    assert (first != "", _updated(cluster, namespace)) == (True, 1), "it was killed too late"
    result = restart(cluster, namespace, moment).run()
    assert (result.rc, changes(result)) == (0, []), result.stdout
    assert (restarted_at(cluster, namespace), state(cluster, namespace)) == (first, "complete")


def test_wrong_cause_an_image_that_is_not_there(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, GOOD, BAD)
    moment, since = a_moment_later(), mark(cluster)
    result = restart(cluster, namespace, moment).run()
    assert (result.rc != 0, changes(result), writes(cluster, since, namespace=namespace)) == (True, [], [])
    assert "k8s.image_pull" in message(result)


def test_wrong_cause_config_that_is_not_there(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, GOOD, env={"FAULT": "config"})
    since = mark(cluster)
    result = restart(cluster, namespace, a_moment_later()).run()
    assert (result.rc != 0, changes(result), writes(cluster, since, namespace=namespace)) == (True, [], [])
    assert "k8s.config_missing" in message(result)


def test_wrong_cause_no_room(cluster: Cluster, namespace: str) -> None:
    cluster.apply(objects.deployment("web", image=GOOD, requests={"cpu": "900"}), namespace=namespace)
    cluster.wait(lambda: any(_unscheduled(one) for one in cluster.objects("pod", namespace)), 10, "a pod without room")
    since = mark(cluster)
    result = restart(cluster, namespace, a_moment_later()).run()
    assert (result.rc != 0, changes(result), writes(cluster, since, namespace=namespace)) == (True, [], [])


def test_wrong_cause_a_restart_that_would_be_an_outage(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, GOOD, spec={"strategy": {"type": "Recreate"}})
    moment, since = a_moment_later(), mark(cluster)
    result = restart(cluster, namespace, moment).run()
    assert (result.rc != 0, changes(result), writes(cluster, since, namespace=namespace)) == (True, [], [])
    assert "accept_outage" in message(result)


def _updated(cluster: Cluster, namespace: str) -> int:
    """Pods that have the newest template."""
    return int(cluster.get("deployment", "web", namespace)["status"].get("updatedReplicas", 0))


def _unscheduled(pod: dict[str, Any]) -> bool:
    found = pod["status"].get("conditions", [])
    return any(one["type"] == "PodScheduled" and one["status"] == "False" for one in found)
