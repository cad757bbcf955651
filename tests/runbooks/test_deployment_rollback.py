# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""deployment_rollback: a release that does not start, made for real, and what only looks like one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab import kubernetes_objects as objects
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_witness import mark, writes
from tests.runbooks.harness import Runbook, actions, changes, findings, message
from tests.runbooks.rollouts import (
    BAD,
    GOOD,
    OLD,
    ONE_GOES,
    add_bystanders,
    break_pods,
    bystanders,
    history,
    image,
    runbook,
    state,
    template,
)

pytestmark = pytest.mark.kubernetes

BACK = "Mitigate | Go back to the template that was healthy"


def roll_back(cluster: Cluster, namespace: str, **declared: Any) -> Runbook:
    return runbook("deployment_rollback", cluster, namespace, **declared)


@pytest.mark.compat
def test_break_and_mend(cluster: Cluster, namespace: str) -> None:
    add_bystanders(cluster, namespace)
    history(cluster, namespace, OLD, GOOD)
    healthy = template(cluster, namespace)
    cluster.patch("deployment", "web", namespace, {"metadata": {"annotations": {"team": "shop"}}})
    assert history(cluster, namespace, BAD) == "stuck"
    before, since = bystanders(cluster, namespace), mark(cluster)
    result = roll_back(cluster, namespace).run()
    assert result.rc == 0, result.stdout
    assert state(cluster, namespace) == "complete"
    assert template(cluster, namespace) == healthy
    assert cluster.get("deployment", "web", namespace)["metadata"]["annotations"]["team"] == "shop"
    done = [(one.verb, one.resource, one.name) for one in writes(cluster, since, namespace=namespace)]
    assert done == [("patch", "deployments", "web")]
    assert bystanders(cluster, namespace) == before
    found = findings(result)
    assert "k8s.rollout.stuck" in found
    assert any(name.startswith("k8s.image_pull") for name in found)


def test_again(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, OLD, GOOD, BAD)
    assert roll_back(cluster, namespace).run().rc == 0
    second = roll_back(cluster, namespace).run()
    assert (second.rc, changes(second), second.changed) == (0, [], False)
    assert image(cluster, namespace) == GOOD


def test_again_with_a_number_that_is_no_longer_there(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, OLD, GOOD)
    first = roll_back(cluster, namespace, k8s_to_revision=1).run()
    second = roll_back(cluster, namespace, k8s_to_revision=1).run()
    assert (first.rc, changes(first)) == (0, [BACK])
    assert (second.rc, changes(second), image(cluster, namespace)) == (0, [], OLD)


def test_check_tells_the_truth(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, GOOD, BAD)
    since = mark(cluster)
    checked = roll_back(cluster, namespace).run("--diff", check=True)
    assert (checked.rc, writes(cluster, since, namespace=namespace)) == (0, []), checked.stdout
    foreseen = checked.result(BACK)
    done = roll_back(cluster, namespace, approved_plan=foreseen["plan"]["id"]).run()
    assert done.rc == 0, done.stdout
    assert actions(done) == actions(checked)
    assert (done.result(BACK)["plan"], done.result(BACK)["diff"]) == (foreseen["plan"], foreseen["diff"])


def test_killed_half_way(cluster: Cluster, namespace: str) -> None:
    slow = {"env": {"FAULT": "slow"}, "spec": ONE_GOES}
    history(cluster, namespace, GOOD, **slow)
    assert history(cluster, namespace, BAD, **slow) == "stuck"
    roll_back(cluster, namespace).run_and_kill(lambda: image(cluster, namespace) == GOOD)
    status = cluster.get("deployment", "web", namespace)["status"]
    assert status.get("availableReplicas", 0) < 2, "it was killed too late to leave an incident"
    generation = cluster.get("deployment", "web", namespace)["metadata"]["generation"]
    result = roll_back(cluster, namespace).run()
    assert (result.rc, changes(result)) == (0, []), result.stdout
    assert (state(cluster, namespace), image(cluster, namespace)) == ("complete", GOOD)
    assert cluster.get("deployment", "web", namespace)["metadata"]["generation"] == generation


def test_killed_half_way_between_template_and_broken_pod(cluster: Cluster, namespace: str) -> None:
    """An ordered StatefulSet waits for its broken pod for ever: the next run has to free it."""
    for name in (GOOD, BAD, GOOD):  # the last one is all that a run did before it was killed
        cluster.apply(objects.statefulset("web", replicas=2, image=name), namespace=namespace)
        ended = state(cluster, namespace, "StatefulSet")
    assert ended == "stuck"
    result = roll_back(cluster, namespace, k8s_workload_kind="StatefulSet").run()
    assert result.rc == 0, result.stdout
    assert state(cluster, namespace, "StatefulSet") == "complete"


def test_wrong_cause_every_template_fails_alike(cluster: Cluster, namespace: str) -> None:
    for mode in ("a", "b"):
        ended = history(cluster, namespace, GOOD, env={"FAULT": "crash", "MODE": mode})
    assert ended == "all_fail"
    since = mark(cluster)
    result = roll_back(cluster, namespace).run()
    assert (result.rc != 0, changes(result), writes(cluster, since, namespace=namespace)) == (True, [], [])
    assert "k8s.rollout.all_fail" in findings(result)
    assert "k8s.crash_loop" in message(result)


def test_wrong_cause_the_template_worked_before(cluster: Cluster, namespace: str) -> None:
    history(cluster, namespace, OLD, GOOD)
    break_pods(cluster, namespace)
    since = mark(cluster)
    result = roll_back(cluster, namespace).run()
    assert (result.rc != 0, changes(result), writes(cluster, since, namespace=namespace)) == (True, [], [])
    assert "k8s.rollout.regressed" in findings(result)


def test_wrong_cause_no_room_for_either(cluster: Cluster, namespace: str) -> None:
    short = {"spec": {"progressDeadlineSeconds": 2}}
    history(cluster, namespace, GOOD, **short)
    cluster.apply(objects.quota("few", pods=2), namespace=namespace)
    cluster.wait(lambda: cluster.get("resourcequota", "few", namespace)["status"].get("used"), 10, "a quota at work")
    assert history(cluster, namespace, "registry.example/app:4", **short) == "no_room"
    result = roll_back(cluster, namespace).run()
    assert (result.rc != 0, changes(result)) == (True, [])
    assert "k8s.rollout.no_room" in findings(result)
