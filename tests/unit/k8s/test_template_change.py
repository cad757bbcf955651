# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""k8s_workload on an API server in memory: what is patched, what is refused, what is said."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.sre.runbooks.plugins.module_utils._core.redact import digest
from ansible_collections.sre.runbooks.plugins.module_utils._core.run import execute
from ansible_collections.sre.runbooks.plugins.module_utils._k8s import kinds, template_change
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.client import Patch
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.errors import Json
from ansible_collections.sre.runbooks.plugins.modules.k8s_workload import DOOR
from tests.fakes.kubernetes import FakeApi, allow, container, door_of, kube_of

ENV = [
    {"name": "LEVEL", "value": "info"},
    {"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}},
    {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "web", "key": "MODE"}}},
]
LIMITS = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "256Mi"}}


@pytest.fixture
def api() -> FakeApi:
    found = FakeApi()
    found.add(workload())
    found.add({"kind": "ConfigMap", "metadata": {"name": "web", "uid": "uid-cm"}, "data": {"MODE": "off", "x": "1"}})
    found.add({"kind": "Secret", "metadata": {"name": "db"}, "data": {"password": "czNjcmV0"}})
    return found


def workload(kind: str = "Deployment", **fields: Any) -> Json:
    spec = {"containers": [container("web", env=[dict(one) for one in ENV], resources=LIMITS)]}
    template = {"metadata": {"labels": {"app": "web"}, "annotations": {"team": "shop"}}, "spec": spec}
    status = {"observedGeneration": 99, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}
    return {
        "kind": kind,
        "metadata": {"name": "web", "uid": "uid-web", **fields.pop("metadata", {})},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": template,
            **fields.pop("spec", {}),
        },
        "status": status,
    }


def state(api: FakeApi, check: bool = False, **options: Any) -> dict[str, Any]:
    wanted = {"namespace": "shop", "name": "web", "wait": False, **options}
    checked = ArgumentSpecValidator(DOOR.spec.arguments(), **DOOR.spec.rules()).validate(wanted)
    assert not checked.error_messages, checked.error_messages
    return execute(door_of(DOOR, kube_of(api)), checked.validated_parameters, check_mode=check)


def now(api: FakeApi) -> Json:
    found: Json = api.store[("apps", "deployments", "shop", "web")]
    return found


def app(api: FakeApi) -> Json:
    found: Json = now(api)["spec"]["template"]["spec"]["containers"][0]
    return found


def _images(api: FakeApi) -> dict[str, str]:
    return {one["name"]: one["image"] for one in now(api)["spec"]["template"]["spec"]["containers"]}


def ids(result: dict[str, Any]) -> list[str]:
    return [one["id"] for one in result["findings"]]


def code(result: dict[str, Any]) -> str:
    assert result.get("failed"), result
    return str(result["error"]["code"])


def test_the_module_plans_with_this() -> None:
    assert template_change.plan_of


def test_check_predicts_and_writes_nothing_and_again_changes_nothing(api: FakeApi) -> None:
    options: dict[str, Any] = {"env": {"LEVEL": "debug"}, "image": "registry.example/app:2", "env_absent": ["MODE"]}
    checked = state(api, check=True, **options)
    assert api.written == []
    done = state(api, **options)
    assert (done["actions"], done["diff"], done["plan"]) == (checked["actions"], checked["diff"], checked["plan"])
    assert [one["name"] for one in app(api)["env"]] == ["LEVEL", "DB_PASSWORD"]
    assert done["diff"]["after"]["spec.containers[web].env[LEVEL].value"] == "debug"
    assert "k8s.rollout.follows" in ids(done)
    again = state(api, **options)
    assert (again["changed"], again["actions"], len(api.written)) == (False, [], 1)


def test_the_patch_names_the_very_object_it_was_made_for(api: FakeApi) -> None:
    version = now(api)["metadata"]["resourceVersion"]
    state(api, env={"LEVEL": "debug"})
    metadata = api.written[0].body["metadata"]
    assert metadata == {"uid": "uid-web", "resourceVersion": version}


def meddle(api: FakeApi, spec: Json) -> None:
    """Somebody else changes it between our look and our patch."""

    def change(request: Any) -> None:
        if request.method == "PATCH" and not request.dry_run:
            api.before.clear()
            api.change(kinds.DEPLOYMENT, "shop", "web", {"spec": spec})

    api.before.append(change)


