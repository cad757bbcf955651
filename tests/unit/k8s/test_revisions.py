# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which templates a workload had, and what is remembered of rollbacks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._k8s import kinds
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.revisions import (
    MEMORY,
    Memory,
    Revision,
    revisions_of,
)
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.workload import Workload, pods_of, workload_of
from tests.fakes.kubernetes import FakeApi, kube_of
from tests.unit.k8s.rollout_world import BAD, GOOD, OLD, deployment, owner, pod, replica_set, stuck, template


def seen(api: FakeApi, kind: str = "Deployment") -> list[Revision]:
    kube = kube_of(api)
    workload = workload_of(kube, kind, "shop", "web")
    return revisions_of(kube, workload, pods_of(kube, workload))


def test_the_newest_comes_first_with_its_pods() -> None:
    api = FakeApi()
    stuck(api)
    found = seen(api)
    assert [(one.number, one.current, one.pods, one.ready) for one in found] == [
        (3, True, 1, 0),
        (2, False, 2, 2),
        (1, False, 0, 0),
    ]
    assert found[0].failing is not None
    assert found[0].failing.id == "k8s.image_pull"


def test_a_replica_set_of_another_owner_is_no_history() -> None:
    api = FakeApi()
    stuck(api)
    other = {"kind": "Deployment", "metadata": {"name": "other", "uid": "uid-other"}}
    replica_set(api, other, 9, OLD)
    assert [one.number for one in seen(api)] == [3, 2, 1]


def test_the_template_in_use_is_known_by_itself_not_by_its_number() -> None:
    api = FakeApi()
    made = deployment(api, GOOD, complete=True)
    replica_set(api, made, 3, BAD)
    replica_set(api, made, 4, GOOD, history="1,2")
    found = seen(api)
    assert [(one.number, one.current) for one in found] == [(4, True), (3, False)]
    assert found[0].numbers == {1, 2, 4}


def test_of_two_equal_templates_the_newest_is_in_use() -> None:
    api = FakeApi()
    made = deployment(api, GOOD, complete=True)
    for number in (1, 2):
        replica_set(api, made, number, GOOD)
    assert [(one.number, one.current) for one in seen(api)] == [(2, True)]


@pytest.mark.parametrize(("kind", "mark"), [("StatefulSet", "web-abc"), ("DaemonSet", "abc")])
def test_controller_revisions_are_history_too(kind: str, mark: str) -> None:
    api = FakeApi()
    made = api.add(
        {
            "kind": kind,
            "metadata": {"name": "web", "uid": "uid-web", "generation": 1},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template(GOOD)},
        }
    )
    for number, (name, image) in enumerate((("web-abc", GOOD), ("web-def", BAD)), start=1):
        api.add(
            {
                "kind": "ControllerRevision",
                "metadata": {
                    "name": name,
                    "uid": f"uid-{name}",
                    "labels": {"app": "web"},
                    "ownerReferences": [owner(made)],
                    "creationTimestamp": "2026-11-20T10:00:00Z",
                },
                "revision": number,
                "data": {"spec": {"template": {**template(image), "$patch": "replace"}}},
            }
        )
    pod(api, made, "web-0", **{"controller-revision-hash": mark})
    assert [(one.number, one.name, one.current, one.ready) for one in seen(api, kind)] == [
        (2, "web-def", False, 0),
        (1, "web-abc", True, 1),
    ]


def workload(note: Any = None) -> Workload:
    notes = {} if note is None else {MEMORY: note}
    return Workload(kinds.DEPLOYMENT, {"metadata": {"name": "web", "annotations": notes}, "spec": {}})


def test_the_memory_is_bounded_and_forgives_what_is_not_its_own() -> None:
    memory = Memory.of(workload())
    for number in range(30):
        note = memory.after(f"web-{number}", number, f"web-{number + 1}")
        memory = Memory.of(workload(note))
    assert (len(memory.left), len(memory.numbers)) == (10, 10)
    assert (memory.left[-1], memory.numbers["29"]) == ("web-29", "web-30")
    for garbage in ("", "[]", "7", "{", '{"left": 3}', json.dumps({"numbers": [1]})):
        assert Memory.of(workload(garbage)) == Memory()


def test_what_is_gone_back_to_is_no_longer_among_those_left() -> None:
    memory = Memory.of(workload(Memory(("web-1", "web-2")).after("web-3", 1, "web-1")))
    assert memory.left == ("web-2", "web-3")
