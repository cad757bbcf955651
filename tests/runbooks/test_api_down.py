# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""api_down: one symptom, three causes with a remedy each, and others that no remedy of a workload mends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab import kubernetes_faults as faults
from tests.lab import kubernetes_objects as make
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_service import Service, serving, users
from tests.lab.kubernetes_witness import fingerprint, mark, writes
from tests.lab.process import HOST, LabError, free_port, wait_until
from tests.lab.prometheus import program, start_prometheus
from tests.lab.redis_servers import start_single
from tests.lab.world import Lab
from tests.runbooks.harness import Runbook, actions, aimed_at_kubernetes, changes, findings, message
from tests.support import ROOT, PlayResult

pytestmark = pytest.mark.kubernetes

OURS = ("deployment/app", "replicaset/app-*", "pod/app-*")
CHOICE = "Diagnose | Choose the remedy"
ROLLBACK = "Mitigate | Roll back to the latest healthy revision"
RESTART = "Mitigate | Restart its pods, one after the other"
SCALE = "Mitigate | Have more pods, no more than declared"


@pytest.fixture
def service(cluster: Cluster, namespace: str) -> Iterator[Service]:
    """A service of three pods that answers, with neighbours that nobody may touch."""
    bystander = make.deployment("bystander", replicas=1)
    strategy = {"rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}
    app = make.deployment("app", replicas=3, spec={"strategy": strategy})
    faults.settle(cluster, namespace, app, bystander, make.pdb("app", minAvailable=1))
    with serving(cluster, namespace) as running:
        yield running


def runbook(service: Service, **declared: Any) -> Runbook:
    quick = {
        "api_url": service.url,
        "api_json": {"status": "ok"},
        "api_attempts": 3,
        "api_interval": 0.05,
        "api_op_timeout": 0.5,
        "api_settle": 20,
        "api_since": "0",
        "k8s_decide": 6,
        "k8s_settle": 60,
    }
    where = {"k8s_namespace": service.namespace, "k8s_workload": service.name}
    return aimed_at_kubernetes("api_down", service.cluster, **{**quick, **where, **declared})


def neighbours(service: Service) -> dict[str, Any]:
    return fingerprint(service.cluster, service.namespace, OURS)


def remedy(result: PlayResult) -> dict[str, Any]:
    found: dict[str, Any] = result.result(CHOICE)["remedy"]
    return found


def hangs(service: Service) -> Runbook:
    service.hang()
    return runbook(service)


def crashes(service: Service) -> Runbook:
    service.needs = 3
    faults.break_crash(service.cluster, service.namespace)
    return runbook(service)


def starves(service: Service) -> Runbook:
    service.needs = 5
    return runbook(service, api_min_replicas=5, api_max_replicas=6)


INCIDENTS: dict[str, tuple[Callable[[Service], Runbook], str]] = {
    "restart": (hangs, RESTART),
    "rollback": (crashes, ROLLBACK),
    "scale": (starves, SCALE),
}
each = pytest.mark.parametrize("choice", INCIDENTS)
each_once_compatible = pytest.mark.parametrize(
    "choice", [pytest.param("restart", marks=pytest.mark.compat), "rollback", "scale"]
)


@each_once_compatible
def test_break_and_mend(service: Service, choice: str) -> None:
    """The three causes, each by its own remedy and by no other."""
    before, started = neighbours(service), time.monotonic()
    incident, task = INCIDENTS[choice]
    prepared = incident(service)
    result = prepared.run()
    assert result.rc == 0, result.stdout
    assert (remedy(result)["choice"], changes(result)) == (choice, [task])
    assert len(service.ready()) == (5 if choice == "scale" else 3)
    assert not set(service.ready()) & service.hanging
    assert neighbours(service) == before
    assert result.result("Verify | It is healthy, several times in a row")["verify"]["consecutive"] == 10
    assert time.monotonic() - started < 60


def test_break_and_mend_one_pod_of_three_that_hangs(service: Service) -> None:
    """One look of three may well be healthy: several are taken."""
    service.hang(share=0.34)
    result = runbook(service).run()
    assert result.rc == 0, result.stdout
    assert changes(result) == [RESTART]
    assert "probe.timeout" in findings(result)


def test_break_and_mend_pods_that_are_not_ready_any_more(service: Service) -> None:
    """Their readiness probe has found out: nothing crashes, and nothing comes back by itself."""
    cluster, namespace = service.cluster, service.namespace
    for pod in faults.pods(cluster, namespace):
        conditions = [
            {**one, "status": "False"} if one["type"] in ("Ready", "ContainersReady") else one
            for one in pod["status"]["conditions"]
        ]
        status = {"status": {"conditions": conditions}}
        cluster.patch("pod", pod["metadata"]["name"], namespace, status, subresource="status")
    assert service.ready() == []
    result = runbook(service, k8s_decide=1).run()
    assert result.rc == 0, result.stdout
    assert (changes(result), len(service.ready())) == ([RESTART], 3)


@pytest.mark.parametrize("strategy", ["RollingUpdate", "Recreate"])
def test_a_new_revision_that_only_is_not_ready_is_waited_for(service: Service, strategy: str) -> None:
    """Nothing has failed yet, so nothing is proved: neither a rollback nor a restart would be more than a guess."""
    service.needs = 3
    if strategy == "Recreate":
        spec = {"strategy": {"type": strategy, "rollingUpdate": None}}
        service.cluster.patch("deployment", "app", service.namespace, {"spec": spec})
    faults.break_readiness(service.cluster, service.namespace)
    result = refused(service, runbook(service, k8s_decide=1))
    assert remedy(result)["reason"] == "unknown"
    assert "going on" in message(result)


def test_break_and_mend_a_service_that_was_scaled_to_none(service: Service) -> None:
    cluster, namespace = service.cluster, service.namespace
    cluster.patch("deployment", "app", namespace, {"spec": {"replicas": 0}})
    cluster.wait(lambda: not service.ready(), 10, "no pods")
    result = runbook(service, api_min_replicas=2, api_max_replicas=4).run()
    assert result.rc == 0, result.stdout
    assert (changes(result), len(service.ready())) == ([SCALE], 2)


def test_looking_alone_changes_nothing(service: Service) -> None:
    prepared = crashes(service)
    since = mark(service.cluster)
    result = prepared.run("--tags", "diagnose")
    assert (result.rc, changes(result), remedy(result)["choice"]) == (0, [], "rollback")
    assert writes(service.cluster, since, namespace=service.namespace, rehearsals=True) == []


@each
def test_again(service: Service, choice: str) -> None:
    prepared = INCIDENTS[choice][0](service)
    assert prepared.run().rc == 0
    second = prepared.run()
    assert (second.rc, changes(second), second.changed) == (0, [], False)


@each
def test_check_tells_the_truth(service: Service, choice: str) -> None:
    incident, task = INCIDENTS[choice]
    prepared = incident(service)
    since = mark(service.cluster)
    checked = prepared.run("--diff", check=True)
    assert checked.rc == 0, checked.stdout
    assert writes(service.cluster, since, namespace=service.namespace) == []
    done = prepared.run()
    assert done.rc == 0, done.stdout
    assert actions(checked) == actions(done) != []
    assert checked.result(task)["plan"]["id"] == done.result(task)["plan"]["id"]
    assert remedy(checked) == remedy(done)


@pytest.mark.slow
def test_killed_half_way(service: Service) -> None:
    """Killed as soon as the restart has begun: the next run lets it end, and begins no second one."""
    cluster, namespace = service.cluster, service.namespace
    cluster.patch("deployment", "app", namespace, {"spec": {"minReadySeconds": 2}})
    faults.wait_settled(cluster, namespace, "Deployment", "app")
    before = neighbours(service)
    prepared = hangs(service)

    def restarts() -> int:
        return int(cluster.get("deployment", "app", namespace)["metadata"]["generation"])

    first = restarts()
    prepared.run_and_kill(lambda: restarts() > first)
    begun = restarts()
    assert set(service.ready()) & service.hanging, "it was killed too late to leave an incident"
    result = runbook(service, k8s_decide=60).run()
    assert result.rc == 0, result.stdout
    assert not set(service.ready()) & service.hanging
    assert (restarts(), changes(result), neighbours(service)) == (begun, [], before)


def refused(service: Service, prepared: Runbook) -> PlayResult:
    """A run that refuses, and of which the API server has seen no write."""
    since, before = mark(service.cluster), fingerprint(service.cluster, service.namespace)
    result = prepared.run()
    assert result.rc != 0, result.stdout
    assert changes(result) == []
    assert writes(service.cluster, since, namespace=service.namespace) == []
    assert fingerprint(service.cluster, service.namespace) == before
    return result


def test_wrong_cause_outside_the_workload(service: Service) -> None:
    """A quota keeps pods from being made: neither a restart nor a rollback nor more replicas make room."""
    service.needs = 4
    cluster, namespace = service.cluster, service.namespace
    cluster.apply(make.quota("few", pods=4), namespace=namespace)  # these, and the bystander's
    cluster.wait(
        lambda: cluster.get("quota", "few", namespace).get("status", {}).get("used"), 10, "a quota that counts"
    )
    cluster.patch("deployment", "app", namespace, {"spec": {"replicas": 4}})

    def refuses() -> bool:
        conditions = cluster.get("deployment", "app", namespace)["status"].get("conditions", ())
        return any(entry["type"] == "ReplicaFailure" for entry in conditions)

    cluster.wait(refuses, 10, "a pod that is refused")
    result = refused(service, runbook(service, api_min_replicas=4, api_max_replicas=9))
    assert (remedy(result)["reason"], remedy(result)["because"]) == ("outside", ["k8s.quota"])
    assert "quota" in message(result).lower()


def test_wrong_cause_a_dependency_that_is_down(service: Service, redis_lab: Lab) -> None:
    """Looks like pods that hang: a restart would drop their connections and change nothing."""
    redis = redis_lab.start(start_single)
    service.depends_on = redis.port
    declared = runbook(service, redis_connection=redis.connection())
    assert declared.run().rc == 0
    redis.stop()
    result = refused(service, declared)
    assert remedy(result)["reason"] == "dependency"
    assert "redis_unreachable" in message(result)
    assert "redis.unreachable.refused" in findings(result)


def test_wrong_cause_a_database_that_is_down(service: Service) -> None:
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    service.depends_on = free_port()
    connection = {"host": HOST, "port": service.depends_on, "dbname": "app", "user": "app"}
    result = refused(service, runbook(service, postgres_connection=connection))
    assert remedy(result)["runbook"] == "postgres_connect_failure"
    assert "postgres_connect_failure" in message(result)


def test_wrong_cause_in_front_of_the_pods(service: Service) -> None:
    """Nobody comes to the pods, which are all well: DNS, certificate or ingress."""
    result = refused(service, runbook(service, api_url=service.url.replace("http:", "https:")))
    assert (remedy(result)["reason"], remedy(result)["because"]) == ("before_the_pods", ["probe.tls"])


def test_wrong_cause_a_page_that_is_not_there(service: Service) -> None:
    result = refused(service, runbook(service, api_url=service.url.replace("health", "helth")))
    assert remedy(result)["reason"] == "unknown"


def test_wrong_cause_a_registry_that_refuses(service: Service) -> None:
    """It looks like a bad revision; the next pull of the old image would be refused, too."""
    service.needs = 3
    faults.break_image(service.cluster, service.namespace, private=True)
    result = refused(service, runbook(service))
    assert remedy(result)["because"] == ["k8s.image_pull.auth"]


def test_what_it_asks_with_is_not_shown(service: Service, reports: Path) -> None:
    secret = {"X-Token": "t0ken-of-the-service"}
    prepared = runbook(service, api_connection={"headers": secret, "use_proxy": False}, api_settle=1)
    service.needs = 9
    result = prepared.run("-vvv")
    assert service.web
    assert service.web.asked[-1].headers["X-Token"] == secret["X-Token"]
    written = "".join(path.read_text(errors="replace") for path in reports.rglob("*") if path.is_file())
    assert "probe.status" in written
    assert "t0ken-of" not in result.stdout + result.stderr + written


def test_a_remedy_that_is_not_declared_is_not_taken(service: Service) -> None:
    service.hang()
    assert "restart" in message(refused(service, runbook(service, api_remedies=["rollback"])))
    service.hanging.clear()
    service.needs = 5
    assert "max_replicas" in message(refused(service, runbook(service, api_min_replicas=5, api_max_replicas=4)))


def test_more_pods_that_do_not_help_are_taken_back(service: Service) -> None:
    service.needs = 9
    result = runbook(service, api_min_replicas=4, api_max_replicas=4, api_settle=1).run()
    assert result.rc != 0
    assert "healthy answers in a row" in message(result)
    spec = service.cluster.get("deployment", "app", service.namespace)["spec"]
    assert spec["replicas"] == 3


def test_a_restart_that_did_not_help_is_not_repeated(service: Service) -> None:
    """The pods are younger than the incident: whatever is wrong, it is not their age."""
    service.hang()
    result = refused(service, runbook(service, api_since="10m", api_settle=1))
    assert "healthy answers in a row" in message(result)


@pytest.mark.slow
def test_the_error_rate_has_to_fall_too(service: Service, tmp_path: Path) -> None:
    try:
        program()
    except LabError as error:
        pytest.skip(str(error))
    assert service.web
    options = yaml.safe_load((ROOT / "playbooks/api_down.meta.yml").read_text())["argument_specs"]["api_down"][
        "options"
    ]
    rate = options["api_error_query"]["default"].replace("[1m]", "[3s]")
    prometheus = start_prometheus(tmp_path / "prometheus", [f"{HOST}:{service.web.port}"])
    declared = {"api_prometheus_url": prometheus.url, "api_error_query": rate, "api_error_threshold": 0.2}
    try:
        with users(service):
            service.hang()
            wait_until(lambda: service.answers[500] > 5, 10, "errors")
            result = runbook(service, **declared).run()
            assert result.rc == 0, result.stdout
            assert changes(result) == [RESTART]
            verdict = result.result("Verify | Its error rate is below the threshold")
            assert (verdict["verify"]["ok"], verdict["series"][0]["value"] < 0.2) == (True, True)
            service.hang()
            blind = {**declared, "api_error_match": {"job": "nobody"}, "api_settle": 2}
            result = runbook(service, **blind).run()
            assert result.rc != 0
            assert "probe.no_data" in message(result)
    finally:
        prometheus.stop()
