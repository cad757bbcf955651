# SPDX-License-Identifier: GPL-3.0-or-later
"""An admission webhook in the process of the test, over HTTPS with the cluster's own authority."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.lab.kubernetes_cluster import Cluster
from tests.lab.kubernetes_https import JsonHandler, served
from tests.lab.kubernetes_objects import named
from tests.lab.process import HOST


@dataclass
class Webhook:
    """What it answers may be changed at any time; `seen` are the requests it was asked about."""

    deny: str = ""
    seconds: float = 0
    seen: list[dict[str, Any]] = field(default_factory=list)

    def judge(self, request: dict[str, Any]) -> dict[str, Any]:
        self.seen.append(request)
        time.sleep(self.seconds)
        verdict: dict[str, Any] = {"uid": request["uid"], "allowed": not self.deny}
        if self.deny:
            verdict["status"] = {"code": 403, "message": self.deny}
        return verdict


@contextlib.contextmanager
def admission(
    cluster: Cluster,
    namespace: str,
    *,
    deny: str = "",
    seconds: float = 0,
    down: bool = False,
    resources: tuple[str, ...] = ("deployments", "deployments/scale"),
) -> Iterator[Webhook]:
    """Asked before each change of `resources` in `namespace`: lets pass, denies, is slow, or `down` does not answer.

    The API allows no webhook with side effects that would refuse a dry run: this one tells `NoneOnDryRun`."""
    cluster.prove_own()
    webhook = Webhook(deny, seconds)
    with served(cluster, "webhook", _handler(webhook)) as port:
        name = f"lab-{namespace}"
        configuration = _configuration(cluster, name, namespace, port, resources)
        cluster.apply(configuration)
        try:
            cluster.wait(lambda: _asked(cluster, webhook, namespace), 10, "an admission webhook that is asked")
            webhook.seen.clear()
            if down:
                webhook.seconds = 3600
            yield webhook
        finally:
            webhook.seconds = 0
            cluster.delete("validatingwebhookconfiguration", name)


def _configuration(
    cluster: Cluster, name: str, namespace: str, port: int, resources: tuple[str, ...]
) -> dict[str, Any]:
    rule = {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["configmaps", *resources]}
    authority = cluster.authority.ca.read_bytes()
    hook = {
        "name": "judge.lab.example",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "NoneOnDryRun",
        "failurePolicy": "Fail",
        "timeoutSeconds": 2,
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "rules": [rule],
        "clientConfig": {"url": f"https://{HOST}:{port}/", "caBundle": base64.b64encode(authority).decode()},
    }
    api = "admissionregistration.k8s.io/v1"
    return named(api, "ValidatingWebhookConfiguration", name, webhooks=[hook])


def _asked(cluster: Cluster, webhook: Webhook, namespace: str) -> bool:
    """A rehearsal that changes nothing, whatever the verdict."""
    probe = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "lab-"}}
    with contextlib.suppress(Exception):
        cluster.api.create(probe, namespace, "?dryRun=All")
    return bool(webhook.seen)


def _handler(webhook: Webhook) -> type[JsonHandler]:
    class Handler(JsonHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = {"apiVersion": body["apiVersion"], "kind": body["kind"]}
            self.say({**answer, "response": webhook.judge(body["request"])})

    return Handler
