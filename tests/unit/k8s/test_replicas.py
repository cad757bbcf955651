# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""k8s_replicas on an API server in memory: who owns the number, what is kept, what is put back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.sre.runbooks.plugins.module_utils._core.run import execute
from ansible_collections.sre.runbooks.plugins.module_utils._k8s import kinds
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.autoscaling import PAUSED, PAUSED_AT
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.edits import QUIESCED, RAISED
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.errors import Json, refusal
from ansible_collections.sre.runbooks.plugins.modules.k8s_replicas import DOOR
from tests.fakes.kubernetes import FakeApi, Request, allow, container, door_of, kube_of

NODE = {
    "kind": "Node",
    "metadata": {"name": "n1"},
    "spec": {},
    "status": {
        "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}


def deployment(replicas: int = 3, kind: str = "Deployment", **more: Any) -> Json:
    labels = {"app": "web"}
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container()], **more.pop("pod", {})}},
    }
    status = {"replicas": replicas, "readyReplicas": replicas, "observedGeneration": 1}
    return {"kind": kind, "metadata": {"name": "web", **more}, "spec": spec, "status": status}


def hpa(low: int = 2, high: int = 5, **more: Any) -> Json:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    spec = {"scaleTargetRef": target, "minReplicas": low, "maxReplicas": high}
    return {
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web", **more.pop("meta", {})},
        "spec": spec,
        **more,
    }


def keda(low: int = 1, **annotations: str) -> Json:
    names = {"paused": PAUSED, "paused_at": PAUSED_AT}
    meta = {"name": "web", "annotations": {names[name]: value for name, value in annotations.items()}}
    spec = {"scaleTargetRef": {"name": "web"}, "minReplicaCount": low, "maxReplicaCount": 9, "triggers": []}
    return {"kind": "ScaledObject", "metadata": meta, "spec": spec}


class World:
    """A namespace with one workload, and the module aimed at it."""

    def __init__(self, *manifests: Json, **options: Any) -> None:
        self.api = FakeApi(**options)
        for manifest in (NODE, *(manifests or (deployment(),))):
            self.api.add(manifest)

    def run(self, check: bool = False, **wanted: Any) -> Json:
        door = door_of(DOOR, kube_of(self.api))
        asked = {"namespace": "shop", "name": "web", "wait": False, **wanted}
        checked = ArgumentSpecValidator(door.spec.arguments(), **door.spec.rules()).validate(asked)
        assert not checked.error_messages, checked.error_messages
        return execute(door, checked.validated_parameters, check_mode=check)

    def error(self, **wanted: Any) -> tuple[str, str]:
        result = self.run(**wanted)
        assert result.get("failed"), result
        assert self.api.written == []
        return result["error"]["kind"], result["error"]["code"]

    def see(self, kind: kinds.Kind = kinds.DEPLOYMENT) -> Json:
        return self.api.store[kind.group, kind.plural, "shop", "web"]

    @property
    def replicas(self) -> int:
        return int(self.see()["spec"]["replicas"])

    @property
    def bounds(self) -> tuple[int, int]:
        spec = self.see(kinds.AUTOSCALER)["spec"]
        return spec["minReplicas"], spec["maxReplicas"]

    def notes(self, kind: kinds.Kind = kinds.DEPLOYMENT) -> dict[str, str]:
        return dict(self.see(kind)["metadata"].get("annotations") or {})


def ids(result: Json) -> list[str]:
    return [found["id"] for found in result["findings"]]


# Nobody owns the number.


def test_at_least_raises_remembers_and_is_restored() -> None:
    world = World()
    result = world.run(min_replicas=6)
    assert (result["changed"], world.replicas, result["diff"]) == (
        True,
        6,
        {"before": {"replicas": 3}, "after": {"replicas": 6}},
    )
    assert json.loads(world.notes()[RAISED]) == {"was": {"replicas": 3}, "to": {"replicas": 6}}
    assert world.run(min_replicas=6)["changed"] is False
    world.run(min_replicas=8)
    assert json.loads(world.notes()[RAISED])["was"] == {"replicas": 3}, "the first number counts"
    assert world.run(restored=True)["actions"] == ["scale Deployment shop/web back from 8 to 3"]
    assert (world.replicas, world.notes()) == (3, {})
    assert world.run(restored=True)["changed"] is False


