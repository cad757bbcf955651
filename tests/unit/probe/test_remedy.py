# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Exactly one remedy by the evidence, and none where the cause lies outside."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._probe.remedy import Evidence, Remedy, choose

COMPLETE = {"state": "complete", "desired": 3, "updated": 3, "ready": 3, "available": 3, "old": 0, "restartable": True}
STUCK = {**COMPLETE, "state": "stuck", "updated": 1, "ready": 0, "old": 3, "target": 7, "restartable": False}
HANGING = {**COMPLETE, "state": "in_progress", "ready": 0, "available": 0, "proven": True}


def found(name: str, severity: str = "critical", **evidence: Any) -> dict[str, Any]:
    return {"id": name, "severity": severity, "subject": "s", "evidence": evidence, "suggest": f"mend {name}"}


TIMEOUT = found("probe.timeout")
UNAVAILABLE = found("probe.status", status=503)
AT_MAX = found("k8s.hpa.at_max", "warning")


def chosen(*symptoms: dict[str, Any], **more: Any) -> Remedy:
    options: dict[str, Any] = {
        "causes": [],
        "rollout": COMPLETE,
        "dependencies": {},
        "allowed": ["rollback", "restart", "scale"],
        "min_replicas": None,
        "max_replicas": None,
    }
    return choose(Evidence.of({**options, "symptoms": symptoms, **more}))


@pytest.mark.parametrize(
    "symptom",
    [TIMEOUT, UNAVAILABLE, found("probe.status", status=500), found("probe.reset"), found("probe.body")],
    ids=lambda one: one["id"],
)
def test_pods_that_run_and_do_not_work_are_restarted(symptom: dict[str, Any]) -> None:
    remedy = chosen(symptom)
    assert (remedy.choice, remedy.because) == ("restart", (symptom["id"],))


def test_pods_that_are_all_there_and_not_ready_are_restarted() -> None:
    assert chosen(found("probe.refused"), rollout=HANGING).choice == "restart"


def test_a_newest_revision_that_fails_is_rolled_back() -> None:
    remedy = chosen(UNAVAILABLE, rollout=STUCK, causes=[found("k8s.crash_loop.error")])
    assert (remedy.choice, remedy.because) == ("rollback", ("k8s.rollout.stuck", "k8s.crash_loop.error"))
    assert "revision 7" in remedy.reason


@pytest.mark.parametrize("cause", ["k8s.oom_killed", "k8s.config_missing", "k8s.image_pull.not_found"])
def test_other_faults_of_a_template_are_rolled_back(cause: str) -> None:
    assert chosen(TIMEOUT, rollout=STUCK, causes=[found(cause)]).choice == "rollback"


@pytest.mark.parametrize(
    ("desired", "least", "most", "causes", "goal"),
    [
        (2, 4, 10, [], 4),
        (0, 2, 10, [], 2),
        (0, None, 3, [], 1),
        (4, None, 10, [AT_MAX], 6),
        (4, None, 5, [AT_MAX], 5),
        (1, None, 5, [AT_MAX], 2),
        (4, 8, 10, [AT_MAX], 8),
    ],
)
def test_too_few_pods_become_more(
    desired: int, least: int | None, most: int, causes: list[dict[str, Any]], goal: int
) -> None:
    rollout = {**COMPLETE, "desired": desired, "updated": desired, "ready": desired}
    remedy = chosen(UNAVAILABLE, rollout=rollout, causes=causes, min_replicas=least, max_replicas=most)
    assert (remedy.choice, remedy.replicas) == ("scale", goal)


@pytest.mark.parametrize(("desired", "least", "most"), [(2, 4, None), (2, 4, 3), (0, None, None), (0, 2, 1)])
def test_more_pods_than_declared_are_no_remedy(desired: int, least: int | None, most: int | None) -> None:
    rollout = {**COMPLETE, "desired": desired, "updated": desired, "ready": desired}
    remedy = chosen(TIMEOUT, rollout=rollout, min_replicas=least, max_replicas=most)
    assert (remedy.choice, remedy.reason) == ("none", "too_few")
    assert "max_replicas" in remedy.advice


def test_an_error_of_the_service_itself_is_no_sign_of_too_few_pods() -> None:
    assert chosen(found("probe.status", status=500), causes=[AT_MAX], max_replicas=10).choice == "restart"


