# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One pod, one cause: what `pods`, `images`, `endings`, `waiting` and `scheduling` make of what a kubelet says."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._k8s.images import registry_of, secret_state
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.scheduling import unscheduled as scheduled_cause
from tests.unit.k8s.diagnosis_world import (
    IMAGE,
    Json,
    ago,
    crashing,
    diagnosed,
    ended,
    event,
    pod,
    root,
    roots,
    running,
    unscheduled,
    waiting,
    world,
)

_RPC = 'rpc error: code = Unknown desc = failed to pull and unpack image "registry.example/app:1": '
PULLS = {
    "not_found": f'failed to resolve reference "{IMAGE}": {IMAGE}: not found',
    "auth": "failed to authorize: failed to fetch anonymous token: unexpected status: 401 Unauthorized",
    "rate_limit": "429 Too Many Requests - Server message: toomanyrequests: You have reached your pull rate limit",
    "tls": "tls: failed to verify certificate: x509: certificate signed by unknown authority",
    "network": 'Get "https://registry.example/v2/": dial tcp: lookup registry.example on 10.0.0.10:53: no such host',
    "platform": "no match for platform in manifest: not found",
    "throttled": "pull QPS exceeded",
    "unknown": "failed to register layer: no space left on device",
}


@pytest.mark.parametrize("cause", PULLS)
@pytest.mark.parametrize("told_by", ["status", "event"])
def test_a_pull_that_fails_is_told_apart_from_status_or_event(cause: str, told_by: str) -> None:
    """A kubelet before 1.32 says in the status only that it backs off; the reason is then in an event."""
    message = f'Back-off pulling image "{IMAGE}"'
    text = f"{_RPC}{PULLS[cause]}"
    sick = pod(app=waiting("ImagePullBackOff", f"{message}: ErrImagePull: {text}" if told_by == "status" else message))
    said = event(sick, "Failed", f'Failed to pull image "{IMAGE}": {text}')
    found = root(sick, *([said] if told_by == "event" else []))
    assert found["id"] == f"k8s.image_pull.{cause}"
    assert found["evidence"]["image"] == IMAGE
    assert found["evidence"]["pinned"] is False


def test_a_handshake_that_times_out_is_the_network() -> None:
    sick = pod(app=waiting("ErrImagePull", "net/http: TLS handshake timeout"))
    assert root(sick)["id"] == "k8s.image_pull.network"


def test_the_name_of_an_image_is_not_the_word_of_a_registry() -> None:
    image = "registry.example/unauthorized/not-found:forbidden"
    status = waiting("ErrImagePull", f'failed to pull "{image}": dial tcp 10.0.0.1:443: connect: connection refused')
    assert root(pod(app=status, container={"image": image}))["id"] == "k8s.image_pull.network"


@pytest.mark.parametrize(("reason", "cause"), [("InvalidImageName", "invalid_name"), ("ErrImageNeverPull", "never")])
def test_a_kubelets_own_reason_is_enough(reason: str, cause: str) -> None:
    assert root(pod(app=waiting(reason, "...")))["id"] == f"k8s.image_pull.{cause}"


def test_a_registry_that_says_both_is_quoted_as_saying_both() -> None:
    said = "pull access denied, repository does not exist or may require authorization: insufficient_scope"
    found = root(pod(app=waiting("ErrImagePull", said)))
    assert (found["id"], found["evidence"]["or"]) == ("k8s.image_pull.auth", "not_found")


def test_what_ran_is_told_by_its_digest() -> None:
    """A tag may have moved since: pulling it by hand proves nothing."""
    ran = {"imageID": f"registry.example/app@sha256:{'ab' * 32}"}
    assert root(pod(app=crashing(1, **ran)))["evidence"]["digest"] == f"sha256:{'ab' * 32}"
    assert root(pod(app=waiting("ErrImagePull", "not found", **ran)))["evidence"]["ran"] == f"sha256:{'ab' * 32}"


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("nginx", "docker.io"),
        ("team/app:1", "docker.io"),
        ("registry.example/app:1", "registry.example"),
        ("localhost:5000/app", "localhost:5000"),
    ],
)
def test_the_registry_of_an_image(image: str, registry: str) -> None:
    assert registry_of(image) == registry


def _pull_secret(*hosts: str) -> Json:
    content = json.dumps({"auths": {host: {"auth": "dXNlcjpwYXNz"} for host in hosts}})
    return {"data": {".dockerconfigjson": base64.b64encode(content.encode()).decode()}}