def test_a_template_that_somebody_else_changed_meanwhile_is_a_conflict(api: FakeApi) -> None:
    meddle(api, {"template": {"metadata": {"annotations": {"theirs": "1"}}}})
    result = state(api, env={"LEVEL": "debug"})
    assert (code(result), result["changed"], api.written) == ("conflict", False, [])


def test_more_pods_meanwhile_have_to_fit_the_budget_too(api: FakeApi) -> None:
    budget = {"connections_per_replica": 20, "connections_limit": 100}
    meddle(api, {"replicas": 5})
    result = state(api, env={"LEVEL": "debug"}, **budget)
    assert (code(result), result["changed"], api.written) == ("connection_budget", False, [])


def test_secret_values_leave_the_module_as_digests_only(api: FakeApi) -> None:
    result = state(api, env={"API_TOKEN": "hunter2-hunter2"})
    assert "hunter2" not in str(result)
    assert result["diff"]["after"]["spec.containers[web].env[API_TOKEN].value"] == digest(b"hunter2-hunter2")


@pytest.mark.parametrize("also", ["sidecar", "init"])
def test_a_container_is_meant_by_name(api: FakeApi, also: str) -> None:
    more = container(also, "registry.example/proxy:1")
    place = "containers" if also == "sidecar" else "initContainers"
    patch = {"spec": {"template": {"spec": {place: [more]}}}}
    api.change(kinds.DEPLOYMENT, "shop", "web", patch, Patch.STRATEGIC)
    result = state(api, env={"A": "1"})
    assert result.get("failed", False) is (also == "sidecar")
    if also == "sidecar":
        assert (code(result), "web" in result["msg"], "sidecar" in result["msg"]) == ("ambiguous_container", True, True)
    state(api, container=also, image="registry.example/proxy:2")
    images = {one["name"]: one["image"] for one in now(api)["spec"]["template"]["spec"][place]}
    assert images[also] == "registry.example/proxy:2"
    assert {**images, **_images(api)}["web"] == "registry.example/app:1"
    assert code(state(api, container="nobody", image="x")) == "no_container"


def test_annotations_of_the_workload_replace_no_pod(api: FakeApi) -> None:
    result = state(api, annotations={"note": "x"}, pod_annotations={"team": "shop", "gone": None})
    assert (result["changed"], "k8s.rollout.follows" in ids(result)) == (True, False)
    result = state(api, pod_annotations={"team": None})
    assert "k8s.rollout.follows" in ids(result)
    assert not now(api)["spec"]["template"]["metadata"].get("annotations")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"env": {"A": "1"}, "connections_per_replica": 40, "connections_limit": 100}, "connection_budget"),
        ({"env_from_secret": {"A": {"name": "db", "key": "nope"}}}, "config_missing"),
        ({"env_from_config": {"A": {"name": "nobody", "key": "x"}}}, "config_missing"),
        ({"resources": {"requests": {"memory": "1Gi"}}}, "request_above_limit"),
        ({"resources": {"limits": {"memory": "2Gi"}}, "memory_ceiling": "1Gi"}, "bounds"),
        ({"memory_factor": 1.0, "memory_ceiling": "1Gi"}, "bad_parameter"),
        ({"restart": True}, "bad_parameter"),
        ({"config_map": "web", "key": "MODE"}, "bad_parameter"),
        ({"name": "wbe", "env": {"A": "1"}}, "no_workload"),
    ],
)
def test_what_is_refused_changes_nothing(api: FakeApi, options: dict[str, Any], expected: str) -> None:
    result = state(api, **options)
    assert (code(result), result["changed"], api.written) == (expected, False, [])
    assert result["error"]["hint"]


def test_without_a_surge_the_connections_are_enough(api: FakeApi) -> None:
    budget = {"connections_per_replica": 40, "connections_limit": 100}
    assert "maxSurge" in state(api, env={"A": "1"}, **budget)["msg"]
    api.change(kinds.DEPLOYMENT, "shop", "web", {"spec": {"strategy": {"rollingUpdate": {"maxSurge": 0}}}})
    assert state(api, env={"A": "1"}, **budget)["changed"] is True


