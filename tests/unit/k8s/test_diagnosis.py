# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A whole diagnosis: what is read, what is grouped, what explains what (`diagnosis`, `survey`, `ranking`, `sets`)."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._k8s import kinds
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.advice import _ADVICE
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.events import event_of, last_seen
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.refusals import refused
from tests.fakes.kubernetes import FakeApi, allow
from tests.unit.k8s.diagnosis_world import (
    HASH,
    IMAGE,
    Json,
    ago,
    crashing,
    deployment,
    diagnosed,
    ended,
    event,
    pod,
    root,
    roots,
    running,
    unscheduled,
    waiting,
    world,
)

QUOTA = (
    'pods "web" is forbidden: exceeded quota: few, requested: pods=1,cpu=2, used: pods=5,cpu=9, limited: pods=5,cpu=10'
)


def lists(api: FakeApi) -> list[str]:
    first = (request for request in api.log if request.verb == "list" and "continue" not in request.query)
    return [request.kind.plural for request in first]


def test_a_namespace_that_is_well_costs_one_list_a_kind() -> None:
    api = world(*(pod(f"web-{number}") for number in range(9)), deployment(desired=9, present=9, ready=9))
    found = diagnosed(api)
    assert (found["root_causes"], found["findings"], found["workloads"]) == ([], [], [])
    assert found["summary"]["pods"] == found["summary"]["ready"] == 9
    assert lists(api) == [
        "pods", "deployments", "statefulsets", "daemonsets", "jobs", "horizontalpodautoscalers",
    ]  # fmt: skip


def test_pods_of_one_workload_with_one_fault_are_one_finding() -> None:
    sick = [pod(f"web-{HASH}-{number}", app=crashing(1)) for number in range(10)]
    one = pod(f"other-{HASH}-1", owner="other", app=crashing(1))
    found = roots(*sick, one, deployment(desired=10, present=10), deployment("other"))
    assert [(cause["workload"], cause["pods"]) for cause in found] == [
        ("Deployment shop/web", 10),
        ("Deployment shop/other", 1),
    ]
    assert len(found[0]["sample"]) == 3


def test_others_of_the_same_template_that_serve_are_counted() -> None:
    """Then it is not the template: the cause has passed, or it is the node."""
    stuck = pod("web-1", app=waiting("ImagePullBackOff", "not found"), phase="Pending")
    assert root(stuck, pod("web-2"), pod("web-3"))["evidence"]["same_template_ready"] == 2
    assert "same_template_ready" not in root(stuck, pod("other-1", owner="other"))["evidence"]


def test_a_stuck_rollout_follows_from_what_its_pods_suffer() -> None:
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"}
    stuck = deployment(conditions=[late])
    found = diagnosed(world(stuck, pod(app=crashing(1))))
    assert [one["id"] for one in found["root_causes"]] == ["k8s.crash_loop.error"]
    assert found["root_causes"][0]["evidence"]["rollout"] == "stuck"
    follows = found["findings"][-1]
    assert (follows["id"], follows["severity"]) == ("k8s.rollout.stuck", "warning")
    assert follows["evidence"]["explained_by"] == "k8s.crash_loop.error"
    alone = root(stuck, pod(app=running(ready=True)))
    assert (alone["id"], alone["severity"]) == ("k8s.rollout.stuck", "critical")


def test_a_node_explains_its_pods() -> None:
    """Statuses of pods on a node that is lost are as they were when it was lost."""
    lost = [{"type": "Ready", "status": "False"}]
    node = {"kind": "Node", "metadata": {"name": "node-1"}, "status": {"conditions": []}}
    node["status"]["conditions"] = [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]
    pods = [pod(f"web-{number}", status={"conditions": lost}) for number in range(3)]
    other = pod("other-1", owner="other", app=crashing(1))
    found = roots(*pods, other, node)
    assert [(one["id"], one["workload"], one["pods"]) for one in found] == [("k8s.node.not_ready", "Node node-1", 4)]


def test_a_node_under_pressure_comes_before_what_it_evicted() -> None:
    pressure = [{"type": "Ready", "status": "True"}, {"type": "MemoryPressure", "status": "True"}]
    node = {"kind": "Node", "metadata": {"name": "node-1"}, "status": {"conditions": pressure}}
    status = {"phase": "Failed", "reason": "Evicted", "message": "low on memory", "containerStatuses": []}
    found = roots(pod(status=status), node)
    assert [one["id"] for one in found] == ["k8s.node.pressure", "k8s.evicted"]