@pytest.mark.parametrize(
    ("secret", "state"),
    [
        (None, "missing"),
        ({"data": {"other": "eA=="}}, "not a pull secret"),
        ({"data": {".dockerconfigjson": "e30="}}, "lacks this registry"),
        ({"data": {".dockerconfigjson": "WzFd"}}, "not readable"),
        ({"data": {".dockerconfigjson": "!"}}, "not readable"),
        (_pull_secret("https://registry.example/v2/"), "has this registry"),
        (_pull_secret("elsewhere.example"), "lacks this registry"),
    ],
)
def test_whether_a_pull_secret_can_be_of_use(secret: Json | None, state: str) -> None:
    assert secret_state(secret, "registry.example") == state


def test_docker_hub_has_many_names() -> None:
    assert secret_state(_pull_secret("https://index.docker.io/v1/"), "docker.io") == "has this registry"


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (crashing(1), "k8s.crash_loop.error"),
        (crashing(0, "Completed"), "k8s.crash_loop.completed"),
        (crashing(139), "k8s.crash_loop.segfault"),
        (crashing(127), "k8s.crash_loop.command"),
        (crashing(128, "StartError"), "k8s.crash_loop.command"),
        (crashing(137, "OOMKilled"), "k8s.oom_killed"),
        (waiting("CrashLoopBackOff"), "k8s.crash_loop.unknown"),
        (waiting("RunContainerError", 'exec: "serve": executable file not found in $PATH'), "k8s.crash_loop.command"),
        (waiting("CreateContainerError", "the container name is already in use"), "k8s.crash_loop.unknown"),
        (running(ready=False, age=5, restartCount=3, lastState=ended(1)), "k8s.crash_loop.error"),
        (running(age=5, restartCount=9, lastState=ended(1)), "k8s.crash_loop.error"),
    ],
)
def test_how_a_container_ended(status: Json, cause: str) -> None:
    assert root(pod(app=status))["id"] == cause


def test_137_has_many_causes() -> None:
    """Out of memory, a liveness probe, a startup probe, the node's own memory, and none that is known."""
    sick = pod(app=crashing(137), container={"livenessProbe": {"httpGet": {"path": "/", "port": 80}}})
    plain = pod(app=crashing(137))
    live = event(sick, "Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 503")
    start = event(plain, "Unhealthy", "Startup probe failed: dial tcp 10.0.0.1:80: connect: connection refused")
    node = {"kind": "Node", "metadata": {"name": "node-1", "uid": "node-1", "namespace": "default"}}
    oom = event(node, "SystemOOM", "System OOM encountered, victim process: java, pid: 4711", age=35)
    assert root(pod(app=crashing(137, "OOMKilled")), live)["id"] == "k8s.oom_killed"
    killed = root(sick, live)
    assert (killed["id"], killed["evidence"]["status"]) == ("k8s.crash_loop.liveness", 503)
    assert root(plain, start)["id"] == "k8s.probe.startup"
    assert root(plain, oom)["id"] == "k8s.node.oom"
    guessed = root(sick)
    assert (guessed["id"], guessed["evidence"]["certain"]) == ("k8s.crash_loop.liveness", False)
    assert root(plain)["id"] == "k8s.crash_loop.error"


def test_out_of_memory_once_is_worth_a_word_though_it_serves() -> None:
    calm = running(age=1500, restartCount=1, lastState=ended(137, "OOMKilled", age=1501))
    found = root(pod(app=calm, container={"resources": {"limits": {"memory": "64Mi"}}}))
    assert (found["id"], found["severity"], found["evidence"]["limit"]) == ("k8s.oom_killed", "warning", "64Mi")
    assert roots(pod(app=running(restartCount=1, lastState=ended(1)))) == []
    assert roots(pod(app=running(age=9000, restartCount=9, lastState=ended(137, "OOMKilled", age=9001)))) == []


@pytest.mark.parametrize(
    ("message", "evidence"),
    [
        ("couldn't find key DB in ConfigMap shop/web", {"kind": "ConfigMap", "name": "web", "key": "DB"}),
        ("couldn't find key PASSWORD in Secret shop/db", {"kind": "Secret", "name": "db", "key": "PASSWORD"}),
        ('configmap "web" not found', {"kind": "ConfigMap", "name": "web"}),
        ('secret "db" not found', {"kind": "Secret", "name": "db"}),
    ],
)
def test_configuration_that_is_missing_is_named(message: str, evidence: Json) -> None:
    found = root(pod(app=waiting("CreateContainerConfigError", message), phase="Pending"))
    assert (found["id"], found["evidence"]) == ("k8s.config_missing", evidence)
    assert evidence["name"] in found["next"]