def test_somebody_elses_workload_is_left_to_them(api: FakeApi) -> None:
    api.add(workload(metadata={"labels": {"argocd.argoproj.io/instance": "shop"}}))
    assert code(state(api, env={"A": "1"})) == "gitops_owner"
    result = state(api, env={"A": "1"}, accept_drift=True)
    assert (result["changed"], "k8s.owned.argocd" in ids(result)) == (True, True)


def test_a_paused_one_is_not_waited_for(api: FakeApi) -> None:
    api.add(workload(spec={"paused": True}))
    assert code(state(api, env={"A": "1"}, wait=True)) == "paused"
    assert state(api, env={"A": "1"})["changed"] is True


def test_missing_rights_are_all_named_before_the_first_write(api: FakeApi) -> None:
    api.rules = (allow("get list"),)
    result = state(api, config_map="web", key="MODE", value="on", restart=True)
    assert code(result) == "rbac"
    assert "deployments" in result["msg"]
    assert "configmaps" in result["msg"]


def test_a_webhook_that_takes_no_dry_run_leaves_a_prediction(api: FakeApi) -> None:
    words = 'admission webhook "x" does not support dry run'

    def refuse(request: Any) -> None:
        if request.dry_run:
            from tests.fakes.kubernetes import _error

            raise _error(400, words)

    api.before.append(refuse)
    checked = state(api, check=True, env={"LEVEL": "debug"}, resources={"limits": {"memory": "300Mi"}})
    assert checked["plan"]["exact"] is False
    done = state(api, env={"LEVEL": "debug"}, resources={"limits": {"memory": "300Mi"}})
    assert checked["diff"] == done["diff"]
    assert done["diff"]["after"]["spec.containers[web].resources.limits.memory"] == "300Mi"


def test_a_change_that_admission_takes_back_is_said_and_not_made(api: FakeApi) -> None:
    kept = api.patch

    def mutated(path: str, patch: Any, how: Patch, *, dry_run: bool = False) -> Json:
        return now(api) if dry_run else kept(path, patch, how, dry_run=dry_run)

    api.patch = mutated  # type: ignore[method-assign]
    result = state(api, image="registry.example/app:2")
    assert (result["changed"], ids(result)) == (False, ["k8s.admission.reverts"])


def test_duplicates_are_named_and_become_one(api: FakeApi) -> None:
    twice = [*ENV, {"name": "LEVEL", "value": "warn"}]
    now(api)["spec"]["template"]["spec"]["containers"][0]["env"] = twice
    untouched = state(api, env_absent=["NOBODY"])
    assert (untouched["changed"], ids(untouched)) == (False, ["k8s.env.duplicate"])
    result = state(api, env={"LEVEL": "warn"})
    assert result["diff"]["before"]["duplicates"] == ["LEVEL"]
    assert app(api)["env"] == [{"name": "LEVEL", "value": "warn"}, *ENV[1:]]
    assert state(api, env={"LEVEL": "warn"})["changed"] is False


def test_an_entry_that_quotes_a_later_one_is_named(api: FakeApi) -> None:
    assert "k8s.env.reference_order" in ids(state(api, env={"LEVEL": "$(LATER)"}, env_from_config={}))


def test_a_name_that_still_comes_with_a_whole_object_is_named(api: FakeApi) -> None:
    now(api)["spec"]["template"]["spec"]["containers"][0]["envFrom"] = [
        {"configMapRef": {"name": "web"}, "prefix": "WEB_"},
        {"secretRef": {"name": "nobody"}},
    ]
    result = state(api, env_absent=["WEB_MODE", "MODE"])
    finding = next(one for one in result["findings"] if one["id"] == "k8s.env.still_from")
    assert finding["evidence"] == {"names": {"WEB_MODE": "ConfigMap web"}}
    assert "k8s.env.still_from" not in ids(state(api, env_absent=["MODE"]))


def test_undo_brings_back_all_that_was_there(api: FakeApi) -> None:
    before = now(api)["spec"]
    options = {"env": {"MODE": "x", "N": "1"}, "resources": {"limits": {"cpu": "1"}}, "pod_annotations": {"team": None}}
    checked = ArgumentSpecValidator(DOOR.spec.arguments(), **DOOR.spec.rules()).validate(
        {"namespace": "shop", "name": "web", "wait": False, "annotations": {"a": "b"}, **options}
    )
    plan = DOOR.plan(kube_of(api), checked.validated_parameters)
    plan.steps[0].act(lambda _line: None)
    assert now(api)["spec"] != before
    undo = plan.steps[0].undo.act
    assert undo
    undo()
    assert now(api)["spec"] == before
    assert not now(api)["metadata"]["annotations"]


