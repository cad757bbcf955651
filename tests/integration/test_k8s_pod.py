# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""k8s_pod on a real API server with its controllers: one by one, within budgets, and nobody else."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab import kubernetes_faults as faults
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_objects import Document, daemonset, deployment, job, pdb, pod, service, statefulset
from tests.lab.kubernetes_usage import measured
from tests.lab.kubernetes_witness import fingerprint, mark, writes
from tests.support import call, play

pytestmark = pytest.mark.kubernetes


def moment() -> str:
    """After everything that is there, and not after what comes: the API's times are in whole seconds."""
    time.sleep(1.0 - time.time() % 1.0)
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def uids(cluster: Cluster, namespace: str, app: str = "web") -> dict[str, str]:
    return {one["metadata"]["uid"]: one["metadata"]["name"] for one in faults.pods(cluster, namespace, app)}


def ready(one: Document) -> bool:
    conditions = one.get("status", {}).get("conditions", ())
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def removed(cluster: Cluster, since: int, namespace: str) -> list[str]:
    """Names of the pods that were really ended, in order."""
    return [write.name for write in writes(cluster, since, namespace=namespace) if write.done]


def remove(cluster: Cluster, namespace: str, check_mode: bool = False, **options: Any) -> dict[str, Any]:
    given = {"namespace": namespace, "selector": "app=web", "wait_timeout": "20s"}
    wanted = {name: value for name, value in {**given, **options}.items() if value is not None}
    return call("k8s_pod", check_mode=check_mode, **cluster.connection(), **wanted)


def budget_knows(cluster: Cluster, namespace: str, healthy: int) -> None:
    def known() -> bool:
        status = cluster.get("poddisruptionbudget", "web", namespace).get("status", {})
        return bool(status.get("currentHealthy") == healthy)

    cluster.wait(known, 20, "a budget that has counted its pods")


@contextmanager
def fewest_ready(cluster: Cluster, namespace: str) -> Iterator[list[int]]:
    """How many pods were ready, look after look."""
    seen: list[int] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.append(sum(map(ready, faults.pods(cluster, namespace, "web"))))
            time.sleep(0.01)

    thread = threading.Thread(target=look)
    thread.start()
    yield seen
    stop.set()
    thread.join()


def test_replaces_all_from_before_a_moment_and_nobody_else(cluster: Cluster, namespace: str) -> None:
    faults.settle(cluster, namespace, deployment("web", replicas=3), service("web"), deployment("other"))
    before, others = uids(cluster, namespace), fingerprint(cluster, namespace, ["pod/web-*"])
    wanted = {"selector": None, "name": "web", "older_than": moment()}
    since = mark(cluster)
    checked = remove(cluster, namespace, check_mode=True, **wanted)
    assert removed(cluster, since, namespace) == []
    done = remove(cluster, namespace, **wanted)
    assert (done["changed"], done["verify"]["ok"], done["measured"]["after"]) == (True, True, 0)
    assert (checked["actions"], checked["plan"], checked["diff"]) == (done["actions"], done["plan"], done["diff"])
    assert not set(before) & set(uids(cluster, namespace))
    assert sum(map(ready, faults.pods(cluster, namespace, "web"))) == 3
    assert fingerprint(cluster, namespace, ["pod/web-*"]) == others
    again = remove(cluster, namespace, **wanted)
    assert (again["changed"], again["actions"], again["plan"]["count"]) == (False, [], 0)


def test_never_goes_below_the_budget(cluster: Cluster, namespace: str) -> None:
    faults.settle(cluster, namespace, deployment("web", replicas=3))
    cluster.apply(pdb("web", minAvailable=2), namespace=namespace)
    budget_knows(cluster, namespace, 3)
    with fewest_ready(cluster, namespace) as seen:
        result = remove(cluster, namespace, older_than=moment())
    assert (result["changed"], len(result["pods"]["removed"])) == (True, 3)
    assert min(seen) >= 2


