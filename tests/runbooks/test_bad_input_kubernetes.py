# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What goes wrong around Kubernetes at three in the morning: each has its own clear error, and nothing is half done."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._k8s.client import connect
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_objects import configmap, deployment, pdb, pvc, volume
from tests.lab.kubernetes_proxy import Answer, Cut, First, Proxy, Reset, proxied
from tests.lab.kubernetes_webhook import admission
from tests.lab.kubernetes_witness import Write, fingerprint, mark, writes
from tests.runbooks.harness import Runbook, changes
from tests.support import ROOT, call

pytestmark = pytest.mark.kubernetes
QUICK = {"connect_timeout": 2, "request_timeout": 2}
ROLES = ("role/*", "rolebinding/*")  # of the users that a test makes
NEVER = "1970-01-01T00:00:00Z"


@dataclass(frozen=True)
class Case:
    """A change that is due in a namespace where web has two pods. `spoil` changes what the plan was made of."""

    module: str
    options: dict[str, Any]
    real: str = r"/deployments/web\?(?!.*dryRun)"
    method: str = "PATCH"
    spoil: Callable[[Cluster, str], Any] = field(
        default=lambda cluster, space: cluster.apply(deployment("web", env={"A": "9"}), namespace=space)
    )

    def run(self, namespace: str, check_mode: bool = False, **connection: Any) -> dict[str, Any]:
        options = {**self.options}
        if options.get("state") == "restarted" or "older_than" in options:
            options["since" if "state" in options else "older_than"] = _now()
        return call(self.module, check_mode=check_mode, namespace=namespace, **{**QUICK, **options, **connection})


