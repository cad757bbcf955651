# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The environment of a container: entries by name, in an order that counts, each with a value or a source.

A container may bear a name twice; the last one wins. An entry may quote those before it, as C($(NAME)).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._core.errors import bad_parameter
from .._core.spec import Params
from .errors import Json

#: An entry without its name, None for one that must not be there.
Wanted = Mapping[str, Any]

_SOURCES = {"env_from_secret": "secretKeyRef", "env_from_config": "configMapKeyRef"}
REPLACE = {"$patch": "replace"}
#: C($$(NAME)) is the text C($(NAME)).
_QUOTED = re.compile(r"\$(\$|\(([^()]{1,253})\))")


@dataclass(frozen=True, slots=True)
class EnvEdit:
    """A container's environment C(after), and the C(patch) that leads there: empty where nothing differs.

    C(touched) are names whose entry is not as wanted, C(duplicates) those that stood there twice.
    """

    patch: tuple[Json, ...]
    after: tuple[Json, ...]
    touched: tuple[str, ...]
    duplicates: tuple[str, ...]

    @property
    def fields(self) -> Json:
        """The part of a container's patch. A merge by name alone would put new entries in front of old ones."""
        if not self.patch:
            return {}
        order = [{"name": entry["name"]} for entry in self.after]
        whole = self.patch[0] == REPLACE
        return {"env": list(self.patch), **({} if whole or not order else {"$setElementOrder/env": order})}


def wanted_env(params: Params) -> dict[str, Json | None]:
    """What the options want of each name. Raises where a name is wanted in two ways."""
    wanted: dict[str, Json | None] = {}
    for name, value in (params.get("env") or {}).items():
        _once(wanted, name, "env")
        if not isinstance(value, str):
            hint = f"Values are strings: quote it, or pass it through the filter string. Use env_absent to drop {name}."
            raise bad_parameter("env", f"the value of {name} is a {type(value).__name__}", hint)
        wanted[name] = {"value": value}
    for option, source in _SOURCES.items():
        for name, ref in (params.get(option) or {}).items():
            _once(wanted, name, option)
            wanted[name] = {"valueFrom": {source: _ref(ref, name, option)}}
    for name in params.get("env_absent") or ():
        _once(wanted, name, "env_absent")
        wanted[name] = None
    return wanted


def _once(wanted: Wanted, name: str, option: str) -> None:
    if name in wanted:
        raise bad_parameter(option, f"{name} is wanted in two ways", "Name it in one of the env options only.")


def _ref(ref: Any, name: str, option: str) -> Json:
    fields = ref if isinstance(ref, Mapping) else {}
    if not {"name", "key"} <= set(fields) <= {"name", "key", "optional"}:
        raise bad_parameter(option, f"{name} needs name and key", f"Write {{{name}: {{name: OBJECT, key: KEY}}}}.")
    ref = {"name": str(fields["name"]), "key": str(fields["key"])}
    return {**ref, "optional": True} if fields.get("optional") else ref


def edit_env(now: Sequence[Json], wanted: Wanted) -> EnvEdit:
    """Each wanted name once, with what is wanted; all else as it is, where it is.

    Names that stand there twice cannot be merged by name, so then the list is replaced whole, each name at its first
    place with its last meaning, which is the one in force.
    """
    counts = Counter(str(entry["name"]) for entry in now)
    held = {str(entry["name"]): entry for entry in now}
    touched = [name for name, body in wanted.items() if _differs(held.get(name), body) or counts[name] > 1]
    double = tuple(name for name, count in counts.items() if count > 1)
    if not touched:
        return EnvEdit((), tuple(now), (), double)
    bodies = {name: _body(entry) for name, entry in held.items()} | {name: wanted[name] for name in touched}
    after = tuple({"name": name, **body} for name, body in bodies.items() if body is not None)
    merge = tuple(_merge(name, body, held) for name, body in bodies.items() if name in touched)
    return EnvEdit((REPLACE, *after) if double else merge, after, tuple(touched), double)


def _body(entry: Json) -> Json:
    return {name: value for name, value in entry.items() if name != "name"}


def _differs(entry: Json | None, body: Json | None) -> bool:
    if entry is None or body is None:
        return entry is not body
    return bool(_meaning(entry) != _meaning(body))


def _meaning(entry: Json) -> Any:
    """An empty value is not kept, nor need C(optional) be said where it is not so."""
    source = entry.get("valueFrom")
    if not source:
        return entry.get("value") or ""
    return {kind: {key: value for key, value in ref.items() if value is not False} for kind, ref in source.items()}


def _merge(name: str, body: Json | None, held: Mapping[str, Json]) -> Json:
    """An entry has a value or a source, so whichever comes sends the other away."""
    if body is None:
        return {"name": name, "$patch": "delete"}
    before = held.get(name) or {}
    if "valueFrom" in body:
        # The API server drops a map that is to be replaced where there is none.
        whole, gone = (REPLACE if "valueFrom" in before else {}), ({"value": None} if "value" in before else {})
        return {"name": name, "valueFrom": {**whole, **body["valueFrom"]}, **gone}
    return {"name": name, **body, **({"valueFrom": None} if "valueFrom" in before else {})}


def unresolved(entries: Iterable[Json]) -> set[tuple[str, str]]:
    """Entries with a name that they quote and that none before them bears: the pod gets the bare text."""
    seen: set[str] = set()
    found: set[tuple[str, str]] = set()
    for entry in entries:
        name = str(entry["name"])
        quoted = [match[2] for match in _QUOTED.finditer(str(entry.get("value") or "")) if match[2]]
        found |= {(name, other) for other in quoted if other not in seen}
        seen.add(name)
    return found