def test_waits_for_a_budget_that_gives_way(cluster: Cluster, namespace: str) -> None:
    """Two of three are not healthy enough to let one go; then the third recovers."""
    faults.settle(cluster, namespace, deployment("web", replicas=3))
    first = faults.pods(cluster, namespace, "web")[0]["metadata"]["name"]
    cluster.apply(pdb("web", minAvailable=2), namespace=namespace)
    budget_knows(cluster, namespace, 3)
    old = moment()
    unready = {"conditions": [{"type": "Ready", "status": "False"}]}
    strategic = {"content": "application/strategic-merge-patch+json", "subresource": "status"}
    cluster.patch("pod", first, namespace, {"status": unready}, **strategic)
    budget_knows(cluster, namespace, 2)
    names = [name for name in uids(cluster, namespace).values() if name != first][:1]
    since = mark(cluster)
    held = remove(cluster, namespace, older_than=old, names=names, budget_timeout="1s")
    assert (held["error"]["kind"], held["error"]["code"]) == ("precondition", "disruption_budget")
    assert held["error"]["retryable"] is True
    assert [found["id"] for found in held["findings"]] == ["k8s.pod.budget"]
    assert removed(cluster, since, namespace) == []
    lines: list[str] = []
    recover = threading.Timer(2.5, lambda: cluster.delete("pod", first, namespace))
    recover.start()
    wanted = {"namespace": namespace, "names": names, "older_than": old, "wait_timeout": "20s"}
    done = call("k8s_pod", progress=lines.append, **cluster.connection(), **wanted)
    assert (done.get("msg"), done["changed"]) == (None, True)
    assert any("has to stay for now" in line for line in lines)


def test_refuses_a_budget_that_never_gives_way_and_two_of_them(cluster: Cluster, namespace: str) -> None:
    faults.settle(cluster, namespace, deployment("web", replicas=2))
    cluster.apply(pdb("web", minAvailable=2), namespace=namespace)
    budget_knows(cluster, namespace, 2)
    since = mark(cluster)
    for check in (True, False):
        refused = remove(cluster, namespace, check_mode=check, min_age="0s")
        assert (refused["error"]["code"], refused["changed"]) == ("disruption_budget", False)
        assert "wants 2 of 2 pods healthy" in refused["msg"]
    cluster.apply(pdb("second", app="web", minAvailable=1), namespace=namespace)
    time.sleep(0.3)
    assert remove(cluster, namespace, min_age="0s")["error"]["code"] == "several_budgets"
    assert removed(cluster, since, namespace) == []


def test_clears_evicted_ones_of_a_namespace(cluster: Cluster, namespace: str) -> None:
    faults.settle(cluster, namespace, deployment("web", replicas=2))
    dead = faults.pods(cluster, namespace, "web")[0]["metadata"]["name"]
    faults.evict(cluster, namespace, dead)
    faults.wait_settled(cluster, namespace, "Deployment", "web")
    wanted = {"selector": None, "phase": ["Failed"], "reason": ["Evicted"], "via": "delete"}
    done = remove(cluster, namespace, **wanted)
    assert (done["changed"], [one["name"] for one in done["pods"]["removed"]]) == (True, [dead])
    assert remove(cluster, namespace, **wanted)["changed"] is False
    assert len(uids(cluster, namespace)) == 2


def test_spares_what_is_not_to_be_replaced(cluster: Cluster, namespace: str) -> None:
    faults.settle(cluster, namespace, daemonset("agent"))
    cluster.apply(job("done"), pod("alone"), namespace=namespace)
    cluster.wait(lambda: cluster.get("job", "done", namespace)["status"].get("succeeded"), 20, "a Job that is done")
    cluster.wait(lambda: ready(cluster.get("pod", "alone", namespace)), 20, "a bare pod")
    everybody = [one["metadata"]["name"] for one in cluster.objects("pod", namespace)]
    before = fingerprint(cluster, namespace)
    result = remove(cluster, namespace, selector=None, names=everybody, min_age="0s")
    assert (result["changed"], fingerprint(cluster, namespace)) == (False, before)
    reasons = " / ".join(sorted({one["reason"] for one in result["spared"]}))
    assert all(words in reasons for words in ("DaemonSet agent", "as its record", "set bare"))
    assert len(result["spared"]) == 5
    named = remove(cluster, namespace, selector=None, kind="DaemonSet", name="agent", older_than=moment())
    assert (named["changed"], len(named["pods"]["removed"])) == (True, 3)