def test_at_least_never_takes_pods_away() -> None:
    world = World(deployment(9))
    assert world.run(min_replicas=4)["changed"] is False
    assert world.replicas == 9


def test_exactly_is_for_good_and_forgets() -> None:
    world = World()
    world.run(min_replicas=6)
    world.run(replicas=5)
    assert (world.replicas, world.notes()) == (5, {})
    assert world.run(restored=True)["changed"] is False
    world.run(replicas=7, temporary=True)
    assert world.run(replicas=7)["actions"] == ["keep Deployment shop/web at 7 for good"]
    assert world.notes() == {}


def test_a_number_that_somebody_changed_since_is_not_restored() -> None:
    world = World()
    world.run(min_replicas=6)
    world.api.change(kinds.DEPLOYMENT, "shop", "web", {"spec": {"replicas": 7}})
    world.api.written.clear()
    assert world.error(restored=True) == ("conflict", "changed_since")
    world.run(min_replicas=9)
    assert json.loads(world.notes()[RAISED])["was"] == {"replicas": 7}, "a note out of date does not count"


def test_check_mode_says_the_same_and_writes_nothing() -> None:
    world = World()
    checked = world.run(check=True, min_replicas=6)
    assert world.api.written == []
    assert [request.dry_run for request in world.api.log if request.method == "PATCH"] == [True]
    done = world.run(min_replicas=6)
    for name in ("actions", "diff", "plan", "undo", "forecast"):
        assert checked[name] == done[name], name


@pytest.mark.parametrize("number", [0, -1])
def test_none_is_what_quiesced_is_for(number: int) -> None:
    assert World().error(replicas=number) == ("precondition", "bad_parameter")
    assert World().error(min_replicas=number) == ("precondition", "bad_parameter")


def test_fewer_pods_only_in_steps() -> None:
    assert World(deployment(10)).error(replicas=4) == ("guard_refused", "max_fraction")
    assert World(deployment(10)).run(replicas=5)["changed"] is True


def test_limits_on_pods() -> None:
    assert World().error(min_replicas=51) == ("guard_refused", "max_replicas")
    assert World().error(min_replicas=20, max_count=10) == ("guard_refused", "max_count")
    assert World().error(min_replicas=4, protect=["shop/*"]) == ("guard_refused", "protect")


# Quiesced and back.


def test_quiesces_twice_and_brings_the_first_number_back() -> None:
    world = World(deployment(7, annotations={"other": "stays"}))
    assert world.run(quiesced=True)["changed"] is True
    assert world.run(quiesced=True)["changed"] is False
    assert (world.replicas, json.loads(world.notes()[QUIESCED])["was"]) == (0, {"replicas": 7})
    result = world.run(quiesced=False)
    assert (world.replicas, world.notes(), result["changed"]) == (7, {"other": "stays"}, True)
    assert world.run(quiesced=False)["changed"] is False


def test_what_had_no_pods_before_has_none_afterwards() -> None:
    world = World(deployment(0))
    assert world.run(quiesced=True)["changed"] is False
    assert world.run(quiesced=False)["changed"] is False
    assert world.replicas == 0


def test_a_raise_outlives_a_quiesce() -> None:
    world = World()
    world.run(min_replicas=6)
    world.run(quiesced=True)
    world.api.written.clear()
    assert world.error(min_replicas=8) == ("precondition", "quiesced")
    assert world.error(restored=True) == ("precondition", "quiesced")
    world.run(quiesced=False)
    assert world.replicas == 6
    world.run(restored=True)
    assert (world.replicas, world.notes()) == (3, {})


