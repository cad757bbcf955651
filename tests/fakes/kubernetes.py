# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""An API server in memory that speaks the `Api` protocol, for tests of plans. No controllers run behind it.

`tests/contract/test_k8s_api.py` holds it to what a real one says. Errors come by the same way as from HTTP.
"""

from __future__ import annotations

import copy
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from ansible_collections.sre.runbooks.plugins.module_utils._core.door import Door, Product
from ansible_collections.sre.runbooks.plugins.module_utils._core.plan import Target
from ansible_collections.sre.runbooks.plugins.module_utils._core.spec import Params
from ansible_collections.sre.runbooks.plugins.module_utils._k8s import kinds
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.client import Kube, Patch
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.errors import Json, refusal, translate
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.kinds import Kind
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.product import CONNECTION
from tests.fakes.kubernetes_patch import BadPatch, patched

VERSION = "v1.36.3"
#: The uid of `kube-system`.
UID = "0c8a2d5e-0000-4000-8000-00000000fa4e"
_KINDS = [kind for kind in vars(kinds).values() if isinstance(kind, Kind)]
#: Custom and aggregated APIs answer only once an object of theirs is there.
_EXTRA = (kinds.SCALED_OBJECT, kinds.POD_METRICS)
_WORDS = {404: "NotFound", 409: "Conflict", 422: "Invalid", 403: "Forbidden", 400: "BadRequest", 429: "TooManyRequests"}
_VERBS = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
#: What may be selected by field, beside name and namespace.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "pods": ("spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName", "status.phase"),
    "events": ("reason", "type", "involvedObject.kind", "involvedObject.name", "involvedObject.uid"),
    "nodes": ("spec.unschedulable",),
    "namespaces": ("status.phase",),
    "secrets": ("type",),
    "jobs": ("status.successful",),
    "replicasets": ("status.replicas",),
}


@dataclass(frozen=True)
class Request:
    """One request, with its path taken apart. `name` is empty for a list, `sub` for the object itself."""

    method: str
    kind: Kind
    namespace: str
    name: str
    sub: str
    query: Mapping[str, str]
    body: Any = None
    dry_run: bool = False

    @property
    def key(self) -> tuple[str, str, str, str]:
        return _key(self.kind, self.namespace, self.name)

    @property
    def verb(self) -> str:
        if self.method == "GET":
            return "get" if self.name else "list"
        return _VERBS[self.method]


@dataclass(frozen=True)
class Allow:
    """A rule of RBAC; an empty part is any. Resources are plurals, subresources `pods/eviction`."""

    verbs: frozenset[str]
    resources: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()

    def covers(self, verb: str, resource: str, namespace: str) -> bool:
        return (
            verb in self.verbs
            and (not self.resources or resource in self.resources)
            and (not self.namespaces or namespace in self.namespaces)
        )


def allow(verbs: str, resources: str = "", namespaces: str = "") -> Allow:
    """The same from words: `allow("get list", "pods deployments", "shop")`."""
    return Allow(frozenset(verbs.split()), frozenset(resources.split()), frozenset(namespaces.split()))


def container(name: str = "app", image: str = "registry.example/app:1", **fields: Any) -> Json:
    return {"name": name, "image": image, **fields}


@dataclass
class FakeApi:
    """Put manifests in with `add`. `rules` None lets one do anything; `page` is how many objects a page holds.

    `before` is called ahead of each request, to change the world or to raise; `refuse` has an answer ready for it.
    `log` keeps the requests, `written` those of them that changed something.
    """

    rules: tuple[Allow, ...] | None = None
    page: int = 3
    store: dict[tuple[str, str, str, str], Json] = field(default_factory=dict)
    logs: dict[tuple[str, str, str, bool], bytes] = field(default_factory=dict)
    log: list[Request] = field(default_factory=list)
    written: list[Request] = field(default_factory=list)
    before: list[Callable[[Request], None]] = field(default_factory=list)
    served: set[Kind] = field(default_factory=lambda: {kind for kind in _KINDS if kind not in _EXTRA})
    clock: int = 0

    def __post_init__(self) -> None:
        for name in ("kube-system", "default"):
            self.add({"kind": "Namespace", "metadata": {"name": name}})
        self.store[_key(kinds.NAMESPACE, "", "kube-system")]["metadata"]["uid"] = UID

    # What a test prepares.

    def add(self, manifest: Mapping[str, Any], namespace: str = "shop") -> Json:
        """Puts an object there as it is, its status too. A namespace appears with its first object."""
        made: Json = json.loads(json.dumps(manifest))  # parts that it shares with others become its own
        kind = next(kind for kind in _KINDS if kind.name == made["kind"])
        made.setdefault("apiVersion", kind.api)
        self.served.add(kind)
        meta = made["metadata"]
        if kind.namespaced:
            space = meta.setdefault("namespace", namespace)
            if _key(kinds.NAMESPACE, "", space) not in self.store:
                self.add({"kind": "Namespace", "metadata": {"name": space}})
        self._stamp(made)
        self.store[_key(kind, meta.get("namespace", ""), meta["name"])] = made
        return made

    def change(self, kind: Kind, namespace: str, name: str, patch: Any, how: Patch = Patch.MERGE) -> Json:
        """What somebody else does to an object: as `patch`, status too, without a trace in `log`."""
        key = _key(kind, namespace, name)
        return self._keep(key, patched(self.store[key], patch, how))

    def remove(self, kind: Kind, namespace: str, name: str) -> Json:
        """What somebody else deletes."""
        return self.store.pop(_key(kind, namespace, name))

    def refuse(self, method: str, part: str, code: int, words: str = "", times: int = 10**9, **status: Any) -> None:
        """Answers requests of this method, to paths like `pods/web-1/eviction` or `pods`, with a status."""
        left = [times]

        def check(request: Request) -> None:
            path = "/".join(filter(None, (request.kind.plural, request.name, request.sub)))
            if request.method == method and part in (path, request.kind.plural) and left[0] > 0:
                left[0] -= 1
                raise _error(code, words or f"refused with {code}", **status)

        self.before.append(check)

    # The protocol.

    def get(self, path: str, **query: str) -> Json:
        if path == "/version":
            return {"gitVersion": VERSION, "major": "1", "minor": "36"}
        request = self._asked("GET", path, query)
        found = self._found(request)
        return _scale(found) if request.sub == "scale" else copy.deepcopy(found)

    def pages(self, path: str, **query: str) -> Iterator[list[Json]]:
        request = self._asked("GET", path, query)
        chosen = [one for one in self._listed(request) if _selected(request.kind, one, query)]
        for start in range(0, max(1, len(chosen)), self.page):
            if start:
                self._asked("GET", path, {**query, "continue": str(start)})
            # An entry of a list does not say its kind.
            bare = [
                {name: part for name, part in one.items() if name not in ("kind", "apiVersion")}
                for one in chosen[start : start + self.page]
            ]
            yield copy.deepcopy(bare)

    def text(self, path: str, **query: str) -> bytes:
        request = self._asked("GET", path, query)
        pod = self._found(request)
        names = [one["name"] for one in pod["spec"].get("containers", [])]
        if "container" not in query and len(names) > 1:
            words = f"a container name must be specified for pod {request.name}, choose one of: {names}"
            raise _error(400, words)
        name = query.get("container") or names[0]
        if name not in names:
            raise _error(400, f"container {name} is not valid for pod {request.name}")
        previous = query.get("previous") == "true"
        if (request.namespace, request.name, name, previous) not in self.logs:
            if previous:
                raise _error(400, f'previous terminated container "{name}" in pod "{request.name}" not found')
            return b""
        return _shortened(self.logs[request.namespace, request.name, name, previous], query)

    def patch(self, path: str, patch: Any, how: Patch, *, dry_run: bool = False) -> Json:
        request = self._asked("PATCH", path, {}, patch, dry_run)
        found = self._found(request)
        seen = _scale(found) if request.sub == "scale" else found
        try:
            wanted = patched(seen, patch, how)
        except BadPatch as error:
            raise _error(error.code, str(error)) from error
        return self._update(request, found, wanted)

    def put(self, path: str, body: Json, *, dry_run: bool = False) -> Json:
        request = self._asked("PUT", path, {}, body, dry_run)
        return self._update(request, self._found(request), json.loads(json.dumps(body)))

    def post(self, path: str, body: Json, *, dry_run: bool = False) -> Json:
        request = self._asked("POST", path, {}, body, dry_run)
        if request.kind is kinds.ACCESS_REVIEW:
            return self._reviewed(body)
        if request.sub == "eviction":
            return self._evict(request)
        return self._create(request, json.loads(json.dumps(body)))

    def delete(self, path: str, options: Json, *, dry_run: bool = False) -> Json:
        request = self._asked("DELETE", path, {}, options, dry_run)
        return self._delete(request, self._found(request), options)

    def close(self) -> None:
        """Nothing is held."""

    # How it is done.

    def _asked(
        self, method: str, path: str, query: Mapping[str, str], body: Any = None, dry_run: bool = False
    ) -> Request:
        request = _request(method, path, query, body, dry_run)
        self.log.append(request)
        for check in self.before:
            check(request)
        if request.kind not in self.served:
            raise refusal(404, b"404 page not found")
        resource = "/".join(filter(None, (request.kind.plural, request.sub)))
        if request.kind is not kinds.ACCESS_REVIEW and not self._may(request.verb, resource, request.namespace):
            words = f'{resource} "{request.name}" is forbidden: User "fake" cannot {request.verb} resource "{resource}"'
            raise _error(403, words)
        return request

    def _may(self, verb: str, resource: str, namespace: str) -> bool:
        return self.rules is None or any(rule.covers(verb, resource, namespace) for rule in self.rules)

    def _reviewed(self, review: Json) -> Json:
        asked = review["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
        allowed = self._may(asked["verb"], resource, asked.get("namespace", ""))
        return {**review, "status": {"allowed": allowed}}

    def _found(self, request: Request) -> Json:
        if request.key not in self.store:
            raise _gone(request)
        return self.store[request.key]

    def _listed(self, request: Request) -> list[Json]:
        group, plural, space, _name = request.key
        found = [key for key in self.store if key[:2] == (group, plural) and space in ("", key[2])]
        return [self.store[key] for key in sorted(found)]

    def _update(self, request: Request, found: Json, wanted: Json) -> Json:
        meta, asked = found["metadata"], wanted["metadata"]
        if asked.get("uid", meta["uid"]) != meta["uid"]:
            causes = [{"reason": "FieldValueInvalid", "field": "metadata.uid", "message": "field is immutable"}]
            raise _error(422, f'"{request.name}" is invalid: metadata.uid', details={"causes": causes})
        if asked.get("resourceVersion", meta["resourceVersion"]) != meta["resourceVersion"]:
            raise _changed(request, "the object has been modified; please apply your changes to the latest version")
        fixed = ("uid", "resourceVersion", "creationTimestamp", "generation", "namespace", "name")
        wanted["metadata"] = {**asked, **{name: meta[name] for name in fixed if name in meta}}
        if request.sub == "scale":
            replicas = {"replicas": wanted["spec"].get("replicas", 0)}
            wanted = {**copy.deepcopy(found), "spec": {**found["spec"], **replicas}}
        elif request.sub == "status":
            wanted = {**copy.deepcopy(found), "status": wanted.get("status", {})}
        elif "status" in found or "status" in wanted:
            wanted["status"] = found.get("status", {})
        made = _counted(found, wanted) if request.dry_run else self._keep(request.key, wanted)
        if made is not found and not request.dry_run:
            self.written.append(request)
        return copy.deepcopy(_scale(made) if request.sub == "scale" else made)

    def _keep(self, key: tuple[str, str, str, str], wanted: Json) -> Json:
        """Stores what differs from what is there; a version more, and a generation more where the spec has changed."""
        found = self.store[key]
        if wanted == found:
            return found
        wanted = _counted(found, wanted)
        wanted["metadata"]["resourceVersion"] = self._tick()
        self.store[key] = wanted
        if wanted["metadata"].get("deletionTimestamp") and not wanted["metadata"].get("finalizers"):
            del self.store[key]
        return wanted

    def _create(self, request: Request, made: Json) -> Json:
        meta = made["metadata"]
        if request.namespace and _key(kinds.NAMESPACE, "", request.namespace) not in self.store:
            raise _error(404, f'namespaces "{request.namespace}" not found')
        name = meta.setdefault("name", f"{meta.get('generateName', '')}{uuid.uuid4().hex[:5]}")
        if _key(request.kind, request.namespace, name) in self.store:
            raise _error(409, f'{request.kind.plural} "{name}" already exists', reason="AlreadyExists")
        if request.kind.namespaced:
            meta["namespace"] = request.namespace
        self._stamp(made)
        if not request.dry_run:
            self.store[_key(request.kind, request.namespace, name)] = made
            self.written.append(request)
        return copy.deepcopy(made)

    def _delete(self, request: Request, found: Json, options: Json) -> Json:
        asked = options.get("preconditions") or {}
        for name in ("uid", "resourceVersion"):
            if asked.get(name, found["metadata"][name]) != found["metadata"][name]:
                words = f"the {name} in the precondition ({asked[name]}) does not match the one in the record"
                raise _changed(request, words)
        if request.dry_run:
            return copy.deepcopy(found)
        self.written.append(request)
        if found["metadata"].get("finalizers"):
            meta = {**found["metadata"], "deletionTimestamp": self._moment()}
            return copy.deepcopy(self._keep(request.key, {**found, "metadata": meta}))
        del self.store[request.key]
        return {"kind": "Status", "status": "Success", "details": {"name": request.name}}

    def _evict(self, request: Request) -> Json:
        pod = self._found(request)
        labels = pod["metadata"].get("labels") or {}
        budgets = [
            one
            for key, one in self.store.items()
            if key[:3] == ("policy", "poddisruptionbudgets", request.namespace)
            and _labelled(_query(one["spec"].get("selector") or {}), labels)
        ]
        over = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed", "Pending")
        if len(budgets) > 1 and not over:
            words = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
            raise _error(500, words, reason="InternalError")
        for budget in () if over else budgets:
            self._disrupt(request, pod, budget)
        self._delete(request, pod, request.body.get("deleteOptions") or {})
        return {"kind": "Status", "status": "Success"}

    def _disrupt(self, request: Request, pod: Json, budget: Json) -> None:
        status = budget.get("status") or {}
        conditions = (pod.get("status") or {}).get("conditions") or []
        ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
        healthy = status.get("currentHealthy", 0) >= status.get("desiredHealthy", 0) > 0
        if not ready and (healthy or budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow"):
            return
        if status.get("disruptionsAllowed", 0) <= 0:
            name = budget["metadata"]["name"]
            needs = f"needs {status.get('desiredHealthy', 0)} healthy pods and has {status.get('currentHealthy', 0)}"
            causes = [{"reason": "DisruptionBudget", "message": f"The disruption budget {name} {needs} currently"}]
            words = "Cannot evict pod as it would violate the pod's disruption budget."
            raise _error(429, words, details={"causes": causes})
        if not request.dry_run:
            status["disruptionsAllowed"] -= 1

    def _stamp(self, made: Json) -> None:
        meta = made["metadata"]
        meta.setdefault("uid", str(uuid.uuid4()))
        meta.setdefault("creationTimestamp", self._moment())
        if "spec" in made:
            meta.setdefault("generation", 1)
        meta["resourceVersion"] = self._tick()

    def _tick(self) -> str:
        self.clock += 1
        return str(self.clock)

    def _moment(self) -> str:
        return f"2026-11-21T00:{self.clock // 60 % 60:02}:{self.clock % 60:02}Z"


def kube_of(api: FakeApi) -> Kube:
    """The cluster that a plan gets."""
    return Kube(Target("kubernetes", "fake:6443", UID, VERSION.lstrip("v"), "cluster"), api, UID)


def door_of(door: Door, kube: Kube) -> Door:
    """The same module, connected to a fake."""

    @contextmanager
    def connect(_params: Params) -> Iterator[Kube]:
        yield kube

    return Door(Product("k8s", "kubernetes", CONNECTION, connect, translate), door.spec, door.plan)


def _key(kind: Kind, namespace: str, name: str) -> tuple[str, str, str, str]:
    return kind.group, kind.plural, namespace if kind.namespaced else "", name


def _request(method: str, path: str, query: Mapping[str, str], body: Any, dry_run: bool) -> Request:
    parts = [unquote(part) for part in path.strip("/").split("/")]
    group, parts = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    plural, name, sub = (*parts, "", "")[:3]
    kind = next((kind for kind in _KINDS if (kind.group, kind.plural) == (group, plural)), Kind("", plural, group))
    return Request(method, kind, namespace, name, sub, query, copy.deepcopy(body), dry_run)


def _error(code: int, words: str, **status: Any) -> Exception:
    answer = {"kind": "Status", "code": code, "reason": _WORDS.get(code, ""), "message": words, **status}
    return refusal(code, json.dumps(answer).encode())


def _gone(request: Request) -> Exception:
    title = f"{request.kind.plural}.{request.kind.group}".rstrip(".")
    return _error(404, f'{title} "{request.name}" not found')


def _changed(request: Request, words: str) -> Exception:
    title = f"{request.kind.plural}.{request.kind.group}".rstrip(".")
    return _error(409, f'Operation cannot be fulfilled on {title} "{request.name}": {words}')


def _counted(found: Json, wanted: Json) -> Json:
    """With a generation more where more than labels, notes and status differ."""
    aside = ("metadata", "status")
    if {k: v for k, v in wanted.items() if k not in aside} != {k: v for k, v in found.items() if k not in aside}:
        wanted["metadata"]["generation"] = found["metadata"].get("generation", 0) + 1
    return wanted


def _scale(found: Json) -> Json:
    meta = {name: found["metadata"][name] for name in ("name", "namespace", "uid", "resourceVersion")}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": meta,
        "spec": {"replicas": found["spec"].get("replicas", 1)},
        "status": {"replicas": (found.get("status") or {}).get("replicas", 0)},
    }


def _shortened(text: bytes, query: Mapping[str, str]) -> bytes:
    lines = text.splitlines(keepends=True)
    if "tailLines" in query:
        tail = int(query["tailLines"])
        lines = lines[-tail:] if tail else []
    return b"".join(lines)[: int(query["limitBytes"]) if "limitBytes" in query else None]


def _selected(kind: Kind, found: Json, query: Mapping[str, str]) -> bool:
    labels = found["metadata"].get("labels") or {}
    if not _labelled(query.get("labelSelector", ""), labels):
        return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        name, sign, value = re.split(r"(!=|==?)", term, maxsplit=1)
        if name not in ("metadata.name", "metadata.namespace", *_FIELDS.get(kind.plural, ())):
            raise _error(400, f"Unable to find {kind.plural} that match field selector: {name!r} not supported")
        part: Any = found
        for step in name.split("."):
            part = (part or {}).get(step)
        if (str(part if part is not None else "") == value) is (sign == "!="):
            return False
    return True


def _query(selector: Json) -> str:
    terms = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for one in selector.get("matchExpressions") or []:
        words = {"Exists": one["key"], "DoesNotExist": f"!{one['key']}"}
        sign = "in" if one["operator"] == "In" else "notin"
        terms.append(words.get(one["operator"]) or f"{one['key']} {sign} ({','.join(one['values'])})")
    return ",".join(terms)


def _labelled(selector: str, labels: Mapping[str, str]) -> bool:
    return all(_term(term.strip(), labels) for term in re.split(r",(?![^(]*\))", selector) if term.strip())


def _term(term: str, labels: Mapping[str, str]) -> bool:
    listed = re.fullmatch(r"(\S+)\s+(in|notin)\s+\((.*)\)", term)
    if listed:
        wanted = [value.strip() for value in listed[3].split(",")]
        return (labels.get(listed[1]) in wanted) is (listed[2] == "in")
    equal = re.fullmatch(r"([^=!\s]+)\s*(!=|==?)\s*(\S*)", term)
    if equal:
        return (labels.get(equal[1]) == equal[3]) is (equal[2] != "!=")
    if not re.fullmatch(r"!?\s*[\w./-]+", term):
        raise _error(400, f"unable to parse requirement: {term}")
    return term.lstrip("! ") not in labels if term.startswith("!") else term in labels
