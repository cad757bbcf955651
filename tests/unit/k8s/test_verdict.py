# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a rollback would help."""

from __future__ import annotations

from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils._k8s import kinds
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.verdict import Judged, State, judged
from ansible_collections.sre.runbooks.plugins.modules import k8s_rollout_info
from tests.fakes.kubernetes import FakeApi, kube_of
from tests.unit.k8s.rollout_world import BAD, GOOD, deployment, pod, replica_set, stuck


def look(api: FakeApi) -> Judged:
    wanted = {"kind": "Deployment", "namespace": "shop", "name": "web", "since": None}
    return judged(kube_of(api), wanted, {})


def condition(api: FakeApi, reason: str, **more: Any) -> None:
    found = [{"type": "Progressing", "status": "True", "reason": reason, **more}]
    api.change(kinds.DEPLOYMENT, "shop", "web", {"status": {"conditions": found}})


def test_the_newest_fails_and_an_older_one_serves() -> None:
    api = FakeApi()
    stuck(api)
    seen = look(api)
    assert (seen.verdict.state, seen.verdict.proved, seen.restartable) == (State.STUCK, True, False)
    assert seen.verdict.target is not None
    assert seen.verdict.target.number == 2


def test_nothing_has_failed_so_far() -> None:
    api = FakeApi()
    stuck(api, waiting="ContainerCreating")
    assert look(api).verdict.state is State.IN_PROGRESS


def test_a_status_of_an_older_generation_proves_nothing() -> None:
    api = FakeApi()
    stuck(api)
    api.change(kinds.DEPLOYMENT, "shop", "web", {"metadata": {"generation": 99}})
    assert look(api).verdict.state is State.IN_PROGRESS


def test_a_deadline_that_passed_is_a_failure_although_old_pods_serve() -> None:
    api = FakeApi()
    stuck(api, waiting="ContainerCreating")
    condition(api, "ProgressDeadlineExceeded", status="False")
    assert look(api).verdict.state is State.STUCK


def test_a_deadline_of_the_template_before_does_not_count() -> None:
    api = FakeApi()
    stuck(api, waiting="ContainerCreating")
    said = {"status": "False", "lastUpdateTime": "2026-11-20T10:00:00Z"}  # as old as the newest pod
    condition(api, "ProgressDeadlineExceeded", **said)
    assert look(api).verdict.state is State.IN_PROGRESS
    condition(api, "ProgressDeadlineExceeded", **{**said, "lastUpdateTime": "2026-11-20T10:00:01Z"})
    assert look(api).verdict.state is State.STUCK


def test_a_failing_template_that_came_back_is_still_called_available() -> None:
    api = FakeApi()
    stuck(api)
    condition(api, "NewReplicaSetAvailable")
    assert look(api).verdict.state is State.STUCK


def test_what_was_complete_once_is_not_broken_by_its_template() -> None:
    api = FakeApi()
    made = deployment(api, BAD, complete=True)
    replica_set(api, made, 2, GOOD)
    pod(api, replica_set(api, made, 3, BAD), "web-3-a", "CrashLoopBackOff")
    api.change(kinds.DEPLOYMENT, "shop", "web", {"status": {"availableReplicas": 0}})
    assert look(api).verdict.state is State.REGRESSED


def test_older_pods_that_fail_alike() -> None:
    api = FakeApi()
    made = deployment(api)
    pod(api, replica_set(api, made, 2, GOOD), "web-2-a", "CrashLoopBackOff")
    pod(api, replica_set(api, made, 3, BAD), "web-3-a", "CrashLoopBackOff")
    assert look(api).verdict.state is State.ALL_FAIL


def test_a_leftover_of_an_earlier_bad_release_is_not_everybody() -> None:
    api = FakeApi()
    made = deployment(api)
    pod(api, replica_set(api, made, 1, GOOD), "web-1-a")
    pod(api, replica_set(api, made, 2, "registry.example/web:1.4.1"), "web-2-a", "CrashLoopBackOff")
    pod(api, replica_set(api, made, 3, BAD), "web-3-a", "CrashLoopBackOff")
    seen = look(api)
    assert seen.verdict.state is State.STUCK
    assert seen.verdict.target is not None
    assert seen.verdict.target.number == 1


def test_a_lack_of_room_is_mended_only_by_a_template_that_asks_for_less() -> None:
    for asked, state in (({}, State.NO_ROOM), ({"nodeSelector": {"disk": "fast"}}, State.STUCK)):
        api = FakeApi()
        made = deployment(api)
        old = replica_set(api, made, 2, GOOD, **asked)
        pod(api, old, "web-2-a")
        newest = replica_set(api, made, 3, BAD)
        failure = [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: few"}]
        api.change(kinds.REPLICA_SET, "shop", newest["metadata"]["name"], {"status": {"conditions": failure}})
        condition(api, "ProgressDeadlineExceeded", status="False")
        assert look(api).verdict.state is state


def test_the_first_template_of_all_has_no_older_one() -> None:
    api = FakeApi()
    pod(api, replica_set(api, deployment(api), 3, BAD), "web-3-a", "ImagePullBackOff")
    assert look(api).verdict.state is State.NO_OLDER


def test_the_page_names_every_state() -> None:
    assert all(f"V({state.value})" in k8s_rollout_info.RETURN for state in State)
