# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""pods_not_starting: what is left over goes, what has passed is not waited out, and what is missing is only named."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab import kubernetes_faults as faults
from tests.lab import kubernetes_objects as make
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_witness import fingerprint, mark, writes
from tests.runbooks.harness import Runbook, actions, aimed_at_kubernetes, changes, findings, message

pytestmark = pytest.mark.kubernetes

STUCK = "k8s.image_pull.not_found"


@pytest.fixture
def patient(cluster: Cluster, namespace: str) -> str:
    """A namespace with a workload that serves, and a bystander."""
    faults.settle(cluster, namespace, make.deployment("app", replicas=4), make.deployment("other"), make.pdb("other"))
    return namespace


def start(cluster: Cluster, namespace: str, **declared: Any) -> Runbook:
    aim = {"k8s_namespace": namespace, "k8s_workload": "app", "k8s_grace": "1s", "k8s_settle": 20}
    return aimed_at_kubernetes("pods_not_starting", cluster, **{**aim, **declared})


def bystanders(cluster: Cluster, namespace: str) -> dict[str, Any]:
    """All but the pods of the patient, and what counts them."""
    return fingerprint(cluster, namespace, ("pod/app-*",))


def back_off(cluster: Cluster, namespace: str, number: int) -> list[str]:
    """Some pods wait out a back-off, though the image has been pushed since: others of their template run."""
    chosen = [pod for pod in faults.pods(cluster, namespace) if pod["status"]["phase"] == "Running"][:number]
    wait = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{make.IMAGE}": not found'}
    for pod in chosen:
        entry = {"name": "app", "image": make.IMAGE, "imageID": "", "ready": False, "started": False}
        entry |= {"restartCount": 0, "state": {"waiting": wait}}
        unready = [
            {**one, "status": "False"} if one["type"] in ("Ready", "ContainersReady") else one
            for one in pod["status"]["conditions"]
        ]
        status = {"phase": "Pending", "containerStatuses": [entry], "conditions": unready}
        cluster.patch("pod", pod["metadata"]["name"], namespace, {"status": status}, subresource="status")
    return [pod["metadata"]["name"] for pod in chosen]


def evict(cluster: Cluster, namespace: str, number: int) -> list[str]:
    """As a node under pressure does; the Deployment has others in their place."""
    names = [pod["metadata"]["name"] for pod in faults.pods(cluster, namespace)[:number]]
    for name in names:
        faults.evict(cluster, namespace, name)
    faults.wait_settled(cluster, namespace, "Deployment", "app")
    return names


def alive(cluster: Cluster, namespace: str) -> set[str]:
    return {pod["metadata"]["name"] for pod in faults.pods(cluster, namespace)}


@pytest.mark.compat
def test_break_and_mend_what_evictions_left(cluster: Cluster, patient: str) -> None:
    gone = evict(cluster, patient, 2)
    before = bystanders(cluster, patient)
    result = start(cluster, patient).run()
    assert result.rc == 0, result.stdout
    assert "k8s.evicted" in findings(result)
    assert not alive(cluster, patient) & set(gone)
    assert len(alive(cluster, patient)) == 4
    assert bystanders(cluster, patient) == before


def test_break_and_mend_a_back_off_whose_cause_has_passed(cluster: Cluster, patient: str) -> None:
    stuck = back_off(cluster, patient, 2)
    serving = alive(cluster, patient) - set(stuck)
    before = bystanders(cluster, patient)
    result = start(cluster, patient, k8s_recreate=[STUCK]).run()
    assert result.rc == 0, result.stdout
    assert STUCK in findings(result)
    now = alive(cluster, patient)
    assert (now & set(stuck), now & serving, len(now)) == (set(), serving, 4)
    assert bystanders(cluster, patient) == before


def test_again(cluster: Cluster, patient: str) -> None:
    evict(cluster, patient, 1)
    back_off(cluster, patient, 1)
    runbook = start(cluster, patient, k8s_recreate=[STUCK])
    assert runbook.run().rc == 0
    second = runbook.run()
    assert (second.rc, changes(second), second.changed) == (0, [], False)


