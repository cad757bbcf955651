# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""k8s_pod on an API server in memory: who goes, who stays, in which order, and what is asked of the server."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.sre.runbooks.plugins.module_utils._core.run import execute
from ansible_collections.sre.runbooks.plugins.module_utils._k8s import evictions, kinds, pod_choice
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.errors import Json
from ansible_collections.sre.runbooks.plugins.modules.k8s_pod import DOOR
from tests.fakes.kubernetes import FakeApi, Request, allow, container, door_of, kube_of

OLD = "2026-01-01T00:00:00Z"
CUT = "2026-06-01T00:00:00Z"


def pod(name: str, owner: tuple[str, str] | None = ("ReplicaSet", "web-1"), **fields: Any) -> Json:
    """A ready pod from before the cut."""
    phase, ready = fields.pop("phase", "Running"), fields.pop("ready", True)
    owners = [{"kind": owner[0], "name": owner[1], "uid": f"uid-{owner[1]}", "controller": True}] if owner else []
    status = {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}], **fields.pop("status", {})}
    limits = {"resources": {"limits": {"memory": "100Mi"}}}
    metadata = {
        "name": name,
        "labels": {"app": "web"},
        "creationTimestamp": fields.pop("created", OLD),
        "ownerReferences": owners,
        **fields.pop("metadata", {}),
    }
    return {"kind": "Pod", "metadata": metadata, "spec": {"containers": [container(**limits)]}, "status": status}


def restarts(number: int, reason: str = "") -> Json:
    last = {"terminated": {"reason": reason, "exitCode": 137}} if reason else {}
    return {"containerStatuses": [{"name": "app", "restartCount": number, "ready": True, "lastState": last}]}


def controller(kind: str = "ReplicaSet", name: str = "web-1", replicas: int = 3) -> Json:
    selector = {"matchLabels": {"app": "web"}}
    spec = {"replicas": replicas, "selector": selector, "template": {"spec": {"containers": []}}}
    return {"kind": kind, "metadata": {"name": name, "uid": f"uid-{name}"}, "spec": spec}


def metrics(name: str, memory: str) -> Json:
    usage = [{"name": "app", "usage": {"cpu": "1m", "memory": memory}}]
    return {"kind": "PodMetrics", "metadata": {"name": name}, "timestamp": "2026-11-21T00:00:00Z", "containers": usage}


def budget(allowed: int, healthy: int, wanted: int, expected: int = 3, name: str = "web") -> Json:
    numbers = (("disruptionsAllowed", allowed), ("currentHealthy", healthy), ("desiredHealthy", wanted))
    status = {**dict(numbers), "expectedPods": expected}
    selector = {"matchLabels": {"app": "web"}}
    return {"kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": {"selector": selector}, "status": status}


def replacing(api: FakeApi, ready: bool = True) -> None:
    """Plays the controller: whatever is evicted gets a successor."""

    def look(request: Request) -> None:
        names = {key[3] for key in api.store if key[1] == "pods"}
        for sent in [one for one in api.written if one.sub == "eviction" and f"{one.name}-next" not in names]:
            api.add(pod(f"{sent.name}-next", created="2026-11-21T00:00:00Z", ready=ready))

    api.before.append(look)


@pytest.fixture
def api() -> FakeApi:
    made = FakeApi()
    made.add(controller())
    return made


def remove(api: FakeApi, check: bool = False, **options: Any) -> dict[str, Any]:
    given = {"namespace": "shop", "selector": "app=web", "older_than": CUT, "wait_timeout": "0", "budget_timeout": "0"}
    wanted = {"allow_outage": True, **given, **options}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    door = door_of(DOOR, kube_of(api))
    checked = ArgumentSpecValidator(door.spec.arguments(), **door.spec.rules()).validate(wanted)
    assert not checked.error_messages, checked.error_messages
    return execute(door, checked.validated_parameters, check_mode=check)


def gone(api: FakeApi) -> list[str]:
    return [request.name for request in api.written]


def test_evicts_the_old_ones_unready_first_and_again_changes_nothing(api: FakeApi) -> None:
    for one in (pod("a"), pod("b", ready=False), pod("c", created="2026-07-01T00:00:00Z")):
        api.add(one)
    replacing(api)
    checked = remove(api, check=True)
    assert gone(api) == []
    done = remove(api)
    assert (gone(api), done["changed"], done["verify"]["ok"]) == (["b", "a"], True, True)
    assert (checked["actions"], checked["plan"], checked["diff"]) == (done["actions"], done["plan"], done["diff"])
    assert [one["name"] for one in done["pods"]["removed"]] == ["b", "a"]
    assert remove(api)["changed"] is False


def test_every_eviction_bears_uid_and_version(api: FakeApi) -> None:
    made = api.add(pod("a"))
    replacing(api)
    remove(api, grace=7)
    options = api.written[0].body["deleteOptions"]
    wanted = {name: made["metadata"][name] for name in ("uid", "resourceVersion")}
    assert (options["preconditions"], options["gracePeriodSeconds"]) == (wanted, 7)


