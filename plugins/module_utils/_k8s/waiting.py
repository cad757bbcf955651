# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a pod that has a node waits for before its containers start: configuration, volumes, a network."""

from __future__ import annotations

import re
from typing import Any

from .causes import Cause, words
from .events import Event, Events
from .slim import Container, Pod

_KEY = re.compile(r"couldn't find key (\S+) in (ConfigMap|Secret) (?:\S+/)?([\w.-]+)", re.IGNORECASE)
_OBJECT = re.compile(r'(configmap|secret)s? "([^"]+)" (?:not found|is forbidden)', re.IGNORECASE)
_MOUNT_KEY = re.compile(r"references non-existent (config|secret) key:? ?(\S*)", re.IGNORECASE)
_VOLUME = re.compile(r'for volume "([^"]+)"')
_KINDS = {"configmap": "ConfigMap", "secret": "Secret", "config": "ConfigMap"}
_ROOT = re.compile(r"runAsNonRoot|run as root|non-root|will run as root", re.IGNORECASE)


def config_cause(container: Container) -> Cause:
    """C(CreateContainerConfigError): which object, and which key of it, is not there."""
    text = container.message
    if _ROOT.search(text):
        return Cause("k8s.pod_security", {"message": words(text)}, container.name)
    return Cause("k8s.config_missing", {**_what(text), **_init(container)}, container.name)


def mount_cause(pod: Pod, events: Events) -> Cause | None:
    """A volume that does not come: the newest word on it."""
    found = events.first(pod.uid, "FailedMount", "FailedAttachVolume", "FailedMapVolume")
    if found is None:
        return None
    volume = _VOLUME.search(found.message)
    evidence: dict[str, Any] = {"volume": volume[1]} if volume else {}
    # Which object is missing may stand in an older event than the last "timed out waiting".
    texts = [event.message for event in events.of(pod.uid, "FailedMount", "FailedAttachVolume", "FailedMapVolume")]
    telling = next((text for text in texts if _OBJECT.search(text) or _MOUNT_KEY.search(text)), found.message)
    evidence |= _what(telling)
    if "Multi-Attach" in found.message:
        evidence["multi_attach"] = True
    return Cause("k8s.volume.mount", {**evidence, "times": found.count})


def sandbox_cause(pod: Pod, events: Events) -> Cause | None:
    """The pod's network, or its sandbox, cannot be set up."""
    found: Event | None = events.first(pod.uid, "FailedCreatePodSandBox", "NetworkNotReady")
    if found is None:
        return None
    return Cause("k8s.sandbox", {"node": pod.node, "times": found.count, "message": words(found.message)})


def _what(text: str) -> dict[str, Any]:
    key = _KEY.search(text)
    if key:
        return {"kind": _KINDS[key[2].lower()], "name": key[3], "key": key[1]}
    named = _OBJECT.search(text)
    if named:
        return {"kind": _KINDS[named[1].lower()], "name": named[2]}
    inside = _MOUNT_KEY.search(text)
    if inside:
        return {"kind": _KINDS[inside[1].lower()], "key": inside[2], "message": words(text)}
    return {"message": words(text)}


def _init(container: Container) -> dict[str, Any]:
    return {"init": True} if container.init else {}