def test_check_tells_the_truth(cluster: Cluster, patient: str) -> None:
    evict(cluster, patient, 1)
    back_off(cluster, patient, 1)
    runbook = start(cluster, patient, k8s_recreate=[STUCK])
    since = mark(cluster)
    checked = runbook.run("--diff", check=True)
    assert checked.rc == 0, checked.stdout
    assert writes(cluster, since, namespace=patient) == []
    done = runbook.run()
    assert done.rc == 0, done.stdout
    assert actions(checked) == actions(done) != []


def test_killed_half_way(cluster: Cluster, patient: str) -> None:
    stuck = back_off(cluster, patient, 3)
    before = bystanders(cluster, patient)
    runbook = start(cluster, patient, k8s_recreate=[STUCK])
    runbook.run_and_kill(lambda: len(alive(cluster, patient) & set(stuck)) < 3)
    assert alive(cluster, patient) & set(stuck), "it was killed too late to leave an incident"
    result = runbook.run()
    assert result.rc == 0, result.stdout
    assert not alive(cluster, patient) & set(stuck)
    assert len(alive(cluster, patient)) == 4
    assert bystanders(cluster, patient) == before


def _bad_image(cluster: Cluster, namespace: str) -> None:
    faults.break_image(cluster, namespace)


def _bad_key(cluster: Cluster, namespace: str) -> None:
    faults.break_config(cluster, namespace)


def _no_room(cluster: Cluster, namespace: str) -> None:
    faults.break_scheduling(cluster, namespace)


def _no_quota(cluster: Cluster, namespace: str) -> None:
    cluster.delete("deployment", "other", namespace)
    cluster.wait(lambda: not faults.pods(cluster, namespace, "other"), 20, "a namespace with one workload")
    faults.break_quota(cluster, namespace, wanted=6)


@pytest.mark.parametrize(
    ("fault", "cause", "next_step"),
    [
        (_bad_image, STUCK, "deployment_rollback"),
        (_bad_key, "k8s.config_missing", "Secret absent"),
        (_no_room, "k8s.unschedulable.resources", "No node has room"),
        (_no_quota, "k8s.quota", "ResourceQuota few"),
    ],
)
def test_wrong_cause(cluster: Cluster, patient: str, fault: Any, cause: str, next_step: str) -> None:
    """Nothing is made up: the cause is named with what would mend it, and nothing is changed."""
    fault(cluster, patient)
    since = mark(cluster)
    result = start(cluster, patient, k8s_recreate=[STUCK]).run()
    assert result.rc != 0
    assert findings(result)[0] == cause
    assert next_step in message(result)
    assert (changes(result), writes(cluster, since, namespace=patient)) == ([], [])


def test_wrong_cause_beside_a_left_over(cluster: Cluster, patient: str) -> None:
    """What is found beyond its remedies stops it before the first of them."""
    evict(cluster, patient, 1)
    faults.break_crash(cluster, patient)
    since = mark(cluster)
    result = start(cluster, patient).run()
    assert result.rc != 0
    assert "k8s.crash_loop.error" in message(result)
    told = result.result("Diagnose | Go from the workloads to the root causes")["root_causes"][0]
    assert "cannot reach db:5432" in " ".join(told["evidence"]["log"])
    assert writes(cluster, since, namespace=patient) == []


def test_a_whole_namespace_that_is_well_ends_after_one_look(cluster: Cluster, patient: str) -> None:
    cluster.apply(make.deployment("off", replicas=0), make.job("done"), namespace=patient)
    cluster.wait(
        lambda: cluster.get("job", "done", patient).get("status", {}).get("succeeded"), 20, "a Job that is done"
    )
    result = aimed_at_kubernetes("pods_not_starting", cluster, k8s_namespace=patient).run()
    assert (result.rc, changes(result)) == (0, [])
    assert [entry["task"].partition(" |")[0] for entry in result.tasks] == ["Diagnose", "Diagnose"]
