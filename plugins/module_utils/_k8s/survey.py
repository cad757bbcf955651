# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a diagnosis reads, page by page, keeping only what is not plainly well; and what it was not let see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from .._core.errors import Kind as ErrorKind
from .._core.errors import OpsError, bad_parameter
from .._core.spec import Params
from .._core.units import parse_seconds
from .client import Kube
from .errors import Json
from .events import Events, gather
from .kinds import AUTOSCALER, DEPLOYMENT, EVENT, JOB, NAMESPACE, NODE, POD, WORKLOADS, Kind
from .nodes import Node, node_of
from .sets import LISTED, Set, set_of, target_of
from .slim import Pod, is_well, pod_of
from .workload import Workload, controller_of, replica_sets_of, workload_of

#: From so many namespaces on, one request for all of them is less than one for each.
_FEW = 8
_SINGLE_NODES = 5
_OWNERS = {**WORKLOADS, JOB.name: JOB}


@dataclass(frozen=True, slots=True)
class Asked:
    """What to look at, and how much of it. Seconds."""

    namespaces: tuple[str, ...]
    selector: str
    kind: str
    name: str
    since: int
    grace: int
    max_pods: int
    logs: str
    tail: int
    max_logs: int

    @classmethod
    def of(cls, params: Params) -> Asked:
        for name in ("max_pods", "max_logs", "tail"):
            if params[name] < 1:
                raise bad_parameter(name, f"{params[name]} is not a limit", "Give a number from 1.")
        if params["name"] and len(params["namespaces"]) != 1:
            raise bad_parameter("namespaces", "a workload has one namespace", "Name the one that it is in.")
        return cls(
            tuple(dict.fromkeys(params["namespaces"])),
            params["selector"] or "",
            params["kind"],
            params["name"] or "",
            parse_seconds(params["since"], "since"),
            parse_seconds(params["grace"], "grace"),
            params["max_pods"],
            params["logs"],
            params["tail"],
            params["max_logs"],
        )


