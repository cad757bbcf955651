# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A folder of evidence that is there whole or not at all, and that shows whether somebody has touched it since."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._core.errors import Kind, OpsError, bad_parameter

SEAL = "MANIFEST.json"
_CHUNK = 1 << 20
_NAMES = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an incident's bundle is, or will be."""

    dest: Path
    incident: str

    @classmethod
    def of(cls, dest: str, incident: str) -> Place:
        """Refuses an id that would be another path."""
        if not incident or incident[0] in ".-" or not set(incident) <= _NAMES or len(incident) > 100:
            hint = "Use letters, digits, dots, dashes and underscores, at most 100, beginning with a letter or digit."
            raise bad_parameter("incident", f"{incident!r} cannot be the name of a folder", hint)
        return cls(Path(dest).absolute(), incident)

    @property
    def path(self) -> Path:
        return self.dest / self.incident

    @property
    def partial(self) -> Path:
        return self.dest / f".{self.incident}.partial"

    @property
    def lock(self) -> Path:
        return self.dest / f".{self.incident}.lock"

    def check(self, room: int) -> None:
        """Raises for a place that cannot be written to, or where the largest bundle would not fit."""
        with told(self.dest):
            there = next(folder for folder in (self.dest, *self.dest.parents) if folder.exists())
            if not there.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "not a folder")
            if not os.access(there, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "permission denied")
            free = shutil.disk_usage(there).free
        if free < room:
            words = f"{self.dest}: {free} bytes are free, the bundle may take {room}"
            raise OpsError(
                Kind.EXHAUSTED, words, "Free some, choose another dest, or a smaller max_bytes.", "disk_full"
            )


@contextmanager
def told(path: Path) -> Iterator[None]:
    """What the file system refuses, as an error that says what to do."""
    try:
        yield
    except OSError as error:
        words = f"{path}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OpsError(Kind.EXHAUSTED, words, "Free some space, or choose another dest.", "disk_full") from error
        hint = "Choose a dest that this user can write to, on the host that the module runs on."
        raise OpsError(Kind.PRECONDITION, words, hint, code="not_writable") from error


@dataclass(slots=True)
class Writer:
    """Files of a bundle that is being made. Any thread may add one; C(limit) is for all of them together."""

    folder: Path
    limit: int
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    size: int = 0
    _lock: Any = field(default_factory=threading.Lock)

    def left(self) -> int:
        return max(0, self.limit - self.size)

    def add(self, name: str, content: bytes, *, shorten: bool = False) -> bool:
        """Writes one file; False where it had no room, or with C(shorten) only its end had."""
        with self._lock:
            whole = len(content) <= self.left()
            if not whole:
                content = content[len(content) - self.left() :] if shorten else b""
            self.size += len(content)
        if not whole and not content:
            return False
        path = self.folder / name
        with told(path):
            for folder in reversed(Path(name).parents):
                (self.folder / folder).mkdir(mode=0o700, exist_ok=True)
            _write(path, content)
        with self._lock:
            self.files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        return whole

    def add_json(self, name: str, value: Any) -> bool:
        return self.add(name, (json.dumps(value, indent=1, sort_keys=True, default=str) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    """A new file that only its owner reads, on the disk when this returns."""
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(number, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def gathering(place: Place, limit: int) -> Iterator[Writer]:
    """A bundle in the making. It gets its name when it is sealed; what a killed run left is thrown away first."""
    with told(place.dest):
        place.dest.parent.mkdir(parents=True, exist_ok=True)
        place.dest.mkdir(mode=0o700, exist_ok=True)
    with _alone(place):
        with told(place.partial):
            shutil.rmtree(place.partial, ignore_errors=True)
            place.partial.mkdir(mode=0o700)
        try:
            yield Writer(place.partial, limit)
        finally:
            shutil.rmtree(place.partial, ignore_errors=True)


@contextmanager
def _alone(place: Place) -> Iterator[None]:
    """One run at a time gathers for an incident. The kernel lets go of the lock of a run that was killed."""
    with told(place.lock):
        number = os.open(place.lock, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who held it before may have thrown the file away: then this is the lock of nothing.
            mine = os.path.samestat(os.fstat(number), place.lock.stat())
        except OSError:
            mine = False
        if not mine:
            words = f"{place.path}: another run gathers this incident's evidence"
            raise OpsError(Kind.CONFLICT, words, "Wait for it, then run again.", code="busy", retryable=True)
        try:
            yield
        finally:
            place.lock.unlink(missing_ok=True)
    finally:
        os.close(number)


def seal(place: Place, writer: Writer, about: Mapping[str, Any]) -> None:
    """Lists every file with its digest, then gives the folder its name: from then on it is the bundle."""
    content = {**about, "files": dict(sorted(writer.files.items()))}
    with told(place.path):
        _write(place.partial / SEAL, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
        place.partial.rename(place.path)


def sealed(place: Place) -> dict[str, Any] | None:
    """What the seal of an incident's bundle says; None where there is no bundle."""
    with told(place.path):
        if not place.path.exists():
            return None
        file = place.path / SEAL
        if not file.exists():
            raise _damaged(place, f"it has no {SEAL}")
        text = file.read_text()
    try:
        found: dict[str, Any] = json.loads(text)
        files = found["files"]
    except (ValueError, KeyError, TypeError):
        raise _damaged(place, f"its {SEAL} is not readable") from None
    wrong = harm(place, files)
    if wrong:
        raise _damaged(place, wrong)
    return found


def harm(place: Place, files: Mapping[str, Mapping[str, Any]]) -> str:
    """What differs from the seal; empty for a bundle as it was sealed."""
    with told(place.path):
        there = {str(path.relative_to(place.path)) for path in place.path.rglob("*") if path.is_file()}
    if there != set(files) | {SEAL}:
        return f"files came or went: {', '.join(sorted(there ^ (set(files) | {SEAL}))[:5])}"
    changed = [name for name, told_of in files.items() if _digest(place.path / name) != told_of.get("sha256")]
    return f"changed since: {', '.join(changed[:5])}" if changed else ""


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with told(path), path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _damaged(place: Place, words: str) -> OpsError:
    hint = "Keep it as it is for whoever asks, and gather anew under another incident."
    return OpsError(Kind.CONFLICT, f"{place.path} is not as it was sealed: {words}", hint, code="bundle_damaged")
