# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's own way to an API server: plain HTTPS with a kubeconfig, quicker than a kubectl for each question."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
import yaml

from tests.lab.process import LabError

JSON = "application/json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class ApiError(LabError):
    """An answer of the API server that is no success."""

    def __init__(self, status: int, what: str, answer: Mapping[str, Any]) -> None:
        super().__init__(f"{what}: {status} {answer.get('reason', '')}: {answer.get('message', answer)}")
        self.status = status
        self.reason = str(answer.get("reason", ""))


@dataclass(frozen=True)
class Resource:
    """Where the objects of one kind are."""

    prefix: str
    plural: str
    kind: str
    namespaced: bool

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        if self.namespaced and namespace is None:
            where = f"{self.prefix}/{self.plural}"  # of all namespaces: for lists
        else:
            inside = f"/namespaces/{namespace}" if self.namespaced else ""
            where = f"{self.prefix}{inside}/{self.plural}"
        return where + (f"/{quote(name)}" if name else "") + (f"/{subresource}" if subresource else "")


class Api:
    """One user's connections to one API server."""

    def __init__(self, kubeconfig: Path) -> None:
        known = yaml.safe_load(kubeconfig.read_text())
        wanted = known["current-context"]
        context = next(entry["context"] for entry in known["contexts"] if entry["name"] == wanted)
        cluster = next(entry["cluster"] for entry in known["clusters"] if entry["name"] == context["cluster"])
        user = next(entry["user"] for entry in known["users"] if entry["name"] == context["user"])
        self.url = str(cluster["server"]).rstrip("/")
        self._headers = {"Authorization": f"Bearer {user['token']}"} if user.get("token") else {}
        self._pool = _pool(cluster, user)
        self._resources: dict[str, Resource] = {}

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        content: str = JSON,
        *,
        accept: str = JSON,
        seconds: float = 10,
    ) -> Any:
        """The parsed answer; ApiError with the server's own words, LabError when it does not answer."""
        headers = {**self._headers, "Accept": accept, **({"Content-Type": content} if body is not None else {})}
        data = None if body is None else json.dumps(body).encode()
        try:
            answer = self._pool.request(
                method, self.url + path, body=data, headers=headers, timeout=seconds, retries=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise LabError(f"{method} {path}: {error}") from error
        text = answer.data.decode(errors="replace")
        parsed = json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text
        if answer.status >= 300:
            raise ApiError(answer.status, f"{method} {path}", parsed if isinstance(parsed, dict) else {"message": text})
        return parsed

    def ready(self) -> bool:
        """Does it say that it is ready? No answer is a no."""
        try:
            self.request("GET", "/readyz", seconds=2)
        except LabError:
            return False
        return True

    def resource(self, kind: str, api_version: str | None = None) -> Resource:
        """By kind, plural, singular or short name; the first group that has it unless `api_version` says which."""
        key = f"{api_version or ''} {kind.lower()}"
        if key not in self._resources:
            self._discover()
        if key not in self._resources:
            raise LabError(f"the cluster knows no {kind} {api_version or ''}")
        return self._resources[key]

    def _discover(self) -> None:
        found: dict[str, Resource] = {}
        for root in ("/api", "/apis"):
            for group in self.request("GET", root, accept=_DISCOVERY)["items"]:
                for rank, version in enumerate(group["versions"]):
                    name = group["metadata"].get("name", "")
                    full = f"{name}/{version['version']}" if name else version["version"]
                    _note(found, f"{root}/{full}" if name else f"{root}/{version['version']}", full, version, rank)
        self._resources = found

    def create(self, document: Mapping[str, Any], namespace: str | None = None, query: str = "") -> dict[str, Any]:
        resource, space, _name = self._place(document, namespace)
        return dict(self.request("POST", resource.path(space) + query, document))

    def apply(self, document: Mapping[str, Any], namespace: str | None = None) -> dict[str, Any]:
        """Server-side, as `lab`: creates or updates."""
        resource, space, name = self._place(document, namespace)
        query = "?" + urlencode({"fieldManager": "lab", "force": "true"})
        return dict(self.request("PATCH", resource.path(space, name) + query, document, APPLY))

    def get(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        return dict(self.request("GET", self.resource(kind).path(namespace, name)))

    def objects(self, kind: str, namespace: str | None = None, selector: str = "") -> list[dict[str, Any]]:
        """Of one namespace, or of all."""
        query = "?" + urlencode({"labelSelector": selector}) if selector else ""
        listed = self.request("GET", self.resource(kind).path(namespace) + query)
        extra = {"kind": self.resource(kind).kind, "apiVersion": listed["apiVersion"]}
        return [{**extra, **item} for item in listed["items"]]

    def patch(
        self,
        kind: str,
        name: str,
        namespace: str | None,
        body: Any,
        *,
        subresource: str = "",
        content: str = MERGE,
    ) -> dict[str, Any]:
        path = self.resource(kind).path(namespace, name, subresource)
        return dict(self.request("PATCH", path, body, content))

    def delete(self, kind: str, name: str, namespace: str | None = None, **options: Any) -> None:
        """Harmless when it is gone already."""
        try:
            self.request("DELETE", self.resource(kind).path(namespace, name), options or None)
        except ApiError as error:
            if error.status != 404:
                raise

    def _place(self, document: Mapping[str, Any], namespace: str | None) -> tuple[Resource, str | None, str]:
        resource = self.resource(document["kind"], document["apiVersion"])
        meta = document.get("metadata", {})
        space = (meta.get("namespace") or namespace or "default") if resource.namespaced else None
        return resource, space, meta.get("name", "")


def _note(found: dict[str, Resource], prefix: str, full: str, version: Mapping[str, Any], rank: int) -> None:
    for entry in version["resources"]:
        if "responseKind" not in entry:
            continue
        kind = entry["responseKind"].get("kind") or ""
        resource = Resource(prefix, entry["resource"], kind, entry["scope"] == "Namespaced")
        names = {kind, entry["resource"], entry.get("singularResource", ""), *entry.get("shortNames", ())}
        for name in filter(None, names):
            found[f"{full} {name.lower()}"] = resource
            if rank == 0:
                found.setdefault(f" {name.lower()}", resource)


def _pool(cluster: Mapping[str, Any], user: Mapping[str, Any]) -> urllib3.PoolManager:
    """The ssl module takes a client's key from files only: they are gone when this returns."""
    context = urllib3.util.ssl_.create_urllib3_context()
    if cluster.get("insecure-skip-tls-verify"):
        raise LabError("the lab does not talk to a server that it cannot recognise")
    authority = _text(cluster, "certificate-authority")
    if authority:
        context.load_verify_locations(cadata=authority.decode())
    else:
        context.load_default_certs()
    crt, key = _text(user, "client-certificate"), _text(user, "client-key")
    if crt and key:
        with tempfile.NamedTemporaryFile() as both:
            both.write(crt + b"\n" + key)
            both.flush()
            context.load_cert_chain(both.name)
    return urllib3.PoolManager(maxsize=8, ssl_context=context, retries=False)


def _text(holder: Mapping[str, Any], name: str) -> bytes | None:
    if holder.get(f"{name}-data"):
        return base64.b64decode(holder[f"{name}-data"])
    return Path(holder[name]).read_bytes() if holder.get(name) else None
