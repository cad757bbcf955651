# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""k8s_rollout_info on a real API server: each state of a rollout, and that looking changes nothing."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.lab import kubernetes_objects as objects
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_witness import mark, writes
from tests.support import call

pytestmark = pytest.mark.kubernetes

GOOD, BAD = "registry.example/app:2", "registry.example/app:3-missing"


def look(cluster: Cluster, namespace: str, **options: Any) -> dict[str, Any]:
    return call("k8s_rollout_info", namespace=namespace, name="web", **{**cluster.connection(), **options})


def decided(cluster: Cluster, namespace: str) -> dict[str, Any]:
    """Once it is neither complete nor going on."""
    look(cluster, namespace, clear_of=["k8s.rollout.in_progress"], consecutive=1, timeout=20, strict=False)
    return look(cluster, namespace)


def ids(result: dict[str, Any]) -> list[str]:
    return [finding["id"] for finding in result["findings"]]


def test_tells_complete_from_stuck_and_writes_nothing(cluster: Cluster, namespace: str) -> None:
    since = mark(cluster)
    cluster.apply(objects.deployment("web", image=GOOD), namespace=namespace)
    fine = decided(cluster, namespace)
    assert (fine["rollout"]["state"], fine["rollout"]["restartable"], ids(fine)) == ("complete", True, [])
    cluster.apply(objects.deployment("web", image=BAD), namespace=namespace)
    stuck = decided(cluster, namespace)
    assert (stuck["rollout"]["state"], stuck["rollout"]["target"], stuck["changed"]) == ("stuck", 1, False)
    assert (stuck["rollout"]["restartable"], ids(stuck)) == (False, ["k8s.rollout.stuck"])
    assert [(one["revision"], one["current"]) for one in stuck["revisions"]] == [(2, True), (1, False)]
    assert writes(cluster, since, namespace=namespace) == []


def test_pods_of_every_template_that_fail_are_no_case_for_a_rollback(cluster: Cluster, namespace: str) -> None:
    for mode in ("a", "b"):
        cluster.apply(objects.deployment("web", image=GOOD, env={"FAULT": "crash", "MODE": mode}), namespace=namespace)
        found = decided(cluster, namespace)
    assert (found["rollout"]["state"], found["rollout"]["target"]) == ("all_fail", 0)
    assert ids(found) == ["k8s.rollout.all_fail"]


def test_a_lack_of_room_is_no_case_for_a_rollback_unless_the_template_asks_for_more(
    cluster: Cluster, namespace: str
) -> None:
    spec = {"progressDeadlineSeconds": 2}
    cluster.apply(objects.deployment("web", image=GOOD, spec=spec), namespace=namespace)
    decided(cluster, namespace)
    cluster.apply(objects.quota("few", pods=2), namespace=namespace)
    cluster.wait(lambda: cluster.get("resourcequota", "few", namespace)["status"].get("used"), 10, "a quota at work")
    cluster.apply(objects.deployment("web", image="registry.example/app:4", spec=spec), namespace=namespace)
    found = decided(cluster, namespace)
    assert (found["rollout"]["state"], ids(found)) == ("no_room", ["k8s.rollout.no_room"])
    assert "quota" in found["findings"][0]["evidence"]["held"]
    greedy = objects.deployment("web", image="registry.example/app:4", spec=spec, requests={"cpu": "900"})
    cluster.delete("resourcequota", "few", namespace)
    cluster.apply(greedy, namespace=namespace)
    found = decided(cluster, namespace)
    assert (found["rollout"]["state"], found["rollout"]["target"] > 0) == ("stuck", True), found


def test_tells_when_a_restart_is_due(cluster: Cluster, namespace: str) -> None:
    cluster.apply(objects.deployment("web", image=GOOD), namespace=namespace)
    decided(cluster, namespace)
    assert ids(look(cluster, namespace, since="10m")) == []
    time.sleep(1.1)
    assert ids(look(cluster, namespace, since="0s")) == ["k8s.rollout.restart_due"]


def test_a_name_that_is_not_there_names_its_neighbours(cluster: Cluster, namespace: str) -> None:
    cluster.apply(objects.deployment("web-api", image=GOOD), namespace=namespace)
    result = call("k8s_rollout_info", namespace=namespace, name="web-apo", **cluster.connection())
    assert (result["error"]["kind"], "web-api" in result["msg"]) == ("not_found", True)
