# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One cluster, through which a module does all that it does: raw JSON, page by page, no models of objects."""

from __future__ import annotations

import importlib
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol
from urllib.parse import urlencode

from .._core.errors import Kind as ErrorKind
from .._core.errors import OpsError
from .._core.plan import Target
from .._core.spec import Params
from .address import Address, Line, address_of, open_line
from .errors import Json, expired_token, refusal
from .kinds import ACCESS_REVIEW, NAMESPACE, Kind

#: Under this name our writes stand in C(managedFields) and in the audit log.
MANAGER = "sre.runbooks"

#: Objects a page: the API server's own tools take as many.
PAGE = 500

#: How often a list is begun anew that expires again and again while it is read.
_RESTARTS = 5
#: Seconds between the tries of a request that does no harm twice; more than C(_PATIENCE) is nobody made to wait.
_PAUSES = (0.2, 0.5, 1.0)
_PATIENCE = 10.0
_BUSY = (429, 503)


class Patch(StrEnum):
    """How a patch is to be read. Strategic merges know that containers and env are keyed by name."""

    STRATEGIC = "application/strategic-merge-patch+json"
    MERGE = "application/merge-patch+json"
    JSON = "application/json-patch+json"


class Api(Protocol):
    """Requests to an API server. Whatever answers these can be operated on; every refusal is an OpsError."""

    def get(self, path: str, **query: str) -> Json:
        """One object."""

    def pages(self, path: str, **query: str) -> Iterator[list[Json]]:
        """The objects of a list, a page at a time. A list that expires on the way is gone on with, none comes twice."""

    def text(self, path: str, **query: str) -> bytes:
        """What is not JSON: a log."""

    def patch(self, path: str, patch: Any, how: Patch, *, dry_run: bool = False) -> Json:
        """Changes a part of an object; the object as it is then."""

    def put(self, path: str, body: Json, *, dry_run: bool = False) -> Json:
        """Puts a whole object in the place of another; the object as it is then."""

    def post(self, path: str, body: Json, *, dry_run: bool = False) -> Json:
        """Creates an object, or asks a question that is put as one."""

    def delete(self, path: str, options: Json, *, dry_run: bool = False) -> Json:
        """Deletes one object; C(options) are DeleteOptions, with the preconditions in them."""

    def close(self) -> None:
        """Lets go of the connections."""


@dataclass(frozen=True, slots=True)
class Kube:
    """The cluster behind the connection options. C(uid) is that of C(kube-system), empty where it may not be read."""

    target: Target
    api: Api
    uid: str = ""

    def get(self, kind: Kind, namespace: str, name: str) -> Json:
        """The object; raises C(not_found), with a code of its own where there is not even the namespace."""
        found = self.find(kind, namespace, name)
        if found is not None:
            return found
        if kind.namespaced:
            require_namespace(self, namespace)
        hint = "Check name, namespace and cluster."
        words = f"there is no {kind.name} {namespace + '/' if kind.namespaced else ''}{name}"
        raise OpsError(ErrorKind.NOT_FOUND, words, hint, code="not_found")

    def find(self, kind: Kind, namespace: str, name: str) -> Json | None:
        """The object, None where there is none."""
        try:
            return self.api.get(kind.path(namespace, name))
        except OpsError as error:
            if error.kind is ErrorKind.NOT_FOUND:
                return None
            raise

    def all(self, kind: Kind, namespace: str = "", **query: str) -> list[Json]:
        """All objects of a kind in a namespace, or in all. C(labelSelector) and C(fieldSelector) select."""
        return [item for page in self.api.pages(kind.path(namespace), **query) for item in page]


