# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pods as a diagnosis needs them: small, frozen values, so that thousands of manifests need not be kept.

Moments are seconds since the epoch, 0 for none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from .errors import Json
from .workload import controller_of

_PROBES = {"readiness": "readinessProbe", "liveness": "livenessProbe", "startup": "startupProbe"}


@dataclass(frozen=True, slots=True)
class Reference:
    """Another object: an owner, or what an event is about."""

    kind: str = ""
    name: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a status."""

    status: str = ""
    reason: str = ""
    message: str = ""
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Ending:
    """How a container ended."""

    code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""
    finished: float = 0.0


@dataclass(frozen=True, slots=True)
class Container:
    """A container with its state. C(probes) holds the seconds that each kind of probe bears before it has failed."""

    name: str
    image: str = ""
    image_id: str = ""
    init: bool = False
    sidecar: bool = False
    ready: bool = False
    started: bool | None = None
    restarts: int = 0
    state: str = ""
    reason: str = ""
    message: str = ""
    running_since: float = 0.0
    ended: Ending | None = None
    last: Ending | None = None
    probes: Mapping[str, float] = field(default_factory=dict)
    memory_limit: str = ""

    @property
    def digest(self) -> str:
        """Of the image that ran: a tag may have moved since."""
        return self.image_id.rpartition("@")[2] if "@" in self.image_id else ""

    @property
    def ending(self) -> Ending | None:
        """How it ended most recently."""
        return self.ended or self.last


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that is not plainly well."""

    namespace: str
    name: str
    uid: str
    owner: Reference = field(default_factory=Reference)
    template: str = ""
    node: str = ""
    phase: str = ""
    reason: str = ""
    message: str = ""
    created: float = 0.0
    deleted: float = 0.0
    restart: str = "Always"
    containers: tuple[Container, ...] = ()
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    pull_secrets: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    requests: Mapping[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return self.condition("Ready").status == "True"

    @property
    def scheduled(self) -> bool:
        return bool(self.node)

    def condition(self, name: str) -> Condition:
        return self.conditions.get(name, Condition())


def moment(text: str | None) -> float:
    """Seconds since the epoch of an API server's time, 0 for none."""
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def is_well(manifest: Json, horizon: str) -> bool:
    """Whether a look is enough: done, or ready with no restart since C(horizon), a time as the API writes it.

    This runs for every pod there is, so it reads the manifest as it came.
    """
    status = manifest.get("status") or {}
    phase = status.get("phase")
    if manifest["metadata"].get("deletionTimestamp"):
        return False
    if phase != "Running":
        return bool(phase == "Succeeded")
    if not any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or ()):
        return False
    for one in status.get("containerStatuses") or ():
        ended = (one.get("lastState") or {}).get("terminated") if one.get("restartCount") else None
        if not one.get("ready") or (ended and (ended.get("finishedAt") or "") > horizon):
            return False
    return True


def pod_of(manifest: Json) -> Pod:
    """The slim value of a pod's manifest."""
    metadata, spec, status = manifest["metadata"], manifest["spec"], manifest.get("status") or {}
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        owner=reference_of(controller_of(manifest)),
        template=(metadata.get("labels") or {}).get("pod-template-hash", ""),
        node=spec.get("nodeName", ""),
        phase=status.get("phase", ""),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        created=moment(metadata.get("creationTimestamp")),
        deleted=moment(metadata.get("deletionTimestamp")),
        restart=spec.get("restartPolicy", "Always"),
        containers=_containers(spec, status),
        conditions=conditions_of(status),
        finalizers=tuple(metadata.get("finalizers") or ()),
        pull_secrets=tuple(one.get("name", "") for one in spec.get("imagePullSecrets") or ()),
        claims=tuple(_claims(spec)),
        requests=_requests(spec),
    )


def reference_of(reference: Json) -> Reference:
    """An owner reference, or an event's object."""
    return Reference(reference.get("kind", ""), reference.get("name", ""), reference.get("uid", ""))


def conditions_of(status: Json) -> dict[str, Condition]:
    """The conditions of a status by their type."""
    return {
        one["type"]: Condition(
            one.get("status", ""),
            one.get("reason", ""),
            one.get("message", ""),
            moment(one.get("lastTransitionTime")),
        )
        for one in status.get("conditions") or []
    }


def _containers(spec: Json, status: Json) -> tuple[Container, ...]:
    groups = (
        (True, spec.get("initContainers"), status.get("initContainerStatuses")),
        (False, spec.get("containers"), status.get("containerStatuses")),
    )
    found = []
    for init, specs, statuses in groups:
        known = {one["name"]: one for one in statuses or []}
        found += [_container(one, known.get(one["name"], {}), init) for one in specs or []]
    return tuple(found)


def _container(spec: Json, status: Json, init: bool) -> Container:
    states: Json = status.get("state") or {}
    state = next(iter(states), "")
    now: Json = states.get(state) or {}
    limits = (spec.get("resources") or {}).get("limits") or {}
    return Container(
        name=spec["name"],
        image=spec.get("image", ""),
        image_id=status.get("imageID", ""),
        init=init,
        sidecar=init and spec.get("restartPolicy") == "Always",
        ready=bool(status.get("ready")),
        started=status.get("started"),
        restarts=status.get("restartCount", 0),
        state=state,
        reason=now.get("reason", ""),
        message=now.get("message", ""),
        running_since=moment(now.get("startedAt")) if state == "running" else 0.0,
        ended=_ending(states),
        last=_ending(status.get("lastState") or {}),
        probes={name: _allowance(spec[key]) for name, key in _PROBES.items() if spec.get(key)},
        memory_limit=str(limits.get("memory", "")),
    )


def _ending(states: Json) -> Ending | None:
    ended = states.get("terminated")
    if not ended:
        return None
    return Ending(
        ended.get("exitCode", 0),
        ended.get("signal", 0),
        ended.get("reason", ""),
        ended.get("message", ""),
        moment(ended.get("finishedAt")),
    )


def _allowance(probe: Json) -> float:
    """Seconds from a container's start until this probe has failed as often as it may."""
    period = probe.get("periodSeconds") or 10
    return float((probe.get("initialDelaySeconds") or 0) + period * (probe.get("failureThreshold") or 3))


def _claims(spec: Json) -> list[str]:
    volumes = spec.get("volumes") or []
    return [one["persistentVolumeClaim"]["claimName"] for one in volumes if one.get("persistentVolumeClaim")]


def _requests(spec: Json) -> dict[str, str]:
    """What each container asks for, as written: several containers' numbers stand side by side."""
    found: dict[str, list[str]] = {}
    for container in spec.get("containers") or []:
        for name, amount in ((container.get("resources") or {}).get("requests") or {}).items():
            found.setdefault(name, []).append(str(amount))
    return {name: " + ".join(amounts) for name, amounts in found.items()}
