# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""k8s_volume_claim on an API server in memory: what is asked for, what is refused, and how it is followed."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.sre.runbooks.plugins.module_utils._core.run import execute
from ansible_collections.sre.runbooks.plugins.module_utils._k8s import claim_growth, claim_restart, kinds
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.errors import Json
from ansible_collections.sre.runbooks.plugins.modules.k8s_volume_claim import DOOR
from tests.fakes.kubernetes import FakeApi, Request, allow, container, door_of, kube_of

PENDING = [{"type": "FileSystemResizePending", "status": "True"}]


@pytest.fixture
def api() -> FakeApi:
    found = FakeApi()
    found.add({"kind": "StorageClass", "metadata": {"name": "fast"}, "allowVolumeExpansion": True})
    found.add({"kind": "StorageClass", "metadata": {"name": "fixed"}})
    found.add(claim())
    return found


def claim(size: str = "10Gi", has: str = "10Gi", phase: str = "Bound", where: str = "fast", **status: Any) -> Json:
    return {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data-db-0", "uid": "uid-pvc"},
        "spec": {
            "resources": {"requests": {"storage": size}},
            "storageClassName": where,
            **({"volumeName": "pv-1"} if phase == "Bound" else {}),
        },
        "status": {"phase": phase, **({"capacity": {"storage": has}} if phase == "Bound" else {}), **status},
    }


def pod(name: str = "db-0", owner: bool = True) -> Json:
    owners = [{"kind": "StatefulSet", "name": "db", "uid": "uid-sts", "controller": True}] if owner else []
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}]
    return {
        "kind": "Pod",
        "metadata": {"name": name, "ownerReferences": owners},
        "spec": {"containers": [container()], "volumes": volumes},
        "status": {"phase": "Running"},
    }


def grow(api: FakeApi, size: str = "20Gi", check: bool = False, **options: Any) -> dict[str, Any]:
    wanted = {"namespace": "shop", "name": "data-db-0", "size": size, "wait": False, **options}
    checked = ArgumentSpecValidator(DOOR.spec.arguments(), **DOOR.spec.rules()).validate(wanted)
    assert not checked.error_messages
    return execute(door_of(DOOR, kube_of(api)), checked.validated_parameters, check_mode=check)


def resizer(api: FakeApi, **status: Any) -> None:
    """Answers the first look after the patch."""

    def play(request: Request) -> None:
        if request.method == "GET" and request.kind is kinds.CLAIM and api.written:
            api.change(kinds.CLAIM, "shop", "data-db-0", {"status": status})

    api.before.append(play)


def ids(result: dict[str, Any]) -> list[str]:
    return [one["id"] for one in result["findings"]]


def test_the_module_plans_with_this() -> None:
    assert claim_growth.grown


def test_it_asks_for_the_size_once(api: FakeApi) -> None:
    checked = grow(api, check=True)
    assert api.written == []
    done = grow(api)
    assert (done["actions"], done["diff"], done["plan"]) == (checked["actions"], checked["diff"], checked["plan"])
    assert done["diff"] == {"before": {"storage": "10Gi"}, "after": {"storage": "20Gi"}}
    assert api.written[0].body["metadata"]["uid"] == "uid-pvc"
    assert grow(api)["changed"] is False


@pytest.mark.parametrize("size", ["10Gi", "10240Mi", "9Gi", "10737418240", "1e9"])
def test_what_is_large_enough_is_left_alone(api: FakeApi, size: str) -> None:
    result = grow(api, size, wait=True)
    assert (result["changed"], api.written) == (False, [])
    assert ("k8s.claim.larger" in ids(result)) is (size in ("9Gi", "1e9"))


def test_it_waits_for_the_filesystem(api: FakeApi) -> None:
    resizer(api, capacity={"storage": "20Gi"})
    result = grow(api, wait=True)
    assert (result["verify"]["ok"], result["claim"]["size"]) == (True, "20Gi")


