# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Small merges into single objects, each on the very object that was planned for, and each with its way back.

What was there before is kept in an annotation of the same object, by the same write: so it can neither be lost nor be
told of something that did not happen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .._core.errors import Kind as ErrorKind
from .._core.errors import OpsError
from .._core.plan import Done, Progress, Step, Undo
from .client import Kube, Patch, Right
from .errors import Json
from .kinds import Kind

#: What a workload, or what scales it, had before it was quiesced, and before it was raised for a while.
QUIESCED, RAISED = "sre.runbooks/quiesced", "sre.runbooks/raised"
_TRIES = 8


def note_of(manifest: Json, name: str) -> dict[str, Any]:
    """What this collection has kept in an annotation; empty where there is none."""
    text = (manifest["metadata"].get("annotations") or {}).get(name)
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    parts = [found.get(part) for part in ("was", "to")] if isinstance(found, dict) else [None]
    if not isinstance(found, dict) or not all(isinstance(part, dict) for part in parts):
        hint = f"Somebody has edited it. See what is right, and remove the annotation {name}."
        raise OpsError(ErrorKind.PRECONDITION, f"{name} holds {text[:80]!r}", hint, code="bad_note")
    return found


def note(was: Mapping[str, Any], to: Mapping[str, Any]) -> str:
    """The annotation's text: what was there, and what was put there instead."""
    return json.dumps({"was": dict(was), "to": dict(to)}, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Edit:
    """One merge into one object. C(read) tells, of a manifest, the few values that the edit is about."""

    kind: Kind
    manifest: Json
    read: Callable[[Json], dict[str, Any]]
    spec: Mapping[str, Any]
    notes: Mapping[str, str | None]
    words: str
    count: int = 1

    @property
    def title(self) -> str:
        meta = self.manifest["metadata"]
        return f"{self.kind.name} {meta['namespace']}/{meta['name']}"

    @property
    def right(self) -> Right:
        meta = self.manifest["metadata"]
        return Right("patch", self.kind, meta["namespace"], meta["name"])

    def foresee(self, kube: Kube) -> tuple[dict[str, Any], bool]:
        """The values after it, by the server's own dry run; by what we know where a webhook does not let it."""
        try:
            return self.read(self._send(kube, self.manifest, dry_run=True)), True
        except OpsError as error:
            if (error.kind, error.code) != (ErrorKind.UNSUPPORTED, "dry_run"):
                raise
        return self.read(_merged(self.manifest, self._patch)), False

    def step(self, kube: Kube, undo: Mapping[str, Any]) -> Step:
        """The edit as a step. C(undo) are the options of a call that takes it back."""
        meta = self.manifest["metadata"]
        subject = f"{self.kind.name}/{meta['namespace']}/{meta['name']}@{meta['uid']}"
        back = f"put {self.title} back to {words_of(self.read(self.manifest))}"
        return Step(
            subject,
            self.words,
            lambda _progress: self._take(kube, _progress),
            Undo(back, lambda: self._take_back(kube), "sre.runbooks.k8s_replicas", undo),
            self.count,
        )

    @property
    def _patch(self) -> Json:
        spec = {"spec": dict(self.spec)} if self.spec else {}
        return {"metadata": {"annotations": dict(self.notes)}, **spec}

    def _send(self, kube: Kube, manifest: Json, *, dry_run: bool = False) -> Json:
        meta = manifest["metadata"]
        patch = self._patch
        patch["metadata"] |= {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        return kube.api.patch(self.kind.path(meta["namespace"], meta["name"]), patch, Patch.MERGE, dry_run=dry_run)

    def _take(self, kube: Kube, progress: Progress) -> Done:
        """Writes. A status that has moved on meanwhile is no conflict; a spec, or a note of ours, is."""
        manifest = self.manifest
        for _try in range(_TRIES):
            try:
                self._send(kube, manifest)
            except OpsError as error:
                if (error.kind, error.code) != (ErrorKind.CONFLICT, "conflict"):
                    raise
                manifest = self._again(kube, error)
                progress(f"{self.title}: its status has changed meanwhile, trying again")
            else:
                return Done(self.count)
        raise _moved(self.title, retryable=True)

    def _again(self, kube: Kube, error: OpsError) -> Json:
        meta = self.manifest["metadata"]
        now = kube.get(self.kind, meta["namespace"], meta["name"])
        if now["metadata"]["uid"] != meta["uid"] or _essence(now) != _essence(self.manifest):
            raise _moved(self.title) from error
        return now

    def _take_back(self, kube: Kube) -> None:
        meta = self.manifest["metadata"]
        now = kube.get(self.kind, meta["namespace"], meta["name"])
        old = meta.get("annotations") or {}
        notes = {name: old.get(name) for name in self.notes}
        spec = {name: self.manifest["spec"].get(name) for name in self.spec}
        Edit(self.kind, now, self.read, spec, notes, self.words)._take(kube, lambda _line: None)


def words_of(values: Mapping[str, Any]) -> str:
    """C(replicas 3, paused none)."""
    return ", ".join(f"{name} {'none' if value in (None, {}) else value}" for name, value in values.items())


def _essence(manifest: Json) -> tuple[Any, dict[str, str]]:
    """All of an object that we go by: what it is meant to be, without what its controllers write down."""
    notes = manifest["metadata"].get("annotations") or {}
    ours = {name: text for name, text in notes.items() if name.startswith(("sre.runbooks/", "autoscaling.keda.sh/"))}
    return manifest["spec"], ours


def _moved(title: str, *, retryable: bool = False) -> OpsError:
    words = f"{title} was changed by somebody else after it was looked at"
    return OpsError(ErrorKind.CONFLICT, words, "Look who works on it, then run again.", "conflict", retryable)


def _merged(manifest: Json, patch: Json) -> Json:
    """An object with a merge patch in it, as RFC 7386 has it."""
    merged = dict(manifest)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            merged[name] = _merged(merged.get(name) or {}, value)
        else:
            merged[name] = value
    return merged
