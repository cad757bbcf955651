# SPDX-License-Identifier: GPL-3.0-or-later
"""Makers of Kubernetes incidents, each only in a cluster that proved to be the lab's own; they return when it shows.

A `break_*` takes a healthy Deployment, makes one if there is none, and rolls out a template that cannot work: so
there is a revision to go back to. What touches more than a namespace is a context manager that takes it back.
"""

from __future__ import annotations

import contextlib
import datetime
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from tests.lab import kubernetes_objects as make
from tests.lab.kubernetes_api import STRATEGIC, ApiError
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_objects import Document
from tests.lab.kubernetes_stages import NODE_FAULT
from tests.lab.process import LabError

_SECONDS = 20.0
MISSING, PRIVATE = "registry.example/missing:2", "registry.example/private:2"
_CRASH = ("starting", "Traceback (most recent call last):", "ConnectionError: cannot reach db:5432")
_ENDS = {"crash": ("Error", 1), "oom": ("OOMKilled", 137), "liveness": ("Error", 137)}


def settle(cluster: Cluster, namespace: str, *documents: Document) -> None:
    """Apply, and wait until every workload among them is as it should be."""
    cluster.prove_own()
    cluster.apply(*documents, namespace=namespace)
    for document in documents:
        kind, name = document["kind"], document["metadata"]["name"]
        if kind in ("Deployment", "StatefulSet", "DaemonSet"):
            wait_settled(cluster, namespace, kind, name)


def wait_settled(cluster: Cluster, namespace: str, kind: str, name: str, seconds: float = _SECONDS) -> None:
    """Until its rollout is complete, as `kubectl rollout status` means it."""
    try:
        cluster.wait(lambda: _is_settled(cluster.get(kind, name, namespace)), seconds, f"{kind} {name} at rest")
    except LabError as error:
        error.add_note(f"{kind}: {cluster.get(kind, name, namespace).get('status')}")
        error.add_note(
            "\n".join(f"{pod['metadata']['name']}: {pod['status']}" for pod in pods(cluster, namespace, name))
        )
        raise


def _is_settled(item: Document) -> bool:
    status, spec = item.get("status", {}), item["spec"]
    if status.get("observedGeneration") != item["metadata"]["generation"]:
        return False
    if item["kind"] == "DaemonSet":
        wanted = status.get("desiredNumberScheduled")
        counts = [status.get("updatedNumberScheduled", 0), status.get("numberReady", 0)]
    else:
        wanted = spec["replicas"]
        counts = [status.get("updatedReplicas", 0), status.get("readyReplicas", 0), status.get("replicas", 0)]
    return all(count == wanted for count in counts)


def change_template(
    cluster: Cluster, namespace: str, name: str = "app", kind: str = "Deployment", **options: Any
) -> None:
    """Roll out a new template (as `kubernetes_objects.template`) to a healthy workload, made if it is not there."""
    cluster.prove_own()
    if not cluster.exists(kind, name, namespace):
        builders = {"Deployment": make.deployment, "StatefulSet": make.statefulset, "DaemonSet": make.daemonset}
        settle(cluster, namespace, builders[kind](name))
    made = make.template({"app": name}, **options)
    cluster.patch(kind, name, namespace, {"spec": {"template": made}})


def pods(cluster: Cluster, namespace: str, name: str = "app") -> list[Document]:
    """Those of a workload that are not on their way out."""
    found = cluster.objects("pod", namespace, f"app={name}")
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def waiting(pod: Document) -> str:
    """Why its first troubled container waits; empty when none does."""
    status = pod.get("status", {})
    entries = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    reasons = [entry["state"]["waiting"]["reason"] for entry in entries if "waiting" in entry.get("state", {})]
    return next(iter(reasons), "")


def _sick(cluster: Cluster, namespace: str, name: str, sign: Callable[[Document], bool], what: str) -> list[Document]:
    """Wait until all pods that do not serve have the sign, and return them."""
    found: list[Document] = []

    def seen() -> bool:
        found[:] = [pod for pod in pods(cluster, namespace, name) if sign(pod)]
        rest = [pod for pod in pods(cluster, namespace, name) if not sign(pod)]
        return bool(found) and all(map(_serves_or_is_over, rest))

    cluster.wait(seen, _SECONDS, what)
    return found


def _serves_or_is_over(pod: Document) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready or pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def break_image(cluster: Cluster, namespace: str, name: str = "app", *, private: bool = False, **more: Any) -> None:
    """ImagePullBackOff: no such image, or with `private` no credentials."""
    image = PRIVATE if private else MISSING
    change_template(cluster, namespace, name, image=image, **more)
    for pod in _sick(cluster, namespace, name, lambda pod: waiting(pod) == "ImagePullBackOff", "ImagePullBackOff"):
        why = "failed to authorize: 401 Unauthorized" if private else f"{image}: not found"
        event(cluster, pod, "Failed", f'Failed to pull image "{image}": {why}', count=4)
        event(cluster, pod, "BackOff", f'Back-off pulling image "{image}"', count=12, modern=True)


