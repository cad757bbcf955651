# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a pod's statuses say about whether it will ever be ready."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._k8s.trouble import trouble_of, troubles_of


def pod(name: str = "web-1", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}"}, "status": status}


def waiting(reason: str, **more: Any) -> dict[str, Any]:
    return {"name": "app", "state": {"waiting": {"reason": reason, "message": "why"}}, **more}


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("ImagePullBackOff", "k8s.image_pull"),
        ("InvalidImageName", "k8s.image_pull"),
        ("ErrImageNeverPull", "k8s.image_pull"),
        ("CrashLoopBackOff", "k8s.crash_loop"),
        ("CreateContainerConfigError", "k8s.config_missing"),
        ("RunContainerError", "k8s.container_create"),
    ],
)
def test_what_does_not_pass_by_itself(reason: str, cause: str) -> None:
    for key in ("containerStatuses", "initContainerStatuses"):
        found = trouble_of(pod(**{key: [waiting(reason)]}))
        assert found is not None
        assert (found.id, found.final, found.container) == (cause, True, "app")


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing", "ErrImagePull", ""])
def test_what_may_pass(reason: str) -> None:
    assert trouble_of(pod(containerStatuses=[waiting(reason)])) is None


def test_memory_is_told_from_other_crashes_by_the_reason_not_the_code() -> None:
    killed = {"lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    probed = {"lastState": {"terminated": {"exitCode": 137, "reason": "Error"}}}
    found = [trouble_of(pod(containerStatuses=[waiting("CrashLoopBackOff", **last)])) for last in (killed, probed)]
    assert [one.id for one in found if one] == ["k8s.oom_killed", "k8s.crash_loop"]


def test_a_lack_of_room_is_not_final_and_comes_last() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    pods = [pod("a", conditions=[condition]), pod("b", containerStatuses=[waiting("CrashLoopBackOff")])]
    assert [(one.pod, one.final) for one in troubles_of(pods)] == [("b", True), ("a", False)]


def test_a_pod_that_is_being_deleted_has_no_trouble() -> None:
    going = pod(containerStatuses=[waiting("CrashLoopBackOff")])
    going["metadata"]["deletionTimestamp"] = "2026-11-21T00:00:00Z"
    assert trouble_of(going) is None


def test_words_of_others_are_bounded_and_without_secrets() -> None:
    status = waiting("ImagePullBackOff")
    status["state"]["waiting"]["message"] = "https://user:canary@registry.example/ " + "x" * 1000
    found = trouble_of(pod(containerStatuses=[status]))
    assert found is not None
    assert ("canary" in str(found), len(found.message) < 320) == (False, True)