@pytest.mark.parametrize(
    ("message", "cause", "evidence"),
    [
        (QUOTA, "k8s.quota", {"quota": "few", "limited": {"pods": "5", "cpu": "10"}}),
        ("failed quota: few: must specify limits.cpu for: app", "k8s.quota", {"must_specify": "limits.cpu for: app"}),
        ("maximum memory usage per Container is 1Gi, but limit is 2Gi", "k8s.limit_range", {}),
        ('violates PodSecurity "restricted:latest": runAsNonRoot != true', "k8s.pod_security",
         {"level": "restricted:latest"}),
        ('admission webhook "policy.example" denied the request: no latest', "k8s.admission_denied",
         {"by": "policy.example", "message": "no latest"}),
        ('failed calling webhook "policy.example": no endpoints', "k8s.admission_denied", {"down": True}),
        ("ValidatingAdmissionPolicy 'tags' with binding 'tags' denied request: no latest", "k8s.admission_denied",
         {"by": "tags"}),
        ('error looking up service account shop/web: serviceaccount "web" not found', "k8s.config_missing",
         {"kind": "ServiceAccount", "name": "web"}),
        ("something else", "k8s.create_failed", {"message": "something else"}),
    ],
)  # fmt: skip
def test_why_pods_are_not_even_created(message: str, cause: str, evidence: Json) -> None:
    found = refused(message)
    assert found.id == cause
    assert {name: found.evidence[name] for name in evidence} == evidence


def test_a_quota_is_told_by_the_condition_or_to_the_replica_set() -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": QUOTA}
    assert root(deployment(desired=2, present=0, conditions=[failure]))["id"] == "k8s.quota"
    replica_set = {"kind": "ReplicaSet", "metadata": {"name": f"web-{HASH}", "uid": "rs-web"}}
    said = event(replica_set, "FailedCreate", f"Error creating: {QUOTA}")
    assert root(deployment(desired=2, present=0), said)["id"] == "k8s.quota"
    assert roots(deployment(desired=2, present=2, ready=2), said) == []  # that was then
    quota = {"kind": "ResourceQuota", "metadata": {"name": "few"}}
    quota["status"] = {"used": {"pods": "5", "secrets": "1"}, "hard": {"pods": "5", "secrets": "9"}}
    now = root(deployment(desired=2, present=0, conditions=[failure]), quota)["evidence"]["now"]
    assert now == {"used": {"pods": "5"}, "hard": {"pods": "5"}}


def test_what_is_well_though_it_looks_ill() -> None:
    """A workload at zero, a Job that is done, a paused rollout that is complete."""
    done = pod("done-1", phase="Succeeded", app={"ready": False, "state": ended(0, "Completed")})
    assert roots(deployment(desired=0, present=0), done) == []
    assert roots(deployment(desired=1, present=1, ready=1, spec={"paused": True}), pod()) == []
    half = deployment(desired=2, present=2, ready=2, spec={"paused": True})
    half["status"]["updatedReplicas"] = 1
    assert root(half, pod())["id"] == "k8s.rollout.paused"


def _job(name: str, condition: str = "", *, age: float = 60, owner: str = "", **status: Any) -> Json:
    meta: Json = {"name": name, "uid": f"uid-{name}", "creationTimestamp": ago(age)}
    if owner:
        meta["ownerReferences"] = [{"kind": "CronJob", "name": owner, "uid": f"uid-{owner}", "controller": True}]
    told = {"type": condition, "status": "True", "reason": "BackoffLimitExceeded", "lastTransitionTime": ago(age)}
    conditions = [told] if condition else []
    return {"kind": "Job", "metadata": meta, "spec": {}, "status": {**status, "conditions": conditions}}


def _attempt(job: str) -> Json:
    owner = {"kind": "Job", "name": job, "uid": f"uid-{job}", "controller": True}
    failed = {"ready": False, "state": ended(3)}
    return pod(f"{job}-x", app=failed, phase="Failed", metadata={"ownerReferences": [owner]})


def test_a_job_counts_by_its_outcome() -> None:
    found = root(_job("load", "Failed", failed=1), _attempt("load"))
    assert (found["id"], found["workload"]) == ("k8s.job_backoff", "Job shop/load")
    assert (found["evidence"]["exit_code"], found["evidence"]["cause"]) == (3, "k8s.crash_loop.error")
    assert roots(_job("load", "Complete", succeeded=1), _attempt("load")) == []
    assert root(_job("load", active=1, failed=1), _attempt("load"))["id"] == "k8s.crash_loop.error"
    assert roots(_job("load", "Failed", failed=1, age=9000), _attempt("load")) == []  # long ago


def test_a_cron_job_that_has_succeeded_since_is_well() -> None:
    failed = _job("load-1", "Failed", age=600, owner="load", failed=1)
    assert root(failed, _attempt("load-1"))["workload"] == "CronJob shop/load"
    assert roots(failed, _attempt("load-1"), _job("load-2", "Complete", owner="load", succeeded=1)) == []