def break_crash(
    cluster: Cluster,
    namespace: str,
    name: str = "app",
    *,
    fault: Literal["crash", "oom", "liveness"] = "crash",
    log: Sequence[str] = _CRASH,
    **more: Any,
) -> None:
    """CrashLoopBackOff after two ends or more; `log` is what the previous container said."""
    probe = {"httpGet": {"path": "/live", "port": 80}, "failureThreshold": 3}
    inside = {"livenessProbe": probe} if fault == "liveness" else {}
    inside |= {"resources": {"limits": {"memory": "64Mi"}}} if fault == "oom" else {}
    change_template(cluster, namespace, name, env={"FAULT": fault}, container=inside, **more)
    for pod in _sick(cluster, namespace, name, _crashes_again, "CrashLoopBackOff"):
        write_logs(cluster, pod, ["starting"], previous=log)
        event(cluster, pod, "BackOff", f"Back-off restarting failed container app in pod {pod['metadata']['name']}")
        if fault == "liveness":
            event(cluster, pod, "Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 503", count=9)
            event(cluster, pod, "Killing", "Container app failed liveness probe, will be restarted", "Normal")


def _crashes_again(pod: Document) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    return waiting(pod) == "CrashLoopBackOff" and statuses[0].get("restartCount", 0) > 1


def break_config(cluster: Cluster, namespace: str, name: str = "app", **more: Any) -> None:
    """CreateContainerConfigError: the key of a Secret that is not there."""
    reference = {"secretKeyRef": {"name": "absent", "key": "password"}}
    change_template(cluster, namespace, name, env={"PASSWORD": reference}, **more)
    for pod in _sick(cluster, namespace, name, lambda pod: "Config" in waiting(pod), "CreateContainerConfigError"):
        event(cluster, pod, "Failed", 'Error: secret "absent" not found', count=6)


def break_init(cluster: Cluster, namespace: str, name: str = "app", *, fault: str = "crash", **more: Any) -> None:
    """An init container ends again and again, or with `fault="missing"` has no image."""
    first = make.init_container(image=MISSING) if fault == "missing" else make.init_container(env={"FAULT": fault})
    change_template(cluster, namespace, name, initContainers=[first], **more)
    reasons = ("CrashLoopBackOff", "ImagePullBackOff", "CreateContainerConfigError")
    for pod in _sick(cluster, namespace, name, lambda pod: waiting(pod) in reasons, "an init container that fails"):
        event(cluster, pod, "BackOff", "Back-off restarting failed container prepare in pod", count=3)
        write_logs(cluster, pod, ["migrating"], ["relation users does not exist"], container="prepare")


def break_readiness(cluster: Cluster, namespace: str, name: str = "app", **more: Any) -> None:
    """Runs, and is never ready."""
    probe = {"httpGet": {"path": "/ready", "port": 80}}
    change_template(cluster, namespace, name, env={"FAULT": "notready"}, container={"readinessProbe": probe}, **more)
    said = "Readiness probe failed: HTTP probe failed with statuscode: 503"
    for pod in _sick(cluster, namespace, name, _runs_unready, "a pod that is not ready"):
        event(cluster, pod, "Unhealthy", said, count=20)


def _runs_unready(pod: Document) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    return "running" in statuses[0].get("state", {}) and not statuses[0]["ready"]


def break_scheduling(
    cluster: Cluster,
    namespace: str,
    name: str = "app",
    *,
    why: Literal["resources", "selector"] = "resources",
    **more: Any,
) -> None:
    """Unschedulable, as the real scheduler says it; for taints see `tainted`."""
    wanted: Mapping[str, Any] = {"requests": {"cpu": "1000"}}
    if why == "selector":
        wanted = {"nodeSelector": {"disk": "fast"}}
    change_template(cluster, namespace, name, **wanted, **more)
    _sick(cluster, namespace, name, _is_unschedulable, "an unschedulable pod")


def _is_unschedulable(pod: Document) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(entry.get("reason") == "Unschedulable" for entry in conditions)


def break_quota(cluster: Cluster, namespace: str, name: str = "app", *, wanted: int = 4) -> None:
    """A quota that is used up: the ReplicaSet cannot make its pods (FailedCreate)."""
    if not cluster.exists("deployment", name, namespace):
        settle(cluster, namespace, make.deployment(name))
    room = cluster.get("deployment", name, namespace)["spec"]["replicas"]
    cluster.apply(make.quota("few", pods=room), namespace=namespace)
    counted = {"pods": str(room)}
    cluster.wait(lambda: cluster.get("quota", "few", namespace)["status"].get("used") == counted, 10, "a used quota")
    cluster.patch("deployment", name, namespace, {"spec": {"replicas": wanted}})
    _wait_condition(cluster, namespace, name, "ReplicaFailure", "FailedCreate")


