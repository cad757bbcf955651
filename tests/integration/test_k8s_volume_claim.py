# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""k8s_volume_claim on a real API server. Volumes are made up: the lab plays the driver that resizes them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import kubernetes_faults as faults
from tests.lab import kubernetes_objects as make
from tests.lab.kubernetes_api import ApiError
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_witness import fingerprint, mark, writes
from tests.support import call, play

pytestmark = pytest.mark.kubernetes


def grow(cluster: Cluster, namespace: str, size: str, check: bool = False, **options: Any) -> dict[str, Any]:
    wanted = {"namespace": namespace, "name": "data", "size": size, "timeout": 20, **cluster.connection()}
    return call("k8s_volume_claim", check_mode=check, **{**wanted, **options})


@contextlib.contextmanager
def bound(cluster: Cluster, namespace: str, name: str = "data", **options: Any) -> Iterator[None]:
    """A claim of 1Gi with its volume."""
    volume = f"pv-{namespace}-{name}"
    cluster.apply(make.volume(volume, **options))
    cluster.apply(make.pvc(name, **options), namespace=namespace)
    try:
        cluster.wait(lambda: phase(cluster, namespace, name) == "Bound", 20, "a bound claim")
        yield
    finally:
        cluster.delete("persistentvolume", volume)


def phase(cluster: Cluster, namespace: str, name: str = "data") -> str:
    return str(cluster.get("pvc", name, namespace)["status"]["phase"])


def requested(cluster: Cluster, namespace: str) -> str:
    return str(cluster.get("pvc", "data", namespace)["spec"]["resources"]["requests"]["storage"])


def tell(cluster: Cluster, namespace: str, **status: Any) -> None:
    """What a driver says of the claim."""
    cluster.patch("pvc", "data", namespace, {"status": status}, subresource="status")


@contextlib.contextmanager
def driver(cluster: Cluster, namespace: str, *stages: dict[str, Any], goal: str = "2Gi") -> Iterator[None]:
    """Waits for the wish and goes through the stages, one after the other."""

    def play_it() -> None:
        cluster.wait(lambda: requested(cluster, namespace) == goal, 20, "the wish")
        for stage in stages:
            tell(cluster, namespace, **stage)

    thread = threading.Thread(target=play_it)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def condition(name: str) -> dict[str, Any]:
    return {"conditions": [{"type": name, "status": "True"}]}


def test_it_grows_and_is_followed_to_the_filesystem(cluster: Cluster, namespace: str) -> None:
    with bound(cluster, namespace):
        cluster.apply(make.pvc("neighbour"), make.configmap("kept", a="b"), namespace=namespace)
        before, since = fingerprint(cluster, namespace, exclude=("*/data",)), mark(cluster)
        checked = grow(cluster, namespace, "2Gi", check=True)
        assert writes(cluster, since) == []
        with driver(
            cluster,
            namespace,
            condition("Resizing"),
            condition("FileSystemResizePending"),
            {"capacity": {"storage": "2Gi"}, "conditions": []},
        ):
            done = grow(cluster, namespace, "2Gi")
        assert not done.get("failed"), done.get("msg")
        assert (done["actions"], done["diff"], done["plan"]) == (checked["actions"], checked["diff"], checked["plan"])
        assert (done["claim"]["size"], done["verify"]["ok"]) == ("2Gi", True)
        assert [(one.verb, one.resource, one.name) for one in writes(cluster, since)] == [
            ("patch", "persistentvolumeclaims", "data")
        ]
        again = grow(cluster, namespace, "2Gi")
        assert (again["changed"], again["actions"]) == (False, [])
        assert fingerprint(cluster, namespace, exclude=("*/data",)) == before


def test_a_run_that_was_cut_short_is_gone_on_with(cluster: Cluster, namespace: str) -> None:
    with bound(cluster, namespace):
        assert grow(cluster, namespace, "2Gi", wait=False)["changed"] is True
        half = grow(cluster, namespace, "2Gi", timeout=0)
        assert (half["error"]["kind"], half["changed"]) == ("verify_failed", False)
        tell(cluster, namespace, capacity={"storage": "2Gi"})
        assert grow(cluster, namespace, "2Gi")["verify"] == {}


