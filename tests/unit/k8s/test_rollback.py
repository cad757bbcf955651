# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Going back: to which template, by what request, and when not."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._k8s import kinds
from tests.fakes.kubernetes import FakeApi, Request, allow
from tests.unit.k8s.rollout_world import BAD, GOOD, OLD, ask, deployment, owner, pod, replica_set, stuck, template


def image(api: FakeApi) -> str:
    found = api.store[("apps", "deployments", "shop", "web")]["spec"]["template"]["spec"]["containers"][0]["image"]
    return str(found)


def back(api: FakeApi, **options: Any) -> dict[str, Any]:
    if not {"to_revision", "to_image"} & set(options):
        options["last_healthy"] = True
    return ask(api, state="rolled_back", **options)


def code(result: dict[str, Any]) -> tuple[str, str]:
    return result["error"]["kind"], result["error"]["code"]


def test_the_newest_that_serves_is_gone_back_to_not_the_one_before() -> None:
    api = FakeApi()
    made = deployment(api)
    good = replica_set(api, made, 1, GOOD)
    replica_set(api, made, 2, OLD)  # itself a failed release: it has no pods
    newest = replica_set(api, made, 3, BAD)
    pod(api, good, "web-1-a")
    pod(api, newest, "web-3-a", "CrashLoopBackOff")
    result = back(api)
    assert (result["changed"], image(api)) == (True, GOOD)
    assert "k8s.rollback.unproved" not in [one["id"] for one in result["findings"]]


def test_where_nobody_serves_each_template_is_tried_once() -> None:
    """With Recreate no pod is left to show what worked, so a target may fail, too."""
    api = FakeApi()
    made = deployment(api)
    for number, name in ((1, OLD), (2, GOOD)):
        replica_set(api, made, number, name)
    newest = replica_set(api, made, 3, BAD)
    pod(api, newest, "web-3-a", "CrashLoopBackOff")
    first = back(api)
    assert (image(api), "k8s.rollback.unproved" in [one["id"] for one in first["findings"]]) == (GOOD, True)
    # The controller has seen it, and the pods of that template fail as well.
    api.change(kinds.DEPLOYMENT, "shop", "web", {"status": {"observedGeneration": 99}})
    api.remove(kinds.POD, "shop", "web-3-a")
    pod(api, api.store[("apps", "replicasets", "shop", "web-2")], "web-2-a", "CrashLoopBackOff")
    assert back(api)["changed"]
    assert image(api) == OLD


def test_one_patch_of_the_whole_template_and_nothing_else() -> None:
    api = FakeApi()
    stuck(api)
    back(api)
    (written,) = api.written
    operations = {one["path"]: one["value"] for one in written.body}
    assert set(operations) == {
        "/metadata/uid",
        "/metadata/resourceVersion",
        "/metadata/annotations/kubernetes.io~1change-cause",
        "/metadata/annotations/sre.runbooks~1rolled-back",
        "/spec/template",
    }
    assert operations["/spec/template"] == template(GOOD)


def test_a_status_that_moves_meanwhile_is_no_conflict() -> None:
    api = FakeApi()
    stuck(api)
    moves = iter(range(3))

    def move(request: Request) -> None:
        if request.method == "PATCH" and next(moves, None) is not None:
            api.change(kinds.DEPLOYMENT, "shop", "web", {"status": {"readyReplicas": 1}})

    api.before.append(move)
    assert (back(api)["changed"], image(api)) == (True, GOOD)


def moved(api: FakeApi, spec: dict[str, Any]) -> dict[str, Any]:
    """The result of a rollback during which somebody else changed the workload."""
    stuck(api)
    once = iter([spec])

    def move(request: Request) -> None:
        if request.method == "PATCH" and not request.dry_run and (change := next(once, None)):
            api.change(kinds.DEPLOYMENT, "shop", "web", {"metadata": {"generation": 7}, "spec": change})

    api.before.append(move)
    return back(api)


def test_a_template_that_moves_meanwhile_is_one() -> None:
    for change in ({"template": template("registry.example/web:1.6")}, {"paused": True}):
        api = FakeApi()
        result = moved(api, change)
        assert (code(result), result["changed"], api.written) == (("conflict", "conflict"), False, [])


