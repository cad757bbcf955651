# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What prose runbooks get wrong when they look for a cause, each shown not to happen here. Ids as in the catalogue."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from tests.lab import kubernetes_faults as faults
from tests.lab import kubernetes_objects as make
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_witness import mark, writes
from tests.runbooks.harness import aimed_at_kubernetes, message
from tests.runbooks.test_pods_not_starting import STUCK, alive, back_off, start
from tests.support import call

pytestmark = pytest.mark.kubernetes

LINES = [f"line {number}" for number in range(60)]


def look(cluster: Cluster, namespace: str, **options: Any) -> dict[str, Any]:
    result = call("k8s_diagnosis_info", namespaces=[namespace], grace="1s", **options, **cluster.connection())
    assert not result.get("failed"), result.get("msg")
    return result


def test_q2_logs_come_from_all_pods_and_from_before_they_crashed(cluster: Cluster, namespace: str) -> None:
    """`kubectl logs deploy/x` reads one pod; with a selector 10 lines of each, and `-f | head` never ends."""
    faults.settle(cluster, namespace, make.deployment("web", replicas=3))
    for pod in faults.pods(cluster, namespace, "web"):
        faults.write_logs(cluster, pod, LINES)
    faults.break_crash(cluster, namespace, "app", log=["it was the database"])
    started = time.monotonic()
    result = look(cluster, namespace, logs="all", tail=50, max_logs=50)
    assert time.monotonic() - started < 20
    told = {(one["pod"], one["previous"]): one["lines"] for one in result["logs"]}
    web = [pod["metadata"]["name"] for pod in faults.pods(cluster, namespace, "web")]
    assert [told[name, False] for name in web] == [LINES[-50:]] * 3
    crashed = [lines for (name, previous), lines in told.items() if name.startswith("app-") and previous]
    assert ["it was the database"] in crashed
    bounded = look(cluster, namespace, logs="all", tail=5, max_logs=2)
    assert (len(bounded["logs"]), bounded["truncated"]) == (2, ["logs"])
    assert max(len(one["lines"]) for one in bounded["logs"]) <= 5
    assert bounded["logs"][0]["pod"].startswith("app-"), "those at fault come first"


def _pull_secret(registry: str) -> make.Document:
    content = json.dumps({"auths": {registry: {"auth": base64.b64encode(b"robot:canary").decode()}}})
    data = {".dockerconfigjson": base64.b64encode(content.encode()).decode()}
    return {**make.named("v1", "Secret", "pull"), "type": "kubernetes.io/dockerconfigjson", "data": data}


def test_q9_an_image_is_judged_by_what_the_node_was_told(cluster: Cluster, namespace: str) -> None:
    """A `docker pull x:latest` at a desk uses another account, another network and perhaps another image."""
    names = {"imagePullSecrets": [{"name": "pull"}]}
    faults.break_image(cluster, namespace, private=True, **names)
    since = mark(cluster)
    evidence = look(cluster, namespace)["root_causes"][0]["evidence"]
    assert "401 Unauthorized" in evidence["message"]
    assert (evidence["registry"], evidence["pinned"]) == ("registry.example", False)
    assert evidence["pull_secrets"] == {"pull": "missing"}
    for registry, state in (("elsewhere.example", "lacks this registry"), ("registry.example", "has this registry")):
        cluster.apply(_pull_secret(registry), namespace=namespace)
        result = look(cluster, namespace)
        assert result["root_causes"][0]["evidence"]["pull_secrets"] == {"pull": state}
        assert "canary" not in json.dumps(result)
        assert base64.b64encode(b"robot:canary").decode() not in json.dumps(result)
    assert writes(cluster, since) == []


def test_g1_evidence_and_limits_come_before_the_first_change(cluster: Cluster, namespace: str) -> None:
    """A restart first loses the log that would have told why; without a limit it takes everything."""
    faults.settle(cluster, namespace, make.deployment("app", replicas=4))
    back_off(cluster, namespace, 3)
    before = alive(cluster, namespace)
    since = mark(cluster)
    refused = start(cluster, namespace, k8s_recreate=[STUCK], k8s_max_count=2).run()
    assert refused.rc != 0
    assert "max_count 2" in refused.stdout
    assert (alive(cluster, namespace), writes(cluster, since, namespace=namespace)) == (before, [])
    told = refused.result("Diagnose | Go from the workloads to the root causes")["root_causes"][0]
    assert told["evidence"]["message"]


def test_g1_it_stops_at_the_first_pod_that_does_not_come_back(cluster: Cluster, namespace: str) -> None:
    """`kubectl delete pod -l app=x` takes them all, and then sees."""
    faults.settle(cluster, namespace, make.deployment("app", replicas=4))
    stuck = back_off(cluster, namespace, 3)
    cluster.apply(make.quota("few", pods=1), namespace=namespace)
    counted = {"pods": "4"}
    cluster.wait(lambda: cluster.get("quota", "few", namespace).get("status", {}).get("used") == counted, 20, "a quota")
    result = start(cluster, namespace, k8s_recreate=[STUCK], k8s_settle=3).run()
    assert result.rc != 0
    assert len(alive(cluster, namespace) & set(stuck)) == 2
    after = aimed_at_kubernetes("pods_not_starting", cluster, k8s_namespace=namespace, k8s_grace="1s").run()
    assert "k8s.quota" in message(after)
