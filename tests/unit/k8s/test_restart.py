# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restarting once since a moment, and never all pods at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._k8s import kinds
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.progress import rollout_of
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.restart import anchor_of, refuse_outage
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.workload import Workload
from tests.fakes.kubernetes import FakeApi
from tests.unit.k8s.rollout_world import GOOD, ask, deployment, pod, replica_set, template

NOW = datetime(2025, 11, 21, 12, 0, tzinfo=UTC)


def world(born: str = "2025-11-20T10:00:00Z", told: str = "", **spec: Any) -> FakeApi:
    api = FakeApi()
    made = deployment(api, GOOD, complete=True, **spec)
    if told:
        note = {"kubectl.kubernetes.io/restartedAt": told}
        body = {"spec": {"template": {"metadata": {"annotations": note}}}}
        api.change(kinds.DEPLOYMENT, "shop", "web", body)
    of = replica_set(api, made, 3, GOOD)
    pod(api, of, "web-3-a", born=born)
    pod(api, of, "web-3-b", born="2025-11-21T11:00:00Z")
    return api


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("10m", NOW - timedelta(minutes=10)),
        ("0s", NOW),
        ("2025-11-21T10:00:00Z", datetime(2025, 11, 21, 10, tzinfo=UTC)),
        ("2025-11-21T10:00:00+02:00", datetime(2025, 11, 21, 8, tzinfo=UTC)),
    ],
)
def test_anchors(text: str, moment: datetime) -> None:
    assert anchor_of(text, NOW) == moment


@pytest.mark.parametrize("text", ["yesterday", "2025-11-21T10:00:00", "10 parsecs", ""])
def test_what_is_no_anchor(text: str) -> None:
    with pytest.raises(OpsError) as caught:
        anchor_of(text, NOW)
    assert caught.value.code == "bad_parameter"


def test_needs_an_anchor_that_has_passed() -> None:
    with pytest.raises(ValueError, match="since"):
        ask(world(), state="restarted")
    assert ask(world(), state="restarted", since="2100-01-01T00:00:00Z")["error"]["code"] == "bad_parameter"


@pytest.mark.parametrize(
    ("born", "told", "due"),
    [
        ("2025-11-20T10:00:00Z", "", True),
        ("2025-11-20T10:00:00Z", "2025-11-20T09:00:00Z", True),
        ("2025-11-20T10:00:00Z", "2025-11-21T10:00:00Z", False),  # told to, though pods are not replaced yet
        ("2025-11-20T10:00:00Z", "garbage", True),
        ("2025-11-21T10:30:00Z", "", False),  # a rollout has replaced them all
    ],
)
def test_due_once_since_the_anchor(born: str, told: str, due: bool) -> None:
    api = world(born, told)
    assert ask(api, state="restarted", since="2025-11-21T10:00:00Z")["changed"] is due
    assert len(api.written) == due


def test_only_the_annotation_is_changed() -> None:
    api = world()
    result = ask(api, state="restarted", since="2025-11-21T10:00:00Z")
    (path,) = result["diff"]["after"]
    assert path == "metadata.annotations.kubectl.kubernetes.io/restartedAt"
    assert (result["undo"][0]["possible"], result["diff"]["before"]) == (False, {})


def workload(kind: kinds.Kind, replicas: int, available: int = 1, **spec: Any) -> Workload:
    status: dict[str, Any] = {"availableReplicas": available, "numberAvailable": available}
    if kind is kinds.DAEMON_SET:
        status["desiredNumberScheduled"] = replicas
    meta = {"name": "web", "namespace": "shop"}
    return Workload(kind, {"metadata": meta, "spec": {"replicas": replicas, **spec}, "status": status})


def rolling(surge: int | str, gone: int | str) -> dict[str, Any]:
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": gone}}


@pytest.mark.parametrize(
    ("found", "outage"),
    [
        (workload(kinds.DEPLOYMENT, 1), False),  # 25 % of one surges, and none goes
        (workload(kinds.DEPLOYMENT, 3, strategy={"type": "Recreate"}), True),
        (workload(kinds.DEPLOYMENT, 3, available=0, strategy={"type": "Recreate"}), False),  # nothing to lose
        (workload(kinds.DEPLOYMENT, 1, strategy=rolling(0, "25%")), True),  # both come to nothing, so one goes
        (workload(kinds.DEPLOYMENT, 1, strategy=rolling(1, 1)), True),
        (workload(kinds.DEPLOYMENT, 4, strategy=rolling(1, "100%")), True),
        (workload(kinds.DEPLOYMENT, 4, strategy=rolling(0, "99%")), False),
        (workload(kinds.DEPLOYMENT, 4, strategy=rolling("25%", 4)), True),
        (workload(kinds.STATEFUL_SET, 1), True),
        (workload(kinds.STATEFUL_SET, 2), False),
        (workload(kinds.DAEMON_SET, 3), False),
        (workload(kinds.DAEMON_SET, 3, updateStrategy=rolling(0, "90%")), True),  # rounds up
        (workload(kinds.DAEMON_SET, 1, updateStrategy=rolling(1, 0)), False),
    ],
)
def test_outages(found: Workload, outage: bool) -> None:
    rollout = rollout_of(found)
    if outage:
        with pytest.raises(OpsError) as caught:
            refuse_outage(found, rollout, accept=False)
        assert (caught.value.kind.value, caught.value.code) == ("guard_refused", "outage")
    refuse_outage(found, rollout, accept=outage)


def test_what_restarts_nothing_by_itself_refuses() -> None:
    api = FakeApi()
    spec = {"selector": {"matchLabels": {"app": "web"}}, "template": template(), "updateStrategy": {"type": "OnDelete"}}
    api.add({"kind": "DaemonSet", "metadata": {"name": "web"}, "spec": spec, "status": {"desiredNumberScheduled": 1}})
    assert ask(api, kind="DaemonSet", state="restarted", since="0s")["error"]["code"] == "on_delete"


def test_pausing_is_for_deployments() -> None:
    api = world()
    assert ask(api, state="paused")["diff"]["after"] == {"paused": True}
    assert not ask(api, state="paused")["changed"]
    assert ask(api, state="resumed")["changed"]
    assert not ask(api, state="resumed")["changed"]
    api.add(
        {
            "kind": "StatefulSet",
            "metadata": {"name": "web"},
            "spec": {"selector": {"matchLabels": {"app": "none"}}, "template": template()},
        }
    )
    assert ask(api, kind="StatefulSet", state="paused")["error"]["code"] == "not_pausable"
