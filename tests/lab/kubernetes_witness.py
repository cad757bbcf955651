# SPDX-License-Identifier: GPL-3.0-or-later
"""What was done to a cluster, told by its API server's audit log; and what there is, to be compared."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_template import RUNBOOKS
from tests.lab.process import LabError

_FENCE_SECONDS = 15.0
_FENCE = "lab-witness-"
_REVIEWS = ("authentication.k8s.io", "authorization.k8s.io")
_IN_NAMESPACE = (
    "deployment",
    "statefulset",
    "daemonset",
    "replicaset",
    "controllerrevision",
    "pod",
    "service",
    "configmap",
    "secret",
    "serviceaccount",
    "persistentvolumeclaim",
    "resourcequota",
    "limitrange",
    "job",
    "cronjob",
    "horizontalpodautoscaler",
    "poddisruptionbudget",
    "networkpolicy",
    "ingress",
    "role",
    "rolebinding",
    "scaledobject",
    "certificate",
    "issuer",
)
_IN_CLUSTER = (
    "node",
    "namespace",
    "persistentvolume",
    "storageclass",
    "clusterrole",
    "clusterrolebinding",
    "priorityclass",
    "customresourcedefinition",
    "validatingwebhookconfiguration",
    "mutatingwebhookconfiguration",
    "clusterissuer",
)
_MOVING = frozenset({"resourceVersion", "generation", "managedFields", "selfLink"})


@dataclass(frozen=True)
class Write:
    """A request that would change something, as the server took it: refused ones too, their `code` says it."""

    user: str
    verb: str
    resource: str  # with its subresource, such as `deployments/scale`
    namespace: str
    name: str
    code: int
    rehearsal: bool  # a dry run
    review: bool  # a question that is asked by creating something

    @property
    def done(self) -> bool:
        return self.code < 300 and not self.rehearsal and not self.review


def mark(cluster: Cluster) -> int:
    """Where the log ends now; everything answered before is in front of it."""
    fence = _FENCE + secrets.token_hex(8)
    cluster.delete("configmap", fence, "default")  # there is none: refused, and logged
    cluster.wait(lambda: fence in _text(cluster, 0), _FENCE_SECONDS, "our own mark in the audit log")
    return cluster.audit_log.stat().st_size


def writes(
    cluster: Cluster,
    since: int,
    user: str | None = RUNBOOKS,
    namespace: str | None = None,
    *,
    rehearsals: bool = False,
    reviews: bool = False,
) -> list[Write]:
    """What `user` (None: all but the lab) asked to change since `mark`; dry runs and reviews only when asked for."""
    mark(cluster)
    found = []
    for write in _entries(_text(cluster, since)):
        known = write.user == user if user else write.user != "lab"
        here = namespace is None or write.namespace == namespace
        if known and here and (rehearsals or not write.rehearsal) and (reviews or not write.review):
            found.append(write)
    return found


def fingerprint(cluster: Cluster, namespace: str | None, exclude: Collection[str] = ()) -> dict[str, Any]:
    """`kind/name` to all that a runbook must not touch: no status, no version. Without namespace: what is in none.

    `exclude` are patterns such as `deployment/app` or `pod/app-*`."""
    found: dict[str, Any] = {}
    for kind in _IN_NAMESPACE if namespace else _IN_CLUSTER:
        for item in cluster.objects(kind, namespace):
            key = f"{kind}/{item['metadata']['name']}"
            if not any(fnmatch.fnmatch(key, pattern) for pattern in exclude):
                found[key] = _lasting(item)
    return found


def _lasting(item: dict[str, Any]) -> dict[str, Any]:
    meta = {name: value for name, value in item["metadata"].items() if name not in _MOVING}
    rest = {name: value for name, value in item.items() if name not in ("metadata", "status")}
    if item["kind"] == "Secret":  # a failing assert would print it
        rest["data"] = hashlib.sha256(json.dumps(item.get("data"), sort_keys=True).encode()).hexdigest()
    return {"metadata": meta, **rest}


def _text(cluster: Cluster, since: int) -> str:
    if not hasattr(cluster, "ports"):
        raise LabError("a cluster that is not ours shows nobody its audit log")
    with cluster.audit_log.open("rb") as log:
        log.seek(since)
        return log.read().decode(errors="replace")


def _entries(text: str) -> Iterator[Write]:
    for line in text.splitlines():
        entry = json.loads(line)
        asked = entry.get("objectRef", {})
        name = asked.get("name", "")
        if entry["stage"] not in ("ResponseComplete", "Panic", "ResponseStarted") or name.startswith(_FENCE):
            continue
        parts = (asked.get("resource", entry["requestURI"]), asked.get("subresource"))
        yield Write(
            entry["user"]["username"],
            entry["verb"],
            "/".join(filter(None, parts)),
            asked.get("namespace", ""),
            name,
            int(entry.get("responseStatus", {}).get("code", 0)),
            _is_rehearsal(entry),
            asked.get("apiGroup", "") in _REVIEWS,
        )


def _is_rehearsal(entry: dict[str, Any]) -> bool:
    """Told in the query, or in the body of a deletion or eviction; that of a deletion alone counts."""
    body = entry.get("requestObject") or {}
    deaf = body and entry["verb"].startswith("delete")
    told = [] if deaf else parse_qs(urlsplit(entry["requestURI"]).query).get("dryRun", [])
    for options in (body, body.get("deleteOptions") or {}):
        told += options.get("dryRun") or []
    return "All" in told
