# SPDX-License-Identifier: GPL-3.0-or-later
"""The Kubernetes lab on a real API server: what starts is ours, what breaks shows, what was written is known."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("urllib3", reason="urllib3 is not installed")

from tests.lab import kubernetes_faults as faults
from tests.lab import kubernetes_objects as make
from tests.lab.kubernetes_api import STRATEGIC, Api, ApiError
from tests.lab.kubernetes_cluster import Cluster, start_cluster
from tests.lab.kubernetes_template import MARKER, NODES, RUNBOOKS
from tests.lab.kubernetes_webhook import admission
from tests.lab.kubernetes_witness import fingerprint, mark, writes
from tests.lab.process import LabError, ProcessId
from tests.lab.world import Lab

pytestmark = pytest.mark.kubernetes

ROOT = Path(__file__).parents[2]


class TestCluster:
    def test_answers_as_what_it_is(self, cluster: Cluster) -> None:
        version = cluster.api.request("GET", "/version")
        assert (version["major"], version["gitVersion"].split(".")[0]) == ("1", "v1")
        assert [node["metadata"]["name"] for node in cluster.objects("node")] == list(NODES)
        assert "Server Version" in cluster.kubectl("version").stdout
        assert cluster.connection(timeout=3) == {
            "kubeconfig": str(cluster.kubeconfig),
            "expect_cluster": cluster.uid,
            "timeout": 3,
        }

    def test_keeps_its_secrets(self, cluster: Cluster) -> None:
        assert stat.S_IMODE(cluster.kubeconfig.stat().st_mode) == 0o600
        assert stat.S_IMODE(cluster.scratch.stat().st_mode) == 0o700

    def test_runs_what_it_is_given(self, cluster: Cluster, namespace: str) -> None:
        sets = (make.statefulset("db"), make.daemonset("agent"), make.deployment("app"))
        faults.settle(cluster, namespace, *sets, make.service("app"), make.job("once"))
        cluster.wait(lambda: cluster.get("job", "once", namespace)["status"].get("succeeded"), 10, "a finished job")
        assert len(faults.pods(cluster, namespace, "agent")) == len(NODES)
        assert make.names(faults.pods(cluster, namespace, "db")) == ["db-0", "db-1"]
        ready = [point for each in cluster.objects("endpointslice", namespace) for point in each["endpoints"]]
        assert len(ready) == 2
        cluster.delete("deployment", "app", namespace)
        cluster.wait(lambda: not faults.pods(cluster, namespace), 10, "the end of the pods")

    def test_binds_a_claim_to_a_volume(self, cluster: Cluster, namespace: str) -> None:
        cluster.apply(make.pvc("data", storage_class="fixed"), namespace=namespace)
        cluster.apply(make.volume(f"for-{namespace}", storage_class="fixed"))
        cluster.wait(lambda: cluster.get("pvc", "data", namespace)["status"]["phase"] == "Bound", 15, "a bound claim")
        cluster.delete("pv", f"for-{namespace}")

    def test_user_may_do_exactly_what_is_said(self, cluster: Cluster, namespace: str) -> None:
        rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]
        user = Api(cluster.user("reader", rules, namespace))
        assert user.objects("pod", namespace) == []
        for question in (lambda: user.objects("secret", namespace), lambda: user.objects("pod", "kube-system")):
            with pytest.raises(ApiError) as refused:
                question()
            assert refused.value.status == 403
        assert Api(cluster.kubeconfig).objects("secret", "kube-system") is not None

    def test_no_other_cluster_passes_for_it(self, cluster: Cluster, kubernetes_lab: Lab) -> None:
        other = kubernetes_lab.start(start_cluster)
        assert other.uid != cluster.uid
        mixed = json.loads(cluster.kubeconfig.read_text())
        mixed["clusters"][0]["cluster"]["server"] = other.url
        path = other.scratch / "mixed"
        path.write_text(json.dumps(mixed))
        with pytest.raises(LabError, match="certificate"):
            Api(path).objects("namespace")
        other.uid = cluster.uid
        with pytest.raises(LabError, match="not ours"):
            other.prove_own()


class TestForeign:
    """Clusters and programs that others brought."""

    def test_a_cluster_is_used_when_it_is_named_and_marked(
        self, cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SRE_RUNBOOKS_TEST_KUBECONFIG", str(cluster.admin_kubeconfig))
        foreign = start_cluster(tmp_path / "foreign")
        foreign.prove_own()
        assert (foreign.uid, foreign.url) == (cluster.uid, cluster.url)
        rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
        reader = Api(foreign.user(f"reader-{namespace}", rules, namespace))
        assert reader.objects("pod", namespace) == []
        with pytest.raises(ApiError, match="forbidden"):
            reader.objects("secret", namespace)
        with pytest.raises(LabError, match="audit log"):
            mark(foreign)
        foreign.stop()
        cluster.prove_own()

    def test_a_cluster_without_the_mark_is_left_alone(
        self, own_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SRE_RUNBOOKS_TEST_KUBECONFIG", str(own_cluster.admin_kubeconfig))
        own_cluster.delete_namespace(MARKER)
        own_cluster.wait(lambda: not own_cluster.exists("namespace", MARKER), 15, "the end of the mark")
        with pytest.raises(LabError, match=MARKER):
            start_cluster(tmp_path / "foreign")

    def test_programs_are_taken_from_where_others_look(
        self, cluster: Cluster, kubernetes_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("etcd", "kube-apiserver"):
            (tmp_path / name).symlink_to(cluster.built.program(name))
        monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
        made = kubernetes_lab.start(start_cluster)
        used = {name: Path(member.command[0]).parent == tmp_path for name, member in made.members.items()}
        assert {name for name in used if used[name]} == {"etcd", "kube-apiserver"}


class TestLife:
    def test_stops_and_stops_again(self, own_cluster: Cluster) -> None:
        members = list(own_cluster.members.values())
        assert [member.name for member in members if not member.alive()] == []
        own_cluster.stop()
        own_cluster.stop()
        assert not any(member.alive() for member in members)
        with pytest.raises(LabError, match="has ended"):
            own_cluster.prove_own()

    def test_freezes_is_killed_and_comes_back(self, own_cluster: Cluster) -> None:
        namespace = own_cluster.new_namespace()
        own_cluster.freeze()
        with pytest.raises(LabError, match="timed out"):
            own_cluster.api.request("GET", "/version", seconds=0.5)
        own_cluster.thaw()
        own_cluster.prove_own()
        own_cluster.kill_apiserver()
        with pytest.raises(LabError, match=r"refused|aborted|reset"):
            own_cluster.api.request("GET", "/version")
        own_cluster.restart_apiserver().prove_own()
        faults.settle(own_cluster, namespace, make.deployment("app"))
        own_cluster.freeze()
        own_cluster.stop()
        assert not own_cluster.alive()

    def test_ends_with_its_starter(self, cluster: Cluster, tmp_path: Path) -> None:
        script = f"""if True:
            import os, signal
            from pathlib import Path
            from tests.lab.kubernetes_cluster import start_cluster
            made = start_cluster(Path({str(tmp_path)!r}) / "c")
            for member in made.members.values():
                print(member.identity.pid, member.identity.started, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """
        told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
        left = [ProcessId(int(line.split()[0]), line.split(maxsplit=1)[1]) for line in told.stdout.splitlines()]
        assert len(left) == 5, told.stderr
        cluster.wait(lambda: not any(process.alive() for process in left), 5, "the end of what was left")

    @pytest.mark.slow
    def test_has_metrics_and_certificates_when_asked(self, own_cluster: Cluster) -> None:
        namespace = own_cluster.new_namespace()
        own_cluster.start_cert_manager()
        issuer = {"apiVersion": "cert-manager.io/v1", "kind": "Issuer", "metadata": {"name": "self"}}
        spec = {"secretName": "tls", "dnsNames": ["app.example"], "issuerRef": {"name": "self"}}
        leaf = {"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": {"name": "leaf"}, "spec": spec}
        own_cluster.apply({**issuer, "spec": {"selfSigned": {}}}, leaf, namespace=namespace)
        own_cluster.wait(lambda: own_cluster.exists("secret", "tls", namespace), 20, "a certificate")
        faults.settle(own_cluster, namespace, make.deployment("app", replicas=1, requests={"cpu": "100m"}))
        faults.usage(own_cluster, faults.pods(own_cluster, namespace)[0], cpu="190m")
        own_cluster.start_metrics(wait=60)
        own_cluster.apply(make.hpa("app", high=4), namespace=namespace)
        own_cluster.wait(
            lambda: own_cluster.get("deployment", "app", namespace)["spec"]["replicas"] == 4, 60, "a scaled Deployment"
        )


#: What to do, and the reason that its pods then show.
BREAKS: dict[str, tuple[Callable[..., None], dict[str, Any], str]] = {
    "image": (faults.break_image, {}, "ImagePullBackOff"),
    "private": (faults.break_image, {"private": True}, "ImagePullBackOff"),
    "crash": (faults.break_crash, {}, "CrashLoopBackOff"),
    "oom": (faults.break_crash, {"fault": "oom"}, "CrashLoopBackOff"),
    "liveness": (faults.break_crash, {"fault": "liveness"}, "CrashLoopBackOff"),
    "config": (faults.break_config, {}, "CreateContainerConfigError"),
    "init": (faults.break_init, {}, "CrashLoopBackOff"),
    "init-image": (faults.break_init, {"fault": "missing"}, "ImagePullBackOff"),
    "mount": (faults.break_volume, {"why": "secret"}, "ContainerCreating"),
}


class TestFaults:
    @pytest.mark.parametrize("name", BREAKS)
    def test_shows_and_a_rollback_heals_it(self, cluster: Cluster, namespace: str, name: str) -> None:
        fault, options, reason = BREAKS[name]
        fault(cluster, namespace, **options)
        sick = [pod for pod in faults.pods(cluster, namespace) if faults.waiting(pod) == reason]
        assert sick
        assert [event for event in cluster.objects("event", namespace) if event["type"] == "Warning"]
        # The surge pod is sick, the two of the old template still serve.
        assert cluster.get("deployment", "app", namespace)["status"]["readyReplicas"] == 2
        undone = cluster.kubectl("rollout", "undo", "deployment/app", "-n", namespace)
        assert not undone.returncode, undone.stderr
        faults.wait_settled(cluster, namespace, "Deployment", "app")
        assert not any(map(faults.waiting, faults.pods(cluster, namespace)))

    @pytest.mark.parametrize(("fault", "end"), [("crash", ("Error", 1)), ("oom", ("OOMKilled", 137))])
    def test_a_crash_has_its_end_and_its_last_words(
        self, cluster: Cluster, namespace: str, fault: Any, end: tuple[str, int]
    ) -> None:
        faults.break_crash(cluster, namespace, fault=fault, log=["one", "two"])
        pod = next(pod for pod in faults.pods(cluster, namespace) if faults.waiting(pod))
        status = pod["status"]["containerStatuses"][0]
        ended = status["lastState"]["terminated"]
        assert (ended["reason"], ended["exitCode"]) == end
        assert status["restartCount"] >= 2
        name = pod["metadata"]["name"]
        assert cluster.kubectl("logs", name, "-n", namespace, "--previous", "--tail=1").stdout == "two\n"
        assert cluster.kubectl("logs", name, "-n", namespace).stdout == "starting\n"

    def test_a_healthy_pod_has_a_log_but_no_previous_one(self, cluster: Cluster, namespace: str) -> None:
        faults.settle(cluster, namespace, make.deployment("app", replicas=1))
        (name,) = make.names(faults.pods(cluster, namespace))
        assert cluster.kubectl("logs", name, "-n", namespace).stdout == "started\n"
        assert cluster.kubectl("logs", name, "-n", namespace, "--previous").returncode

    def test_readiness(self, cluster: Cluster, namespace: str) -> None:
        faults.break_readiness(cluster, namespace)
        assert faults.wait_events(cluster, namespace, "Unhealthy")[0]["count"] == 20

    def test_slow_pods_become_ready(self, cluster: Cluster, namespace: str) -> None:
        began = time.monotonic()
        faults.settle(cluster, namespace, make.deployment("app", env={"FAULT": "slow"}))
        assert time.monotonic() - began > 4

    @pytest.mark.parametrize(("why", "said"), [("resources", "Insufficient cpu"), ("selector", "node affinity")])
    def test_scheduling(self, cluster: Cluster, namespace: str, why: Any, said: str) -> None:
        faults.break_scheduling(cluster, namespace, why=why)
        assert said in str(faults.wait_events(cluster, namespace, "FailedScheduling"))

    def test_taints(self, cluster: Cluster, namespace: str) -> None:
        with faults.tainted(cluster):
            cluster.apply(make.deployment("app", replicas=1), namespace=namespace)
            assert "untolerated taint" in str(faults.wait_events(cluster, namespace, "FailedScheduling"))
        faults.wait_settled(cluster, namespace, "Deployment", "app")

    def test_quota(self, cluster: Cluster, namespace: str) -> None:
        faults.break_quota(cluster, namespace)
        assert "exceeded quota" in str(faults.wait_events(cluster, namespace, "FailedCreate"))

    def test_claim(self, cluster: Cluster, namespace: str) -> None:
        faults.break_volume(cluster, namespace)
        assert cluster.get("pvc", "app-data", namespace)["status"]["phase"] == "Pending"

    def test_progress(self, cluster: Cluster, namespace: str) -> None:
        faults.break_progress(cluster, namespace)
        assert cluster.get("deployment", "app", namespace)["status"]["unavailableReplicas"] == 1

    def test_metrics_that_are_not_there(self, cluster: Cluster, namespace: str) -> None:
        faults.break_metrics(cluster, namespace)
        assert faults.wait_events(cluster, namespace, "FailedGetResourceMetric")

    def test_eviction(self, cluster: Cluster, namespace: str) -> None:
        faults.settle(cluster, namespace, make.deployment("app", replicas=1))
        (name,) = make.names(faults.pods(cluster, namespace))
        faults.evict(cluster, namespace, name)
        assert cluster.get("pod", name, namespace)["status"]["reason"] == "Evicted"
        cluster.wait(lambda: len(faults.pods(cluster, namespace)) == 2, 10, "a pod in its place")

    def test_a_node_that_is_not_ready(self, cluster: Cluster, namespace: str) -> None:
        faults.settle(cluster, namespace, make.daemonset("agent"))
        with faults.node_not_ready(cluster, "node-3"):
            assert cluster.kubectl("get", "node", "node-3").stdout.split()[6] == "NotReady"
            cluster.wait(
                lambda: cluster.get("daemonset", "agent", namespace)["status"]["numberReady"] == 2,
                10,
                "a pod that is not ready as its node is not",
            )
        faults.wait_settled(cluster, namespace, "DaemonSet", "agent")

    def test_paused_and_owned(self, cluster: Cluster, namespace: str) -> None:
        faults.settle(cluster, namespace, make.owned_by(make.deployment("app"), "argo"))
        faults.pause(cluster, namespace)
        faults.change_template(cluster, namespace, image=faults.MISSING)
        time.sleep(0.5)
        assert not any(map(faults.waiting, faults.pods(cluster, namespace)))
        assert (
            "argocd.argoproj.io/tracking-id" in cluster.get("deployment", "app", namespace)["metadata"]["annotations"]
        )

    def test_events_of_both_kinds(self, cluster: Cluster, namespace: str) -> None:
        pod = cluster.api.create(make.pod("alone"), namespace)
        faults.event(cluster, pod, "Old", "old", count=3, age=100)
        faults.event(cluster, pod, "New", "new", count=7, age=50, modern=True)
        old, new = (faults.wait_events(cluster, namespace, reason)[0] for reason in ("Old", "New"))
        assert (old["count"], bool(old["lastTimestamp"]), old.get("series")) == (3, True, None)
        assert (new.get("count"), new["series"]["count"], bool(new["eventTime"])) == (None, 7, True)

    def test_an_admission_webhook(self, cluster: Cluster, namespace: str) -> None:
        faults.settle(cluster, namespace, make.deployment("app"))
        change = {"spec": {"replicas": 1}}
        with admission(cluster, namespace, deny="not on a Friday") as webhook:
            with pytest.raises(ApiError, match="not on a Friday"):
                cluster.patch("deployment", "app", namespace, change)
            webhook.deny = ""
            cluster.patch("deployment", "app", namespace, change)
            assert [request["operation"] for request in webhook.seen] == ["UPDATE", "UPDATE"]
        with admission(cluster, namespace, down=True), pytest.raises(ApiError, match="failed calling webhook"):
            cluster.patch("deployment", "app", namespace, {"spec": {"replicas": 2}})


class TestWitness:
    @pytest.fixture
    def runbooks(self, cluster: Cluster) -> Api:
        return Api(cluster.kubeconfig)

    def test_sees_what_was_written(self, cluster: Cluster, namespace: str, runbooks: Api) -> None:
        faults.settle(cluster, namespace, make.deployment("app"))
        since = mark(cluster)
        runbooks.objects("pod", namespace)
        runbooks.patch("deployment", "app", namespace, {"metadata": {"annotations": {"a": "b"}}}, content=STRATEGIC)
        runbooks.patch("deployment", "app", namespace, {"spec": {"replicas": 3}}, subresource="scale")
        cluster.patch("deployment", "app", namespace, {"spec": {"replicas": 2}})
        seen = writes(cluster, since)
        assert [(write.verb, write.resource, write.name) for write in seen] == [
            ("patch", "deployments", "app"),
            ("patch", "deployments/scale", "app"),
        ]
        assert all(write.done and write.user == RUNBOOKS for write in seen)
        assert writes(cluster, since, namespace="other") == []

    def test_a_rehearsal_is_no_write_and_a_question_neither(
        self, cluster: Cluster, namespace: str, runbooks: Api
    ) -> None:
        faults.settle(cluster, namespace, make.deployment("app"))
        (name, *_others) = make.names(faults.pods(cluster, namespace))
        since = mark(cluster)
        runbooks.create(make.configmap("dry"), namespace, "?dryRun=All")
        runbooks.delete("deployment", "app", namespace, dryRun=["All"])
        meta = {"name": name, "namespace": namespace}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
        place = runbooks.resource("pod").path(namespace, name, "eviction")
        runbooks.request("POST", place, {**eviction, "deleteOptions": {"dryRun": ["All"]}})
        asked = {"resourceAttributes": {"verb": "patch", "resource": "pods", "namespace": namespace}}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": asked}
        runbooks.create(review)
        assert writes(cluster, since) == []
        assert len(writes(cluster, since, rehearsals=True)) == 3
        assert [write.resource for write in writes(cluster, since, reviews=True)] == ["selfsubjectaccessreviews"]
        runbooks.request("POST", place, eviction)
        assert [write.resource for write in writes(cluster, since)] == ["pods/eviction"]

    def test_sees_an_attempt_that_was_refused(self, cluster: Cluster, namespace: str) -> None:
        since = mark(cluster)
        with pytest.raises(ApiError):
            Api(cluster.user("nobody-special", [], namespace)).create(make.configmap("mine"), namespace)
        (attempt,) = writes(cluster, since, user="nobody-special")
        assert (attempt.code, attempt.done) == (403, False)

    def test_tells_two_states_apart(self, cluster: Cluster, namespace: str) -> None:
        faults.settle(cluster, namespace, make.deployment("app"), make.secret("login", password="hidden"))
        before = fingerprint(cluster, namespace)
        assert "hidden" not in str(before)
        cluster.patch("deployment", "app", namespace, {"status": {"conditions": []}}, subresource="status")
        assert fingerprint(cluster, namespace) == before
        cluster.apply(make.secret("login", password="other"), namespace=namespace)
        after = fingerprint(cluster, namespace)
        assert [key for key in before if before[key] != after[key]] == ["secret/login"]
        assert fingerprint(cluster, namespace, ["secret/*"]) == fingerprint(cluster, namespace, ["secret/login"])
        assert "node/node-1" in fingerprint(cluster, None)
