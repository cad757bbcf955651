# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What prose runbooks for workload templates get wrong, each shown not to happen here. The ids are the catalogue's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab import kubernetes_faults as faults
from tests.lab import kubernetes_objects as make
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_witness import mark, writes
from tests.support import call

pytestmark = pytest.mark.kubernetes

FLAG = {"name": "UNDER_ATTACK", "value": "true"}


def state(cluster: Cluster, namespace: str, **options: Any) -> dict[str, Any]:
    wanted = {"namespace": namespace, "name": "web", "timeout": 40, **cluster.connection()}
    return call("k8s_workload", **{**wanted, **options})


def container(cluster: Cluster, namespace: str) -> dict[str, Any]:
    return dict(cluster.get("deployment", "web", namespace)["spec"]["template"]["spec"]["containers"][0])


def generation(cluster: Cluster, namespace: str) -> int:
    return int(cluster.get("deployment", "web", namespace)["metadata"]["generation"])


def test_q10_an_edit_is_a_patch_with_a_diff_that_is_tried_and_leaves_the_rest(cluster: Cluster, namespace: str) -> None:
    """`kubectl edit` in the middle of an incident: no diff, no record, and whatever else the editor held goes in."""
    faults.settle(cluster, namespace, make.deployment("web", env={"LEVEL": "info"}))
    before, since = cluster.get("deployment", "web", namespace)["spec"], mark(cluster)
    bad = state(cluster, namespace, resources={"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}})
    assert (bad["failed"], writes(cluster, since)) == (True, [])
    done = state(cluster, namespace, env={"LEVEL": "debug"})
    path = "spec.containers[app].env[LEVEL].value"
    assert done["diff"] == {"before": {path: "info"}, "after": {path: "debug"}}
    assert done["actions"] == [f"Deployment {namespace}/web: app: set LEVEL"]
    after = cluster.get("deployment", "web", namespace)["spec"]
    after["template"]["spec"]["containers"][0]["env"] = before["template"]["spec"]["containers"][0]["env"]
    assert after == before


def test_q10_two_editors_do_not_overwrite_each_other(cluster: Cluster, namespace: str) -> None:
    """Who saved last won. Here a name is all that is written, and what somebody else owns is not."""
    faults.settle(cluster, namespace, make.owned_by(make.deployment("web"), "argo"))
    result = state(cluster, namespace, env={"LEVEL": "debug"})
    assert (result["error"]["code"], result["changed"]) == ("gitops_owner", False)
    assert state(cluster, namespace, env={"LEVEL": "debug"}, accept_drift=True)["changed"] is True


def test_q12_a_variable_is_there_once_and_a_second_run_restarts_nobody(cluster: Cluster, namespace: str) -> None:
    """`add /spec/template/.../env/-` appends another entry, and rolls all pods, with each run: under attack."""
    made = make.deployment("web", env={"HOST": "db", "DSN": "pg://$(HOST)"})
    env = made["spec"]["template"]["spec"]["containers"][0]["env"]
    env += [dict(FLAG), dict(FLAG)]  # two runs of the seed
    cluster.api.create(made, namespace)
    faults.wait_settled(cluster, namespace, "Deployment", "web")
    first = state(cluster, namespace, env={"UNDER_ATTACK": "true"})
    assert (first["changed"], container(cluster, namespace)["env"]) == (True, [*env[:2], FLAG])
    assert "k8s.env.duplicate" in [finding["id"] for finding in first["findings"]]
    born, pods = generation(cluster, namespace), make.names(faults.pods(cluster, namespace, "web"))
    second = state(cluster, namespace, env={"UNDER_ATTACK": "true"})
    assert (second["changed"], generation(cluster, namespace)) == (False, born)
    assert make.names(faults.pods(cluster, namespace, "web")) == pods
    assert state(cluster, namespace, env_absent=["UNDER_ATTACK"])["changed"] is True
    assert container(cluster, namespace)["env"] == env[:2]


def test_p6_a_rollout_whose_surge_has_no_connections_is_refused_until_it_has_none(
    cluster: Cluster, namespace: str
) -> None:
    """`kubectl set env` against exhausted connections: new pods open theirs on top of the old ones'."""
    faults.settle(cluster, namespace, make.deployment("web", replicas=4))
    budget = {"connections_per_replica": 20, "connections_limit": 90, "connections_reserved": 3}
    since = mark(cluster)
    refused = state(cluster, namespace, env={"POOL_SIZE": "20"}, **budget)
    assert (refused["error"]["kind"], refused["error"]["code"]) == ("guard_refused", "connection_budget")
    assert "maxSurge" in refused["error"]["hint"]
    assert writes(cluster, since) == []
    rolling = {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}, "type": "RollingUpdate"}
    cluster.patch("deployment", "web", namespace, {"spec": {"strategy": rolling}})
    done = state(cluster, namespace, env={"POOL_SIZE": "20"}, **budget)
    assert (done["changed"], done["rollout"]["complete"]) == (True, True)
    follows = next(one for one in done["findings"] if one["id"] == "k8s.rollout.follows")
    assert (follows["evidence"]["pods"], follows["evidence"]["connections"]["need"]) == (4, 83)