def _scaler(current: int = 1, **conditions: tuple[str, str]) -> Json:
    told = [{"type": name, "status": status, "reason": why} for name, (status, why) in conditions.items()]
    target = {"kind": "Deployment", "name": "web"}
    return {
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web"},
        "spec": {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 5},
        "status": {"currentReplicas": current, "desiredReplicas": current, "conditions": told},
    }


@pytest.mark.parametrize(
    ("scaler", "cause", "severity"),
    [
        (_scaler(ScalingActive=("False", "FailedGetResourceMetric")), "k8s.hpa.no_metrics", "warning"),
        (_scaler(AbleToScale=("False", "FailedGetScale")), "k8s.hpa.inactive", "warning"),
        (_scaler(0, ScalingActive=("False", "ScalingDisabled")), "k8s.hpa.inactive", "info"),
        (_scaler(5, ScalingLimited=("True", "TooManyReplicas")), "k8s.hpa.at_max", "warning"),
    ],
)
def test_an_autoscaler_that_cannot(scaler: Json, cause: str, severity: str) -> None:
    found = root(scaler)
    assert (found["id"], found["severity"], found["workload"]) == (cause, severity, "Deployment shop/web")


def test_both_shapes_of_events_are_read() -> None:
    meta = {"creationTimestamp": ago(3000)}
    series = {"metadata": meta, "eventTime": ago(2000), "series": {"count": 9, "lastObservedTime": ago(10)}}
    assert last_seen(series) > last_seen({"metadata": meta, "eventTime": ago(20)})
    assert last_seen({"metadata": meta, "eventTime": None, "lastTimestamp": ago(20)}) > last_seen({"metadata": meta})
    modern = {
        **series,
        "regarding": {"kind": "Pod", "name": "web"},
        "note": "late",
        "reason": "Failed",
        "type": "Warning",
    }
    told = event_of(modern)
    assert (told.about.name, told.message, told.count) == ("web", "late", 9)


def test_what_may_not_be_seen_is_said_and_the_rest_told_all_the_same() -> None:
    api = world(unscheduled("0/1 nodes are available: 1 Insufficient cpu."), deployment())
    api.rules = (allow("get list", "pods deployments namespaces", "shop"),)
    found = diagnosed(api)
    assert [one["id"] for one in found["root_causes"]] == ["k8s.unschedulable.resources"]
    assert found["unseen"]["nodes"] == "forbidden"
    assert found["unseen"]["events"] == "forbidden in shop"
    assert {one["severity"] for one in found["findings"] if one["id"].startswith("k8s.unseen.")} == {"info"}


def test_pods_that_nobody_may_see_are_not_well() -> None:
    api = world(pod())
    api.rules = ()
    found = diagnosed(api, clear_of=["k8s.crash_loop.*"], timeout=0)
    assert found["failed"]
    assert found["error"]["kind"] == "verify_failed"
    assert "k8s.unseen.pods" in [one["id"] for one in found["findings"]]


def test_a_namespace_that_is_not_there_is_no_healthy_one() -> None:
    found = diagnosed(world(), namespaces=["shpo"])
    assert (found["error"]["kind"], found["error"]["code"]) == ("not_found", "no_namespace")
    assert diagnosed(world(deployment(desired=0, present=0)))["root_causes"] == []


def test_all_namespaces_are_one_question() -> None:
    api = world(pod(app=crashing(1)), pod("web-2", app=crashing(1), metadata={"namespace": "other"}))
    found = diagnosed(api, namespaces=[])
    assert [one["namespace"] for one in found["root_causes"]] == ["other", "shop"]
    assert lists(api).count("pods") == 1


def test_a_workload_has_its_own_pods_only() -> None:
    """Labels may be shared, an owner is not."""
    replica_set: Json = {
        "kind": "ReplicaSet",
        "metadata": {"name": f"web-{HASH}", "uid": "rs-web", "labels": {"app": "web"}},
    }
    replica_set["metadata"]["ownerReferences"] = [{"kind": "Deployment", "uid": "uid-web", "controller": True}]
    stranger = pod("stranger", owner="", app=crashing(1), metadata={"labels": {"app": "web"}})
    api = world(deployment(), replica_set, pod(app=crashing(139)), stranger)
    found = diagnosed(api, name="web")
    assert [one["id"] for one in found["root_causes"]] == ["k8s.crash_loop.segfault"]
    assert found["summary"]["pods"] == 1
    assert diagnosed(api, name="wbe")["error"]["kind"] == "not_found"
    assert diagnosed(api, name="web", namespaces=[])["error"]["code"] == "bad_parameter"


def test_a_selection_knows_the_workloads_of_its_pods() -> None:
    sick = pod(app=crashing(1), metadata={"labels": {"tier": "front", "pod-template-hash": HASH}})
    found = diagnosed(world(sick, deployment(desired=3)), selector="tier=front")
    assert found["workloads"][0]["desired"] == 3


