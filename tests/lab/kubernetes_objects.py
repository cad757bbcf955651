# SPDX-License-Identifier: GPL-3.0-or-later
"""Plain manifests of the lab, as small as they can be; what their pods then do, `kubernetes_stages` tells."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

Document = dict[str, Any]
IMAGE = "registry.example/app:1"


def deployment(name: str, *, replicas: int = 2, spec: Mapping[str, Any] | None = None, **pod: Any) -> Document:
    """`spec` is merged into that of the Deployment, `pod` is as in `template`."""
    return _workload("Deployment", name, {"replicas": replicas, **(spec or {})}, pod)


def statefulset(name: str, *, replicas: int = 2, spec: Mapping[str, Any] | None = None, **pod: Any) -> Document:
    return _workload("StatefulSet", name, {"replicas": replicas, "serviceName": name, **(spec or {})}, pod)


def daemonset(name: str, *, spec: Mapping[str, Any] | None = None, **pod: Any) -> Document:
    return _workload("DaemonSet", name, dict(spec or {}), pod)


def job(name: str, *, spec: Mapping[str, Any] | None = None, **pod: Any) -> Document:
    """Succeeds at once; with FAULT=crash it fails, with FAULT=hang it never ends."""
    made = {"backoffLimit": 0, "template": template({}, restartPolicy="Never", **pod), **(spec or {})}
    return named("batch/v1", "Job", name, spec=made)


def pod(name: str, **options: Any) -> Document:
    """One that nobody replaces."""
    made = template({"app": name}, **options)
    return named("v1", "Pod", name, labels=made["metadata"]["labels"], spec=made["spec"])


def template(
    labels: Mapping[str, str],
    *,
    image: str = IMAGE,
    env: Mapping[str, Any] | None = None,
    requests: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    container: Mapping[str, Any] | None = None,
    **spec: Any,
) -> Document:
    """One container, called `app`. `env` maps to texts or to `valueFrom`; `container` and `spec` are merged in."""
    app: Document = {"name": "app", "image": image, "env": environment(env or {}), **(container or {})}
    if requests:
        app["resources"] = {"requests": dict(requests)}
    meta: Document = {"labels": dict(labels)}
    if annotations:
        meta["annotations"] = dict(annotations)
    return {"metadata": meta, "spec": {"terminationGracePeriodSeconds": 1, "containers": [app], **spec}}


def environment(values: Mapping[str, Any]) -> list[Document]:
    """As a container wants it."""
    return [
        {"name": name, "value": value} if isinstance(value, str) else {"name": name, "valueFrom": dict(value)}
        for name, value in values.items()
    ]


def service(name: str, *, app: str | None = None, port: int = 80) -> Document:
    return named("v1", "Service", name, spec={"selector": {"app": app or name}, "ports": [{"port": port}]})


def hpa(name: str, *, low: int = 1, high: int = 5, cpu: int = 50, kind: str = "Deployment") -> Document:
    """Of the workload with the same name; it wants `requests` there, and the metrics API."""
    target = {"apiVersion": "apps/v1", "kind": kind, "name": name}
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": cpu}},
    }
    spec = {"scaleTargetRef": target, "minReplicas": low, "maxReplicas": high, "metrics": [metric]}
    return named("autoscaling/v2", "HorizontalPodAutoscaler", name, spec=spec)


def scaled_object(name: str, *, low: int = 1, high: int = 5) -> Document:
    """KEDA's, without KEDA: nobody acts on it."""
    trigger = {"type": "cron", "metadata": {"timezone": "UTC", "start": "0 8 * * *", "end": "0 18 * * *"}}
    spec = {"scaleTargetRef": {"name": name}, "minReplicaCount": low, "maxReplicaCount": high, "triggers": [trigger]}
    return named("keda.sh/v1alpha1", "ScaledObject", name, spec=spec)


def pdb(name: str, *, app: str | None = None, **spec: Any) -> Document:
    """`pdb("app", minAvailable=2)`."""
    selector = {"matchLabels": {"app": app or name}}
    return named("policy/v1", "PodDisruptionBudget", name, spec={"selector": selector, **spec})


def quota(name: str, **hard: Any) -> Document:
    """`quota("few", pods=2)`."""
    return named("v1", "ResourceQuota", name, spec={"hard": {key: str(value) for key, value in hard.items()}})


def configmap(name: str, **data: str) -> Document:
    return {**named("v1", "ConfigMap", name), "data": data}


def secret(name: str, **data: str) -> Document:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {**named("v1", "Secret", name), "type": "Opaque", "data": encoded}


def pvc(name: str, *, size: str = "1Gi", storage_class: str = "grows") -> Document:
    """Pending until `volume` makes something to bind to."""
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": storage_class,
        "resources": {"requests": {"storage": size}},
    }
    return named("v1", "PersistentVolumeClaim", name, spec=spec)


def volume(name: str, *, size: str = "1Gi", storage_class: str = "grows") -> Document:
    """Belongs to no namespace; give it a name that nobody else has."""
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": storage_class,
        "capacity": {"storage": size},
        "hostPath": {"path": f"/nowhere/{name}"},
    }
    return named("v1", "PersistentVolume", name, spec=spec)


def owned_by(document: Document, owner: str) -> Document:
    """The same, marked as the property of `argo`, `flux` or `helm`."""
    name = document["metadata"]["name"]
    labels, annotations = {
        "argo": (
            {"app.kubernetes.io/instance": "shop"},
            {"argocd.argoproj.io/tracking-id": f"shop:apps/{document['kind']}:default/{name}"},
        ),
        "flux": ({"kustomize.toolkit.fluxcd.io/name": "shop", "kustomize.toolkit.fluxcd.io/namespace": "flux"}, {}),
        "helm": (
            {"app.kubernetes.io/managed-by": "Helm"},
            {"meta.helm.sh/release-name": "shop", "meta.helm.sh/release-namespace": "default"},
        ),
    }[owner]
    meta = document["metadata"]
    marked = {
        **meta,
        "labels": {**meta.get("labels", {}), **labels},
        "annotations": {**meta.get("annotations", {}), **annotations},
    }
    return {**document, "metadata": marked}


def named(api_version: str, kind: str, name: str, *, labels: Mapping[str, str] | None = None, **more: Any) -> Document:
    meta: Document = {"name": name, **({"labels": dict(labels)} if labels else {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": meta, **more}


def init_container(name: str = "prepare", *, image: str = IMAGE, env: Mapping[str, Any] | None = None) -> Document:
    return {"name": name, "image": image, "env": environment(env or {})}


def _workload(kind: str, name: str, spec: Mapping[str, Any], pod: Mapping[str, Any]) -> Document:
    labels = {"app": name}
    made = {"selector": {"matchLabels": labels}, "template": template(labels, **pod), **spec}
    return named("apps/v1", kind, name, labels=labels, spec=made)


def names(documents: Sequence[Document]) -> list[str]:
    """Sorted, for asserts."""
    return sorted(document["metadata"]["name"] for document in documents)
