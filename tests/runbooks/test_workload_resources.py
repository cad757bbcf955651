# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""workload_resources: pods that need more memory than their limit, and pods that more memory would not help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import kubernetes_faults as faults
from tests.lab import kubernetes_objects as make
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_witness import fingerprint, mark, writes
from tests.runbooks.harness import Runbook, actions, aimed_at_kubernetes, changes, findings, message

pytestmark = pytest.mark.kubernetes

SET = "Mitigate | Set requests and limits, and wait for the pods"
#: Memory limits under which the pods of a template run out of memory.
NEEDS_MORE_THAN = "lab.sre-runbooks/out-of-memory-at"
_KILLED = """
{{ $now := Now }}
conditions:
- {type: Ready, status: "False", reason: ContainersNotReady, lastTransitionTime: {{ Quote $now }}}
- {type: ContainersReady, status: "False", reason: ContainersNotReady, lastTransitionTime: {{ Quote $now }}}
containerStatuses:
{{ range .spec.containers }}
- name: {{ Quote .name }}
  image: {{ Quote .image }}
  imageID: ""
  ready: false
  started: false
  restartCount: 5
  lastState: {terminated: {exitCode: 137, reason: OOMKilled, startedAt: {{ Quote $now }}, finishedAt: {{ Quote $now }}}}
  state: {waiting: {reason: CrashLoopBackOff, message: back-off 20s restarting failed container}}
{{ end }}
"""


def _when(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}


@pytest.fixture(autouse=True)
def memory(cluster: Cluster) -> Iterator[None]:
    """Pods with the annotation run out of memory while their limit is one of those in it."""
    short = (
        f'(.metadata.annotations["{NEEDS_MORE_THAN}"] // "" | split(",")) as $few'
        " | .spec.containers[0].resources.limits.memory as $limit | any($few[]; . == $limit) | tostring"
    )
    when = [
        _when(f'.metadata.annotations["{NEEDS_MORE_THAN}"]', "Exists"),
        _when(".metadata.deletionTimestamp", "DoesNotExist"),
        _when(".status.phase", "In", "Running"),
        _when(".status.containerStatuses.[].lastState.terminated.reason", "DoesNotExist"),
        _when(short, "In", "true"),
    ]
    spec = {
        "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
        "selector": {"matchExpressions": when},
        "delay": {"durationMilliseconds": 200},
        "next": {"statusTemplate": _KILLED},
    }
    cluster.apply(make.named("kwok.x-k8s.io/v1alpha1", "Stage", "pod-out-of-memory", spec=spec))
    yield
    cluster.delete("stage", "pod-out-of-memory")


def amounts(limit: str, **requests: str) -> dict[str, Any]:
    return {"resources": {"limits": {"memory": limit}, "requests": {"memory": "32Mi", **requests}}}


def workload(limit: str = "64Mi", at: str = "64Mi", **options: Any) -> dict[str, Any]:
    notes = {NEEDS_MORE_THAN: at}
    return make.deployment("web", annotations=notes, container=amounts(limit), **options)


def starve(cluster: Cluster, namespace: str, **options: Any) -> None:
    """Pods that run out of memory, next to some that do not."""
    sidekick = make.deployment("other", container=amounts("64Mi"))
    faults.settle(cluster, namespace, sidekick, make.configmap("kept", a="b"))
    cluster.apply(workload(**options), namespace=namespace)
    cluster.wait(lambda: hungry(cluster, namespace), 20, "pods that ran out of memory")


def hungry(cluster: Cluster, namespace: str) -> bool:
    found = faults.pods(cluster, namespace, "web")
    return bool(found) and all(faults.waiting(pod) == "CrashLoopBackOff" for pod in found)


def mend(cluster: Cluster, namespace: str, **declared: Any) -> Runbook:
    more = {"k8s_namespace": namespace, "k8s_workload": "web", "k8s_timeout": 40, "k8s_settle": 2}
    return aimed_at_kubernetes("workload_resources", cluster, **{**more, "k8s_memory_ceiling": "256Mi", **declared})


def limits(cluster: Cluster, namespace: str) -> set[str]:
    """Of the pods themselves."""
    found = faults.pods(cluster, namespace, "web")
    return {pod["spec"]["containers"][0]["resources"]["limits"]["memory"] for pod in found}


def ready(cluster: Cluster, namespace: str) -> int:
    return int(cluster.get("deployment", "web", namespace)["status"].get("readyReplicas", 0))


def bystanders(cluster: Cluster, namespace: str) -> dict[str, Any]:
    return fingerprint(cluster, namespace, exclude=("*/web", "*/web-*"))


@pytest.mark.compat
def test_break_and_mend(cluster: Cluster, namespace: str) -> None:
    starve(cluster, namespace)
    before, since = bystanders(cluster, namespace), mark(cluster)
    result = mend(cluster, namespace).run()
    assert result.rc == 0, result.stdout
    assert {"k8s.oom_killed", "k8s.memory.limit_too_low"} <= set(findings(result))
    assert (limits(cluster, namespace), ready(cluster, namespace)) == ({"96Mi"}, 2)
    done = [(one.verb, one.resource, one.name) for one in writes(cluster, since)]
    assert done == [("patch", "deployments", "web")]
    assert bystanders(cluster, namespace) == before