def test_pods_that_somebody_started_meanwhile_stay() -> None:
    world = World(deployment(7))
    world.run(quiesced=True)
    world.api.change(kinds.DEPLOYMENT, "shop", "web", {"spec": {"replicas": 2}})
    world.run(quiesced=False)
    assert (world.replicas, world.notes()) == (2, {})
    world.api.change(kinds.DEPLOYMENT, "shop", "web", {"metadata": {"annotations": {QUIESCED: '{"was":{},"to":{}}'}}})
    world.run(quiesced=True)
    assert json.loads(world.notes()[QUIESCED])["was"] == {"replicas": 2}, "a note of old does not count"


def test_limits_on_growth_do_not_hold_a_return_up() -> None:
    world = World(deployment(60))
    world.run(quiesced=True, max_count=100)
    world.api.change(kinds.NODE, "", "n1", {"spec": {"unschedulable": True}})
    result = world.run(quiesced=False, connections_per_replica=10, connections_limit=100)
    assert world.replicas == 60
    assert {"k8s.capacity.no_room", "k8s.capacity.connections"} <= set(ids(result))


def test_a_note_that_was_edited_is_not_believed() -> None:
    world = World(deployment(0, annotations={QUIESCED: "seven"}))
    assert world.error(quiesced=False) == ("precondition", "bad_note")


# A HorizontalPodAutoscaler owns it.


def test_moves_the_bounds_instead_of_fighting() -> None:
    world = World(deployment(), hpa())
    result = world.run(min_replicas=4)
    assert (world.bounds, world.replicas, result["scale"]["owner"]) == ((4, 5), 3, "hpa")
    assert result["diff"] == {
        "before": {"min_replicas": 2, "max_replicas": 5},
        "after": {"min_replicas": 4, "max_replicas": 5},
    }
    assert world.run(min_replicas=4)["changed"] is False
    world.run(min_replicas=5)
    world.run(restored=True)
    assert (world.bounds, world.notes(kinds.AUTOSCALER)) == ((2, 5), {})


def test_the_upper_bound_moves_only_when_that_is_declared() -> None:
    world = World(deployment(), hpa())
    assert world.error(min_replicas=8) == ("precondition", "hpa_max")
    world.run(min_replicas=8, change_max=True)
    assert world.bounds == (8, 8)
    world.run(restored=True)
    assert world.bounds == (2, 5)


def test_exactly_so_many_under_an_autoscaler() -> None:
    world = World(deployment(), hpa())
    assert world.error(replicas=4) == ("precondition", "hpa_max")
    world.run(replicas=4, change_max=True, temporary=True)
    assert world.bounds == (4, 4)
    world.run(restored=True)
    assert world.bounds == (2, 5)


def test_bounds_that_somebody_changed_since_are_not_restored() -> None:
    world = World(deployment(), hpa())
    world.run(min_replicas=4)
    world.api.change(kinds.AUTOSCALER, "shop", "web", {"spec": {"maxReplicas": 12}})
    world.api.written.clear()
    assert world.error(restored=True) == ("conflict", "changed_since")


def test_an_autoscaler_rests_while_its_workload_is_quiesced() -> None:
    world = World(deployment(), hpa())
    world.run(quiesced=True)
    assert (world.replicas, world.bounds) == (0, (2, 5))
    world.run(quiesced=False)
    assert (world.replicas, world.bounds) == (3, (2, 5))
    assert World(deployment(), hpa(low=0)).error(quiesced=True) == ("precondition", "hpa_from_zero")
    assert World(deployment(0), hpa()).error(min_replicas=4) == ("precondition", "scaled_to_zero")


def test_writing_past_an_autoscaler_stays_within_its_bounds() -> None:
    world = World(deployment(), hpa())
    assert world.error(mode="scale", min_replicas=6) == ("precondition", "autoscaled")
    world.run(mode="scale", min_replicas=4)
    assert (world.replicas, world.bounds) == (4, (2, 5))
    assert World().error(mode="hpa_bounds", min_replicas=4) == ("precondition", "no_autoscaler")
    assert World().error(mode="keda_pause", min_replicas=4) == ("precondition", "no_autoscaler")