def test_other_requests_move_the_autoscaler_and_the_class(api: FakeApi) -> None:
    target = {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"}
    metric = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}}
    api.add(
        {
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "web"},
            "spec": {"scaleTargetRef": target, "maxReplicas": 5, "metrics": [metric]},
        }
    )
    vpa = {"kind": "VerticalPodAutoscaler", "metadata": {"name": "web"}, "spec": {"targetRef": target}}
    api.add(vpa)
    result = state(api, check=True, resources={"requests": {"cpu": "200m"}, "limits": {"cpu": "200m"}})
    assert {"k8s.hpa.moves", "k8s.vpa.overrides", "k8s.qos.changes"} <= set(ids(result))
    assert "k8s.hpa.moves" not in ids(state(api, check=True, resources={"limits": {"cpu": "300m"}}))


def test_a_limit_below_what_the_pods_use_is_refused(api: FakeApi) -> None:
    api.add(pod("p1", "256Mi"))
    usage = [{"name": "web", "usage": {"memory": "200Mi", "cpu": "5m"}}]
    assert "k8s.usage.unseen" in ids(state(api, check=True, resources=memory("100Mi")))
    api.add({"kind": "PodMetrics", "metadata": {"name": "p1", "labels": {"app": "web"}}, "containers": usage})
    result = state(api, resources=memory("100Mi"))
    assert (code(result), "200Mi" in result["msg"]) == ("memory_usage", True)
    assert state(api, resources=memory("220Mi"))["changed"] is True


def memory(size: str) -> dict[str, Any]:
    return {"limits": {"memory": size}, "requests": {"memory": size}}


def pod(name: str, limit: str, reason: str = "") -> Json:
    ended = {"lastState": {"terminated": {"reason": reason, "exitCode": 137}}} if reason else {}
    owner = {"kind": "ReplicaSet", "name": "web-1", "uid": "uid-rs", "controller": True}
    return {
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web"}, "ownerReferences": [owner]},
        "spec": {"containers": [container("web", resources={"limits": {"memory": limit}})]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "web", **ended}]},
    }


@pytest.fixture
def replica_set(api: FakeApi) -> None:
    owner = {"kind": "Deployment", "name": "web", "uid": "uid-web", "controller": True}
    metadata = {"name": "web-1", "uid": "uid-rs", "labels": {"app": "web"}, "ownerReferences": [owner]}
    api.add({"kind": "ReplicaSet", "metadata": metadata, "spec": {"selector": {"matchLabels": {"app": "web"}}}})


@pytest.fixture(autouse=True)
def _with_a_replica_set(api: FakeApi, replica_set: None) -> None:
    """Every Deployment has one."""


def test_the_limit_rises_by_what_was_not_enough_once(api: FakeApi) -> None:
    api.add(pod("p1", "256Mi", "OOMKilled"))
    more = {"memory_factor": 1.5, "memory_ceiling": "1Gi"}
    result = state(api, **more)
    assert app(api)["resources"]["limits"]["memory"] == "384Mi"
    assert app(api)["resources"]["requests"] == {"cpu": "100m", "memory": "384Mi"}
    assert "k8s.memory.limit_too_low" in ids(result)
    again = state(api, **more)
    assert (again["changed"], ids(again)) == (False, [])


@pytest.mark.parametrize(("limit", "found"), [("256Mi", "k8s.memory.at_ceiling"), ("64Mi", "")])
def test_a_limit_at_the_ceiling_stays(api: FakeApi, limit: str, found: str) -> None:
    api.add(pod("p1", limit, "OOMKilled"))
    result = state(api, memory_factor=1.5, memory_ceiling="256Mi")
    assert (result["changed"], ids(result)) == (False, [found] if found else [])


