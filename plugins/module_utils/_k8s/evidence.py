# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an incident leaves behind in a cluster, gathered before anybody mends it: logs, events, manifests, usage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from .._core.errors import Kind as ErrorKind
from .._core.errors import OpsError, bad_parameter
from .._core.plan import Finding, Progress, Severity
from .._core.redact import redact_text
from .._core.spec import Params
from .._core.units import parse_seconds, parse_size
from .bundle import Writer
from .client import Kube
from .errors import Json
from .events import last_seen
from .evidence_manifests import clean, concerned
from .histogram import Histogram
from .kinds import (
    AUTOSCALER,
    BUDGET,
    CLAIM,
    CONFIG_MAP,
    CRON_JOB,
    DAEMON_SET,
    DEPLOYMENT,
    ENDPOINT_SLICE,
    EVENT,
    JOB,
    LIMIT_RANGE,
    NODE,
    POD,
    QUOTA,
    REPLICA_SET,
    SERVICE,
    STATEFUL_SET,
    Kind,
)
from .slim import pod_of
from .usage import metrics_of
from .workload import controller_of, pods_of, workload_of

#: Whose manifests are kept when they own the pods in question, and those of the whole namespace.
OWNERS = (DEPLOYMENT, REPLICA_SET, STATEFUL_SET, DAEMON_SET, JOB, CRON_JOB)
AROUND = (SERVICE, ENDPOINT_SLICE, AUTOSCALER, BUDGET, CLAIM, QUOTA, LIMIT_RANGE, CONFIG_MAP)
#: One log is held in memory while it is cleaned; so many at a time.
_THREADS = 4
_ONE_LOG = 8 << 20
_TRIES = 4
_LONGEST_LINE = 32 << 10
#: Control characters but tab and newline: a terminal would obey them.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), 127)}
_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S* ")


@dataclass(frozen=True, slots=True)
class Scope:
    """What is to be gathered, parsed. C(since) is in seconds, 0 for all that there is."""

    namespace: str
    selector: str
    kind: str
    name: str
    since: int
    tail: int
    max_bytes: int

    @classmethod
    def of(cls, wanted: Params) -> Scope:
        limit = parse_size(wanted["max_bytes"], "max_bytes")
        if limit < 1 << 20:
            raise bad_parameter("max_bytes", "less than 1mb holds no evidence", "Give a size such as 256mb.")
        if wanted["tail"] < 1:
            raise bad_parameter("tail", f"{wanted['tail']} lines are none", "Give a number from 1.")
        since = parse_seconds(wanted["since"], "since") if wanted["since"] else 0
        named = (wanted["selector"] or "", wanted["kind"], wanted["name"] or "")
        return cls(wanted["namespace"], *named, since, wanted["tail"], limit)

    @property
    def narrow(self) -> bool:
        return bool(self.selector or self.name)

    def about(self) -> dict[str, str]:
        """What tells this incident's bundle from another's."""
        workload = f"{self.kind}/{self.name}" if self.name else ""
        return {"namespace": self.namespace, "selector": self.selector, "workload": workload}


@dataclass(frozen=True, slots=True)
class Log:
    """One container's log, of now or of before its last restart."""

    pod: str
    container: str
    previous: bool

    @property
    def file(self) -> str:
        return f"logs/{self.pod}/{self.container}{'.previous' if self.previous else ''}.log"


@dataclass(slots=True)
class Gathered:
    """What one run finds. C(said) are refusals that are evidence themselves, C(cut) is what had no room."""

    histogram: Histogram = field(default_factory=Histogram)
    said: list[dict[str, str]] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    unseen: dict[str, str] = field(default_factory=dict)

    def findings(self, subject: str) -> tuple[Finding, ...]:
        """What the bundle lacks."""
        found = []
        if self.cut:
            advice = "Give a larger max_bytes, a shorter since, or a smaller tail, under another incident."
            evidence = {"files": len(self.cut), "names": self.cut[:10]}
            found.append(Finding("k8s.evidence.cut", Severity.WARNING, subject, evidence, advice))
        if self.unseen:
            advice = "Have the rights granted, or see whether that API is served."
            found.append(Finding("k8s.evidence.unseen", Severity.INFO, subject, dict(self.unseen), advice))
        return tuple(found)