def test_root_that_is_not_allowed_is_no_missing_configuration() -> None:
    message = "container has runAsNonRoot and image will run as root"
    assert root(pod(app=waiting("CreateContainerConfigError", message)))["id"] == "k8s.pod_security"


def test_a_volume_names_what_is_missing_though_a_later_event_only_times_out() -> None:
    sick = pod(app=waiting("ContainerCreating"), phase="Pending")
    first = event(sick, "FailedMount", 'MountVolume.SetUp failed for volume "cfg" : configmap "web" not found', age=90)
    later = event(sick, "FailedMount", "Unable to attach or mount volumes: timed out waiting for the condition", age=9)
    found = root(sick, first, later)
    assert found["id"] == "k8s.volume.mount"
    assert (found["evidence"]["kind"], found["evidence"]["name"]) == ("ConfigMap", "web")


def test_a_network_that_cannot_be_set_up() -> None:
    sick = pod(app=waiting("ContainerCreating"), phase="Pending")
    said = event(sick, "FailedCreatePodSandBox", "Failed to create pod sandbox: plugin type=calico failed (add)")
    assert root(sick, said)["id"] == "k8s.sandbox"


def test_events_of_an_older_pod_of_the_same_name_do_not_count() -> None:
    sick = pod(app=waiting("ContainerCreating"), phase="Pending", age=10)
    older = pod(app=waiting("ContainerCreating"), metadata={"uid": "another"})
    assert roots(sick, event(older, "FailedMount", 'secret "db" not found')) == []


def test_an_init_container_holds_back_the_rest() -> None:
    after = waiting("PodInitializing")
    failing = root(pod(init=crashing(1), app=after, phase="Pending"))
    assert (failing["id"], failing["container"]) == ("k8s.init_failed", "prepare")
    memory = root(pod(init=crashing(137, "OOMKilled"), app=after, phase="Pending"))
    assert (memory["id"], memory["evidence"]["init"]) == ("k8s.oom_killed", True)
    pull = root(pod(init=waiting("ErrImagePull", "manifest unknown"), app=after, phase="Pending"))
    assert pull["id"] == "k8s.image_pull.not_found"


@pytest.mark.parametrize(
    ("message", "evidence"),
    [
        ("Readiness probe failed: HTTP probe failed with statuscode: 503", {"how": "status", "status": 503}),
        ('Readiness probe failed: Get "http://x/": dial tcp: connect: connection refused', {"how": "refused"}),
        ("Readiness probe failed: context deadline exceeded (Client.Timeout exceeded)", {"how": "timeout"}),
        ("Readiness probe failed: cat: /tmp/healthy: No such file or directory", {"how": "command"}),
    ],
)
def test_a_probe_that_fails_says_how(message: str, evidence: Json) -> None:
    sick = pod(app=running(ready=False))
    found = root(sick, event(sick, "Unhealthy", message))
    assert found["id"] == "k8s.probe.readiness"
    assert {name: found["evidence"][name] for name in evidence} == evidence


def test_who_merely_starts_is_not_sick() -> None:
    """Events of a probe come while something starts, too; its own time is what counts."""
    young = pod(app=running(ready=False, age=20), age=25)
    assert roots(young, event(young, "Unhealthy", "Readiness probe failed: connection refused")) == []
    patient = {"startupProbe": {"periodSeconds": 10, "failureThreshold": 60}}
    slow = pod(app={**running(ready=False, age=300), "started": False}, container=patient)
    assert roots(slow) == []
    assert diagnosed(world(slow))["summary"]["starting"] == 1
    late = pod(app={**running(ready=False, age=700), "started": False}, container=patient)
    assert root(late)["id"] == "k8s.probe.startup"


@pytest.mark.parametrize(
    "pod_of",
    [
        pod,
        lambda: pod(phase="Succeeded", app={"ready": False, "state": ended(0, "Completed")}),
        lambda: pod(app=running(ready=False, age=5), metadata={"deletionTimestamp": ago(-20)}),
        lambda: pod(app=waiting("ContainerCreating"), phase="Pending", age=5),
    ],
)
def test_who_is_well(pod_of: Any) -> None:
    assert roots(pod_of()) == []