def test_two_autoscalers_are_a_mistake() -> None:
    other = hpa()
    other["metadata"]["name"] = "web-2"
    assert World(deployment(), hpa(), other).error(min_replicas=4) == ("precondition", "autoscalers")


def test_autoscalers_of_others_are_not_ours() -> None:
    other = hpa()
    other["spec"]["scaleTargetRef"] |= {"kind": "StatefulSet"}
    assert World(deployment(), other).run(min_replicas=4)["scale"]["owner"] == "none"


def test_says_what_ails_the_autoscaler() -> None:
    conditions = [
        {"type": "ScalingActive", "status": "False", "reason": "FailedGetResourceMetric", "message": "no metrics"},
        {"type": "ScalingLimited", "status": "True", "reason": "TooManyReplicas"},
    ]
    ill = hpa(status={"currentReplicas": 5, "desiredReplicas": 5, "conditions": conditions})
    assert ids(World(deployment(5), ill).run(min_replicas=2)) == ["k8s.hpa.no_metrics", "k8s.hpa.at_max"]
    rests = [{"type": "ScalingActive", "status": "False", "reason": "ScalingDisabled"}]
    assert ids(World(deployment(5), hpa(status={"conditions": rests})).run(min_replicas=2)) == []


# KEDA owns it.


def test_keda_is_paused_and_given_its_number_back() -> None:
    own = hpa(meta={"ownerReferences": [{"kind": "ScaledObject", "name": "web", "controller": True, "uid": "u"}]})
    world = World(deployment(), keda(), own)
    result = world.run(min_replicas=6)
    assert result["actions"] == ["pause ScaledObject shop/web", "scale Deployment shop/web from 3 to 6"]
    assert (world.replicas, world.bounds, result["scale"]["owner"]) == (6, (2, 5), "none")
    assert world.notes(kinds.SCALED_OBJECT)[PAUSED] == "true"
    assert world.run(min_replicas=6)["changed"] is False
    world.run(restored=True)
    assert (world.replicas, world.notes(), world.notes(kinds.SCALED_OBJECT)) == (3, {}, {})


def test_a_pause_that_was_there_is_there_again() -> None:
    world = World(deployment(), keda(paused_at="3"))
    world.run(quiesced=True)
    assert (world.replicas, PAUSED_AT in world.notes(kinds.SCALED_OBJECT)) == (0, False)
    world.run(quiesced=False)
    assert (world.replicas, world.notes(kinds.SCALED_OBJECT)) == (3, {PAUSED_AT: "3"})


def test_a_freeze_by_somebody_else_is_left_as_it_is() -> None:
    world = World(deployment(), keda(paused="true"))
    world.run(quiesced=True)
    world.run(quiesced=False)
    assert (world.replicas, world.notes(kinds.SCALED_OBJECT)) == (3, {PAUSED: "true"})


def test_keda_that_keeps_enough_anyway_is_not_paused() -> None:
    world = World(deployment(4), keda(low=4))
    assert world.run(min_replicas=4)["changed"] is False


@pytest.mark.parametrize("wanted", [{"quiesced": True}, {"min_replicas": 6}])
def test_a_run_that_ends_between_two_objects_is_gone_on_with(wanted: dict[str, Any]) -> None:
    world = World(deployment(), keda())
    stop = [True]

    def interrupt(request: Request) -> None:
        if stop[0] and request.method == "PATCH" and request.kind is kinds.DEPLOYMENT and not request.dry_run:
            raise KeyboardInterrupt

    world.api.before.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        world.run(**wanted)
    assert (world.replicas, world.notes(kinds.SCALED_OBJECT)[PAUSED]) == (3, "true")
    stop[0] = False
    world.run(**wanted)
    assert world.replicas == (6 if "min_replicas" in wanted else 0)
    world.run(**({"restored": True} if "min_replicas" in wanted else {"quiesced": False}))
    assert (world.replicas, world.notes(), world.notes(kinds.SCALED_OBJECT)) == (3, {}, {})


# What is refused, and what is told.