def test_stops_when_the_replacement_does_not_come(api: FakeApi) -> None:
    api.add(pod("a"))
    api.add(pod("b"))
    replacing(api, ready=False)
    failed = remove(api)
    assert (failed["error"]["code"], failed["changed"], gone(api)) == ("not_replaced", True, ["a"])
    assert "a-next is not ready" in failed["msg"]


def test_a_replacement_counts_once_its_service_reaches_it(api: FakeApi) -> None:
    api.add(pod("a"))
    api.add({"kind": "Service", "metadata": {"name": "front"}, "spec": {"selector": {"app": "web"}}})
    replacing(api)
    assert "not among the ready endpoints of front" in remove(api)["msg"]


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (pod("a", ("DaemonSet", "agent")), "DaemonSet agent"),
        (pod("a", ("Job", "dump"), phase="Succeeded"), "keeps it as its record"),
        (pod("a", ("Job", "dump")), "at work for Job dump"),
        (pod("a", None), "set bare"),
        (pod("a", ("Node", "n1")), "static pod"),
        (pod("a", metadata={"annotations": {"kubernetes.io/config.mirror": "x"}}), "static pod"),
        (pod("a", metadata={"deletionTimestamp": OLD, "finalizers": ["x/y"]}), "on its way out"),
        (pod("a-canary"), "protected by *-canary"),
    ],
)
def test_spares_with_a_reason(api: FakeApi, one: Json, words: str) -> None:
    api.add(one)
    result = remove(api, protect=["*-canary"])
    assert (result["changed"], gone(api)) == (False, [])
    assert [words in spared["reason"] for spared in result["spared"]] == [True]


def test_a_bare_pod_goes_only_with_the_word_of_somebody(api: FakeApi) -> None:
    api.add(pod("a", None))
    assert remove(api, bare=True)["error"]["code"] == "confirm"
    assert remove(api, bare=True, confirm="shop")["changed"] is True


def test_delete_asks_for_a_word_unless_all_is_over(api: FakeApi) -> None:
    api.add(pod("dead", phase="Failed", status={"reason": "Evicted"}))
    assert remove(api, via="delete", older_than=None, reason=["Evicted"])["changed"] is True
    api.add(pod("a"))
    assert remove(api, via="delete")["error"]["code"] == "confirm"
    assert gone(api) == ["dead"]


def test_evicted_ones_of_a_whole_namespace_may_be_meant(api: FakeApi) -> None:
    api.add(pod("dead", phase="Failed", status={"reason": "Evicted"}))
    api.add(pod("a"))
    done = remove(api, selector=None, older_than=None, phase=["Failed"], reason=["Evicted"])
    assert (gone(api), done["changed"]) == (["dead"], True)
    refused = remove(api, selector=None)
    assert refused["error"]["code"] == "bad_parameter"


@pytest.mark.parametrize(
    "options",
    [
        {"older_than": None},
        {"selector": " "},
        {"older_than": None, "phase": ["Failed", "Running"]},
        {"grace": 0},
        {"min_memory": "x%"},
        {"older_than": "2026-01-01"},
    ],
)
def test_refuses_what_makes_no_sense(api: FakeApi, options: dict[str, Any]) -> None:
    api.add(pod("a"))
    assert remove(api, **options)["error"]["code"] == "bad_parameter"
    assert gone(api) == []


def test_a_budget_that_never_gives_way_is_told_before_the_first_write(api: FakeApi) -> None:
    api.add(pod("a"))
    api.add(budget(allowed=0, healthy=3, wanted=3))
    for check in (True, False):
        refused = remove(api, check=check)
        assert (refused["error"]["kind"], refused["error"]["code"]) == ("precondition", "disruption_budget")
        assert "wants 3 of 3 pods healthy" in refused["msg"]
    assert gone(api) == []


