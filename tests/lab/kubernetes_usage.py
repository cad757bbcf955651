# SPDX-License-Identifier: GPL-3.0-or-later
"""A metrics API in the process of the test: what pods use is known at once, metrics-server takes half a minute."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.lab.kubernetes_api import ApiError
from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_https import JsonHandler, served
from tests.lab.kubernetes_members import metrics_documents
from tests.lab.kubernetes_objects import Document

API = "/apis/metrics.k8s.io/v1beta1"


@dataclass
class Usage:
    """Memory of pods by the uid; `default` is told of all others, empty for not measured. May be changed any time."""

    cluster: Cluster
    default: str = "20Mi"
    memory: dict[str, str] = field(default_factory=dict)
    told: Callable[[Document], str] | None = None

    def of(self, pod: Document) -> str:
        if self.told:
            return self.told(pod)
        return self.memory.get(pod["metadata"]["uid"], self.default)

    def listed(self, namespace: str | None, selector: str) -> list[Document]:
        return [
            {
                "metadata": {name: pod["metadata"][name] for name in ("name", "namespace")},
                "timestamp": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
                "window": "10s",
                "containers": [
                    {"name": one["name"], "usage": {"cpu": "1m", "memory": self.of(pod)}}
                    for one in pod["spec"]["containers"]
                ],
            }
            for pod in self.cluster.objects("pod", namespace, selector)
            if self.of(pod) and pod.get("status", {}).get("phase") == "Running"
        ]


@contextlib.contextmanager
def measured(cluster: Cluster) -> Iterator[Usage]:
    """The metrics API of the whole cluster, for as long as it is open."""
    cluster.prove_own()
    usage = Usage(cluster)
    with served(cluster, "usage", _handler(usage)) as port:
        service, registration = metrics_documents(port)
        cluster.apply(service, registration)
        try:
            cluster.wait(lambda: _answers(cluster), 15, "the metrics API of the test")
            yield usage
        finally:
            cluster.delete("apiservice", registration["metadata"]["name"])
            cluster.delete("service", service["metadata"]["name"], service["metadata"]["namespace"])


def _answers(cluster: Cluster) -> bool:
    try:
        return "items" in cluster.api.request("GET", f"{API}/pods")
    except ApiError:
        return False


def _answer(usage: Usage, target: str) -> Any:
    parts = urlsplit(target)
    if not parts.path.endswith("/pods"):
        resource = {"name": "pods", "singularName": "", "namespaced": True, "kind": "PodMetrics", "verbs": ["list"]}
        return {"kind": "APIResourceList", "groupVersion": "metrics.k8s.io/v1beta1", "resources": [resource]}
    inside = parts.path.removeprefix(f"{API}/").split("/")
    namespace = inside[1] if inside[0] == "namespaces" else ""
    selector = parse_qs(parts.query).get("labelSelector", [""])[0]
    items = usage.listed(namespace or None, selector)
    return {"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items}


def _handler(usage: Usage) -> type[JsonHandler]:
    class Handler(JsonHandler):
        def do_GET(self) -> None:
            self.say(_answer(usage, self.path))

    return Handler