def test_a_limit_is_said() -> None:
    api = world(*(pod(f"web-{number}") for number in range(5)))
    found = diagnosed(api, max_pods=3)
    assert (found["summary"]["pods"], found["truncated"]) == (3, ["pods"])
    assert diagnosed(api, max_pods=0)["error"]["code"] == "bad_parameter"


def test_the_previous_log_of_who_crashed_is_shown_redacted_and_bounded() -> None:
    api = world(pod(app=crashing(1)), deployment())
    name = f"web-{HASH}-1"
    api.logs["shop", name, "app", True] = b"one\ntwo\npassword=hunter2 refused\n" + b"x" * 5000
    api.logs["shop", name, "app", False] = b"only just started"
    evidence = diagnosed(api, tail=3)["root_causes"][0]["evidence"]
    assert evidence["log"][:2] == ["two", "password=*** refused"]
    assert len(evidence["log"][2]) == 400
    assert "log" not in diagnosed(api, logs="none")["root_causes"][0]["evidence"]


def test_logs_of_all_are_previous_ones_too_the_sick_first_and_bounded() -> None:
    api = world(pod("a"), pod("b", app=crashing(1)), pod("c"))
    api.logs["shop", "b", "app", True] = b"panic"
    found = diagnosed(api, logs="all", max_logs=2)
    assert [(one["pod"], one["previous"], one["lines"]) for one in found["logs"]] == [
        ("b", True, ["panic"]),
        ("a", False, []),
    ]
    assert found["truncated"] == ["logs"]


def test_a_log_that_may_not_be_read_is_unseen() -> None:
    api = world(pod(app=crashing(1)), deployment())
    everything = "pods deployments statefulsets daemonsets jobs horizontalpodautoscalers events nodes replicasets"
    api.rules = (allow("get list", everything),)
    assert diagnosed(api)["unseen"] == {"logs": "forbidden in shop"}


def test_a_pull_secret_is_judged_and_never_shown() -> None:
    content = json.dumps({"auths": {"elsewhere.example": {"auth": "Y2FuYXJ5"}}})
    data = {".dockerconfigjson": base64.b64encode(content.encode()).decode()}
    secret = {"kind": "Secret", "metadata": {"name": "pull"}, "data": data}
    names = {"imagePullSecrets": [{"name": "pull"}, {"name": "gone"}]}
    sick = pod(app=waiting("ErrImagePull", f"{IMAGE}: 401 Unauthorized"), spec=names)
    found = diagnosed(world(sick, secret))
    states = found["root_causes"][0]["evidence"]["pull_secrets"]
    assert states == {"pull": "lacks this registry", "gone": "missing"}
    assert "Y2FuYXJ5" not in json.dumps(found)


def test_every_cause_says_what_to_do_next() -> None:
    found = roots(
        pod("a", app=crashing(1)),
        pod("b", app=waiting("ErrImagePull", "not found")),
        unscheduled("0/1 nodes are available: 1 Insufficient cpu.", name="c"),
    )
    assert all(one["next"] for one in found)
    assert not [text for text in _ADVICE.values() if not text.endswith(".")]


def test_it_waits_until_a_cause_is_gone() -> None:
    api = world(pod(app=crashing(1)), deployment())
    late = diagnosed(api, clear_of=["k8s.crash_loop.*"], timeout=0)
    assert (late["failed"], late["error"]["kind"]) == (True, "verify_failed")
    api.remove(kinds.POD, "shop", f"web-{HASH}-1")
    assert diagnosed(api, clear_of=["k8s.crash_loop.*"], consecutive=1)["verify"]["ok"]


def test_a_selection_brings_the_autoscaler_and_the_job_of_what_it_selects() -> None:
    late = _scaler(ScalingActive=("False", "FailedGetResourceMetric"))
    other = {**late, "metadata": {"name": "other"}, "spec": {**late["spec"], "scaleTargetRef": {"kind": "Deployment"}}}
    other["spec"]["scaleTargetRef"]["name"] = "other"
    found = diagnosed(world(deployment(), pod(), late, other), selector="app=web")
    assert [one["workload"] for one in found["root_causes"]] == ["Deployment shop/web"]
    attempt = _attempt("load-1")
    attempt["metadata"]["labels"] = {"app": "load"}
    failed = _job("load-1", "Failed", owner="load", failed=1)
    assert root(attempt, failed, selector="app=load")["workload"] == "CronJob shop/load"


def test_a_pod_that_had_to_go_for_another_is_told_with_what_lacks_room() -> None:
    victim = pod(f"web-{HASH}-gone")
    said = event(victim, "Preempted", "Preempted by pod 4711 on node node-1", type="Normal")
    found = root(unscheduled("0/1 nodes are available: 1 Insufficient cpu."), said)
    assert (found["evidence"]["preempted"], found["evidence"]["preempted_by"][:16]) == (1, "Preempted by pod")