def test_an_init_container_that_never_ends_is_named() -> None:
    first = {"state": {"running": {"startedAt": ago(1400)}}}
    sick = pod(init=first, app=waiting("PodInitializing"), phase="Pending", age=1500)
    found = root(sick)
    assert (found["id"], found["container"], found["severity"]) == ("k8s.creating_slow", "prepare", "warning")
    assert roots(pod(init=first, app=waiting("PodInitializing"), phase="Pending", age=300)) == []


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available: 3 No.", "resources"),
        ("0/5 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, "
         "4 Insufficient memory.", "resources"),
        ("0/5 nodes are available: 4 node(s) didn't match Pod's node affinity/selector, 1 Insufficient cpu.",
         "resources"),
        ("0/5 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/master: }, "
         "4 node(s) didn't match Pod's node affinity/selector.", "affinity"),
        ("0/2 nodes are available: 2 node(s) had untolerated taint {dedicated: gpu}.", "taint"),
        ("0/2 nodes are available: 2 node(s) were unschedulable.", "taint"),
        ("0/2 nodes are available: 2 node(s) had volume node affinity conflict.", "volume"),
        ("0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports.", "host_port"),
        ("0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.", "affinity"),
        ("0/2 nodes are available: 2 Too many pods.", "resources"),
        ("no nodes available to schedule pods", "unknown"),
    ],
)  # fmt: skip
def test_why_no_node_takes_a_pod(message: str, cause: str) -> None:
    assert scheduled_cause(message).id == f"k8s.unschedulable.{cause}"
    assert root(unscheduled(message))["id"] == f"k8s.unschedulable.{cause}"


def test_the_schedulers_numbers_are_kept() -> None:
    found = scheduled_cause("0/4 nodes are available: 1 node(s) had untolerated taint {a: b}, 3 Insufficient cpu.")
    assert found.evidence["nodes"] == 4
    assert found.evidence["reasons"] == {"node(s) had untolerated taint {a: b}": 1, "Insufficient cpu": 3}
    assert (found.evidence["lacking"], found.evidence["taints"]) == (["cpu"], ["a: b"])


def test_claims_are_no_lack_of_nodes() -> None:
    unbound = "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/3 nodes."
    volumes = {"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]}
    claim = {"kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": {"storageClassName": "fast"}}
    claim["status"] = {"phase": "Pending"}
    found = root(unscheduled(unbound, spec=volumes), claim)
    assert found["id"] == "k8s.volume.pending"
    assert found["evidence"]["claims"] == [{"name": "data", "phase": "Pending", "storage_class": "fast"}]
    missing = '0/3 nodes are available: persistentvolumeclaim "data" not found. preemption: 0/3'
    assert root(unscheduled(missing))["id"] == "k8s.volume.missing_claim"


def test_what_would_fit_is_said() -> None:
    node = {"kind": "Node", "metadata": {"name": "node-1"}, "status": {"allocatable": {"cpu": "7500m"}}}
    node["status"] |= {"conditions": [{"type": "Ready", "status": "True"}]}
    resources = {"containers": [{"name": "app", "resources": {"requests": {"cpu": "16"}}}]}
    found = root(unscheduled("0/1 nodes are available: 1 Insufficient cpu.", spec=resources), node)
    assert (found["evidence"]["requests"], found["evidence"]["largest_node"]) == ({"cpu": "16"}, {"cpu": "7500m"})


def test_gates_and_schedulers_that_are_not_there() -> None:
    assert root(unscheduled("Scheduling is blocked", "SchedulingGated"))["id"] == "k8s.scheduling_gated"
    nobody = pod(spec={"nodeName": ""}, status={"phase": "Pending", "conditions": [], "containerStatuses": []})
    assert root(nobody)["id"] == "k8s.unschedulable.unknown"


def test_who_should_be_gone() -> None:
    stuck = pod(metadata={"deletionTimestamp": ago(300), "finalizers": ["example.org/wait"]})
    found = root(stuck)
    assert (found["id"], found["evidence"]["finalizers"]) == ("k8s.terminating_stuck", ["example.org/wait"])


def test_what_an_eviction_leaves() -> None:
    message = "The node was low on resource: memory."
    status = {"phase": "Failed", "reason": "Evicted", "message": message, "containerStatuses": [], "conditions": []}
    found = diagnosed(world(pod(status=status)))
    assert [(one["id"], one["severity"]) for one in found["root_causes"]] == [("k8s.evicted", "warning")]
    assert found["summary"]["left"] == 1
    target = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "preempted"}
    assert root(pod(status={**status, "reason": "", "conditions": [target]}))["id"] == "k8s.preempted"