class HttpApi:
    """The API over the Kubernetes client's own pool of connections. Writes are never repeated by themselves."""

    def __init__(self, line: Line, address: Address) -> None:
        self._headers = importlib.import_module("urllib3").HTTPHeaderDict
        self._broken = importlib.import_module("urllib3.exceptions").ProtocolError
        self._line = line
        self._timeout = importlib.import_module("urllib3.util").Timeout(
            connect=address.connect_timeout, read=address.request_timeout
        )

    def get(self, path: str, **query: str) -> Json:
        return _parsed(self._read(path, query))

    def pages(self, path: str, **query: str) -> Iterator[list[Json]]:
        token, seen, restarts = "", set[str](), 0
        while True:
            asked = {"limit": str(PAGE), **query, **({"continue": token} if token else {})}
            code, body = self._ask("GET", path, asked)
            if code == 410 and token and restarts < _RESTARTS:
                token, restarts = expired_token(body), restarts + 1
                continue
            answer = _parsed(_granted(code, body))
            items = answer.get("items") or []
            names = [_name_of(item) for item in items]
            yield [item for item, name in zip(items, names, strict=True) if not restarts or name not in seen]
            seen.update(names)
            token = str((answer.get("metadata") or {}).get("continue") or "")
            if not token:
                return

    def text(self, path: str, **query: str) -> bytes:
        return self._read(path, query)

    def patch(self, path: str, patch: Any, how: Patch, *, dry_run: bool = False) -> Json:
        return self._write("PATCH", path, patch, dry_run, how.value)

    def put(self, path: str, body: Json, *, dry_run: bool = False) -> Json:
        return self._write("PUT", path, body, dry_run)

    def post(self, path: str, body: Json, *, dry_run: bool = False) -> Json:
        return self._write("POST", path, body, dry_run)

    def delete(self, path: str, options: Json, *, dry_run: bool = False) -> Json:
        # Beside a body the API server does not look at the query: it would delete for real.
        return self._write("DELETE", path, {**options, "dryRun": ["All"]} if dry_run else options, dry_run)

    def close(self) -> None:
        self._line.pool.clear()

    def _read(self, path: str, query: Mapping[str, str]) -> bytes:
        return _granted(*self._ask("GET", path, query))

    def _write(self, method: str, path: str, body: Any, dry_run: bool, content: str = "application/json") -> Json:
        query = {"fieldManager": MANAGER} if method in ("PATCH", "PUT", "POST") else {}
        if dry_run:
            query["dryRun"] = "All"
        return _parsed(_granted(*self._ask(method, path, query, body, content)))

    def _ask(
        self, method: str, path: str, query: Mapping[str, str], body: Any = None, content: str = ""
    ) -> tuple[int, bytes]:
        """Status and body. What does no harm twice is asked again when the server is busy or hangs up."""
        url = f"{self._line.url}{path}" + (f"?{urlencode(query)}" if query else "")
        harmless = method == "GET" or "dryRun" in query or path == ACCESS_REVIEW.path()
        for pause in _PAUSES if harmless else ():
            try:
                answer = self._send(method, url, body, content)
            except self._broken:
                continue
            asked = str(answer.headers.get("Retry-After") or "")
            wanted = float(asked) if asked.isdigit() else 0.0
            if answer.status not in _BUSY or wanted > _PATIENCE:
                return answer.status, answer.data
            time.sleep(max(pause, wanted))
        answer = self._send(method, url, body, content)
        return answer.status, answer.data

    def _send(self, method: str, url: str, body: Any, content: str) -> Any:
        headers = self._headers({"accept": "application/json, */*", "user-agent": MANAGER})
        for name, value in self._line.headers():
            headers.add(name, value)
        if content:
            headers["content-type"] = content
        data = None if body is None else json.dumps(body)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whoever sets validate_certs=false knows
            return self._line.pool.request(
                method, url, body=data, headers=headers, timeout=self._timeout, retries=False, redirect=False
            )


@contextmanager
def connect(params: Params) -> Iterator[Kube]:
    """Opens the cluster that the options name, proves that it is the expected one, closes it."""
    address = address_of(params, os.environ)
    line = open_line(address)
    api = HttpApi(line, address)
    try:
        kube = identify(api, line.place)
        expect(params, kube)
        yield kube
    finally:
        api.close()


def identify(api: Api, place: str) -> Kube:
    """Which cluster answers. C(kube-system) lives as long as its cluster; who may not read it goes by the address."""
    minor = _version(api)
    try:
        uid = str(api.get(NAMESPACE.path(name="kube-system"))["metadata"]["uid"])
    except OpsError as error:
        if error.kind is not ErrorKind.FORBIDDEN:
            raise
        uid = ""
    return Kube(Target("kubernetes", place, uid or place, minor, "cluster", _managed(minor)), api, uid)


