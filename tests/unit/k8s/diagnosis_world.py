# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pods, workloads and events as an API server shows them, for tests of the diagnosis."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.sre.runbooks.plugins.module_utils._core.run import execute
from ansible_collections.sre.runbooks.plugins.modules import k8s_diagnosis_info
from tests.fakes.kubernetes import FakeApi, door_of, kube_of

Json = dict[str, Any]
NOW = time.time()
IMAGE = "registry.example/app:1"
HASH = "6d4b75cb6d"


def ago(seconds: float) -> str:
    """That moment as the API writes it."""
    return datetime.fromtimestamp(NOW - seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ended(code: int, reason: str = "Error", age: float = 30, **more: Any) -> Json:
    return {"terminated": {"exitCode": code, "reason": reason, "finishedAt": ago(age), **more}}


def waiting(reason: str, message: str = "", **more: Any) -> Json:
    """A container's status; its pod is not ready."""
    return {"ready": False, "state": {"waiting": {"reason": reason, "message": message}}, **more}


def crashing(code: int, reason: str = "Error", **more: Any) -> Json:
    return waiting("CrashLoopBackOff", "back-off 5m0s", restartCount=7, lastState=ended(code, reason), **more)


def running(*, ready: bool = True, age: float = 600, **more: Any) -> Json:
    return {"ready": ready, "started": True, "restartCount": 0, "state": {"running": {"startedAt": ago(age)}}, **more}


def pod(name: str = "web-6d4b75cb6d-1", *, owner: str = "web", age: float = 900, **parts: Any) -> Json:
    """A pod of a Deployment. C(app) and C(init) are statuses of containers, C(spec) and C(status) are laid over."""
    app, init = parts.get("app", running()), parts.get("init")
    ready = "True" if app.get("ready") else "False"
    status: Json = {
        "phase": parts.get("phase", "Running"),
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": ready, "lastTransitionTime": ago(60)},
        ],
        "containerStatuses": [{"name": "app", "image": IMAGE, **app}],
    }
    spec: Json = {"nodeName": "node-1", "containers": [{"name": "app", "image": IMAGE, **parts.get("container", {})}]}
    if init:
        spec["initContainers"] = [{"name": "prepare", "image": IMAGE}]
        status["initContainerStatuses"] = [{"name": "prepare", **init}]
    reference = {"kind": "ReplicaSet", "name": f"{owner}-{HASH}", "uid": f"rs-{owner}", "controller": True}
    meta: Json = {"name": name, "uid": f"uid-{name}", "creationTimestamp": ago(age)}
    meta |= {"labels": {"app": owner, "pod-template-hash": HASH}, "ownerReferences": [reference]} if owner else {}
    return {
        "kind": "Pod",
        "metadata": {**meta, **parts.get("metadata", {})},
        "spec": {**spec, **parts.get("spec", {})},
        "status": {**status, **parts.get("status", {})},
    }


def unscheduled(message: str, reason: str = "Unschedulable", **parts: Any) -> Json:
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    status = {"phase": "Pending", "conditions": [condition], "containerStatuses": []}
    return pod(spec={"nodeName": "", **parts.pop("spec", {})}, status=status, **parts)


def deployment(name: str = "web", *, desired: int = 1, present: int = 1, ready: int = 0, **parts: Any) -> Json:
    numbers = {"replicas": present, "updatedReplicas": present, "readyReplicas": ready, "availableReplicas": ready}
    labels = {"app": name}
    spec = {"replicas": desired, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}}
    return {
        "kind": "Deployment",
        "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels},
        "spec": {**spec, **parts.get("spec", {})},
        "status": {"observedGeneration": 1, **numbers, "conditions": parts.get("conditions", [])},
    }


def event(about: Json, reason: str, message: str, *, age: float = 60, **more: Any) -> Json:
    """A warning in the old shape."""
    meta = about["metadata"]
    space = meta.get("namespace", "shop")
    subject = {"kind": about["kind"], "name": meta["name"], "uid": meta.get("uid", ""), "namespace": space}
    times = {"lastTimestamp": ago(age), "firstTimestamp": ago(age)}
    name = f"{meta['name']}.{reason}.{age}"
    made = {"kind": "Event", "metadata": {"name": name, "namespace": space}, "involvedObject": subject}
    return {**made, "type": "Warning", "reason": reason, "message": message, "count": 3, **times, **more}


def world(*manifests: Json) -> FakeApi:
    """An API server that has these, in the namespace C(shop)."""
    api = FakeApi()
    for manifest in manifests:
        api.add(manifest)
    return api


def diagnosed(api: FakeApi, check_mode: bool = False, **options: Any) -> Json:
    """The module's result."""
    door = door_of(k8s_diagnosis_info.DOOR, kube_of(api))
    given = {"namespaces": ["shop"], **options}
    checked = ArgumentSpecValidator(door.spec.arguments(), **door.spec.rules()).validate(given)
    if checked.error_messages:
        raise ValueError("; ".join(checked.error_messages))
    # However long the tests take, these manifests stay as old as they say.
    with patch.object(k8s_diagnosis_info, "time", SimpleNamespace(time=lambda: NOW)):
        return execute(door, checked.validated_parameters, check_mode=check_mode)


def roots(*manifests: Json, **options: Any) -> list[Json]:
    """The ranked root causes in a world of these."""
    found: list[Json] = diagnosed(world(*manifests), **options)["root_causes"]
    return found


def root(*manifests: Json, **options: Any) -> Json:
    """The only one."""
    found = roots(*manifests, **options)
    assert len(found) == 1, [one["id"] for one in found]
    return found[0]