def test_a_driver_that_gives_up_is_told_at_once(cluster: Cluster, namespace: str) -> None:
    with (
        bound(cluster, namespace),
        driver(cluster, namespace, {"allocatedResourceStatuses": {"storage": "ControllerResizeInfeasible"}}),
    ):
        result = grow(cluster, namespace, "2Gi")
    assert (result["error"]["code"], result["changed"]) == ("resize_failed", True)
    assert [one["id"] for one in result["findings"]] == ["k8s.claim.resize_failed"]


@pytest.mark.parametrize("size", ["1Gi", "512Mi", "1073741824"])
def test_it_never_shrinks(cluster: Cluster, namespace: str, size: str) -> None:
    with bound(cluster, namespace):
        since = mark(cluster)
        assert grow(cluster, namespace, size)["changed"] is False
        assert writes(cluster, since) == []
        less = {"spec": {"resources": {"requests": {"storage": "512Mi"}}}}
        with pytest.raises(ApiError) as caught:
            cluster.patch("pvc", "data", namespace, less)
        assert caught.value.status == 422  # so does the API server


def test_without_expansion_it_is_refused_as_the_server_would(cluster: Cluster, namespace: str) -> None:
    with bound(cluster, namespace, storage_class="fixed"):
        since = mark(cluster)
        result = grow(cluster, namespace, "2Gi")
        assert (result["error"]["kind"], result["error"]["code"]) == ("unsupported", "no_expansion")
        assert writes(cluster, since) == []
        claims = [{"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get", "patch"]}]
        kubeconfig = cluster.user(f"claims-{namespace}", claims, namespace)
        blind = grow(cluster, namespace, "2Gi", kubeconfig=str(kubeconfig), expect_cluster=None)
        assert (blind["error"]["kind"], blind["error"]["code"]) == ("unsupported", "no_expansion")


def test_an_unbound_one_is_refused_as_the_server_would(cluster: Cluster, namespace: str) -> None:
    cluster.apply(make.pvc("data"), namespace=namespace)
    result = grow(cluster, namespace, "2Gi")
    assert (result["error"]["kind"], result["error"]["code"]) == ("precondition", "unbound")
    with pytest.raises(ApiError) as caught:
        cluster.patch("pvc", "data", namespace, {"spec": {"resources": {"requests": {"storage": "2Gi"}}}})
    assert caught.value.status == 422


def test_its_pods_are_restarted_only_when_allowed(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ansible_collections.sre.runbooks.plugins.module_utils._k8s.claim_restart.PATIENCE", 1)
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
    with bound(cluster, namespace):
        faults.settle(cluster, namespace, make.deployment("db", replicas=1, volumes=[volume]))
        first = faults.pods(cluster, namespace, "db")[0]["metadata"]["uid"]
        with driver(cluster, namespace, condition("FileSystemResizePending")):
            result = grow(cluster, namespace, "2Gi", timeout=2)
        assert "db-" in result["msg"]
        assert [pod["metadata"]["uid"] for pod in faults.pods(cluster, namespace, "db")] == [first]
        done = grow(cluster, namespace, "2Gi", allow_restart=True, wait=False)
        assert (done["changed"], done["plan"]["exact"]) == (True, False)
        faults.wait_settled(cluster, namespace, "Deployment", "db")
        assert first not in [pod["metadata"]["uid"] for pod in faults.pods(cluster, namespace, "db")]


def test_the_template_of_its_set_is_named(cluster: Cluster, namespace: str) -> None:
    with bound(cluster, namespace, "data-db-0"):
        claim = make.pvc("data")
        made = make.statefulset("db", replicas=0, spec={"volumeClaimTemplates": [claim]})
        cluster.apply(made, namespace=namespace)
        result = grow(cluster, namespace, "2Gi", check=True, name="data-db-0")
    assert [one["id"] for one in result["findings"]] == ["k8s.claim.template"]


def test_in_a_process_of_its_own_too(cluster: Cluster, namespace: str) -> None:
    with bound(cluster, namespace):
        options = {"namespace": namespace, "name": "data", "size": "2Gi", "wait": False, **cluster.connection()}
        tasks = [
            {"sre.runbooks.k8s_volume_claim": options},
            {"sre.runbooks.k8s_volume_claim": options, "environment": {"X": "y"}},
        ]
        result = play(tasks)
    assert result.rc == 0, result.stdout
    assert [entry["result"]["changed"] for entry in result.tasks] == [True, False]