def pods_in(kube: Kube, scope: Scope) -> list[Json]:
    """The pods in question, those that do not serve first: when room is short, theirs is what counts."""
    if scope.name:
        found = pods_of(kube, workload_of(kube, scope.kind, scope.namespace, scope.name))
    else:
        found = kube.all(POD, scope.namespace, **({"labelSelector": scope.selector} if scope.selector else {}))
    return sorted(found, key=_urgency)


def _urgency(manifest: Json) -> tuple[bool, int, str]:
    pod = pod_of(manifest)
    return pod.ready, -sum(container.restarts for container in pod.containers), pod.name


def logs_of(manifests: Iterable[Json]) -> list[Log]:
    """All logs there may be: of every container, init and ephemeral ones too, and of before its last restart."""
    found = []
    for manifest in manifests:
        status, name = manifest.get("status") or {}, manifest["metadata"]["name"]
        groups = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
        again = {one["name"] for group in groups for one in status.get(group) or [] if one.get("restartCount")}
        for group in ("containers", "initContainers", "ephemeralContainers"):
            for one in manifest["spec"].get(group) or []:
                found.append(Log(name, one["name"], previous=False))
                if one["name"] in again:
                    found.append(Log(name, one["name"], previous=True))
    return found


def gather(kube: Kube, scope: Scope, pods: Sequence[Json], writer: Writer, progress: Progress) -> Gathered:
    """Writes all there is into the bundle: small things first, then logs until there is no room."""
    found = Gathered()
    owners = _manifests(kube, scope, pods, writer, found)
    uids = {one["metadata"]["uid"] for one in (*pods, *owners)} if scope.narrow else None
    events = _seen(found, "events", lambda: concerned(kube.all(EVENT, scope.namespace), uids))
    _keep(writer, found, "events.json", sorted(events, key=last_seen))
    _usage(kube, scope, pods, writer, found)
    wanted = logs_of(pods)
    with ThreadPoolExecutor(_THREADS) as pool:
        for number, histogram in enumerate(pool.map(lambda log: _one(kube, scope, log, writer, found), wanted), 1):
            found.histogram.join(histogram)
            progress(f"{number} of {len(wanted)} logs, {writer.size} bytes")
    _keep(writer, found, "histogram.json", found.histogram.as_dict(200))
    _keep(writer, found, "summary.json", {"said": found.said, "cut": found.cut, "unseen": found.unseen})
    return found


def _keep(writer: Writer, found: Gathered, name: str, value: Any) -> None:
    if not writer.add_json(name, value):
        found.cut.append(name)


def _seen(found: Gathered, what: str, look: Any) -> list[Json]:
    """What may be read; what may not is noted, and nobody is stopped by it."""
    try:
        return list(look())
    except OpsError as error:
        if error.kind not in (ErrorKind.FORBIDDEN, ErrorKind.NOT_FOUND, ErrorKind.UNREACHABLE):
            raise
        found.unseen[what] = error.kind.value
        return []


def _manifests(kube: Kube, scope: Scope, pods: Sequence[Json], writer: Writer, found: Gathered) -> list[Json]:
    """Pods, what controls them, and what is around them. Returns the owners."""
    for pod in pods:
        _keep(writer, found, f"manifests/{POD.plural}/{pod['metadata']['name']}.json", _whole(POD, pod))
    wanted = {controller_of(pod).get("uid") for pod in pods} - {None}
    kept: list[Json] = []
    known = [(kind, one) for kind in OWNERS for one in _listed(kube, kind, scope, found)]
    wanted |= {controller_of(one).get("uid") for _kind, one in known if one["metadata"]["uid"] in wanted}
    for kind, one in known:
        if not scope.narrow or one["metadata"]["uid"] in wanted:
            kept.append(one)
            _keep(writer, found, f"manifests/{kind.plural}/{one['metadata']['name']}.json", _whole(kind, one))
    for kind in AROUND:
        for one in _listed(kube, kind, scope, found):
            _keep(writer, found, f"manifests/{kind.plural}/{one['metadata']['name']}.json", _whole(kind, one))
    for name in sorted({pod["spec"].get("nodeName", "") for pod in pods} - {""}):
        for node in _seen(found, "nodes", lambda name=name: [kube.get(NODE, "", name)]):
            _keep(writer, found, f"manifests/nodes/{name}.json", _whole(NODE, node))
    return kept