def test_the_connections_of_all_pods_must_fit() -> None:
    world = World()
    budget = {
        "connections_per_replica": 10,
        "connections_limit": 100,
        "connections_reserved": 3,
        "connections_other": 7,
    }
    assert world.error(min_replicas=8, **budget) == ("guard_refused", "connection_budget")  # 8 + 2 of the surge
    result = world.run(min_replicas=7, **budget)
    assert result["scale"]["connections"] == {
        "per_replica": 10,
        "limit": 100,
        "reserved": 3,
        "other": 7,
        "surge": 2,
        "need": 100,
        "most_replicas": 7,
    }
    assert world.run(min_replicas=7, **{**budget, "connections_limit": 50})["changed"] is False


def test_a_higher_upper_bound_counts_in_full() -> None:
    world = World(deployment(5), hpa(low=5, high=5))
    budget = {"connections_per_replica": 10, "connections_limit": 100}
    assert world.error(min_replicas=9, change_max=True, **budget) == ("guard_refused", "connection_budget")


def test_pods_that_would_stay_pending_are_refused() -> None:
    pod = {"containers": [container(resources={"requests": {"cpu": "2"}})]}
    world = World(deployment(pod=pod))
    assert world.error(min_replicas=9) == ("exhausted", "no_room")
    assert world.run(min_replicas=9, require_room=False)["findings"][0]["id"] == "k8s.capacity.no_room"
    quota = {"kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "4"}}}
    world = World(deployment(), {**quota, "status": {"hard": {"pods": "4"}, "used": {"pods": "3"}}})
    assert world.error(min_replicas=5, require_room=False) == ("exhausted", "quota")
    assert world.run(min_replicas=4)["changed"] is True


def test_all_missing_rights_are_told_before_the_first_write() -> None:
    reads = allow("get list", "deployments horizontalpodautoscalers scaledobjects resourcequotas limitranges")
    world = World(deployment(), keda(), rules=(reads, allow("create", "selfsubjectaccessreviews")))
    result = world.run(min_replicas=4)
    assert (result["error"]["kind"], result["error"]["code"]) == ("forbidden", "rbac")
    assert "patch scaledobjects in shop" in result["msg"]
    assert "patch deployments in shop" in result["msg"]
    unseen = World(deployment(), rules=(reads, allow("patch", "deployments")))
    unseen.api.served.add(kinds.SCALED_OBJECT)
    assert ids(unseen.run(min_replicas=4)) == ["k8s.capacity.unseen"]


def test_a_manifest_that_somebody_applies_is_named() -> None:
    field = {"manager": "ci", "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    result = World(deployment(managedFields=[field])).run(min_replicas=4)
    assert ids(result) == ["k8s.replicas.applied"]
    argo = {"labels": {"argocd.argoproj.io/instance": "shop"}}
    ours = {"manager": "argocd-controller", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    assert World(deployment(managedFields=[ours], **argo)).error(min_replicas=4) == ("precondition", "gitops_owner")
    world = World(deployment(managedFields=[ours], **argo))
    assert world.run(min_replicas=4, accept_drift=True)["changed"] is True
    elsewhere = {**ours, "fieldsV1": {"f:spec": {"f:template": {}}}}
    assert World(deployment(managedFields=[elsewhere], **argo)).run(min_replicas=4)["changed"] is True


# Between look and write.


def meanwhile(world: World, change: dict[str, Any], times: int = 1) -> None:
    """Somebody else patches the workload right before our write."""
    left = [times]

    def act(request: Request) -> None:
        if request.method == "PATCH" and not request.dry_run and left[0]:
            left[0] -= 1
            world.api.change(kinds.DEPLOYMENT, "shop", "web", {"status": {"observedGeneration": left[0]}, **change})

    world.api.before.append(act)


def test_a_status_that_moves_on_is_no_conflict() -> None:
    world = World()
    meanwhile(world, {}, times=3)
    assert world.run(min_replicas=6)["changed"] is True
    assert world.replicas == 6


def test_a_number_that_somebody_else_writes_is() -> None:
    world = World()
    meanwhile(world, {"spec": {"replicas": 4}})
    assert world.error(min_replicas=6) == ("conflict", "conflict")
    assert world.replicas == 4


def test_a_webhook_that_takes_no_dry_run_makes_it_a_guess() -> None:
    world = World()

    def refuse(request: Request) -> None:
        if request.dry_run:
            raise refusal(400, b'{"kind": "Status", "message": "admission webhook x does not support dry run"}')

    world.api.before.append(refuse)
    result = world.run(check=True, min_replicas=6)
    assert (result["plan"]["exact"], result["diff"]["after"]) == (False, {"replicas": 6})


def test_a_step_that_fails_takes_those_before_it_back() -> None:
    world = World(deployment(), keda())

    def refuse(request: Request) -> None:
        if request.kind is kinds.DEPLOYMENT and request.method == "PATCH" and not request.dry_run:
            raise refusal(500, b"etcd is gone")

    world.api.before.append(refuse)
    result = world.run(quiesced=True)
    assert (result["error"]["kind"], result["changed"], len(result["undone"])) == ("unreachable", False, 1)
    assert (world.replicas, world.notes(kinds.SCALED_OBJECT)) == (3, {})


def test_waits_for_ready_pods() -> None:
    world = World()
    result = world.run(min_replicas=6, wait=True, timeout=0)
    assert (result["error"]["kind"], world.replicas) == ("verify_failed", 6)
    status = {"replicas": 6, "readyReplicas": 6, "observedGeneration": 9}
    world.api.change(kinds.DEPLOYMENT, "shop", "web", {"status": status})
    assert world.run(min_replicas=6, wait=True, timeout=5)["verify"]["ok"] is True


@pytest.mark.parametrize(
    ("wanted", "replicas", "ready"),
    [
        ({"restored": True}, 4, True),  # the autoscaler takes the pods above its old bounds away
        ({"restored": True}, 2, True),
        ({"restored": True}, 1, False),
    ],
)
def test_an_autoscaler_that_decides_again_may_go_to_its_lower_bound(
    wanted: dict[str, Any], replicas: int, ready: bool
) -> None:
    world = World(deployment(6), hpa(low=2, high=4))
    world.run(min_replicas=6, change_max=True)

    def follow(request: Request) -> None:
        if request.kind is kinds.AUTOSCALER and request.method == "PATCH" and not request.dry_run:
            status = {"replicas": replicas, "readyReplicas": replicas, "observedGeneration": 99}
            change = {"spec": {"replicas": replicas}, "status": status}
            world.api.change(kinds.DEPLOYMENT, "shop", "web", change)

    world.api.before.append(follow)
    result = world.run(**wanted, wait=True, timeout=0.6)
    assert result["verify"]["ok"] is ready
    assert result["scale"]["goal"] == 4


def test_claims_that_go_with_the_pods_have_to_be_confirmed() -> None:
    stateful = deployment(kind="StatefulSet")
    stateful["spec"]["persistentVolumeClaimRetentionPolicy"] = {"whenScaled": "Delete", "whenDeleted": "Retain"}
    world = World(stateful)
    assert world.error(kind="StatefulSet", quiesced=True) == ("guard_refused", "confirm")
    assert world.run(kind="StatefulSet", min_replicas=4)["changed"] is True
    assert world.run(kind="StatefulSet", quiesced=True, confirm="web")["changed"] is True
    assert world.run(kind="StatefulSet", quiesced=False)["changed"] is True
    kept = deployment(kind="StatefulSet")
    kept["spec"]["persistentVolumeClaimRetentionPolicy"] = {"whenScaled": "Retain", "whenDeleted": "Delete"}
    assert World(kept).run(kind="StatefulSet", quiesced=True)["changed"] is True


def test_keda_that_may_not_be_seen_is_not_fought() -> None:
    own = hpa(meta={"ownerReferences": [{"kind": "ScaledObject", "name": "web", "controller": True, "uid": "u"}]})
    world = World(deployment(), keda(), own, rules=(allow("get list", "deployments horizontalpodautoscalers"),))
    assert world.error(min_replicas=4) == ("forbidden", "rbac")