def break_volume(
    cluster: Cluster, namespace: str, name: str = "app", *, why: Literal["claim", "secret"] = "claim", **more: Any
) -> None:
    """A claim that nothing binds to, or a Secret to mount that is not there."""
    if why == "claim":
        cluster.apply(make.pvc(f"{name}-data", storage_class="nonexistent"), namespace=namespace)
        source: Document = {"persistentVolumeClaim": {"claimName": f"{name}-data"}}
    else:
        source = {"secret": {"secretName": "absent"}}
    change_template(cluster, namespace, name, volumes=[{"name": "data", **source}], **more)
    if why == "claim":
        _sick(cluster, namespace, name, _is_unschedulable, "a pod without its volume")
        return
    for pod in _sick(cluster, namespace, name, lambda pod: waiting(pod) == "ContainerCreating", "a pod that waits"):
        event(cluster, pod, "FailedMount", 'MountVolume.SetUp failed for volume "data": secret "absent" not found')


def break_progress(cluster: Cluster, namespace: str, name: str = "app", *, seconds: int = 2, **options: Any) -> None:
    """ProgressDeadlineExceeded; `options` of the template say why, by default an image that is not there."""
    if not cluster.exists("deployment", name, namespace):
        settle(cluster, namespace, make.deployment(name))
    cluster.patch("deployment", name, namespace, {"spec": {"progressDeadlineSeconds": seconds}})
    wait_settled(cluster, namespace, "Deployment", name)
    change_template(cluster, namespace, name, **(options or {"image": MISSING}))
    _wait_condition(cluster, namespace, name, "Progressing", "ProgressDeadlineExceeded")


def break_metrics(cluster: Cluster, namespace: str, name: str = "app") -> None:
    """An HPA that gets no metrics: only in a cluster that was started without them."""
    settle(cluster, namespace, make.deployment(name, requests={"cpu": "100m"}), make.hpa(name))
    _wait_condition(cluster, namespace, name, "ScalingActive", "FailedGetResourceMetric", kind="hpa")


def _wait_condition(
    cluster: Cluster, namespace: str, name: str, kind_of: str, reason: str, *, kind: str = "deployment"
) -> None:
    def told() -> bool:
        conditions = cluster.get(kind, name, namespace).get("status", {}).get("conditions", ())
        return any(entry["type"] == kind_of and entry.get("reason") == reason for entry in conditions)

    cluster.wait(told, _SECONDS, f"{reason} of {name}")


def pause(cluster: Cluster, namespace: str, name: str = "app", *, paused: bool = True) -> None:
    """Changes of the template wait until it is continued."""
    cluster.patch("deployment", name, namespace, {"spec": {"paused": paused}})


def evict(cluster: Cluster, namespace: str, name: str) -> None:
    """As a node under pressure does it: the pod has failed, and stays to be seen."""
    message = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi."
    status = {"phase": "Failed", "reason": "Evicted", "message": message}
    pod = cluster.patch("pod", name, namespace, {"status": status}, subresource="status")
    event(cluster, pod, "Evicted", message)


@contextlib.contextmanager
def node_not_ready(cluster: Cluster, name: str = "node-3", status: str = "False") -> Iterator[None]:
    """The node's kubelet reports trouble, or with status `Unknown` nothing any more."""
    cluster.prove_own()
    cluster.patch("node", name, None, {"metadata": {"annotations": {NODE_FAULT: "not-ready"}}})
    now = _time(0)
    condition = {"type": "Ready", "status": status, "lastHeartbeatTime": now, "lastTransitionTime": now}
    told = {"reason": "KubeletNotReady", "message": "container runtime is down"}
    body = {"status": {"conditions": [{**condition, **told}]}}
    cluster.patch("node", name, None, body, subresource="status", content=STRATEGIC)
    try:
        cluster.wait(lambda: _tainted(cluster, name), _SECONDS, f"the taint of {name}")
        _report_pods(cluster, name, ready=False)
        yield
    finally:
        cluster.patch("node", name, None, {"metadata": {"annotations": {NODE_FAULT: None}}})
        cluster.wait(lambda: not _tainted(cluster, name), _SECONDS, f"a ready {name}")
        cluster.prove_nodes(name)
        _report_pods(cluster, name, ready=True)