def test_without_a_limit_there_is_none_to_raise(api: FakeApi) -> None:
    api.add(workload(spec={}))
    now(api)["spec"]["template"]["spec"]["containers"][0]["resources"] = {}
    bare = pod("p1", "1Gi", "OOMKilled")
    bare["spec"]["containers"][0]["resources"] = {}
    api.add(bare)
    result = state(api, memory_factor=1.5, memory_ceiling="1Gi")
    assert (result["changed"], ids(result)) == (False, ["k8s.memory.no_limit"])


def test_a_switch_alone_restarts_nobody_and_says_so(api: FakeApi) -> None:
    result = state(api, config_map="web", key="MODE", value="on", expect="off")
    assert api.store[("", "configmaps", "shop", "web")]["data"] == {"MODE": "on", "x": "1"}
    assert [request.kind for request in api.written] == [kinds.CONFIG_MAP]
    finding = next(one for one in result["findings"] if one["id"] == "k8s.config.no_restart")
    assert (finding["severity"], finding["evidence"]["read_by"]) == ("warning", ["env"])
    again = state(api, config_map="web", key="MODE", value="on", expect="off")
    assert (again["changed"], ids(again)) == (False, [])


def test_a_switch_with_restart_rolls_once(api: FakeApi) -> None:
    options = {"config_map": "web", "key": "MODE", "value": "on", "restart": True}
    assert state(api, **options)["plan"]["count"] == 2
    notes = now(api)["spec"]["template"]["metadata"]["annotations"]
    assert len([name for name in notes if name.startswith("sre.runbooks/checksum-web-")]) == 1
    assert state(api, **options)["changed"] is False
    assert state(api, **{**options, "value": "off"})["plan"]["count"] == 2
    assert len(now(api)["spec"]["template"]["metadata"]["annotations"]) == len(notes)
    assert "k8s.config.not_used" in ids(state(api, **{**options, "key": "x"}))


def test_a_switch_is_taken_back_when_the_template_is_refused(api: FakeApi) -> None:
    def refuse(request: Any) -> None:
        if request.method == "PATCH" and request.kind is kinds.DEPLOYMENT and not request.dry_run:
            from tests.fakes.kubernetes import _error

            raise _error(403, "no longer")

    api.before.append(refuse)
    result = state(api, config_map="web", key="MODE", value="on", restart=True)
    assert (result["failed"], result["changed"], len(result["undone"])) == (True, False, 1)
    assert api.store[("", "configmaps", "shop", "web")]["data"]["MODE"] == "off"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"config_map": "web", "key": "MODE", "value": "on", "expect": "else"}, "expect"),
        ({"secret": "db", "key": "password", "secret_value": "n3w", "expect": "s3cret"}, "expect"),
        ({"config_map": "nobody", "key": "MODE", "value": "on"}, "not_found"),
        ({"config_map": "fixed", "key": "MODE", "value": "on"}, "immutable"),
        ({"config_map": "raw", "key": "MODE", "value": "on"}, "binary_key"),
    ],
)
def test_what_cannot_be_switched(api: FakeApi, options: dict[str, Any], expected: str) -> None:
    api.add({"kind": "ConfigMap", "metadata": {"name": "fixed"}, "immutable": True, "data": {"MODE": "off"}})
    api.add({"kind": "ConfigMap", "metadata": {"name": "raw"}, "binaryData": {"MODE": "AAA="}})
    result = state(api, **options)
    assert (code(result), api.written) == (expected, [])


def test_a_secret_is_switched_and_never_shown(api: FakeApi) -> None:
    options = {"secret": "db", "key": "password", "secret_value": "n3w-s3cret", "expect": digest(b"s3cret")}
    result = state(api, name=None, **options)
    assert api.store[("", "secrets", "shop", "db")]["data"]["password"] == "bjN3LXMzY3JldA=="
    text = str(result)
    assert not [one for one in ("n3w-s3cret", "s3cret'", "bjN3LXMz", "czNjcmV0") if one in text]
    assert state(api, name=None, **options)["changed"] is False


def test_a_key_that_must_not_be_there(api: FakeApi) -> None:
    options = {"config_map": "web", "key": "MODE", "key_absent": True}
    assert state(api, **options)["changed"] is True
    assert api.store[("", "configmaps", "shop", "web")]["data"] == {"x": "1"}
    assert state(api, **options)["changed"] is False
    assert "k8s.config.new_key" in ids(state(api, config_map="web", key="MODE", value="on"))