def test_a_budget_that_may_give_way_is_waited_for(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    api.add(pod("a"))
    api.add(budget(allowed=0, healthy=2, wanted=2))
    checked = remove(api, check=True)
    assert "k8s.pod.budget" in [found["id"] for found in checked["findings"]]
    refused = remove(api)
    assert (refused["error"]["code"], refused["error"]["retryable"], gone(api)) == ("disruption_budget", True, [])
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        api.change(kinds.BUDGET, "shop", "web", {"status": {"disruptionsAllowed": 1}})

    monkeypatch.setattr(evictions.time, "sleep", sleep)
    replacing(api)
    assert remove(api, budget_timeout="10")["changed"] is True
    assert slept


def test_two_budgets_are_an_error_of_their_own(api: FakeApi) -> None:
    api.add(pod("a"))
    for name in ("one", "two"):
        api.add(budget(1, 3, 2, name=name))
    refused = remove(api)
    assert (refused["error"]["code"], gone(api)) == ("several_budgets", [])


def test_one_that_recovers_between_plan_and_act_stays(api: FakeApi) -> None:
    api.add(pod("a", status=restarts(9, "OOMKilled")))
    seen: list[Request] = []

    def recover(request: Request) -> None:
        seen.append(request)
        if request.method == "GET" and request.name == "a":
            api.store["", "pods", "shop", "a"]["status"].update(restarts(0))

    api.before.append(recover)
    result = remove(api, older_than=None, min_restarts=5)
    assert (result["changed"], gone(api)) == (False, [])
    assert "no longer as planned" in result["spared"][0]["reason"]


def test_another_pod_under_the_same_name_stays(api: FakeApi) -> None:
    api.add(pod("a"))

    def swap(request: Request) -> None:
        if request.method == "GET" and request.name == "a":
            api.store["", "pods", "shop", "a"]["metadata"]["uid"] = "another"

    api.before.append(swap)
    result = remove(api)
    assert (result["changed"], gone(api)) == (False, [])


def test_memory_by_size_and_by_share_and_what_nobody_measured(api: FakeApi) -> None:
    for name, memory in (("a", "95Mi"), ("b", "40Mi")):
        api.add(pod(name))
        api.add(metrics(name, memory))
    api.add(pod("dark"))
    for limit in ("90%", "80mb"):
        result = remove(api, check=True, older_than=None, min_memory=limit)
        assert [one["name"] for one in result["pods"]["due"]] == ["a"]
        assert result["pods"]["due"][0]["usage"]["share"] == 0.95
        (unseen,) = [found for found in result["findings"] if found["id"] == "k8s.usage.unseen"]
        assert unseen["evidence"]["names"] == ["dark"]


def test_without_a_metrics_api_nobody_goes(api: FakeApi) -> None:
    api.add(pod("a"))
    result = remove(api, older_than=None, min_memory="1mb")
    assert (result["changed"], [found["id"] for found in result["findings"]]) == (False, ["k8s.usage.unseen"])


def test_statefulset_counts_down_and_the_only_one_is_an_outage(api: FakeApi) -> None:
    api.add(controller("StatefulSet", "db", 3))
    for number in (0, 1, 2):
        api.add(pod(f"db-{number}", ("StatefulSet", "db"), metadata={"uid": f"u{number}"}))
    result = remove(api, check=True)
    assert [one["name"] for one in result["pods"]["due"]] == ["db-2", "db-1", "db-0"]
    for number in (0, 1):
        api.remove(kinds.POD, "shop", f"db-{number}")
    assert remove(api, check=True, allow_outage=False)["error"]["code"] == "outage"
    assert "k8s.pod.outage" in {found["id"] for found in remove(api, check=True, allow_outage=True)["findings"]}


def test_the_only_one_that_serves_waits_for_a_replacement(api: FakeApi) -> None:
    """Two of three do not serve: they go first, and the third only once one of the new ones does."""
    for name, ready in (("a", True), ("b", False), ("c", False)):
        api.add(pod(name, ready=ready))
    assert remove(api, names=["a"], allow_outage=False)["error"]["code"] == "outage"
    replacing(api)
    done = remove(api, allow_outage=False)
    assert (done.get("msg"), gone(api)) == (None, ["b", "c", "a"])


def test_the_last_that_serves_stays_when_the_others_have_not_recovered(api: FakeApi) -> None:
    for name, ready in (("a", True), ("b", False)):
        api.add(pod(name, ready=ready))
    replacing(api, ready=False)
    refused = remove(api, wait=False, allow_outage=False)
    assert (refused["error"]["code"], refused["changed"], gone(api)) == ("outage", True, ["b"])


def test_worst_goes_first(api: FakeApi) -> None:
    for name, number in (("a", 1), ("b", 9), ("c", 4)):
        api.add(pod(name, status=restarts(number)))
    result = remove(api, check=True, order="worst", min_restarts=2)
    assert [one["name"] for one in result["pods"]["due"]] == ["b", "c"]


def test_every_missing_right_is_named_first(api: FakeApi) -> None:
    api.add(pod("a"))
    api.rules = (allow("get list", "pods replicasets poddisruptionbudgets services"),)
    refused = remove(api)
    assert (refused["error"]["code"], gone(api)) == ("rbac", [])
    assert "create pods/eviction in shop" in refused["msg"]


def test_max_count_refuses(api: FakeApi) -> None:
    for number in range(4):
        api.add(pod(f"a{number}"))
    assert remove(api, max_count=3)["error"]["code"] == "max_count"
    assert gone(api) == []


def test_memory_thresholds() -> None:
    assert pod_choice.Memory.parse("90%", "x") == pod_choice.Memory(share=0.9)
    assert pod_choice.Memory.parse("512mb", "x") == pod_choice.Memory(bytes=512 << 20)
