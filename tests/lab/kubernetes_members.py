# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes of a cluster: their files, their flags, and what the API must hold for them."""

from __future__ import annotations

import base64
import datetime
import json
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import kubernetes_template as template
from tests.lab.kubernetes_pki import Authority
from tests.lab.process import HOST

STOP_ORDER = (
    "cert-manager",
    "metrics-server",
    "kube-scheduler",
    "kube-controller-manager",
    "kwok",
    "kube-apiserver",
    "etcd",
)
_MASTERS = "system:masters"
#: Who has a kubeconfig, in which groups.
_USERS: Mapping[str, tuple[str, ...]] = {
    "lab": (_MASTERS,),
    template.RUNBOOKS: (),
    "system:kube-controller-manager": (),
    "system:kube-scheduler": (),
    "lab:kwok": (_MASTERS,),
    "lab:metrics-server": (_MASTERS,),
    "lab:cert-manager": (_MASTERS,),
}


@dataclass(frozen=True)
class Ports:
    """Loopback ports that were free a moment ago."""

    etcd: int
    peer: int
    api: int
    controllers: int
    scheduler: int
    kwok: int
    metrics: int


@dataclass(frozen=True)
class Files:
    """What the programs are told by file."""

    pki: Path
    audit_policy: Path

    def kubeconfig(self, user: str) -> Path:
        return self.pki.parent / f"{user.rpartition(':')[2]}.kubeconfig"


def write_files(scratch: Path, authority: Authority, url: str) -> Files:
    """Kubeconfigs, certificates and the audit policy."""
    files = Files(authority.folder, scratch / "audit-policy.json")
    for user, groups in _USERS.items():
        authority.kubeconfig(files.kubeconfig(user), url, user, *groups)
    authority.server("apiserver")
    authority.client("front-proxy")
    authority.client("kubelet-client", _MASTERS)
    authority.signing_key("accounts")
    files.audit_policy.write_text(json.dumps(template.AUDIT_POLICY))
    return files


