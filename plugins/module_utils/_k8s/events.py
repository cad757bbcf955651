# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Events in both of their shapes, as small values. They are kept for an hour or so, and tell what a status does not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import Json
from .slim import Reference, moment, reference_of

#: Enough of the newest ones for any cause; a flapping pod may have hundreds.
_KEPT = 12

#: Of objects that stand for others (a ReplicaSet for its Deployment), whoever they are about.
_ALWAYS = {"FailedCreate", "SystemOOM"}


@dataclass(frozen=True, slots=True)
class Event:
    """One event, and how often it came."""

    about: Reference
    namespace: str
    reason: str
    message: str
    when: float
    count: int = 1
    warning: bool = True
    path: str = ""


@dataclass(frozen=True, slots=True)
class Events:
    """Those that concern the objects in question, the newest first."""

    by_uid: Mapping[str, tuple[Event, ...]] = field(default_factory=dict)
    general: tuple[Event, ...] = ()

    def of(self, uid: str, *reasons: str) -> tuple[Event, ...]:
        """The events of the object with this uid: another of the same name had another."""
        found = self.by_uid.get(uid, ())
        return tuple(event for event in found if event.reason in reasons) if reasons else found

    def first(self, uid: str, *reasons: str) -> Event | None:
        """The newest of these."""
        return next(iter(self.of(uid, *reasons)), None)


def event_of(manifest: Json) -> Event:
    """The slim value of an event's manifest."""
    about = manifest.get("involvedObject") or manifest.get("regarding") or {}
    series = manifest.get("series") or {}
    return Event(
        about=reference_of(about),
        namespace=about.get("namespace", ""),
        reason=manifest.get("reason") or "",
        message=manifest.get("message") or manifest.get("note") or "",
        when=last_seen(manifest),
        count=series.get("count") or manifest.get("count") or 1,
        warning=manifest.get("type") != "Normal",
        path=about.get("fieldPath", ""),
    )


def last_seen(manifest: Json) -> float:
    """When it came last: a series says so itself, new events have no C(lastTimestamp), old ones no C(eventTime)."""
    times: tuple[Any, ...] = (
        (manifest.get("series") or {}).get("lastObservedTime"),
        manifest.get("eventTime"),
        manifest.get("lastTimestamp"),
        manifest["metadata"].get("creationTimestamp"),
    )
    return moment(next((time for time in times if time), None))


def gather(manifests: Iterable[Json], uids: Collection[str], horizon: float) -> Events:
    """The events since C(horizon) about these objects, and those that speak for others."""
    by_uid: dict[str, list[Event]] = defaultdict(list)
    general = []
    for manifest in manifests:
        uid = (manifest.get("involvedObject") or manifest.get("regarding") or {}).get("uid", "")
        if uid not in uids and manifest.get("reason") not in _ALWAYS:
            continue
        event = event_of(manifest)
        if event.when < horizon:
            continue
        if uid in uids:
            by_uid[uid].append(event)
        if event.reason in _ALWAYS:
            general.append(event)
    newest = {uid: tuple(sorted(found, key=_newest)[:_KEPT]) for uid, found in by_uid.items()}
    return Events(newest, tuple(sorted(general, key=_newest)))


def _newest(event: Event) -> float:
    return -event.when
