# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""k8s_replicas on a real API server with its controllers: the number stays where it was put."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_objects import deployment, hpa, quota, scaled_object, statefulset
from tests.lab.kubernetes_witness import mark, writes
from tests.support import call, play

pytestmark = pytest.mark.kubernetes


class Web:
    """A workload called web, and the module aimed at it."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace

    def up(self, *documents: dict[str, Any], ready: int = 3, kind: str = "deployment") -> Web:
        self.cluster.apply(*(documents or (deployment("web", replicas=ready),)), namespace=self.namespace)
        self.cluster.wait(lambda: self.ready(kind) == ready, 20, f"{ready} ready pods")
        return self

    def see(self, kind: str = "deployment") -> dict[str, Any]:
        return self.cluster.get(kind, "web", self.namespace)

    def replicas(self, kind: str = "deployment") -> int:
        return int(self.see(kind)["spec"]["replicas"])

    def ready(self, kind: str = "deployment") -> int:
        return int(self.see(kind).get("status", {}).get("readyReplicas", 0))

    def notes(self, kind: str = "deployment") -> list[str]:
        found = self.see(kind)["metadata"].get("annotations") or {}
        return sorted(name for name in found if name.startswith(("sre.runbooks/", "autoscaling.keda.sh/")))

    def scale(self, check_mode: bool = False, **wanted: Any) -> dict[str, Any]:
        options = {"namespace": self.namespace, "name": "web", "timeout": 30, **wanted}
        return call("k8s_replicas", check_mode=check_mode, **{**self.cluster.connection(), **options})


@pytest.fixture
def web(cluster: Cluster, namespace: str) -> Web:
    return Web(cluster, namespace)


def test_raises_waits_for_ready_pods_and_restores(web: Web) -> None:
    web.up()
    result = web.scale(min_replicas=6)
    assert (result["changed"], result["verify"]["ok"], web.ready()) == (True, True, 6)
    assert (result["scale"]["replicas"], result["scale"]["ready"], result["measured"]["after"]) == (6, 6, 6.0)
    assert web.scale(min_replicas=6)["changed"] is False
    restored = web.scale(restored=True)
    assert (restored["changed"], web.replicas(), web.notes()) == (True, 3, [])
    assert web.scale(restored=True)["changed"] is False


def test_check_mode_writes_nothing_and_predicts_the_run(web: Web) -> None:
    web.up()
    since = mark(web.cluster)
    checked = web.scale(check_mode=True, min_replicas=5)
    assert writes(web.cluster, since, namespace=web.namespace) == []
    assert writes(web.cluster, since, namespace=web.namespace, rehearsals=True), "the server tried it"
    done = web.scale(min_replicas=5)
    for name in ("actions", "diff", "plan", "undo"):
        assert checked[name] == done[name], name
    (write,) = writes(web.cluster, since, namespace=web.namespace)
    assert (write.verb, write.resource, write.name) == ("patch", "deployments", "web")


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_quiesces_and_brings_the_same_back(web: Web, kind: str) -> None:
    made = {"Deployment": deployment, "StatefulSet": statefulset}[kind]
    web.up(made("web", replicas=2), ready=2, kind=kind.lower())
    assert web.scale(kind=kind, quiesced=True)["verify"]["ok"] is True
    assert web.cluster.objects("pod", web.namespace) == []
    assert web.scale(kind=kind, quiesced=True)["changed"] is False
    assert web.scale(kind=kind, quiesced=False)["verify"]["ok"] is True
    assert (web.ready(kind.lower()), web.notes(kind.lower())) == (2, [])


def test_an_autoscaler_keeps_what_its_bounds_say(web: Web) -> None:
    web.up(deployment("web", replicas=2, requests={"cpu": "10m"}), hpa("web", low=2, high=6), ready=2)
    spec = web.see("horizontalpodautoscaler")["spec"]
    result = web.scale(min_replicas=4, timeout=60)
    assert (result["scale"]["owner"], web.replicas(), result["verify"]["ok"]) == ("hpa", 4, True)
    assert web.scale(min_replicas=4)["changed"] is False
    web.scale(restored=True)
    assert (web.see("horizontalpodautoscaler")["spec"], web.notes("horizontalpodautoscaler")) == (spec, [])


def test_an_autoscaler_rests_while_there_are_no_pods(web: Web) -> None:
    web.up(deployment("web", replicas=3, requests={"cpu": "10m"}), hpa("web", low=2, high=6))
    spec = web.see("horizontalpodautoscaler")["spec"]
    web.scale(quiesced=True)
    assert web.ready() == 0
    assert web.scale(quiesced=False)["verify"]["ok"] is True
    assert (web.ready(), web.see("horizontalpodautoscaler")["spec"]) == (3, spec)


def test_keda_is_paused_meanwhile(web: Web) -> None:
    web.up(deployment("web", replicas=2), scaled_object("web"), ready=2)
    before = web.see("scaledobject")
    web.scale(quiesced=True)
    assert (web.ready(), web.notes("scaledobject")) == (0, ["autoscaling.keda.sh/paused", "sre.runbooks/quiesced"])
    assert web.scale(quiesced=False)["verify"]["ok"] is True
    assert (web.ready(), web.notes("scaledobject")) == (2, [])
    assert web.see("scaledobject")["spec"] == before["spec"]


def test_room_is_told_before_pods_stay_pending(web: Web) -> None:
    web.up(deployment("web", replicas=1, requests={"cpu": "3"}), ready=1)
    refused = web.scale(min_replicas=30)
    assert (refused["error"]["kind"], refused["error"]["code"]) == ("exhausted", "no_room")
    room = web.scale(check_mode=True, min_replicas=2)["scale"]["room"]
    assert (0 < room["fit"] <= 5, room["nodes"], room["exact"]) == (True, 3, True)
    web.cluster.apply(quota("few", pods=2), namespace=web.namespace)
    web.cluster.wait(lambda: _used(web), 20, "the quota's own count")
    refused = web.scale(min_replicas=3)
    assert (refused["error"]["code"], web.replicas()) == ("quota", 1)
    assert "ResourceQuota few has 1 of pods left, 2 are needed" in refused["msg"]
    assert web.scale(min_replicas=2)["verify"]["ok"] is True


def _used(web: Web) -> bool:
    found = web.cluster.get("resourcequota", "few", web.namespace).get("status") or {}
    return bool((found.get("used") or {}).get("pods") == "1")


def test_the_right_to_patch_is_missed_before_the_first_write(web: Web) -> None:
    web.up(deployment("web", replicas=1), scaled_object("web"), ready=1)
    reads = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}
    kubeconfig = web.cluster.user("reader-of-replicas", [reads], web.namespace)
    # Who may not read kube-system knows the cluster by its address only.
    refused = web.scale(min_replicas=2, kubeconfig=str(kubeconfig), expect_cluster=None)
    assert (refused["error"]["kind"], refused["error"]["code"]) == ("forbidden", "rbac")
    assert "patch scaledobjects" in refused["msg"]
    assert "patch deployments" in refused["msg"]
    assert web.notes("scaledobject") == []


def test_a_workload_that_is_not_there_is_named(web: Web) -> None:
    web.up(deployment("web", replicas=1), ready=1)
    missed = web.scale(name="wbe", quiesced=True)
    assert (missed["error"]["kind"], missed["error"]["code"]) == ("not_found", "no_workload")
    assert "There are web" in missed["msg"]


def test_shipped_and_in_process_alike(web: Web) -> None:
    web.up(deployment("web", replicas=1), ready=1)
    options = {"namespace": web.namespace, "name": "web", "min_replicas": 2, **web.cluster.connection()}
    task = {"check_mode": True, "sre.runbooks.k8s_replicas": options}
    ran = play([{"name": "here", **task}, {"name": "shipped", "environment": {"X": "y"}, **task}])
    here, shipped = ran.result("here"), ran.result("shipped")
    assert ran.rc == 0, ran.stdout
    assert "invocation" in shipped
    for name in ("changed", "actions", "diff", "plan", "findings", "forecast"):
        assert here[name] == shipped[name], name
    moving = ("room",)  # other tests' pods are still on their way out
    assert {name: here["scale"][name] for name in here["scale"] if name not in moving} == {
        name: shipped["scale"][name] for name in shipped["scale"] if name not in moving
    }