def _report_pods(cluster: Cluster, node: str, ready: bool) -> None:
    """What becomes of the pods of a node that falls silent, and of those of one that is back."""
    for pod in cluster.objects("pod"):
        statuses = pod.get("status", {}).get("containerStatuses", ())
        if pod["spec"].get("nodeName") == node and statuses and all(entry["ready"] for entry in statuses):
            meta = pod["metadata"]
            condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": _time(0)}
            told = {"status": {"conditions": [condition]}}
            with contextlib.suppress(ApiError):  # it has gone meanwhile
                cluster.patch("pod", meta["name"], meta["namespace"], told, subresource="status", content=STRATEGIC)


@contextlib.contextmanager
def tainted(cluster: Cluster, *names: str, key: str = "maintenance", effect: str = "NoSchedule") -> Iterator[None]:
    """Nodes that take no more pods; without names all of them."""
    cluster.prove_own()
    chosen = names or tuple(node["metadata"]["name"] for node in cluster.objects("node"))
    for name in chosen:
        cluster.patch("node", name, None, {"spec": {"taints": [{"key": key, "value": "lab", "effect": effect}]}})
    try:
        yield
    finally:
        for name in chosen:
            cluster.patch("node", name, None, {"spec": {"taints": None}})


def _tainted(cluster: Cluster, name: str) -> bool:
    return bool(cluster.get("node", name)["spec"].get("taints"))


# What a kubelet would say and write


def event(
    cluster: Cluster,
    about: Document,
    reason: str,
    message: str,
    kind: Literal["Warning", "Normal"] = "Warning",
    *,
    count: int = 1,
    age: float = 0,
    modern: bool = False,
) -> None:
    """An Event, as of a kubelet, that was last seen `age` seconds ago.

    Old ones have a count and a last time, `modern` ones (events.k8s.io) a time and a series."""
    meta = about["metadata"]
    space = meta.get("namespace", "default")
    name = f"{meta['name']}.{secrets.token_hex(8)}"
    place = {"name": name, "namespace": space}
    subject = {"kind": about["kind"], "apiVersion": about["apiVersion"], "name": meta["name"], "uid": meta["uid"]}
    subject |= {"namespace": space}
    if modern:
        told: Document = {"apiVersion": "events.k8s.io/v1", "regarding": subject, "note": message, "action": "Pulling"}
        told |= {"eventTime": _time(age + count), "reportingController": "kubelet", "reportingInstance": "node-1"}
        if count > 1:
            told["series"] = {"count": count, "lastObservedTime": _time(age)}
    else:
        told = {"apiVersion": "v1", "involvedObject": subject, "message": message, "count": count}
        times = {"firstTimestamp": _time(age + count)[:19] + "Z", "lastTimestamp": _time(age)[:19] + "Z"}
        told |= {"source": {"component": "kubelet", "host": "node-1"}, **times}
    cluster.api.create({**told, "kind": "Event", "metadata": place, "reason": reason, "type": kind}, space)


def _time(age: float) -> str:
    moment = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def write_logs(
    cluster: Cluster, pod: Document, lines: Sequence[str], previous: Sequence[str] = (), *, container: str = "app"
) -> None:
    """What `kubectl logs` says of this container, and with `--previous`."""
    if not hasattr(cluster, "ports"):
        raise LabError("only KWOK on this machine reads its logs from files")
    meta = pod["metadata"]
    folder = cluster.scratch / "logs"
    folder.mkdir(exist_ok=True)
    entry: Document = {"containers": [container]}
    for option, said in (("logsFile", lines), ("previousLogsFile", previous)):
        file = folder / f"{meta['uid']}.{container}.{option}"
        file.write_text("".join(f"{_time(1)} stdout F {line}\n" for line in said))
        entry[option] = str(file)
    place = {"name": meta["name"], "namespace": meta["namespace"]}
    rule = {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Logs", "metadata": place, "spec": {"logs": [entry]}}
    cluster.apply(rule)
    asked = cluster.api.resource("pod").path(meta["namespace"], meta["name"], "log") + f"?container={container}"
    cluster.wait(lambda: cluster.api.request("GET", asked).splitlines() == list(lines), 5, "the log of a container")


def usage(cluster: Cluster, pod: Document, *, cpu: str = "1m", memory: str = "1Mi") -> None:
    """What the metrics will tell of a pod, once they are scraped again."""
    told = {"kwok.x-k8s.io/usage-cpu": cpu, "kwok.x-k8s.io/usage-memory": memory}
    meta = pod["metadata"]
    cluster.patch("pod", meta["name"], meta["namespace"], {"metadata": {"annotations": told}})


def wait_events(cluster: Cluster, namespace: str, reason: str, seconds: float = 10) -> list[Document]:
    """The Events with this reason, as soon as there is one."""
    deadline = time.monotonic() + seconds
    while not (found := [each for each in cluster.objects("event", namespace) if each["reason"] == reason]):
        if time.monotonic() > deadline:
            raise LabError(f"no Event {reason} in {namespace}")
        time.sleep(0.1)
    return found