def test_replicas_that_an_autoscaler_changes_meanwhile_stay_as_it_wants_them() -> None:
    api = FakeApi()
    assert (moved(api, {"replicas": 9})["changed"], image(api)) == (True, GOOD)
    assert api.store[("apps", "deployments", "shop", "web")]["spec"]["replicas"] == 9


def test_an_approval_outlives_an_autoscaler_but_no_other_template() -> None:
    api = FakeApi()
    stuck(api)
    approved = back(api, to_revision=2, check_mode=True)["plan"]["id"]
    api.change(kinds.DEPLOYMENT, "shop", "web", {"metadata": {"generation": 7}, "spec": {"replicas": 9}})
    assert back(api, to_revision=2, check_mode=True, approved_plan=approved)["changed"]
    replica_set(api, api.store[("apps", "deployments", "shop", "web")], 4, "registry.example/web:1.6")
    api.change(kinds.DEPLOYMENT, "shop", "web", {"spec": {"template": template("registry.example/web:1.6")}})
    assert back(api, to_revision=2, approved_plan=approved)["error"]["code"] == "stale_plan"


def test_a_webhook_that_takes_no_dry_run_makes_the_plan_a_forecast() -> None:
    api = FakeApi()
    stuck(api)
    words = 'admission webhook "w" does not support dry run'

    def refuse(request: Request) -> None:
        if request.dry_run:
            api.refuse("PATCH", "deployments/web", 400, words, times=1)

    api.before.insert(0, refuse)
    result = back(api, check_mode=True)
    assert (result["plan"]["exact"], result["diff"]["after"]) == (False, {"spec.containers[web].image": GOOD})


def test_rights_are_asked_for_before_the_first_write() -> None:
    api = FakeApi(rules=(allow("get"), allow("list")))
    stuck(api)
    result = back(api)
    assert (code(result), api.written) == (("forbidden", "rbac"), [])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"to_revision": 7}, ("not_found", "no_revision")),
        ({"to_image": {"web": "registry.example/web:9"}}, ("not_found", "no_revision")),
        ({"to_image": {"side": GOOD}}, ("not_found", "no_revision")),
        ({"to_revision": 2, "protect": ["shop/w*"]}, ("guard_refused", "protected")),
        ({"to_revision": 2, "timeout": 0}, ("precondition", "bad_parameter")),
        ({"to_revision": 2, "last_healthy": True}, ("precondition", "bad_parameter")),
        ({"to_revision": 0}, ("precondition", "bad_parameter")),
    ],
)
def test_refusals(options: dict[str, Any], expected: tuple[str, str]) -> None:
    api = FakeApi()
    stuck(api)
    result = back(api, **options)
    assert (code(result), api.written) == (expected, [])


def test_a_revision_that_is_not_there_names_those_that_are() -> None:
    api = FakeApi()
    stuck(api)
    assert all(f"revision {number} (" in back(api, to_revision=7)["msg"] for number in (1, 2, 3))


def test_no_history_is_an_error_of_its_own() -> None:
    api = FakeApi()
    made = deployment(api, revisionHistoryLimit=0)
    pod(api, replica_set(api, made, 3, BAD), "web-3-a", "CrashLoopBackOff")
    for options in ({"to_revision": 1}, {}):
        assert code(back(api, **options)) == ("precondition", "no_history")


def test_a_paused_deployment_refuses() -> None:
    api = FakeApi()
    stuck(api, paused=True)
    assert code(back(api, to_revision=1)) == ("precondition", "paused")
    result = back(api, to_revision=1, force_paused=True, wait=True)
    assert (result["changed"], result["verify"]) == (True, {})


def test_config_that_is_gone_refuses_and_config_that_changed_is_told() -> None:
    api = FakeApi()
    made = deployment(api)
    needs = {"volumes": [{"name": "v", "configMap": {"name": "files"}}, {"name": "s", "secret": {"secretName": "key"}}]}
    good = replica_set(api, made, 1, GOOD, **needs)
    pod(api, good, "web-1-a")
    pod(api, replica_set(api, made, 3, BAD), "web-3-a", "CrashLoopBackOff")
    result = back(api)
    assert (code(result), "ConfigMap files, Secret key" in result["msg"]) == (("precondition", "config_missing"), True)
    new = {"creationTimestamp": "2026-11-19T00:00:00Z", "managedFields": [{"time": "2026-11-21T00:00:00Z"}]}
    api.add({"kind": "ConfigMap", "metadata": {"name": "files", **new}, "data": {"a": "b"}})
    api.add({"kind": "Secret", "metadata": {"name": "key", "creationTimestamp": "2026-11-19T00:00:00Z"}})
    api.refuse("GET", "secrets/key", 403)
    found = {one["id"]: one["evidence"] for one in back(api, check_mode=True)["findings"]}
    assert [one["object"] for one in found["k8s.rollback.config_changed"]["objects"]] == ["ConfigMap files"]
    assert found["k8s.rollback.config_unseen"]["objects"] == ["Secret key"]