def write_default_log(folder: Path) -> None:
    """What every healthy container has said."""
    folder.mkdir(mode=0o700, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
    (folder / template.DEFAULT_LOG).write_text(f"{now} stdout F started\n")


def flags(name: str, scratch: Path, files: Files, ports: Ports) -> list[str]:
    """The command line of one program, without its name."""
    return _FLAGS[name](scratch, files, ports)


def _etcd(scratch: Path, _files: Files, ports: Ports) -> list[str]:
    client, peer = f"http://{HOST}:{ports.etcd}", f"http://{HOST}:{ports.peer}"
    urls = {"listen-client-urls": client, "advertise-client-urls": client, "listen-peer-urls": peer}
    urls |= {"initial-advertise-peer-urls": peer, "initial-cluster": f"default={peer}"}
    options = {"data-dir": f"{scratch}/etcd-data", "unsafe-no-fsync": "true", "log-level": "warn"}
    return _written({**urls, **options})


def _apiserver(scratch: Path, files: Files, ports: Ports) -> list[str]:
    pki = files.pki
    front = {
        "requestheader-client-ca-file": pki / "ca.crt",
        "requestheader-allowed-names": "front-proxy",
        "requestheader-username-headers": "X-Remote-User",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "proxy-client-cert-file": pki / "front-proxy.crt",
        "proxy-client-key-file": pki / "front-proxy.key",
    }
    accounts = {
        "service-account-key-file": pki / "accounts.key",
        "service-account-signing-key-file": pki / "accounts.key",
        "service-account-issuer": "https://kubernetes.default.svc",
    }
    audit = {
        "audit-policy-file": files.audit_policy,
        "audit-log-path": scratch / "audit.log",
        "audit-log-mode": "blocking",
        "audit-log-maxsize": 1000,
    }
    return _written(
        {
            "etcd-servers": f"http://{HOST}:{ports.etcd}",
            "bind-address": HOST,
            "advertise-address": HOST,
            "secure-port": ports.api,
            "tls-cert-file": pki / "apiserver.crt",
            "tls-private-key-file": pki / "apiserver.key",
            "client-ca-file": pki / "ca.crt",
            "kubelet-client-certificate": pki / "kubelet-client.crt",
            "kubelet-client-key": pki / "kubelet-client.key",
            "service-cluster-ip-range": "10.96.0.0/16",
            "authorization-mode": "Node,RBAC",
            "endpoint-reconciler-type": "none",
            **front,
            **accounts,
            **audit,
        }
    )


def _controllers(_scratch: Path, files: Files, ports: Ports) -> list[str]:
    fast = {
        "concurrent-deployment-syncs": 10,
        "horizontal-pod-autoscaler-sync-period": "2s",
        "horizontal-pod-autoscaler-cpu-initialization-period": "5s",
        "horizontal-pod-autoscaler-initial-readiness-delay": "2s",
        "horizontal-pod-autoscaler-downscale-stabilization": "5s",
        "node-monitor-period": "200ms",
        "pvclaimbinder-sync-period": "1s",
    }
    return _written(
        {
            **_kubeconfigs(files, "system:kube-controller-manager"),
            "secure-port": ports.controllers,
            "use-service-account-credentials": "true",
            "service-account-private-key-file": files.pki / "accounts.key",
            "root-ca-file": files.pki / "ca.crt",
            "cluster-signing-cert-file": files.pki / "ca.crt",
            "cluster-signing-key-file": files.pki / "ca.key",
            "kube-api-qps": 300,
            "kube-api-burst": 600,
            "leader-elect": "false",
            **fast,
        }
    )


def _scheduler(_scratch: Path, files: Files, ports: Ports) -> list[str]:
    return _written(
        {
            **_kubeconfigs(files, "system:kube-scheduler"),
            "secure-port": ports.scheduler,
            "kube-api-qps": 300,
            "kube-api-burst": 600,
            "leader-elect": "false",
        }
    )


def _kwok(_scratch: Path, files: Files, ports: Ports) -> list[str]:
    return _written(
        {
            "kubeconfig": files.kubeconfig("lab:kwok"),
            "manage-all-nodes": "true",
            "node-ip": HOST,
            "node-port": ports.kwok,
            "server-address": f"{HOST}:{ports.kwok}",
            "node-lease-duration-seconds": 40,
            "cidr": "10.244.0.0/16",
            "enable-crds": ",".join(template.KWOK_KINDS),
        }
    )


def _metrics(scratch: Path, files: Files, ports: Ports) -> list[str]:
    return _written(
        {
            **_kubeconfigs(files, "lab:metrics-server"),
            "secure-port": ports.metrics,
            "cert-dir": scratch / "metrics-server",
            "kubelet-insecure-tls": "true",
            "kubelet-use-node-status-port": "true",
            "kubelet-preferred-address-types": "InternalIP",
            "metric-resolution": "10s",
            # Must be less than the resolution, or it panics.
            "kubelet-request-timeout": "5s",
        }
    )


def _cert_manager(_scratch: Path, files: Files, _ports: Ports) -> list[str]:
    return _written({"kubeconfig": files.kubeconfig("lab:cert-manager")})


_FLAGS = {
    "etcd": _etcd,
    "kube-apiserver": _apiserver,
    "kube-controller-manager": _controllers,
    "kube-scheduler": _scheduler,
    "kwok": _kwok,
    "metrics-server": _metrics,
    "cert-manager": _cert_manager,
}


def _kubeconfigs(files: Files, user: str) -> dict[str, Any]:
    path = files.kubeconfig(user)
    names = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
    return {**dict.fromkeys(names, path), "bind-address": HOST}


def _written(options: Mapping[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


def metrics_documents(port: int) -> list[dict[str, Any]]:
    """How the API server finds the metrics: it resolves this name itself, while loopback endpoints are forbidden."""
    place = {"name": "metrics-server", "namespace": "kube-system"}
    service = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}
    spec = {
        "group": "metrics.k8s.io",
        "version": "v1beta1",
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
        "insecureSkipTLSVerify": True,
        "service": {**place, "port": port},
    }
    registration = {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService"}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": place, "spec": service},
        {**registration, "metadata": {"name": "v1beta1.metrics.k8s.io"}, "spec": spec},
    ]


def probe(node: str, label: str) -> dict[str, Any]:
    """A pod on this very node."""
    spec = {"nodeName": node, "containers": [{"name": "probe", "image": "registry.example/probe:1"}]}
    meta = {"name": f"{node}-{label}", "labels": {"probe": label}}
    tolerations = [{"operator": "Exists"}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {**spec, "tolerations": tolerations}}


def rights(
    user: str, rules: Sequence[Mapping[str, Any]], namespace: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A role and its binding: of one namespace, or of the whole cluster."""
    group = "rbac.authorization.k8s.io"
    prefix = "" if namespace else "Cluster"
    meta = {"name": f"lab-user-{user}", **({"namespace": namespace} if namespace else {})}
    base = {"apiVersion": f"{group}/v1", "metadata": meta}
    role = {**base, "kind": f"{prefix}Role", "rules": [dict(rule) for rule in rules]}
    reference = {"apiGroup": group, "kind": f"{prefix}Role", "name": meta["name"]}
    subject = {"apiGroup": group, "kind": "User", "name": user}
    return role, {**base, "kind": f"{prefix}RoleBinding", "roleRef": reference, "subjects": [subject]}


def etcd_delete(port: int, prefix: str) -> None:
    """All keys that begin with `prefix`, through the JSON door of etcd."""
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    body = {name: base64.b64encode(text.encode()).decode() for name, text in (("key", prefix), ("range_end", end))}
    request = urllib.request.Request(f"http://{HOST}:{port}/v3/kv/deleterange", json.dumps(body).encode())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        answer.read()