def test_the_wait_says_what_it_waits_for(api: FakeApi) -> None:
    api.add(pod())
    resizer(api, conditions=PENDING)
    result = grow(api, wait=True, timeout=0)
    assert (result["error"]["kind"], "db-0" in result["msg"]) == ("verify_failed", True)


@pytest.mark.parametrize(
    "status",
    [
        {"allocatedResourceStatuses": {"storage": "ControllerResizeInfeasible"}},
        {"conditions": [{"type": "ControllerResizeError", "status": "True", "message": "quota"}]},
    ],
)
def test_a_resizer_that_gives_up_ends_the_wait(api: FakeApi, status: dict[str, Any]) -> None:
    resizer(api, **status)
    result = grow(api, wait=True)
    assert (result["error"]["code"], ids(result)) == ("resize_failed", ["k8s.claim.resize_failed"])


@pytest.mark.parametrize(
    ("manifest", "kind", "code"),
    [
        (claim(phase="Pending"), "precondition", "unbound"),
        (claim(where="fixed"), "unsupported", "no_expansion"),
        (claim(where=""), "unsupported", "no_expansion"),
        (claim(where="gone"), "unsupported", "no_expansion"),
        (claim(allocatedResourceStatuses={"storage": "NodeResizeInfeasible"}), "precondition", "resize_failed"),
    ],
)
def test_what_cannot_grow_is_refused_before_a_write(api: FakeApi, manifest: Json, kind: str, code: str) -> None:
    api.add(manifest)
    result = grow(api)
    assert (result["error"]["kind"], result["error"]["code"], api.written) == (kind, code, [])


@pytest.mark.parametrize("size", ["20 GB", "much", "-1Gi"])
def test_what_is_no_size(api: FakeApi, size: str) -> None:
    result = grow(api, size)
    assert (result["error"]["code"], api.written) == ("bad_parameter", [])


def test_the_right_is_asked_for_first(api: FakeApi) -> None:
    api.rules = (allow("get list"),)
    assert grow(api)["error"]["code"] == "rbac"


def test_who_may_not_read_classes_hears_it_from_the_server(api: FakeApi) -> None:
    api.rules = (allow("get list patch", "persistentvolumeclaims pods statefulsets namespaces"),)
    assert grow(api, check=True)["changed"] is True
    words = "only dynamically provisioned pvc can be resized and the storageclass must support resize"
    api.refuse("PATCH", "persistentvolumeclaims", 403, words)
    result = grow(api)
    assert (result["error"]["kind"], result["error"]["code"]) == ("unsupported", "no_expansion")


def test_the_template_of_its_set_is_named(api: FakeApi) -> None:
    template = {"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "10Gi"}}}}
    api.add({"kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {"volumeClaimTemplates": [template]}})
    assert ids(grow(api, check=True)) == ["k8s.claim.template"]
    assert ids(grow(api, "10Gi")) == []


def test_pods_are_restarted_only_when_that_is_allowed_and_needed(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_restart, "PATIENCE", 0)
    api.add(pod())
    resizer(api, conditions=PENDING)
    result = grow(api, allow_restart=True)
    assert result["plan"]["exact"] is False
    assert ("", "pods", "shop", "db-0") not in api.store
    assert [one.sub for one in api.written] == ["", "eviction"]


def test_pods_stay_when_the_filesystem_grows_in_use(api: FakeApi) -> None:
    api.add(pod())
    resizer(api, capacity={"storage": "20Gi"})
    result = grow(api, allow_restart=True)
    assert (result["changed"], len(result["actions"]), len(api.written)) == (True, 1, 1)
    assert "grown in use" in result["spared"][0]["reason"]


def test_a_pod_that_stands_alone_stays(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_restart, "PATIENCE", 0)
    api.add(pod(owner=False))
    resizer(api, conditions=PENDING)
    result = grow(api, allow_restart=True)
    assert (result["error"]["code"], api.written) == ("bare_pod", [])