class Eyes:
    """Reads, and goes on where something may not be seen. C(unseen) then says what, and why."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube
        self.unseen: dict[str, str] = {}

    def pages(self, kind: Kind, namespaces: Collection[str] = (), **query: str) -> Iterator[list[Json]]:
        """The pages of a kind in these namespaces, or in all where none is named."""
        for namespace in namespaces or ("",):
            try:
                yield from self.kube.api.pages(kind.path(namespace), **query)
            except OpsError as error:
                self.note(kind.plural, namespace, error)

    def all(self, kind: Kind, namespaces: Collection[str] = (), **query: str) -> Iterator[Json]:
        for page in self.pages(kind, namespaces, **query):
            yield from page

    def find(self, kind: Kind, namespace: str, name: str) -> Json | None:
        """One object, None where there is none, or it may not be seen."""
        try:
            return self.kube.find(kind, namespace, name)
        except OpsError as error:
            self.note(kind.plural, namespace, error)
            return None

    def note(self, what: str, namespace: str, error: OpsError) -> None:
        """Remembers what may not be seen; anything else is no matter of rights, and is raised."""
        if error.kind not in (ErrorKind.FORBIDDEN, ErrorKind.NOT_FOUND):
            raise error
        why = f"{error.kind} in {namespace}" if namespace else str(error.kind)
        known = self.unseen.get(what, "")
        self.unseen[what] = known if why in known.split("; ") else "; ".join(filter(None, (known, why)))


@dataclass(frozen=True, slots=True)
class Scope:
    """Where to look: namespaces, labels and, for one workload, the uids of what controls its pods."""

    namespaces: tuple[str, ...] = ()
    query: dict[str, str] = field(default_factory=dict)
    workload: Workload | None = None
    controllers: frozenset[str] = frozenset()


@dataclass(slots=True)
class Census:
    """All pods as numbers, and those that need a second look. C(everyone) holds all of them where that was asked for.

    C(serving) are the ready pods of each controller, by its uid: those of one template.
    """

    total: int = 0
    ready: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    suspects: list[Pod] = field(default_factory=list)
    everyone: list[Pod] = field(default_factory=list)
    serving: Counter[str] = field(default_factory=Counter)
    namespaces: set[str] = field(default_factory=set)
    truncated: bool = False


def scope_of(kube: Kube, asked: Asked) -> Scope:
    """The scope; raises C(not_found) for a workload that is not there."""
    query = {"labelSelector": asked.selector} if asked.selector else {}
    if not asked.name:
        return Scope(asked.namespaces, query)
    workload = workload_of(kube, asked.kind, asked.namespaces[0], asked.name)
    uids = {workload.uid}
    if workload.kind is DEPLOYMENT:
        uids = {one["metadata"]["uid"] for one in replica_sets_of(kube, workload)}
    return Scope(asked.namespaces, {"labelSelector": workload.selector}, workload, frozenset(uids))


def count_pods(eyes: Eyes, scope: Scope, asked: Asked, horizon: float) -> Census:
    """One pass over the pods, at most C(max_pods) of them."""
    census, since = Census(), written(horizon)
    for page in eyes.pages(POD, scope.namespaces, **scope.query):
        for manifest in page:
            if scope.workload and controller_of(manifest).get("uid") not in scope.controllers:
                continue
            if census.total >= asked.max_pods:
                census.truncated = True
                return census
            _count(census, manifest, since, asked.logs == "all")
    return census


def _count(census: Census, manifest: Json, since: str, keep: bool) -> None:
    phase = (manifest.get("status") or {}).get("phase") or "Unknown"
    census.total += 1
    census.namespaces.add(manifest["metadata"]["namespace"])
    census.phases[phase] += 1
    well = is_well(manifest, since)
    if well and phase == "Running":
        census.ready += 1
        census.serving[controller_of(manifest).get("uid", "")] += 1
    if well and not keep:
        return
    pod = pod_of(manifest)
    if keep:
        census.everyone.append(pod)
    if well:
        return
    census.suspects.append(pod)
    if pod.ready and phase == "Running" and not pod.deleted:
        census.ready += 1
        census.serving[pod.owner.uid] += 1


def read_sets(eyes: Eyes, scope: Scope) -> tuple[list[Set], list[Json]]:
    """The workloads and Jobs as slim values, and the autoscalers."""
    target = scope.workload
    if target:
        found = [set_of(target.kind, target.manifest)]
    else:
        every = ((kind, one) for kind in LISTED for one in eyes.all(kind, scope.namespaces, **scope.query))
        found = [set_of(kind, manifest) for kind, manifest in every]
    scalers = list(eyes.all(AUTOSCALER, scope.namespaces))
    if not scope.query:
        return found, scalers
    # An autoscaler bears no labels of the pods: it belongs to what it scales.
    titles = {one.title for one in found}
    return found, [one for one in scalers if target_of(one) in titles]


def known_namespaces(eyes: Eyes, scope: Scope, seen: Collection[str]) -> None:
    """Raises C(not_found) for a namespace that was named and is not there: its lists are empty, not refused."""
    for name in scope.namespaces:
        if name in seen:
            continue
        try:
            eyes.kube.get(NAMESPACE, "", name)
        except OpsError as error:
            if error.kind is ErrorKind.NOT_FOUND:
                hint = "Check the name and the cluster: a namespace that is not there looks like a healthy one."
                raise OpsError(
                    ErrorKind.NOT_FOUND, f"there is no namespace {name}", hint, code="no_namespace"
                ) from None
            eyes.note("namespaces", name, error)


def read_events(eyes: Eyes, scope: Scope, namespaces: Collection[str], uids: Collection[str], horizon: float) -> Events:
    """The warnings about these objects. Old clusters and new ones write them in different shapes."""
    where = scope.namespaces if len(namespaces) > _FEW else tuple(sorted(namespaces))
    return gather(eyes.all(EVENT, where, fieldSelector="type=Warning"), uids, horizon)


def node_ooms(eyes: Eyes, horizon: float) -> Events:
    """What the kubelets said of their nodes' memory. Events of nodes are kept in C(default)."""
    return gather(eyes.all(EVENT, ("default",), fieldSelector="reason=SystemOOM"), (), horizon)


def read_nodes(eyes: Eyes, names: Collection[str], every: bool) -> dict[str, Node]:
    """A few nodes by name, or all of them."""
    if every or len(names) > _SINGLE_NODES:
        manifests: Iterable[Json | None] = eyes.all(NODE)
    else:
        manifests = [eyes.find(NODE, "", name) for name in sorted(names)]
    return {node.name: node for node in (node_of(one) for one in manifests if one)}


def owners_beyond(eyes: Eyes, wanted: Iterable[tuple[str, str, str]], most: int = 50) -> list[Set]:
    """Workloads (kind, namespace, name) that a label selector did not bring, though it brought pods of theirs."""
    found = []
    for kind, namespace, name in list(wanted)[:most]:
        known = _OWNERS.get(kind)
        manifest = eyes.find(known, namespace, name) if known else None
        found += [set_of(known, manifest)] if known and manifest else []
    return found


def written(seconds: float) -> str:
    """A moment as the API server writes it: such texts are in the order of their times."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