def _listed(kube: Kube, kind: Kind, scope: Scope, found: Gathered) -> list[Json]:
    return _seen(found, kind.plural, lambda: kube.all(kind, scope.namespace))


def _whole(kind: Kind, manifest: Json) -> Json:
    """An entry of a list does not say its kind."""
    return clean({"apiVersion": kind.api, "kind": kind.name, **manifest})


def _usage(kube: Kube, scope: Scope, pods: Sequence[Json], writer: Writer, found: Gathered) -> None:
    metrics = metrics_of(kube, scope.namespace, scope.selector)
    if metrics.wrong:
        found.unseen["usage"] = metrics.wrong
        return
    used = {one["metadata"]["name"]: metrics.of(pod_of(one)) for one in pods}
    _keep(writer, found, "usage.json", {name: usage.as_dict() for name, usage in used.items() if usage})


def _one(kube: Kube, scope: Scope, log: Log, writer: Writer, found: Gathered) -> Histogram:
    """Fetches, cleans and writes one log, and counts its errors."""
    counted, limit = Histogram(), min(_ONE_LOG, writer.left())
    if not limit:
        found.cut.append(log.file)
        return counted
    try:
        raw, whole = _newest(kube, scope, log, limit)
    except OpsError as error:
        # A container that never started, a node that is gone: that is evidence, too.
        if error.kind not in (ErrorKind.PRECONDITION, ErrorKind.NOT_FOUND, ErrorKind.UNREACHABLE, ErrorKind.TIMEOUT):
            raise
        found.said.append({"log": log.file, "kind": error.kind.value, "message": redact_text(error.message[:300])})
        return counted
    text = readable(raw)
    counted.read(f"{log.pod}/{log.container}", (_STAMP.sub("", line, count=1) for line in text.splitlines()))
    if not writer.add(log.file, text.encode(), shorten=True) or not whole:
        found.cut.append(log.file)
    return counted


def _newest(kube: Kube, scope: Scope, log: Log, limit: int) -> tuple[bytes, bool]:
    """The end of a log that fits into C(limit), and whether that is all that was asked for.

    A kubelet cuts off the newest lines where there are too many bytes, so it is asked again for fewer lines.
    """
    query = {"container": log.container, "limitBytes": str(limit), "timestamps": "true"}
    query |= {"previous": "true"} if log.previous else {}
    query |= {"sinceSeconds": str(scope.since)} if scope.since and not log.previous else {}
    tail, path = scope.tail, POD.path(scope.namespace, log.pod, "log")
    for _again in range(_TRIES):
        raw = kube.api.text(path, **query, tailLines=str(tail))[:limit]
        if len(raw) < limit or tail == 1:
            break
        tail = max(1, raw.count(b"\n") * 4 // 5)
    return raw, len(raw) < limit and tail == scope.tail


def readable(raw: bytes) -> str:
    """A log as text without secrets. What is not text is written as C(\\xNN), and no line is longer than 32 KiB."""
    text = raw.decode("utf-8", "backslashreplace").translate(_CONTROL)
    return redact_text("".join(_shortened(text)))


def _shortened(text: str) -> Iterator[str]:
    for line in text.splitlines(keepends=True):
        if len(line) <= _LONGEST_LINE:
            yield line
        else:
            yield f"{line[:_LONGEST_LINE]} [{len(line) - _LONGEST_LINE} more characters]\n"
