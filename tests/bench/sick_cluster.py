# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster of 5,000 pods in 500 workloads, a hundred of them sick of 20 faults, with look-alikes that are not sick.

Controllers, scheduler and kubelets are stopped first: what they would say is written for them, word for word as the
real ones say it, so that the cluster is the same in each run and stays as it is.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.lab.kubernetes_api import JSON
from tests.lab.kubernetes_cluster import Cluster

Json = dict[str, Any]

WORKLOADS, PODS, NAMESPACES, NODES = 500, 10, 10, 50
#: Sick workloads of each fault.
OF_EACH = 5

IMAGE = "registry.example/team/app:1.4.2"
_NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def ago(seconds: float) -> str:
    """That moment, as the API writes it."""
    return (_NOW - datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Fault:
    """What all pods of a workload suffer from. C(cause) is the finding that names it; empty for a look-alike.

    C(status) is laid over that of a healthy pod; each of C(events) is C((reason, message)). C(missing) says why the
    ReplicaSet could not create its pods, where there are none.
    """

    name: str
    cause: str = ""
    status: Callable[[], Json] = dict
    events: tuple[tuple[str, str], ...] = ()
    missing: str = ""
    replicas: int = PODS
    job: bool = False
    spec: Json = field(default_factory=dict)


def _waiting(reason: str, message: str, restarts: int = 0, last: Json | None = None, phase: str = "Pending") -> Json:
    state = {"waiting": {"reason": reason, "message": message}}
    return _status(phase, state, restarts, last)


def _status(phase: str, state: Json, restarts: int = 0, last: Json | None = None, started: bool = False) -> Json:
    container: Json = {
        "name": "app",
        "image": IMAGE,
        "imageID": "",
        "ready": False,
        "started": started,
        "restartCount": restarts,
        "state": state,
        "lastState": {"terminated": last} if last else {},
    }
    return {"phase": phase, "conditions": _conditions(ready=False), "containerStatuses": [container]}


def _ended(code: int, reason: str = "Error", message: str = "") -> Json:
    times = {"startedAt": ago(200), "finishedAt": ago(190)}
    return {"exitCode": code, "reason": reason, **times, **({"message": message} if message else {})}


def _crashing(code: int, reason: str = "Error", message: str = "") -> Callable[[], Json]:
    words = "back-off 5m0s restarting failed container=app pod=app"
    return lambda: _waiting("CrashLoopBackOff", words, 7, _ended(code, reason, message), "Running")


def _pull(why: str) -> tuple[tuple[str, str], ...]:
    words = f'Failed to pull image "{IMAGE}": {why}'
    return (("Failed", words), ("Failed", "Error: ErrImagePull"), ("BackOff", f'Back-off pulling image "{IMAGE}"'))


def _pulling(why: str) -> Callable[[], Json]:
    return lambda: _waiting("ImagePullBackOff", f'Back-off pulling image "{IMAGE}": ErrImagePull: {why}')


def _unscheduled(message: str) -> Callable[[], Json]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return lambda: {"phase": "Pending", "conditions": [{**condition, "lastTransitionTime": ago(600)}]}


def _conditions(*, ready: bool) -> list[Json]:
    told = {"status": "True"} if ready else {"status": "False", "reason": "ContainersNotReady"}
    always = {"status": "True", "lastTransitionTime": ago(900)}
    parts = [{"type": name, **told, "lastTransitionTime": ago(800)} for name in ("Ready", "ContainersReady")]
    return [{"type": "Initialized", **always}, *parts, {"type": "PodScheduled", **always}]


def _unready() -> Json:
    return _status("Running", {"running": {"startedAt": ago(800)}}, started=True)


def _startup() -> Json:
    return _status("Running", {"running": {"startedAt": ago(30)}}, 6, _ended(137), started=False)


def _init_failing() -> Json:
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container=migrate"}}
    first: Json = {"name": "migrate", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 6, "state": state}
    first["lastState"] = {"terminated": _ended(1)}
    status = _waiting("PodInitializing", "")
    conditions = [{**one, "status": "False"} if one["type"] == "Initialized" else one for one in status["conditions"]]
    return {**status, "conditions": conditions, "initContainerStatuses": [first]}


def _evicted() -> Json:
    words = "The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi, available: 8Gi."
    return {"phase": "Failed", "reason": "Evicted", "message": words}


def _lost() -> Json:
    healthy = _healthy()
    return {**healthy, "conditions": _conditions(ready=False), "reason": "NodeLost"}


def _completed() -> Json:
    status = _status("Succeeded", {"terminated": _ended(0, "Completed")})
    return {**status, "conditions": [{**one, "reason": "PodCompleted"} for one in status["conditions"]]}


def _starting() -> Json:
    return _waiting("ContainerCreating", "")


_NOT_FOUND = f'failed to pull and unpack image "{IMAGE}": failed to resolve reference "{IMAGE}": {IMAGE}: not found'
_DENIED = (
    "pull access denied, repository does not exist or may require authorization: server message: "
    "insufficient_scope: authorization failed"
)
_RATE = (
    "unexpected status from HEAD request: 429 Too Many Requests: toomanyrequests: You have reached your pull rate limit"
)
_X509 = "tls: failed to verify certificate: x509: certificate signed by unknown authority"
_PLATFORM = "no match for platform in manifest: not found"
_EXEC = 'failed to create containerd task: exec: "serve": executable file not found in $PATH: unknown'
_CLAIM = (
    "0/50 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/50 nodes are available"
)
_MEMORY = "0/50 nodes are available: 50 Insufficient memory. preemption: 0/50 nodes are available: 50 No victims found"
_TAINT = (
    "0/50 nodes are available: 50 node(s) had untolerated taint {dedicated: gpu}. preemption: 0/50 nodes are available"
)
_AFFINITY = "0/50 nodes are available: 50 node(s) didn't match Pod's node affinity/selector. preemption: 0/50 nodes"
_QUOTA = 'pods "app" is forbidden: exceeded quota: team, requested: pods=1, used: pods=50, limited: pods=50'
_MOUNT = 'MountVolume.SetUp failed for volume "config" : configmap "app-config" not found'
_SANDBOX = (
    "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network for sandbox: plugin "
    'type="calico" failed (add): error getting ClusterInformation: connection is unauthorized'
)
_KILLED = (
    ("Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 500"),
    ("Killing", "Container app failed liveness probe, will be restarted"),
)

FAULTS = (
    Fault("image not found", "k8s.image_pull.not_found", _pulling(_NOT_FOUND), _pull(_NOT_FOUND)),
    Fault("image without credentials", "k8s.image_pull.auth", _pulling(_DENIED), _pull(_DENIED)),
    Fault("registry's rate limit", "k8s.image_pull.rate_limit", _pulling(_RATE), _pull(_RATE)),
    Fault("registry's certificate", "k8s.image_pull.tls", _pulling(_X509), _pull(_X509)),
    Fault("image of another platform", "k8s.image_pull.platform", _pulling(_PLATFORM), _pull(_PLATFORM)),
    Fault("application ends with 1", "k8s.crash_loop.error", _crashing(1)),
    Fault("command not found", "k8s.crash_loop.command", _crashing(128, "StartError", _EXEC), (("Failed", _EXEC),)),
    Fault("segmentation fault", "k8s.crash_loop.segfault", _crashing(139)),
    Fault("killed by its liveness probe", "k8s.crash_loop.liveness", _crashing(137), _KILLED),
    Fault("out of memory", "k8s.oom_killed", _crashing(137, "OOMKilled")),
    Fault(
        "key of a Secret missing",
        "k8s.config_missing",
        lambda: _waiting("CreateContainerConfigError", "couldn't find key PASSWORD in Secret shop/db"),
        (("Failed", "Error: couldn't find key PASSWORD in Secret shop/db"),),
    ),
    Fault("init container fails", "k8s.init_failed", _init_failing),
    Fault(
        "not ready",
        "k8s.probe.readiness",
        _unready,
        (("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503"),),
    ),
    Fault(
        "too slow to start",
        "k8s.probe.startup",
        _startup,
        (
            ("Unhealthy", 'Startup probe failed: Get "http://10.1.2.3:8080/": dial tcp: connect: connection refused'),
            ("Killing", "Container app failed startup probe, will be restarted"),
        ),
    ),
    Fault("no memory left", "k8s.unschedulable.resources", _unscheduled(_MEMORY), (("FailedScheduling", _MEMORY),)),
    Fault("taint", "k8s.unschedulable.taint", _unscheduled(_TAINT), (("FailedScheduling", _TAINT),)),
    Fault("node selector", "k8s.unschedulable.affinity", _unscheduled(_AFFINITY), (("FailedScheduling", _AFFINITY),)),
    Fault("quota", "k8s.quota", missing=_QUOTA),
    Fault(
        "ConfigMap to mount is missing",
        "k8s.volume.mount",
        _starting,
        (("FailedMount", _MOUNT),),
        spec={"volumes": [{"name": "config", "configMap": {"name": "app-config"}}]},
    ),
    Fault("network of the node", "k8s.sandbox", _starting, (("FailedCreatePodSandBox", _SANDBOX),)),
)
LOOK_ALIKES = (
    Fault("a Job that is done", status=_completed, job=True),
    Fault("scaled to zero", replicas=0),
    Fault("was unready while it started", events=(("Unhealthy", "Readiness probe failed: connection refused"),)),
)
HEALTHY = Fault("healthy")


@dataclass(frozen=True)
class Ward:
    """One workload of the bench."""

    namespace: str
    name: str
    fault: Fault


def wards(part: int = 1) -> list[Ward]:
    """All workloads, the sick ones spread over all namespaces; a C(part)-th of the healthy ones."""
    sick = [fault for fault in (*FAULTS, *LOOK_ALIKES) for _number in range(OF_EACH if part == 1 else 1)]
    healthy = [HEALTHY] * (WORKLOADS // part - len(sick))
    return [
        Ward(f"team-{at % NAMESPACES}", f"app-{at:03}", fault)
        for at, fault in enumerate(itertools.chain(sick, healthy))
    ]


def populate(cluster: Cluster, everything: list[Ward]) -> None:
    """Writes them all. Takes a minute or two for 5,000 pods."""
    cluster.prove_own()
    for name in ("kube-scheduler", "kube-controller-manager", "kwok"):
        cluster.members[name].end()
    for number in range(NAMESPACES):
        name = {"metadata": {"name": f"team-{number}"}}
        cluster.api.create({"apiVersion": "v1", "kind": "Namespace", **name})
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        cluster.api.create(account, f"team-{number}")
    for number in range(NODES):
        _node(cluster, f"bench-{number}")
    with ThreadPoolExecutor(4) as pool:
        for result in [pool.submit(_ward, cluster, ward) for ward in everything]:
            result.result()


def _ward(cluster: Cluster, ward: Ward) -> None:
    fault = ward.fault
    if fault.job:
        _job(cluster, ward)
        return
    made = 0 if fault.missing else fault.replicas
    ready = made if not fault.cause and fault.status is dict else 0
    deployment = _created(cluster, _deployment(ward), ward.namespace)
    numbers = {"replicas": made, "updatedReplicas": made, "readyReplicas": ready, "availableReplicas": ready}
    told = {"observedGeneration": 1, **{name: number for name, number in numbers.items() if number}}
    _say(cluster, deployment, {**told, "conditions": _progress(fault, ready)})
    replica_set = _created(cluster, _replica_set(ward, deployment), ward.namespace)
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": fault.missing}
    numbers = {"replicas": made, "fullyLabeledReplicas": made, "readyReplicas": ready, "availableReplicas": ready}
    failures = {"conditions": [{**failure, "lastTransitionTime": ago(300)}]} if fault.missing else {}
    _say(cluster, replica_set, {"observedGeneration": 1, **numbers, **failures})
    if fault.missing:
        _event(cluster, replica_set, "FailedCreate", f"Error creating: {fault.missing}", 0)
    for number in range(made):
        _pod(cluster, ward, replica_set, number)


def _job(cluster: Cluster, ward: Ward) -> None:
    """Its pods are not ready, and well."""
    template = {"metadata": {"labels": _labels(ward)}, "spec": {**_pod_spec(ward), "restartPolicy": "Never"}}
    metadata = {"name": ward.name, "namespace": ward.namespace, "labels": _labels(ward)}
    spec = {"completions": PODS, "parallelism": PODS, "template": template}
    job = _created(
        cluster, {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}, ward.namespace
    )
    for number in range(PODS):
        _pod(cluster, ward, job, number)


def _pod(cluster: Cluster, ward: Ward, controller: Json, number: int) -> None:
    fault = ward.fault
    owner = _owner(controller)
    name = f"{controller['metadata']['name']}-{number:05}"
    labels = {**_labels(ward), "pod-template-hash": "6d4b75cb6d"}
    spec = {**_pod_spec(ward), "serviceAccountName": "default", "restartPolicy": "Never" if fault.job else "Always"}
    if not _is_unscheduled(fault):
        spec["nodeName"] = f"bench-{number % NODES}"
    metadata = {"name": name, "namespace": ward.namespace, "labels": labels, "ownerReferences": [owner]}
    pod = _created(cluster, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, ward.namespace)
    _say(cluster, pod, {**(_healthy() if fault.status is dict else _common()), **fault.status()})
    for at, (reason, message) in enumerate(fault.events):
        _event(cluster, pod, reason, message, at)


def _is_unscheduled(fault: Fault) -> bool:
    return fault.cause.startswith("k8s.unschedulable")


def _common() -> Json:
    return {"qosClass": "Burstable", "startTime": ago(900)}


def _healthy() -> Json:
    running: Json = {
        "name": "app",
        "image": IMAGE,
        "imageID": "registry.example/team/app@sha256:" + "ab" * 32,
        "containerID": "containerd://" + "cd" * 32,
        "ready": True,
        "started": True,
        "restartCount": 0,
        "state": {"running": {"startedAt": ago(800)}},
        "lastState": {},
    }
    address = {"hostIP": "10.0.0.1", "podIP": "10.244.0.1", "podIPs": [{"ip": "10.244.0.1"}]}
    status = {"phase": "Running", "conditions": _conditions(ready=True), "containerStatuses": [running]}
    return {**_common(), **address, **status}


def _labels(ward: Ward) -> dict[str, str]:
    return {"app.kubernetes.io/name": ward.name, "app.kubernetes.io/part-of": "bench", "team": ward.namespace}


def _pod_spec(ward: Ward) -> Json:
    """As large as those of real applications."""
    env = [{"name": f"SETTING_{number}", "value": f"value of setting {number}"} for number in range(12)]
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10}
    container = {
        "name": "app",
        "image": IMAGE,
        "env": env,
        "ports": [{"containerPort": 8080, "name": "http"}],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "readinessProbe": probe,
        "livenessProbe": probe,
    }
    init = [{"name": "migrate", "image": IMAGE, "command": ["migrate"]}] if "init" in ward.fault.name else []
    return {"containers": [container], **({"initContainers": init} if init else {}), **ward.fault.spec}


def _deployment(ward: Ward) -> Json:
    labels = _labels(ward)
    template = {"metadata": {"labels": labels}, "spec": _pod_spec(ward)}
    spec = {"replicas": ward.fault.replicas, "selector": {"matchLabels": labels}, "template": template}
    notes = {"deployment.kubernetes.io/revision": "1"}
    metadata = {"name": ward.name, "namespace": ward.namespace, "labels": labels, "annotations": notes}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def _replica_set(ward: Ward, deployment: Json) -> Json:
    labels = {**_labels(ward), "pod-template-hash": "6d4b75cb6d"}
    template = {"metadata": {"labels": labels}, "spec": _pod_spec(ward)}
    spec = {"replicas": ward.fault.replicas, "selector": {"matchLabels": labels}, "template": template}
    metadata = {
        "name": f"{ward.name}-6d4b75cb6d",
        "namespace": ward.namespace,
        "labels": labels,
        "annotations": {"deployment.kubernetes.io/revision": "1"},
        "ownerReferences": [_owner(deployment)],
    }
    return {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": metadata, "spec": spec}


def _progress(fault: Fault, ready: int) -> list[Json]:
    available = {"type": "Available", "status": "True" if ready or not fault.replicas else "False"}
    progressing = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
    if fault.cause:
        words = {"reason": "ProgressDeadlineExceeded", "message": "ReplicaSet has timed out progressing."}
        progressing = {"type": "Progressing", "status": "False", **words}
    return [{"lastUpdateTime": ago(300), "lastTransitionTime": ago(300), **one} for one in (available, progressing)]


def _owner(manifest: Json) -> Json:
    names = {"kind": manifest["kind"], "name": manifest["metadata"]["name"], "uid": manifest["metadata"]["uid"]}
    return {"apiVersion": manifest["apiVersion"], **names, "controller": True, "blockOwnerDeletion": True}


def _node(cluster: Cluster, name: str) -> None:
    node = _created(cluster, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}, None)
    room = {"cpu": "64", "memory": "256Gi", "pods": "250"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": ago(5)}
    _say(cluster, node, {"capacity": room, "allocatable": room, "conditions": [ready]})


def _event(cluster: Cluster, about: Mapping[str, Any], reason: str, message: str, at: int) -> None:
    """Every second one in the newer of the two shapes."""
    metadata = about["metadata"]
    subject = {"kind": about["kind"], "apiVersion": about["apiVersion"], "uid": metadata["uid"]}
    subject |= {"name": metadata["name"], "namespace": metadata["namespace"]}
    name = {"name": f"{metadata['name']}.{at}", "namespace": metadata["namespace"]}
    event: Json = {"metadata": name, "involvedObject": subject, "reason": reason, "message": message, "type": "Warning"}
    if at % 2:
        series = {"count": 9, "lastObservedTime": f"{ago(40)[:-1]}.000000Z"}
        newer = {"eventTime": f"{ago(500)[:-1]}.000000Z", "series": series, "action": reason}
        event |= {**newer, "reportingComponent": "kubelet", "reportingInstance": "bench"}
    else:
        event |= {"count": 9, "firstTimestamp": ago(500), "lastTimestamp": ago(40), "source": {"component": "kubelet"}}
    _created(cluster, {"apiVersion": "v1", "kind": "Event", **event}, metadata["namespace"])


def _created(cluster: Cluster, manifest: Json, namespace: str | None) -> Json:
    kind = {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"]}
    return {**cluster.api.create(manifest, namespace), **kind}


def _say(cluster: Cluster, manifest: Json, status: Json) -> None:
    """Writes a status, as its controller would."""
    metadata = manifest["metadata"]
    place = cluster.api.resource(manifest["kind"], manifest["apiVersion"])
    path = place.path(metadata.get("namespace"), metadata["name"], "status")
    cluster.api.request("PUT", path, {**manifest, "status": status}, JSON)


def expected(everything: list[Ward]) -> Iterator[tuple[str, str]]:
    """C((namespace/name, cause)) of each workload; the cause is empty for one that is well."""
    for ward in everything:
        yield f"{ward.namespace}/{ward.name}", ward.fault.cause
