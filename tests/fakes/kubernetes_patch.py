# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a patch makes of an object, in the API server's three ways. The contract suite holds them to the real ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.sre.runbooks.plugins.module_utils._k8s.client import Patch

#: Lists whose entries have a key, by the name of their field. All others are put whole in the place of what was there.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "conditions": ("type",),
    "containers": ("name",),
    "env": ("name",),
    "ephemeralContainers": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    "ports": ("containerPort", "port"),
    "topologySpreadConstraints": ("topologyKey",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
#: Lists of words that are joined.
_SETS = frozenset({"finalizers"})
_ORDER = "$setElementOrder/"
_WITHOUT = "$deleteFromPrimitiveList/"


class BadPatch(Exception):
    """A patch that the API server refuses; `code` is the status it gives."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


def patched(found: Mapping[str, Any], patch: Any, how: Patch) -> dict[str, Any]:
    """A new object; the one it is made from stays as it is."""
    ways: Mapping[Patch, Callable[[dict[str, Any], Any], dict[str, Any]]] = {
        Patch.JSON: _operations,
        Patch.MERGE: lambda found, patch: dict(_merged(found, patch)),
        Patch.STRATEGIC: _strategic,
    }
    return ways[how](json.loads(json.dumps(found)), json.loads(json.dumps(patch)))


def _merged(found: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    found = found if isinstance(found, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = _merged(found.get(name), value)
    return found


def _strategic(there: Any, patch: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = there if isinstance(there, dict) else {}
    how = patch.pop("$patch", "merge")
    if how == "replace":
        return patch
    if how == "delete":
        return {}
    kept = patch.pop("$retainKeys", None)
    if kept is not None:
        found = {name: value for name, value in found.items() if name in kept}
    for name, words in _directives(patch, _WITHOUT):
        found[name] = [word for word in found.get(name) or [] if word not in words]
    orders = dict(_directives(patch, _ORDER))
    before = {name: list(found.get(name) or []) for name in orders}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        elif isinstance(value, dict):
            if name in found or value.get("$patch") != "replace":
                found[name] = _strategic(found.get(name), value)
        elif isinstance(value, list):
            found[name] = _list(name, found.get(name) or [], value)
        else:
            found[name] = value
    for name, order in orders.items():
        found[name] = _ordered(found.get(name) or [], order, before[name], _key(name, [*order, *before[name]]))
    return found


def _directives(patch: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    return [(name.removeprefix(prefix), patch.pop(name)) for name in list(patch) if name.startswith(prefix)]


def _list(name: str, found: list[Any], patch: list[Any]) -> list[Any]:
    if name in _SETS:
        return list(dict.fromkeys([*found, *patch]))
    key = _key(name, [*patch, *found])
    if not key:
        return patch
    if {"$patch": "replace"} in patch:
        return [one for one in patch if "$patch" not in one]
    gone = [one[key] for one in patch if one.get("$patch") == "delete"]
    before = list(found)
    found = [one for one in found if one[key] not in gone]
    patch = [one for one in patch if one.get("$patch") != "delete"]
    for one in patch:
        if key not in one:
            raise BadPatch(422, f"map: {one} does not contain declared merge key: {key}")
        place = next((place for place, old in enumerate(found) if old[key] == one[key]), None)
        if place is None:
            found.append(_strategic({}, one))
        else:
            found[place] = _strategic(found[place], dict(one))
    return _ordered(found, patch, before, key)


def _key(name: str, entries: list[Any]) -> str:
    """The field that names an entry; empty for a list without one. A Service's ports go by another than a pod's."""
    keys = _KEYS.get(name, ())
    return next((key for key in keys if any(isinstance(one, dict) and key in one for one in entries)), "")


def _ordered(merged: list[Any], order: list[Any], before: list[Any], key: str) -> list[Any]:
    """Entries of the patch come in its order, and before those of the server that they have no place among."""
    names = [one[key] for one in order]
    old = [one[key] for one in before]
    mine = sorted((one for one in merged if one[key] in names), key=lambda one: names.index(one[key]))
    rest = [one for one in merged if one[key] not in names]
    result: list[Any] = []
    while mine and rest:
        left, right = rest[0][key], mine[0][key]
        first = left in old and right in old and old.index(left) < old.index(right)
        result.append(rest.pop(0) if first else mine.pop(0))
    return [*result, *mine, *rest]


def _operations(found: dict[str, Any], patch: list[dict[str, Any]]) -> dict[str, Any]:
    """RFC 6902, but for `move` and `copy`, which nobody here has a use for."""
    root: dict[str, Any] = {"": found}
    for one in patch:
        parts = [part.replace("~1", "/").replace("~0", "~") for part in str(one["path"]).split("/")]
        try:
            holder: Any = root
            for part in parts[:-1]:
                holder = holder[int(part) if isinstance(holder, list) else part]
            _operation(one, holder, parts[-1])
        except (LookupError, TypeError, ValueError) as error:
            raise BadPatch(422, "the server rejected our request due to an error in our request") from error
    return dict(root[""])


def _operation(one: Mapping[str, Any], holder: Any, part: str) -> None:
    what, value = one["op"], one.get("value")
    if isinstance(holder, list):
        place = len(holder) if part == "-" else int(part)
        if what == "add":
            if place > len(holder):
                raise LookupError(part)
            holder.insert(place, value)
            return
        where: Any = place
    else:
        where = part
        if what == "add":
            holder[where] = value
            return
    if what == "replace" and isinstance(holder, dict):
        holder[where] = value  # the API server does not mind that there was nothing
        return
    current = holder[where]
    if what == "remove":
        del holder[where]
    elif what == "replace":
        holder[where] = value
    elif what != "test" or current != value:
        raise LookupError(f"{what} {part}")