def test_break_and_mend_pods_that_ask_for_more_than_any_node_has(cluster: Cluster, namespace: str) -> None:
    faults.break_scheduling(cluster, namespace, "web")
    result = mend(cluster, namespace, k8s_resources={"requests": {"cpu": "100m"}}).run()
    assert result.rc == 0, result.stdout
    assert "k8s.unschedulable.resources" in findings(result)
    assert ready(cluster, namespace) == 2


def test_again(cluster: Cluster, namespace: str) -> None:
    starve(cluster, namespace)
    runbook = mend(cluster, namespace)
    first = runbook.run()
    assert first.rc == 0, first.stdout
    since = mark(cluster)
    second = runbook.run()
    assert (second.rc, changes(second), second.changed, writes(cluster, since)) == (0, [], False, [])


def test_again_with_declared_resources(cluster: Cluster, namespace: str) -> None:
    faults.settle(cluster, namespace, workload(at="none"))
    declared = {"limits": {"memory": "0.125Gi"}, "requests": {"memory": "64Mi"}}
    runbook = mend(cluster, namespace, k8s_resources=declared)
    first, second = runbook.run(), runbook.run()
    assert (first.rc, changes(first)) == (0, [SET]), first.stdout
    assert (second.rc, changes(second)) == (0, [])
    lower = mend(cluster, namespace, k8s_resources={"limits": {"memory": "64Mi"}}, k8s_memory_floor="96Mi").run()
    assert (lower.rc != 0, changes(lower), "memory_floor" in message(lower)) == (True, [], True)


def test_check_tells_the_truth(cluster: Cluster, namespace: str) -> None:
    starve(cluster, namespace)
    runbook, since = mend(cluster, namespace), mark(cluster)
    checked = runbook.run("--diff", check=True)
    assert checked.rc == 0, checked.stdout
    assert writes(cluster, since) == []
    done = runbook.run()
    assert actions(checked) == actions(done)
    assert checked.result(SET)["diff"] == done.result(SET)["diff"]
    assert checked.result(SET)["plan"] == done.result(SET)["plan"]
    assert "k8s.rollout.follows" in findings(checked)


def test_killed_half_way(cluster: Cluster, namespace: str) -> None:
    one_goes = {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}
    starve(cluster, namespace, spec=one_goes)
    runbook, since = mend(cluster, namespace), mark(cluster)
    runbook.run_and_kill(lambda: cluster.get("deployment", "web", namespace)["metadata"]["generation"] > 1)
    result = runbook.run()
    assert result.rc == 0, result.stdout
    assert (limits(cluster, namespace), ready(cluster, namespace)) == ({"96Mi"}, 2)
    assert len(writes(cluster, since)) == 1, "the limit was raised twice for one cause"


def test_wrong_cause_a_crash_that_has_nothing_to_do_with_memory(cluster: Cluster, namespace: str) -> None:
    faults.break_crash(cluster, namespace, "web", fault="crash")
    since = mark(cluster)
    result = mend(cluster, namespace, k8s_resources={"limits": {"memory": "128Mi"}}).run()
    assert (result.rc != 0, changes(result), writes(cluster, since)) == (True, [], [])
    assert "k8s.crash_loop.error" in message(result)


def test_wrong_cause_a_leak(cluster: Cluster, namespace: str) -> None:
    """Memory runs out whatever the limit: the limit goes to the ceiling, no further, and then it is said."""
    starve(cluster, namespace, limit="256Mi", at="64Mi,96Mi,256Mi")
    since = mark(cluster)
    result = mend(cluster, namespace).run()
    assert (result.rc != 0, changes(result), writes(cluster, since)) == (True, [], [])
    assert "k8s.memory.at_ceiling" in message(result)


def test_a_limit_that_is_still_too_low_ends_loudly(cluster: Cluster, namespace: str) -> None:
    starve(cluster, namespace, at="64Mi,96Mi")
    result = mend(cluster, namespace).run()
    assert (result.rc != 0, changes(result)) == (True, [SET])
    second = mend(cluster, namespace).run()
    assert second.rc == 0, second.stdout
    assert limits(cluster, namespace) == {"144Mi"}


def test_without_a_ceiling_nothing_is_raised(cluster: Cluster, namespace: str) -> None:
    starve(cluster, namespace)
    runbook = mend(cluster, namespace)
    runbook.declared.pop("k8s_memory_ceiling")
    result = runbook.run()
    assert (result.rc != 0, changes(result)) == (True, [])
    assert "k8s_memory_ceiling" in message(result)


def test_a_healthy_one_ends_after_the_diagnosis(cluster: Cluster, namespace: str) -> None:
    faults.settle(cluster, namespace, workload(at="none"))
    result = mend(cluster, namespace).run()
    assert (result.rc, changes(result)) == (0, [])
    assert not [entry for entry in result.tasks if entry["task"].startswith(("Guard", "Mitigate"))]


def test_diagnosis_alone(cluster: Cluster, namespace: str) -> None:
    starve(cluster, namespace)
    result = mend(cluster, namespace).run("--tags", "diagnose")
    assert (result.rc, changes(result)) == (0, [])
    assert "k8s.oom_killed" in findings(result)
