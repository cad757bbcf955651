# SPDX-License-Identifier: GPL-3.0-or-later
"""What every cluster of the lab begins with: namespaces, nodes, definitions, rights and KWOK's rules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import yaml

from tests.lab import kubernetes_stages as stages
from tests.lab.kubernetes_build import Binaries

NODES = ("node-1", "node-2", "node-3")
#: The user of the modules under test; the lab itself is `lab`.
RUNBOOKS = "runbooks"
DEFAULT_LOG = "default.log"
MARKER = "sre-runbooks-lab"
_VERSION = 1  # to be raised when the way a template is made changes
KWOK_KINDS = (
    "Stage",
    "Metric",
    "Logs",
    "ClusterLogs",
    "Exec",
    "ClusterExec",
    "PortForward",
    "ClusterPortForward",
    "ResourceUsage",
    "ClusterResourceUsage",
)
AUDIT_POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        # The cluster's own machinery writes all the time; nobody asks what.
        {
            "level": "None",
            "users": [
                "system:apiserver",
                "system:kube-controller-manager",
                "system:kube-scheduler",
                "lab:kwok",
                "lab:metrics-server",
                "lab:cert-manager",
            ],
        },
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        # These may say in their body that they are a rehearsal.
        {"level": "Request", "verbs": ["delete", "deletecollection"]},
        {"level": "Request", "verbs": ["create"], "resources": [{"group": "", "resources": ["pods/eviction"]}]},
        {"level": "Metadata", "verbs": ["create", "update", "patch"]},
        # These read by their verb, and may do anything.
        {
            "level": "Metadata",
            "resources": [{"group": "", "resources": ["pods/exec", "pods/attach", "pods/portforward", "pods/proxy"]}],
        },
        {"level": "None"},
    ],
}


def definitions(built: Binaries) -> list[dict[str, Any]]:
    """To be established before anything else is made."""
    return [document for path in built.definitions() for document in yaml.safe_load_all(path.read_text()) if document]


def documents(built: Binaries) -> list[dict[str, Any]]:
    """All the rest."""
    made = [_plain("v1", "Namespace", MARKER), _plain("v1", "Namespace", "cert-manager"), *map(_node, NODES)]
    made += [_admin(RUNBOOKS), _logs(), *_storage_classes(), *stages.documents()]
    for path in built.rules():
        for document in yaml.safe_load_all(path.read_text()):
            made.append(stages.node_rule(document) if path.stem == "node-initialize" else document)
    return made


def fingerprint(built: Binaries) -> str:
    """Changes with whatever goes into a template."""
    parts = [_VERSION, built.versions(), documents(built)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _plain(api_version: str, kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, **more}


def _node(name: str) -> dict[str, Any]:
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": f"zone-{name[-1]}",
    }
    usage = {"metrics.k8s.io/resource-metrics-path": f"/metrics/nodes/{name}/metrics/resource"}
    room = {"cpu": "8", "memory": "16Gi", "pods": "110", "ephemeral-storage": "100Gi"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": usage},
        "status": {"allocatable": room, "capacity": room},
    }


def _admin(user: str) -> dict[str, Any]:
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
    api = "rbac.authorization.k8s.io/v1"
    return _plain(api, "ClusterRoleBinding", f"lab-{user}", roleRef=role, subjects=[subject])


def _logs() -> dict[str, Any]:
    """What `kubectl logs` says of a pod that no fault gave a log: a file in KWOK's own folder."""
    spec = {"logs": [{"logsFile": DEFAULT_LOG}]}
    return _plain("kwok.x-k8s.io/v1alpha1", "ClusterLogs", "default", spec=spec)


def _storage_classes() -> Iterator[dict[str, Any]]:
    """Nobody provisions here: a claim binds to a volume that a test makes, or stays pending."""
    for name, grows in (("grows", True), ("fixed", False)):
        provisioner = {"provisioner": "lab.example/none", "volumeBindingMode": "Immediate"}
        yield _plain("storage.k8s.io/v1", "StorageClass", name, allowVolumeExpansion=grows, **provisioner)