def test_last_applied_is_told() -> None:
    api = FakeApi()
    stuck(api)
    notes = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
    api.change(kinds.DEPLOYMENT, "shop", "web", {"metadata": {"annotations": notes}})
    assert "k8s.rollback.last_applied" in [one["id"] for one in back(api)["findings"]]


def test_the_undo_puts_the_left_template_back() -> None:
    api = FakeApi()
    stuck(api)
    result = back(api)
    undo = result["undo"][0]
    assert (undo["possible"], undo["args"]["to_revision"]) == (True, 3)
    assert ask(api, **{name: value for name, value in undo["args"].items() if name != "kind"})["changed"]
    assert image(api) == BAD


def stateful_set(api: FakeApi, **spec: Any) -> dict[str, Any]:
    made = api.add(
        {
            "kind": "StatefulSet",
            "metadata": {"name": "web", "uid": "uid-web", "generation": 2},
            "spec": {
                "replicas": 3,
                "selector": {"matchLabels": {"app": "web"}},
                "template": template(BAD),
                **spec,
            },
            "status": {
                "observedGeneration": 2,
                "currentRevision": "web-good",
                "updateRevision": "web-bad",
                "updatedReplicas": 1,
                "readyReplicas": 2,
                "availableReplicas": 2,
            },
        }
    )
    for number, (name, image_) in enumerate((("web-good", GOOD), ("web-bad", BAD)), start=1):
        meta = {"name": name, "uid": f"uid-{name}", "labels": {"app": "web"}, "ownerReferences": [owner(made)]}
        meta["creationTimestamp"] = "2026-11-20T10:00:00Z"
        data = {"spec": {"template": template(image_)}}
        api.add({"kind": "ControllerRevision", "metadata": meta, "revision": number, "data": data})
    for number, name in ((0, "web-good"), (1, "web-good"), (2, "web-bad")):
        waits = "CrashLoopBackOff" if name == "web-bad" else ""
        pod(api, made, f"web-{number}", waits, **{"controller-revision-hash": name})
    return made


def test_an_ordered_stateful_set_loses_its_broken_pod() -> None:
    api = FakeApi()
    stateful_set(api)

    def controller(request: Request) -> None:
        if request.method == "PATCH" and not request.dry_run:
            status = {"observedGeneration": 9, "updateRevision": "web-good"}
            api.change(kinds.STATEFUL_SET, "shop", "web", {"status": status})

    api.before.append(controller)
    result = back(api, kind="StatefulSet")
    assert [(one.method, one.name) for one in api.written] == [("PATCH", "web"), ("DELETE", "web-2")]
    assert api.written[1].body["preconditions"]["uid"] == "uid-web-2"
    assert len(result["actions"]) == 2


def test_a_pod_that_became_ready_meanwhile_stays() -> None:
    api = FakeApi()
    stateful_set(api)

    def recover(request: Request) -> None:
        if request.method == "PATCH" and not request.dry_run:
            status = {"observedGeneration": 9, "updateRevision": "web-good"}
            api.change(kinds.STATEFUL_SET, "shop", "web", {"status": status})
            well = {"conditions": [{"type": "Ready", "status": "True"}]}
            api.change(kinds.POD, "shop", "web-2", {"status": well})

    api.before.append(recover)
    result = back(api, kind="StatefulSet")
    assert [one.method for one in api.written] == ["PATCH"]
    assert "well" in result["spared"][0]["reason"]


@pytest.mark.parametrize(
    "spec",
    [
        {"podManagementPolicy": "Parallel"},
        {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 3}}},
        {"updateStrategy": {"type": "OnDelete"}},
    ],
)
def test_pods_that_hold_nothing_up_stay(spec: dict[str, Any]) -> None:
    api = FakeApi()
    stateful_set(api, **spec)
    result = back(api, kind="StatefulSet", to_revision=1, check_mode=True)
    assert len(result["actions"]) == 1