@pytest.mark.parametrize(
    ("name", "finding", "runbook"),
    [
        ("redis", "redis.unreachable.refused", "redis_unreachable"),
        ("redis", "redis.unwritable.oom", "redis_unreachable"),
        ("postgres", "postgres.unreachable.too_many_clients", "postgres_connect_failure"),
        ("search", "search.unreachable.refused", ""),
    ],
)
@pytest.mark.parametrize("rollout", [COMPLETE, STUCK, HANGING], ids=lambda one: one["state"])
def test_a_dependency_that_is_down_comes_first(name: str, finding: str, runbook: str, rollout: dict[str, Any]) -> None:
    remedy = chosen(TIMEOUT, rollout=rollout, dependencies={name: [found(finding)]}, max_replicas=9, min_replicas=9)
    assert (remedy.choice, remedy.reason, remedy.runbook) == ("none", "dependency", runbook)
    assert name in remedy.advice
    assert runbook in remedy.advice


def test_a_dependency_that_only_warns_is_not_down() -> None:
    warnings = [found("redis.address_down", "warning"), found("redis.unseen.rights", "info")]
    assert chosen(TIMEOUT, dependencies={"redis": warnings, "postgres": []}).choice == "restart"


@pytest.mark.parametrize(
    "cause",
    [
        "k8s.node.not_ready",
        "k8s.quota",
        "k8s.image_pull.auth",
        "k8s.image_pull.rate_limit",
        "k8s.unschedulable.resources",
        "k8s.volume.mount",
        "k8s.admission_denied",
        "k8s.unseen.pods",
    ],
)
@pytest.mark.parametrize("rollout", [COMPLETE, STUCK, HANGING], ids=lambda one: one["state"])
def test_a_cause_outside_the_workload_is_named_and_left(cause: str, rollout: dict[str, Any]) -> None:
    remedy = chosen(TIMEOUT, rollout=rollout, causes=[found(cause)])
    assert (remedy.choice, remedy.reason, remedy.because) == ("none", "outside", (cause,))
    assert f"mend {cause}" in remedy.advice


def test_what_is_only_a_warning_is_no_cause() -> None:
    assert chosen(TIMEOUT, causes=[found("k8s.node.pressure", "warning")]).choice == "restart"


@pytest.mark.parametrize("state", ["paused", "all_fail", "regressed", "no_room", "no_older"])
def test_rollouts_that_no_remedy_of_ours_mends(state: str) -> None:
    remedy = chosen(TIMEOUT, rollout={**STUCK, "state": state}, causes=[found("k8s.crash_loop.error")])
    assert (remedy.choice, remedy.reason) == ("none", state)
    assert remedy.because == (f"k8s.rollout.{state}", "k8s.crash_loop.error")


@pytest.mark.parametrize("symptom", ["probe.dns", "probe.tls", "probe.no_route", "probe.refused"])
def test_requests_that_never_come_to_a_pod(symptom: str) -> None:
    remedy = chosen(found(symptom))
    assert (remedy.choice, remedy.reason) == ("none", "before_the_pods")


@pytest.mark.parametrize(
    ("symptom", "rollout"),
    [
        (found("probe.status", status=404), COMPLETE),
        (found("probe.status", status=301), COMPLETE),
        (TIMEOUT, {**COMPLETE, "state": "in_progress", "updated": 1, "old": 2}),
        (TIMEOUT, {**COMPLETE, "restartable": False}),
        (TIMEOUT, {**HANGING, "proven": False}),
        (TIMEOUT, {}),
    ],
)
def test_what_nothing_explains_is_left(symptom: dict[str, Any], rollout: dict[str, Any]) -> None:
    remedy = chosen(symptom, rollout=rollout)
    assert (remedy.choice, remedy.reason) == ("none", "unknown")


@pytest.mark.parametrize("symptoms", [(), (found("probe.tls_expiring", "warning"),)])
def test_the_healthy_need_nothing(symptoms: tuple[dict[str, Any], ...]) -> None:
    remedy = chosen(*symptoms, rollout=STUCK)
    assert (remedy.choice, remedy.reason) == ("none", "healthy")


def test_what_is_not_declared_is_not_done() -> None:
    remedy = chosen(TIMEOUT, allowed=["rollback", "scale"])
    assert (remedy.choice, remedy.reason) == ("none", "undeclared")
    assert "restart" in remedy.advice


def test_there_is_always_one_choice_and_a_refusal_says_what_to_do() -> None:
    """Every pair of symptoms with every rollout and every pair of causes."""
    symptoms = [TIMEOUT, UNAVAILABLE, found("probe.tls"), found("probe.status", status=404)]
    causes = [AT_MAX, found("k8s.quota"), found("k8s.crash_loop.error"), found("k8s.image_pull.not_found")]
    states = ["complete", "in_progress", "stuck", "paused", "all_fail", "regressed", "no_room", "no_older", ""]
    for pair in combinations(symptoms, 2):
        for some in combinations(causes, 2):
            for state in states:
                remedy = chosen(*pair, causes=some, rollout={**COMPLETE, "state": state}, max_replicas=9)
                assert remedy.choice in ("none", "rollback", "restart", "scale")
                assert remedy.mendable or remedy.advice
                assert remedy.because
