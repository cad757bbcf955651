# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pod templates: whether two are the same, in what they differ without telling a secret, and what they refer to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .._core.redact import digest, redact_text
from .errors import Json
from .workload import containers_of

#: Labels that controllers add to the templates they keep.
_ADDED = ("pod-template-hash", "controller-revision-hash", "pod-template-generation")

#: What a pod asks of nodes, beside the requests of its containers.
_PLACEMENT = ("nodeSelector", "affinity", "tolerations", "topologySpreadConstraints", "nodeName", "priorityClassName")

_SECRET = re.compile(r"pass|token|secret|key|dsn|url|uri|credential|auth|private|cert", re.IGNORECASE)
_LONGEST = 200
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Reference:
    """A ConfigMap or Secret that a template needs; C(key) is empty where all of it is meant."""

    kind: str
    name: str
    key: str = ""
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f" key {self.key}" if self.key else "")


def normal(template: Json) -> Json:
    """A template as its author wrote it: without what controllers add, and without empty fields."""
    found: Json = _without_none(template)
    found.pop("$patch", None)
    metadata = found.setdefault("metadata", {})
    metadata.pop("creationTimestamp", None)
    for label in _ADDED:
        (metadata.get("labels") or {}).pop(label, None)
    for name in ("labels", "annotations"):
        if not metadata.get(name):
            metadata.pop(name, None)
    return found


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value


def same(one: Json, other: Json) -> bool:
    """Whether two templates make the same pods."""
    return normal(one) == normal(other)


def images(template: Json) -> dict[str, str]:
    """Image of each container by its name, init containers first."""
    spec = template["spec"]
    return {
        one["name"]: str(one.get("image", "")) for one in (*(spec.get("initContainers") or []), *spec["containers"])
    }


def differences(old: Json, new: Json) -> tuple[dict[str, Any], dict[str, Any]]:
    """What only the old and only the new template say, by path. Lists of named things are compared by name.

    Values of environment variables that may be secret are shown as digests.
    """
    before, after = dict(_leaves(normal(old))), dict(_leaves(normal(new)))
    paths = [path for path in {**before, **after} if before.get(path, _ABSENT) != after.get(path, _ABSENT)]
    return _shown(before, paths), _shown(after, paths)


def _shown(leaves: Mapping[str, Any], paths: list[str]) -> dict[str, Any]:
    return {path: shown(path, leaves[path]) for path in sorted(paths) if path in leaves}


def shown(path: str, value: Any) -> Any:
    """A value of a template as it may be printed: what may be secret, by the name of its path, as a digest."""
    variable = re.search(r"env\[(.*)\]\.value$", path)
    if variable and _SECRET.search(variable[1]):
        return digest(str(value).encode())
    if not isinstance(value, str):
        return value
    text = redact_text(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... {digest(value.encode())}"


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and value:
        named = all(isinstance(item, Mapping) and "name" in item for item in value)
        for number, item in enumerate(value):
            mark = item["name"] if named else number
            inner = {name: part for name, part in item.items() if name != "name"} if named else item
            yield from _leaves(inner, f"{path}[{mark}]")
    else:
        yield path, value


def placement(template: Json) -> str:
    """What decides whether a pod finds room: two templates with the same one fit, or do not fit, alike."""
    spec = template["spec"]
    asked = {name: spec.get(name) for name in _PLACEMENT}
    asked["requests"] = [one.get("resources") for one in containers_of(spec)]
    asked["claims"] = [one for one in spec.get("volumes") or [] if one.get("persistentVolumeClaim")]
    return json.dumps(asked, sort_keys=True)


def references(template: Json) -> tuple[Reference, ...]:
    """The ConfigMaps and Secrets without which the template's pods do not start, and the optional ones."""
    spec = template["spec"]
    found = [*_of_containers(spec), *_of_volumes(spec)]
    return tuple(dict.fromkeys(found))


def _of_containers(spec: Json) -> Iterator[Reference]:
    for container in containers_of(spec):
        for source in container.get("envFrom") or []:
            yield from _named(source, ("configMapRef", "secretRef"))
        for variable in container.get("env") or []:
            yield from _named(variable.get("valueFrom") or {}, ("configMapKeyRef", "secretKeyRef"))


def _of_volumes(spec: Json) -> Iterator[Reference]:
    for volume in spec.get("volumes") or []:
        parts = [volume, *((volume.get("projected") or {}).get("sources") or [])]
        for part in parts:
            yield from _named(part, ("configMap", "secret"))


def _named(source: Json, fields: tuple[str, str]) -> Iterator[Reference]:
    for kind, field in zip(("ConfigMap", "Secret"), fields, strict=True):
        found = source.get(field) or {}
        name = found.get("name") or found.get("secretName")
        if name:
            yield Reference(kind, str(name), str(found.get("key", "")), bool(found.get("optional")))