def test_counts_a_statefulset_down_and_refuses_an_outage(cluster: Cluster, namespace: str) -> None:
    faults.settle(cluster, namespace, statefulset("web", replicas=2), deployment("single", replicas=1))
    since = mark(cluster)
    done = remove(cluster, namespace, selector=None, kind="StatefulSet", name="web", older_than=moment())
    assert (done.get("msg"), removed(cluster, since, namespace)) == (None, ["web-1", "web-0"])
    assert remove(cluster, namespace, selector="app=single", min_age="0s")["error"]["code"] == "outage"
    assert remove(cluster, namespace, selector="app=single", min_age="0s", allow_outage=True)["changed"] is True


def test_stops_after_one_when_the_next_does_not_serve(cluster: Cluster, namespace: str) -> None:
    """A template that cannot become ready: one pod is lost, not all."""
    faults.settle(cluster, namespace, deployment("web", replicas=3, spec={"minReadySeconds": 30}))
    since = mark(cluster)
    failed = remove(cluster, namespace, older_than=moment(), wait_timeout="1s")
    assert (failed["error"]["code"], failed["changed"]) == ("not_replaced", True)
    assert len(removed(cluster, since, namespace)) == 1
    assert len(failed["undo"]) == 1


def test_only_who_uses_too_much(cluster: Cluster, namespace: str) -> None:
    limits = {"resources": {"limits": {"memory": "100Mi"}}}
    faults.settle(cluster, namespace, deployment("web", replicas=3, container=limits))
    with measured(cluster) as usage:
        greedy = faults.pods(cluster, namespace, "web")[1]["metadata"]
        usage.memory[greedy["uid"]] = "95Mi"
        done = remove(cluster, namespace, min_memory="90%", order="most_memory")
        assert [one["uid"] for one in done["pods"]["removed"]] == [greedy["uid"]]
        assert done["pods"]["removed"][0]["usage"]["share"] == 0.95
        assert remove(cluster, namespace, min_memory="90%")["changed"] is False
        usage.default = ""
        blind = remove(cluster, namespace, min_memory="90%")
    assert (blind["changed"], [found["id"] for found in blind["findings"]]) == (False, ["k8s.usage.unseen"])


def test_names_missing_rights_before_the_first_write(cluster: Cluster, namespace: str) -> None:
    faults.settle(cluster, namespace, deployment("web"))
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]
    reader = cluster.user(f"reader-{namespace}", rules, namespace)
    wanted = {"namespace": namespace, "selector": "app=web", "min_age": "0s"}
    refused = call("k8s_pod", kubeconfig=str(reader), **wanted)
    assert (refused["error"]["kind"], refused["changed"]) == ("forbidden", False)
    assert f"create pods/eviction in {namespace}" in refused["msg"]


def test_shipped_and_in_process_alike(cluster: Cluster, namespace: str) -> None:
    faults.settle(cluster, namespace, deployment("web"))
    options = {"namespace": namespace, "selector": "app=web", "min_age": "0s", **cluster.connection()}
    task = {"sre.runbooks.k8s_pod": options, "check_mode": True}
    ran = play([{"name": "here", **task}, {"name": "shipped", "environment": {"X": "y"}, **task}])
    here, shipped = ran.result("here"), ran.result("shipped")
    assert (ran.rc, "invocation" in shipped) == (0, True)
    for name in ("changed", "actions", "diff", "plan", "pods", "spared", "findings", "forecast"):
        assert here[name] == shipped[name], name