CASES = {
    "replicas": Case(
        "k8s_replicas",
        {"name": "web", "min_replicas": 3, "wait": False},
        spoil=lambda cluster, space: cluster.apply(deployment("web", replicas=1, env={"A": "1"}), namespace=space),
    ),
    "restart": Case("k8s_rollout", {"name": "web", "state": "restarted", "wait": False}),
    "rollback": Case("k8s_rollout", {"name": "web", "state": "rolled_back", "to_revision": 1, "wait": False}),
    "env": Case("k8s_workload", {"name": "web", "env": {"A": "2"}, "wait": False}),
    "config": Case(
        "k8s_workload",
        {"name": "web", "config_map": "web-config", "key": "A", "value": "2", "restart": True, "wait": False},
        real=r"/configmaps/web-config\?(?!.*dryRun)",
        spoil=lambda cluster, space: cluster.apply(configmap("web-config", A="3"), namespace=space),
    ),
    "evict": Case(
        "k8s_pod",
        {"name": "web", "older_than": NEVER, "wait_timeout": "20s", "budget_timeout": "1s"},
        real=r"/eviction\?(?!.*dryRun)",
        method="POST",
    ),
    "delete": Case(
        "k8s_pod",
        {
            "name": "web",
            "older_than": NEVER,
            "via": "delete",
            "wait_timeout": "20s",
            "confirm": "web",
            "budget_timeout": "1s",
        },
        real=r"/pods/web-[^/?]*(\?(?!.*dryRun)|$)",
        method="DELETE",
    ),
    "claim": Case(
        "k8s_volume_claim",
        {"name": "data", "size": "2Gi", "wait": False},
        real=r"/persistentvolumeclaims/data\?(?!.*dryRun)",
        spoil=lambda cluster, space: cluster.patch(
            "pvc", "data", space, {"spec": {"resources": {"requests": {"storage": "3Gi"}}}}
        ),
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
WORKLOADS = ("replicas", "restart", "rollback", "env")
PATCHES = (*WORKLOADS, "config", "claim")
each_workload_case = pytest.mark.parametrize("case", [CASES[name] for name in WORKLOADS], ids=WORKLOADS)


def prepare(cluster: Cluster, space: str) -> None:
    """web with two revisions and two ready pods, its config, and a bound claim."""
    cluster.apply(configmap("web-config", A="1"), volume(f"data-{space}"), pvc("data"), namespace=space)
    cluster.apply(deployment("web", env={"A": "0"}), namespace=space)
    cluster.wait(lambda: cluster.objects("replicaset", space), 10, "the first revision")
    cluster.apply(deployment("web", env={"A": "1"}), namespace=space)
    cluster.wait(lambda: _whole(cluster, space), 20, "two ready pods of the second revision")
    cluster.wait(lambda: cluster.get("pvc", "data", space)["status"].get("phase") == "Bound", 10, "a bound claim")
    made = [pod["metadata"]["creationTimestamp"] for pod in cluster.objects("pod", space)]
    cluster.wait(lambda: _now() > max(made), 5, "pods that are older than now")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _whole(cluster: Cluster, space: str) -> bool:
    found = cluster.get("deployment", "web", space)
    status = found.get("status", {})
    counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")]
    pods = cluster.objects("pod", space)
    seen = status.get("observedGeneration") == found["metadata"]["generation"]
    return seen and counts == [2, 2, 2] and len(pods) == 2


@pytest.fixture
def space(cluster: Cluster, namespace: str) -> str:
    prepare(cluster, namespace)
    return namespace


@pytest.fixture
def front(cluster: Cluster, tmp_path: Path) -> Iterator[Proxy]:
    with proxied(cluster, tmp_path) as proxy:
        yield proxy


def error(result: dict[str, Any]) -> tuple[str, str]:
    assert result.get("failed"), result
    assert result["error"]["hint"], result["error"]
    return result["error"]["kind"], result["error"]["code"]


def done(cluster: Cluster, since: int, space: str, user: str | None = "runbooks") -> list[Write]:
    return [write for write in writes(cluster, since, user, space) if write.done]


# Rights


@dataclass
class Rights:
    """Users with some rights each."""

    cluster: Cluster
    space: str
    scratch: Path
    made: int = 0

    def user(self, *rights: tuple[str, str], reads: str = "*") -> tuple[str, Path]:
        self.made += 1
        name = f"{self.space}-{self.made}"
        rules = [{"apiGroups": ["*"], "resources": [reads] if reads else [], "verbs": ["get", "list"]}] if reads else []
        rules += [{"apiGroups": ["*"], "resources": [resource], "verbs": [verb]} for verb, resource in rights]
        path = self.cluster.user(name, rules, self.space)
        return name, path

    def connection(self, path: Path) -> dict[str, Any]:
        return {"kubeconfig": str(path), "expect_cluster": self.cluster.url}

    def settle(self, path: Path, *rights: tuple[str, str]) -> None:
        """The API server learns of a binding a moment later."""
        with connect(self.connection(path)) as kube:
            asked = rights or [("list", "pods")]
            self.cluster.wait(lambda: all(self._may(kube, *right) for right in asked), 10, "the rights to hold")

    def _may(self, kube: Any, verb: str, resource: str) -> bool:
        plural, _slash, sub = resource.partition("/")
        groups = {"deployments": "apps"}
        asked = {"verb": verb, "resource": plural, "subresource": sub, "namespace": self.space}
        spec = {"resourceAttributes": {**asked, "group": groups.get(plural, "")}}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(kube.api.post(path, review)["status"]["allowed"])


def missing(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The rights that an error names."""
    found = re.findall(r"(?:may not|nor) (\w+) ([\w/]+) in ", result["error"]["message"])
    assert found, result["error"]
    return list(found)


@each_case
def test_without_any_one_right_nothing_is_begun(cluster: Cluster, space: str, tmp_path: Path, case: Case) -> None:
    """The rights are those that the error names; with all of them the change is made to its end."""
    rights, needed = Rights(cluster, space, tmp_path), list[tuple[str, str]]()
    since = mark(cluster)
    for _round in range(5):
        name, path = rights.user(*needed)
        rights.settle(path, *needed)
        result = case.run(space, check_mode=True, **rights.connection(path))
        if not result.get("failed"):
            break
        assert error(result) == ("forbidden", "rbac")
        assert done(cluster, since, space, name) == []
        needed += missing(result)
    assert needed
    before = fingerprint(cluster, space, ROLES)
    for left_out in needed:
        name, path = rights.user(*[right for right in needed if right != left_out])
        rights.settle(path, *[right for right in needed if right != left_out])
        result = case.run(space, **rights.connection(path))
        assert error(result) == ("forbidden", "rbac")
        assert left_out in missing(result)
        assert (result["changed"], done(cluster, since, space, name)) == (False, [])
    assert fingerprint(cluster, space, ROLES) == before
    name, path = rights.user(*needed)
    rights.settle(path, *needed)
    result = case.run(space, **rights.connection(path))
    assert not result.get("failed"), result
    assert done(cluster, since, space, name)


@each_case
def test_without_any_one_right_to_read_nothing_is_half_done(
    cluster: Cluster, space: str, tmp_path: Path, case: Case
) -> None:
    """What may be unseen is gone on without; what must be seen is missed before the first write."""
    rights = Rights(cluster, space, tmp_path)
    written = [(verb, resource) for verb in ("patch", "create", "delete", "update") for resource in WRITTEN]
    since, kinds = mark(cluster), ("deployments", "replicasets", "pods", "configmaps", "persistentvolumeclaims")
    for unseen in kinds:
        rest = [("get", kind) for kind in READ if kind != unseen] + [("list", kind) for kind in READ if kind != unseen]
        name, path = rights.user(*rest, *written, reads="")
        rights.settle(path, *(right for right in (*rest, *written) if right[1] == "deployments"))
        result = case.run(space, check_mode=False, **rights.connection(path))
        if result.get("failed"):
            assert error(result)[0] == "forbidden", (unseen, result["error"])
            assert (unseen, done(cluster, since, space, name)) == (unseen, [])
        else:
            break  # the change is made: there is nothing left to be refused


READ = ("deployments", "replicasets", "pods", "configmaps", "secrets", "persistentvolumeclaims", "poddisruptionbudgets")
READ += ("horizontalpodautoscalers", "resourcequotas", "limitranges", "events", "controllerrevisions", "services")
READ += ("scaledobjects", "statefulsets", "daemonsets")
WRITTEN = ("deployments", "deployments/scale", "configmaps", "pods", "pods/eviction", "persistentvolumeclaims")


@each_case
def test_a_namespace_that_is_not_there(cluster: Cluster, case: Case) -> None:
    """Its lists are empty, as if all were well."""
    result = case.run("no-such-namespace", **cluster.connection())
    assert error(result) == ("not_found", "no_namespace")


@pytest.mark.parametrize("choice", [{"selector": "app=web", "min_age": "1h"}, {"phase": ["Failed"]}])
def test_pods_of_a_namespace_that_is_not_there(cluster: Cluster, choice: dict[str, Any]) -> None:
    result = call("k8s_pod", namespace="no-such-namespace", **choice, **QUICK, **cluster.connection())
    assert error(result) == ("not_found", "no_namespace")


# Somebody else at the same time


@pytest.mark.parametrize("case", [CASES[name] for name in PATCHES], ids=PATCHES)
def test_what_changed_between_look_and_act_is_left_alone(
    cluster: Cluster, space: str, front: Proxy, case: Case
) -> None:
    front.on(case.method, case.real, First(lambda: case.spoil(cluster, space)))
    since = mark(cluster)
    result = case.run(space, **front.connection())
    assert error(result)[0] in ("conflict", "precondition"), result["error"]
    assert (result["changed"], done(cluster, since, space)) == (False, [])


@pytest.mark.parametrize("name", ["evict", "delete"])
def test_a_pod_that_was_replaced_meanwhile_is_left_alone(cluster: Cluster, space: str, front: Proxy, name: str) -> None:
    case, pods = CASES[name], {pod["metadata"]["name"] for pod in cluster.objects("pod", space)}

    def replace() -> None:
        for pod in pods:
            cluster.delete("pod", pod, space)
        cluster.wait(lambda: _whole(cluster, space) and not pods & _names(cluster, space), 20, "two other pods")

    front.on(case.method, case.real, First(replace))
    since = mark(cluster)
    result = case.run(space, **front.connection())
    assert not result.get("failed"), result
    assert (result["changed"], done(cluster, since, space)) == (False, [])
    assert len(result["spared"]) >= 2


def _names(cluster: Cluster, space: str) -> set[str]:
    return {pod["metadata"]["name"] for pod in cluster.objects("pod", space)}


# A server that does not do what it is asked


@each_case
def test_a_write_that_is_throttled_is_not_made(cluster: Cluster, space: str, front: Proxy, case: Case) -> None:
    front.on(case.method, case.real, *[Answer(429, b"{}", {"Retry-After": "1"})] * 99)
    since = mark(cluster)
    result = case.run(space, **front.connection())
    assert error(result) == ("exhausted", "throttled")
    assert (result["error"]["retryable"], result["changed"], done(cluster, since, space)) == (True, False, [])


@each_case
def test_a_line_that_breaks_before_the_write(cluster: Cluster, space: str, front: Proxy, case: Case) -> None:
    front.on(case.method, case.real, Reset())
    since = mark(cluster)
    result = case.run(space, **front.connection())
    assert error(result) == ("unreachable", "connection")
    assert done(cluster, since, space) == []
    again = case.run(space, **front.connection())
    assert not again.get("failed"), again
    assert again["changed"]


@each_workload_case
def test_an_answer_that_is_lost(cluster: Cluster, space: str, front: Proxy, case: Case) -> None:
    """The write is made and nobody is told: the next run finds it done."""
    front.on(case.method, case.real, Cut())
    since = mark(cluster)
    assert error(case.run(space, **front.connection())) == ("unreachable", "connection")
    assert len(done(cluster, since, space)) == 1
    if case.options.get("state") != "restarted":  # whose moment is a new one each time
        again = case.run(space, **front.connection())
        assert (again.get("failed"), again["changed"]) == (None, False)


def test_a_server_that_freezes_in_the_middle(own_cluster: Cluster, tmp_path: Path) -> None:
    space = own_cluster.new_namespace()
    prepare(own_cluster, space)
    case = CASES["env"]
    with proxied(own_cluster, tmp_path) as front:
        front.on(case.method, case.real, First(own_cluster.freeze))
        result = case.run(space, **front.connection())
        assert error(result) == ("timeout", "timeout")
        own_cluster.thaw()
        own_cluster.wait(own_cluster.api.ready, 10, "the API server to be well again")
        again = case.run(space, **front.connection())
        assert not again.get("failed"), again
        assert case.run(space, **front.connection())["changed"] is False


def test_a_server_that_stops_in_the_middle(own_cluster: Cluster, tmp_path: Path) -> None:
    space = own_cluster.new_namespace()
    prepare(own_cluster, space)
    since = mark(own_cluster)
    with proxied(own_cluster, tmp_path) as front:
        # After the write comes the wait, and with its first look the end of the server.
        stop = First(own_cluster.kill_apiserver)
        front.on("PATCH", CASES["replicas"].real, First(lambda: front.on("GET", "", stop)))
        options = {"name": "web", "min_replicas": 3, "namespace": space, **QUICK, **front.connection()}
        result = call("k8s_replicas", **options)
    assert error(result)[0] in ("unreachable", "timeout")
    assert (result["changed"], len(result["actions"])) == (True, 1), "what was done before is said"
    own_cluster.restart_apiserver()
    assert len(done(own_cluster, since, space)) == 1


# Admission


@each_workload_case
def test_a_webhook_that_denies_is_told_before_the_write(cluster: Cluster, space: str, case: Case) -> None:
    since = mark(cluster)
    with admission(cluster, space, deny="not on a Friday"):
        result = case.run(space, **cluster.connection())
    assert error(result) == ("precondition", "admission")
    assert "not on a Friday" in result["msg"]
    assert (result["changed"], done(cluster, since, space)) == (False, [])


def test_a_webhook_that_is_down(cluster: Cluster, space: str) -> None:
    with admission(cluster, space, down=True):
        result = CASES["env"].run(space, **cluster.connection(request_timeout=10))
    assert error(result) == ("unreachable", "webhook")


@each_workload_case
def test_a_webhook_that_refuses_rehearsals(cluster: Cluster, space: str, front: Proxy, case: Case) -> None:
    """The plan is then our own prediction, and says so; the change is made all the same."""
    words = 'admission webhook "w.example" does not support dry run'
    status = json.dumps({"kind": "Status", "code": 400, "reason": "BadRequest", "message": words}).encode()
    front.on("PATCH", "dryRun=All", *[Answer(400, status)] * 9)
    checked = case.run(space, check_mode=True, **front.connection())
    assert (checked.get("failed"), checked["changed"], checked["plan"]["exact"]) == (None, True, False), checked
    ran = case.run(space, **front.connection())
    assert (ran.get("failed"), ran["changed"]) == (None, True), ran


# What else there is, and where it is proven

HERE = "tests/runbooks/test_bad_input_kubernetes.py"
CONNECTION = "tests/integration/test_k8s_connection.py"
CONTRACT = "tests/contract/test_k8s_api.py"
PROVEN = {
    "no kubeconfig": f"{CONNECTION}::test_wrong_options[no kubeconfig]",
    "a kubeconfig that is no YAML": f"{CONNECTION}::test_a_kubeconfig_that_is_none[{{ a: []",
    "unknown context": f"{CONNECTION}::test_wrong_options[no context]",
    "missing exec plugin": f"{CONNECTION}::test_wrong_kubeconfigs[exec plugin]",
    "garbage token": f"{CONNECTION}::test_wrong_options[garbage token]",
    "nobody": f"{CONNECTION}::test_wrong_kubeconfigs[no user]",
    "wrong cluster": f"{CONNECTION}::test_wrong_options[wrong cluster]",
    "missing namespace": f"{CONNECTION}::test_a_namespace_that_is_not_there",
    "missing rights": f"{HERE}::test_without_any_one_right_nothing_is_begun[replicas]",
    "missing rights to read": f"{HERE}::test_without_any_one_right_to_read_nothing_is_half_done[rollback]",
    "409": f"{HERE}::test_what_changed_between_look_and_act_is_left_alone[env]",
    "410": f"{CONNECTION}::test_a_list_that_etcd_has_forgotten",
    "429 of reads": f"{CONNECTION}::test_a_server_that_is_busy_for_a_moment",
    "429 of writes": f"{HERE}::test_a_write_that_is_throttled_is_not_made[env]",
    "429 of a disruption budget": f"{CONTRACT}::test_eviction_keeps_to_the_budget[real]",
    "503": f"{CONNECTION}::test_a_server_that_stays_busy[503-expected2]",
    "a reset in the middle of a list": f"{CONNECTION}::test_a_line_that_breaks_in_the_middle_of_a_list",
    "stopped in the middle": f"{HERE}::test_a_server_that_stops_in_the_middle",
    "frozen in the middle": f"{HERE}::test_a_server_that_freezes_in_the_middle",
    "another authority": f"{CONNECTION}::test_another_authority",
    "another host name": f"{CONNECTION}::test_wrong_kubeconfigs[other name]",
    "HTTP instead of HTTPS": f"{CONNECTION}::test_plain_http_to_a_port_that_speaks_tls",
    "not Kubernetes": f"{CONNECTION}::test_what_is_not_kubernetes[200-<html>Welcome</html>-expected0]",
    "a webhook that denies": f"{HERE}::test_a_webhook_that_denies_is_told_before_the_write[env]",
    "a webhook that refuses rehearsals": f"{HERE}::test_a_webhook_that_refuses_rehearsals[env]",
    "no history": "tests/integration/test_k8s_rollout.py::test_a_workload_that_keeps_no_history_says_so",
    "a variable twice": f"{HERE}::test_variables_that_are_there_twice",
    "an autoscaler without metrics": "tests/integration/test_k8s_diagnosis_info.py::test_an_autoscaler_without_metrics",
    "paused": "tests/integration/test_k8s_rollout.py::test_a_paused_deployment_is_left_alone_unless_forced",
}


@pytest.fixture(scope="session")
def proofs() -> set[str]:
    files = sorted({node.partition("::")[0] for node in PROVEN.values()})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *files]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines())


@pytest.mark.parametrize("what", PROVEN)
def test_each_has_its_proof(proofs: set[str], what: str) -> None:
    """A proof that was renamed or dropped is missed here."""
    assert PROVEN[what] in proofs


def test_variables_that_are_there_twice(cluster: Cluster, space: str) -> None:
    """Setting one leaves one; nobody guesses which of two was meant by what is left alone."""
    twice = [{"name": "A", "value": "1"}, {"name": "B", "value": "b"}, {"name": "A", "value": "1"}]
    where = "/spec/template/spec/containers/0/env"
    cluster.patch("deployment", "web", space, [{"op": "replace", "path": where, "value": twice}], content=JSON_PATCH)
    result = CASES["env"].run(space, **cluster.connection())
    assert not result.get("failed"), result
    found = cluster.get("deployment", "web", space)["spec"]["template"]["spec"]["containers"][0]["env"]
    assert [(one["name"], one["value"]) for one in found if one["name"] == "A"] == [("A", "2")]
    assert CASES["env"].run(space, **cluster.connection())["changed"] is False


JSON_PATCH = "application/json-patch+json"


def test_a_budget_that_holds_all_pods(cluster: Cluster, space: str) -> None:
    cluster.apply(pdb("web", app="web", minAvailable=2), namespace=space)
    cluster.wait(lambda: cluster.get("pdb", "web", space).get("status", {}).get("currentHealthy") == 2, 10, "a budget")
    since = mark(cluster)
    result = call(
        "k8s_pod", namespace=space, name="web", min_age="0s", budget_timeout="1s", **QUICK, **cluster.connection()
    )
    assert error(result) == ("precondition", "disruption_budget")
    assert done(cluster, since, space) == []


# Whole runbooks

RUNBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml") if "default('k8s')" in path.read_text())
#: What some cannot begin without.
NEEDED: dict[str, dict[str, Any]] = {
    "api_down": {"api_url": "http://127.0.0.1:9/", "api_attempts": 1, "k8s_decide": 1},
    "workload_env": {"k8s_env": {"A": "1"}},
    "workload_restart": {"k8s_since": "10m"},
    "workload_scale": {"k8s_min_replicas": 2},
}


@pytest.mark.parametrize("name", RUNBOOKS)
@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"context": "other"}, ("not_found", "no_context")),
        ({"expect_cluster": "production"}, ("precondition", "wrong_target")),
        ({"namespace": "no-such-namespace"}, ("not_found", "no_namespace")),
    ],
    ids=["context", "cluster", "namespace"],
)
def test_a_runbook_that_is_aimed_elsewhere(
    cluster: Cluster, namespace: str, name: str, wrong: dict[str, str], expected: tuple[str, str]
) -> None:
    cluster.apply(deployment("web", replicas=0), namespace=namespace)
    declared = {"k8s_namespace": wrong.get("namespace", namespace), "k8s_workload": "web", **NEEDED.get(name, {})}
    connection = cluster.connection(**{key: value for key, value in wrong.items() if key != "namespace"})
    since = mark(cluster)
    result = Runbook(name, connection, declared, "k8s").run()
    failed = next(entry["result"] for entry in result.tasks if entry["status"] == "failed")
    assert error({**failed, "failed": True}) == expected, result.stdout
    assert (result.rc, changes(result)) == (2, [])
    assert writes(cluster, since) == []
