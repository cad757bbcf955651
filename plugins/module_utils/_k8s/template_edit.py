# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wanted of a workload's template, and the smallest patch that leads there: by names, never by places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .._core.errors import Kind, OpsError, bad_parameter
from .._core.spec import Params
from .amounts import SIDES, differing, merged, wanted_amounts
from .env import REPLACE, Wanted, edit_env, wanted_env
from .errors import Json
from .workload import Workload

#: Of a name to a text, None for what must not be there.
Notes = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the options want; empty parts are left as they are."""

    container: str = ""
    env: Wanted = field(default_factory=dict)
    image: str = ""
    resources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pod_annotations: Notes = field(default_factory=dict)
    annotations: Notes = field(default_factory=dict)

    @classmethod
    def of(cls, params: Params) -> Wish:
        return cls(
            params.get("container") or "",
            wanted_env(params),
            _image(params.get("image") or ""),
            wanted_amounts(params),
            _notes(params, "pod_annotations"),
            _notes(params, "annotations"),
        )

    @property
    def of_container(self) -> bool:
        return bool(self.env or self.image or self.resources)

    def with_note(self, name: str, text: str) -> Wish:
        return replace(self, pod_annotations={**self.pod_annotations, name: text})

    def with_resources(self, amounts: Mapping[str, Mapping[str, Any]]) -> Wish:
        """With amounts added to those that are wanted already."""
        both = {side: {**self.resources.get(side, {}), **amounts.get(side, {})} for side in SIDES}
        return replace(self, resources={side: part for side, part in both.items() if part})


def _image(name: str) -> str:
    """The API server takes any text for one, and the pods never start."""
    if len(name.split()) > 1 or name != name.strip():
        raise bad_parameter("image", f"{name!r} is not the name of an image", "Write it as registry/name:tag.")
    return name


def _notes(params: Params, option: str) -> Notes:
    for name, text in (params.get(option) or {}).items():
        if text is not None and not isinstance(text, str):
            words = f"the value of {name} is a {type(text).__name__}"
            raise bad_parameter(option, words, "Annotations are strings: quote it. null takes one away.")
    return dict(params.get(option) or {})


@dataclass(frozen=True, slots=True)
class Edit:
    """C(patch), without an identity, leads to C(after); C(back) leads back. Empty where nothing differs.

    C(rolls) says that the template changes, hence that its pods are replaced.
    """

    patch: Json
    back: Json
    after: Json
    rolls: bool = False
    duplicates: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


def meant_container(workload: Workload, name: str) -> Json:
    """The container of that name, or the only one. Raises with all names where that is not clear."""
    spec = workload.template["spec"]
    containers, inits = spec["containers"], spec.get("initContainers") or []
    known = ", ".join(str(one["name"]) for one in (*containers, *inits))
    if not name:
        if len(containers) == 1:
            return dict(containers[0])
        words = f"{workload.title} has several containers: {known}"
        raise OpsError(Kind.PRECONDITION, words, "Say which one with container.", code="ambiguous_container")
    for one in (*containers, *inits):
        if one["name"] == name:
            return dict(one)
    words = f"{workload.title} has no container {name}"
    raise OpsError(Kind.NOT_FOUND, words, f"It has {known}.", code="no_container")


def edit(workload: Workload, wish: Wish) -> Edit:
    """The change of a workload to what is wished."""
    template = workload.template
    pod_notes = _changed_notes(template.get("metadata") or {}, wish.pod_annotations)
    notes = _changed_notes(workload.manifest["metadata"], wish.annotations)
    part = _container(meant_container(workload, wish.container), wish) if wish.of_container else _Part()
    inner = _joined(_annotated(pod_notes), _placed(workload, part.name, part.patch))
    inner_back = _joined(
        _annotated(_back(template.get("metadata") or {}, pod_notes)), _placed(workload, part.name, part.back)
    )
    return Edit(
        _joined(_annotated(notes), {"spec": {"template": inner}} if inner else {}),
        _joined(
            _annotated(_back(workload.manifest["metadata"], notes)), {"spec": {"template": inner_back}} if inner else {}
        ),
        _predicted(workload, notes, pod_notes, part),
        bool(inner),
        part.duplicates,
        (*part.words, *_note_words("pod annotation", pod_notes), *_note_words("annotation", notes)),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """What changes in the container: C(fields) are whole, None for those that go."""

    name: str = ""
    patch: Json = field(default_factory=dict)
    back: Json = field(default_factory=dict)
    fields: Json = field(default_factory=dict)
    duplicates: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


def _note_words(what: str, notes: Notes) -> Iterator[str]:
    for name, text in notes.items():
        yield f"{'drop' if text is None else 'set'} {what} {name}"


def _words(wish: Wish, touched: Sequence[str], fields: Json, amounts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What is done to a container: names, and no values of variables."""
    for verb, gone in (("set", False), ("unset", True)):
        names = [name for name in touched if (wish.env[name] is None) is gone]
        if names:
            yield f"{verb} {', '.join(names)}"
    if "image" in fields:
        yield f"image {fields['image']}"
    for side, part in amounts.items():
        for what, text in part.items():
            yield f"{side}.{what} {'none' if text is None else text}"