def _version(api: Api) -> str:
    """C(1.36.3). Many things answer on port 443: only an API server has this page."""
    try:
        found = api.get("/version")
    except OpsError as error:
        if error.kind not in (ErrorKind.NOT_FOUND, ErrorKind.UNSUPPORTED):
            raise
        found = {}
    if not isinstance(found, dict) or "gitVersion" not in found:
        hint = "Whatever answers there is no API server, or a login page before it. Check host, kubeconfig and proxy."
        raise OpsError(ErrorKind.UNSUPPORTED, "/version is not that of Kubernetes", hint, code="not_kubernetes")
    return str(found["gitVersion"]).lstrip("v")


def expect(params: Params, kube: Kube) -> None:
    """Refuses a cluster that is not the one meant."""
    wanted, place = str(params.get("expect_cluster") or ""), kube.target.name
    # A host that has a path holds several clusters: its name alone says nothing.
    names = {kube.uid, place, "" if "/" in place else place.rpartition(":")[0]}
    if wanted and wanted.removeprefix("https://").rstrip("/") not in names - {""}:
        words = f"{kube.target.name} ({kube.uid or 'its kube-system may not be read'}) is not {wanted}"
        hint = "Look at kubeconfig, context, KUBECONFIG and K8S_AUTH_*: one of them points elsewhere."
        raise OpsError(ErrorKind.PRECONDITION, words, hint, code="wrong_target")


def require_namespace(kube: Kube, name: str) -> None:
    """Raises C(not_found) for a namespace that is not there: its lists would only be empty, as if all were well."""
    try:
        found = kube.find(NAMESPACE, "", name)
    except OpsError as error:
        if error.kind is not ErrorKind.FORBIDDEN:
            raise
        return  # who may not look has to go by what the lists say
    if found is None:
        hint = "Check namespace, kubeconfig and context: it may be there in another cluster."
        raise OpsError(ErrorKind.NOT_FOUND, f"there is no namespace {name}", hint, code="no_namespace")


@dataclass(frozen=True, slots=True)
class Right:
    """What a step will ask the API server to do, so that it can be asked for before the first one."""

    verb: str
    kind: Kind
    namespace: str
    name: str = ""
    sub: str = ""

    def __str__(self) -> str:
        resource = "/".join(part for part in (self.kind.plural, self.sub) if part)
        return f"{self.verb} {resource}{f' in {self.namespace}' if self.namespace else ''}"


def demand(kube: Kube, *rights: Right) -> None:
    """Raises C(forbidden) with all rights that are missing, so that no work ends half-way for want of one."""
    missing = [right for right in dict.fromkeys(rights) if not allowed(kube, right)]
    if missing:
        words = f"this user may not {', nor '.join(str(right) for right in missing)}"
        hint = "Have these rights granted by a Role, then run again. Nothing was changed."
        raise OpsError(ErrorKind.FORBIDDEN, words, hint, code="rbac")


def allowed(kube: Kube, right: Right) -> bool:
    """The API server's own answer, by a SelfSubjectAccessReview, which everybody may ask and which keeps nothing."""
    attributes = {
        "verb": right.verb,
        "group": right.kind.group,
        "resource": right.kind.plural,
        "subresource": right.sub,
        "namespace": right.namespace,
        "name": right.name,
    }
    review = {
        "apiVersion": ACCESS_REVIEW.api,
        "kind": ACCESS_REVIEW.name,
        "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
    }
    return bool((kube.api.post(ACCESS_REVIEW.path(), review).get("status") or {}).get("allowed"))


def _name_of(item: Json) -> str:
    """What is measured has no uid."""
    metadata = item["metadata"]
    return str(metadata.get("uid") or f"{metadata.get('namespace', '')}/{metadata['name']}")


def _granted(code: int, body: bytes) -> bytes:
    if not 200 <= code < 300:
        raise refusal(code, body)
    return body


def _parsed(body: bytes) -> Json:
    try:
        found: Json = json.loads(body)
    except ValueError as error:
        hint = "Whatever answers there is not an API server. Check host and proxy."
        raise OpsError(ErrorKind.UNSUPPORTED, "the answer is not JSON", hint, code="not_kubernetes") from error
    return found


def _managed(version: str) -> str:
    """Whose cluster it is, as far as its version tells; empty for one's own."""
    names = {"-eks-": "eks", "-gke.": "gke", "-aliyun": "ack", "+k3s": "k3s", "+rke2": "rke2"}
    return next((name for mark, name in names.items() if mark in version), "")
