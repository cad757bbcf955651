# SPDX-License-Identifier: GPL-3.0-or-later
"""The same work without us: `kubernetes_calls core|kubectl|restart KUBECONFIG [KUBECTL|NAMESPACE]`.

`kubernetes.core.k8s_info` runs as it is, once for each kind, on arguments of its own; `kubectl get -o json` once for
all kinds. Both are followed by the filters that a careful person writes. Prints the cause by workload.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

Json = dict[str, Any]
_KINDS = ("Pod", "Event", "ReplicaSet", "Deployment", "Node")
_APIS = {"ReplicaSet": "apps/v1", "Deployment": "apps/v1"}


def main(who: str, kubeconfig: str, extra: str = "kubectl") -> None:
    if who == "restart":
        _restart(kubeconfig, extra)
        return
    found = _core(kubeconfig) if who == "core" else _kubectl(extra, kubeconfig)
    print(json.dumps(causes(found)))


def _core(kubeconfig: str) -> dict[str, list[Json]]:
    given = ({"kind": kind, "api_version": _APIS.get(kind, "v1")} for kind in _KINDS)
    return {one["kind"]: _module("k8s_info", {"kubeconfig": kubeconfig, **one})["resources"] for one in given}


def _restart(kubeconfig: str, namespace: str) -> None:
    """As its users write it: there is no state for a restart."""
    moment = datetime.datetime.now(datetime.UTC).isoformat()
    template = {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": moment}}}
    what = {"kind": "Deployment", "api_version": "apps/v1", "namespace": namespace, "name": "web", "state": "patched"}
    wait = {"wait": True, "wait_timeout": 120, "wait_sleep": 1}
    _module("k8s", {"kubeconfig": kubeconfig, **what, **wait, "definition": {"spec": {"template": template}}})


def _module(name: str, given: Mapping[str, Any]) -> Json:
    from ansible.module_utils import basic

    module = import_module(f"ansible_collections.kubernetes.core.plugins.modules.{name}")
    basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": given}).encode()
    basic._ANSIBLE_PROFILE = "legacy"
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        module.main()
    answer: Json = json.loads(said.getvalue())
    if answer.get("failed"):
        raise SystemExit(answer["msg"])
    return answer


def _kubectl(kubectl: str, kubeconfig: str) -> dict[str, list[Json]]:
    names = "pods,events,replicasets,deployments,nodes"
    command = [kubectl, "--kubeconfig", kubeconfig, "get", names, "--all-namespaces", "-o", "json"]
    told = subprocess.run(command, check=True, capture_output=True).stdout
    found: dict[str, list[Json]] = {kind: [] for kind in _KINDS}
    for item in json.loads(told)["items"]:
        found[item["kind"]].append(item)
    return found


def causes(found: dict[str, list[Json]]) -> dict[str, str]:
    """The reason that is in plain sight, by C(namespace/workload): of a container, else of a condition."""
    owners = {one["metadata"]["uid"]: _owner(one) for one in found["ReplicaSet"]}
    told: dict[str, str] = {}
    for pod in found["Pod"]:
        reason = _of_pod(pod)
        workload = owners.get(_owner(pod), _owner(pod))
        if reason and workload:
            told.setdefault(workload, reason)
    names = {one["metadata"]["uid"]: _name(one) for one in found["Deployment"]}
    for one in found["Deployment"]:
        status = one.get("status") or {}
        if status.get("readyReplicas", 0) < one["spec"].get("replicas", 1):
            told.setdefault(one["metadata"]["uid"], _of_conditions(status))
    return {names[uid]: reason for uid, reason in told.items() if uid in names}


def _of_pod(pod: Json) -> str:
    status = pod.get("status") or {}
    if status.get("reason"):
        return str(status["reason"])
    for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        last = (one.get("lastState") or {}).get("terminated") or {}
        waiting = (one.get("state") or {}).get("waiting") or {}
        if last.get("reason") == "OOMKilled":
            return "OOMKilled"
        if waiting and waiting.get("reason") not in ("ContainerCreating", "PodInitializing"):
            return str(waiting.get("reason"))
    return _of_conditions(status, only=("PodScheduled",)) or ("NotReady" if _unready(status) else "")


def _unready(status: Json) -> bool:
    conditions = status.get("conditions") or []
    return status.get("phase") != "Succeeded" and any(
        one["type"] == "Ready" and one["status"] == "False" for one in conditions
    )


def _of_conditions(status: Json, only: Iterable[str] = ()) -> str:
    for one in status.get("conditions") or []:
        if one["status"] == "False" and (not only or one["type"] in only):
            return str(one.get("reason", one["type"]))
    return ""


def _owner(manifest: Json) -> str:
    owners = manifest["metadata"].get("ownerReferences") or []
    return str(next((owner["uid"] for owner in owners if owner.get("controller")), ""))


def _name(manifest: Json) -> str:
    return f"{manifest['metadata']['namespace']}/{manifest['metadata']['name']}"


if __name__ == "__main__":
    main(*sys.argv[1:])