def _container(now: Json, wish: Wish) -> _Part:
    patch: Json = {}
    fields: Json = {}
    env = edit_env(now.get("env") or [], wish.env)
    if env.patch:
        patch, fields["env"] = env.fields, list(env.after)
    if wish.image and wish.image != now.get("image"):
        patch["image"] = fields["image"] = wish.image
    amounts = differing(now.get("resources") or {}, wish.resources)
    if amounts:
        patch["resources"], fields["resources"] = amounts, merged(now.get("resources") or {}, amounts)
    back = {name: _whole(now.get(name)) for name in fields}
    words = (f"{now['name']}: {text}" for text in _words(wish, env.touched, fields, amounts))
    return _Part(str(now["name"]), patch, back, fields, env.duplicates, tuple(words))


def _whole(value: Any) -> Any:
    """In a patch, the value itself instead of what it would be merged to."""
    if isinstance(value, list):
        return [REPLACE, *value]
    return {**REPLACE, **value} if isinstance(value, dict) else value


def _placed(workload: Workload, name: str, fields: Json) -> Json:
    if not fields:
        return {}
    inits = workload.template["spec"].get("initContainers") or []
    place = "initContainers" if any(one["name"] == name for one in inits) else "containers"
    return {"spec": {place: [{"name": name, **fields}]}}


def _changed_notes(metadata: Json, wanted: Notes) -> Notes:
    held = metadata.get("annotations") or {}
    return {name: text for name, text in wanted.items() if held.get(name) != text}


def _back(metadata: Json, changed: Notes) -> Notes:
    held = metadata.get("annotations") or {}
    return {name: held.get(name) for name in changed}


def _annotated(notes: Notes) -> Json:
    return {"metadata": {"annotations": dict(notes)}} if notes else {}


def _joined(*parts: Json) -> Json:
    return {name: value for part in parts for name, value in part.items()}


def _predicted(workload: Workload, notes: Notes, pod_notes: Notes, part: _Part) -> Json:
    """The manifest as it will be, for servers that cannot be asked."""
    template, spec = workload.template, dict(workload.template["spec"])
    for place in ("containers", "initContainers"):
        if spec.get(place):
            spec[place] = [_filled(one, part.fields) if one["name"] == part.name else one for one in spec[place]]
    metadata = _noted(template.get("metadata") or {}, pod_notes)
    made = {**workload.spec, "template": {**template, "metadata": metadata, "spec": spec}}
    return {**workload.manifest, "metadata": _noted(workload.manifest["metadata"], notes), "spec": made}


def _filled(container: Json, fields: Json) -> Json:
    return {name: value for name, value in {**container, **fields}.items() if value is not None}


def _noted(metadata: Json, notes: Notes) -> Json:
    if not notes:
        return metadata
    both = {**(metadata.get("annotations") or {}), **notes}
    return {**metadata, "annotations": {name: text for name, text in both.items() if text is not None}}
