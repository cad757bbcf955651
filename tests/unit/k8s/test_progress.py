# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far rollouts are, by the numbers that controllers give."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._k8s.kinds import DAEMON_SET, DEPLOYMENT, STATEFUL_SET, Kind
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.progress import Rollout, condition, rollout_of
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.workload import Workload


def rollout(kind: Kind, spec: dict[str, Any], status: dict[str, Any], generation: int = 2) -> Rollout:
    metadata = {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "1", "generation": generation}
    seen = {"observedGeneration": 2, **status}
    return rollout_of(Workload(kind, {"metadata": metadata, "spec": spec, "status": seen}))


def numbers(total: int, updated: int, available: int) -> dict[str, int]:
    return {"replicas": total, "updatedReplicas": updated, "readyReplicas": available, "availableReplicas": available}


@pytest.mark.parametrize(
    ("spec", "status", "waiting"),
    [
        ({"replicas": 3}, numbers(3, 3, 3), ""),
        ({}, numbers(1, 1, 1), ""),
        ({"replicas": 0}, {}, ""),
        ({"replicas": 3}, {}, "0 of 3 pods have the newest template"),
        ({"replicas": 3}, numbers(4, 1, 3), "1 of 3 pods have the newest template"),
        ({"replicas": 3}, numbers(4, 3, 4), "1 old pods are not gone yet"),
        ({"replicas": 3}, {**numbers(3, 3, 3), "terminatingReplicas": 2}, "2 old pods are not gone yet"),
        ({"replicas": 3}, numbers(3, 3, 2), "2 of 3 pods are available"),
        ({"replicas": 3, "paused": True}, numbers(4, 1, 3), "it is paused"),
        ({"replicas": 3, "paused": True}, numbers(3, 3, 3), ""),
        ({"replicas": 3}, {**numbers(3, 3, 3), "observedGeneration": 1}, "its controller has not seen"),
    ],
)
def test_deployments(spec: dict[str, Any], status: dict[str, Any], waiting: str) -> None:
    found = rollout(DEPLOYMENT, spec, status)
    assert found.waiting.startswith(waiting)
    assert (found.complete, bool(found.waiting)) == (not waiting, bool(waiting))


DEADLINE = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "it timed out"}


def test_a_rollout_past_its_deadline_has_failed_while_old_pods_serve() -> None:
    serving = {"type": "Available", "status": "True"}
    found = rollout(DEPLOYMENT, {"replicas": 3}, {**numbers(4, 1, 3), "conditions": [serving, DEADLINE]})
    assert (found.complete, found.available, found.failed) == (False, 3, "it passed its deadline: it timed out")
    # What is said of an older template says nothing of this one.
    old = rollout(DEPLOYMENT, {"replicas": 3}, {**numbers(4, 1, 3), "conditions": [DEADLINE]}, generation=3)
    assert (old.failed, old.complete, old.observed) == ("", False, False)


@pytest.mark.parametrize(
    ("spec", "status", "old", "complete"),
    [
        ({}, {"updatedReplicas": 3, "readyReplicas": 3, "currentRevision": "a", "updateRevision": "a"}, 0, True),
        ({}, {"readyReplicas": 3, "currentRevision": "a", "updateRevision": "a"}, 0, True),
        ({}, {"updatedReplicas": 1, "readyReplicas": 3, "currentRevision": "a", "updateRevision": "b"}, 2, False),
        ({}, {"updatedReplicas": 1, "readyReplicas": 2, "currentRevision": "a", "updateRevision": "b"}, 2, False),
        (
            {"updateStrategy": {"rollingUpdate": {"partition": 2}}},
            {"updatedReplicas": 1, "readyReplicas": 3, "currentRevision": "a", "updateRevision": "b"},
            0,
            True,
        ),
        (
            {"updateStrategy": {"rollingUpdate": {"partition": 9}}},
            {"readyReplicas": 3, "currentRevision": "a", "updateRevision": "b"},
            0,
            True,
        ),
        (
            {"updateStrategy": {"type": "OnDelete"}},
            {"updatedReplicas": 1, "readyReplicas": 3, "currentRevision": "a", "updateRevision": "b"},
            0,
            True,
        ),
        (
            {},
            {"readyReplicas": 3, "availableReplicas": 2, "currentRevision": "a", "updateRevision": "a"},
            0,
            False,
        ),
    ],
)
def test_stateful_sets(spec: dict[str, Any], status: dict[str, Any], old: int, complete: bool) -> None:
    found = rollout(STATEFUL_SET, {"replicas": 3, **spec}, {"replicas": 3, **status})
    assert (found.desired, found.old, found.complete) == (3, old, complete)


@pytest.mark.parametrize(
    ("spec", "status", "waiting"),
    [
        ({}, {"updatedNumberScheduled": 3, "numberAvailable": 3}, ""),
        ({}, {"updatedNumberScheduled": 1, "numberAvailable": 3}, "1 of 3 pods have the newest template"),
        ({}, {"updatedNumberScheduled": 3, "numberAvailable": 2}, "2 of 3 pods are available"),
        ({"updateStrategy": {"type": "OnDelete"}}, {"updatedNumberScheduled": 1, "numberAvailable": 3}, ""),
    ],
)
def test_daemon_sets(spec: dict[str, Any], status: dict[str, Any], waiting: str) -> None:
    found = rollout(DAEMON_SET, spec, {"desiredNumberScheduled": 3, "numberReady": 3, **status})
    assert (found.desired, found.waiting, found.complete) == (3, waiting, not waiting)


def test_a_condition_that_is_not_there() -> None:
    assert condition({"metadata": {}}, "Progressing") == {}
    assert condition({"status": {"conditions": [DEADLINE]}}, "Progressing") == DEADLINE
