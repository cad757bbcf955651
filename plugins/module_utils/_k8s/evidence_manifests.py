# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Manifests and events as evidence: as they are, without what is secret and without what only fills pages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from .._core.redact import MASK, digest, redact
from .errors import Json

_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
#: Names of variables whose value is nobody's business.
_SECRET = re.compile(
    r"PASS|SECRET|TOKEN|KEY|DSN|URL|URI|CREDENTIAL|AUTH|CERT|PRIVATE|SALT|SIGNATURE|WEBHOOK|CONN", re.IGNORECASE
)


#: Where a manifest has words of a command line.
_COMMANDS = ("args", "command")


def clean(manifest: Json) -> Json:
    """A manifest without values that may be secret: env is masked by its name, ConfigMaps and Secrets by digests."""
    metadata = {name: value for name, value in manifest["metadata"].items() if name != "managedFields"}
    notes = metadata.get("annotations")
    if notes:
        metadata["annotations"] = {name: value for name, value in notes.items() if name != _APPLIED}
    rest = {name: value for name, value in manifest.items() if name != "metadata"}
    for name in ("data", "stringData", "binaryData"):
        if name in rest:
            rest[name] = {key: digest(str(value).encode()) for key, value in (rest[name] or {}).items()}
    found: Json = redact(_masked({**rest, "metadata": metadata}))
    return found


def _masked(value: Any) -> Any:
    """Without the values of what has a name that tells of a secret: variables, headers of probes, flags."""
    if isinstance(value, dict):
        if isinstance(value.get("value"), str) and _SECRET.search(str(value.get("name"))):
            return {**value, "value": MASK}
        return {name: _words(part) if name in _COMMANDS else _masked(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_masked(part) for part in value]
    return value


def _words(words: Any) -> Any:
    """A command line: C(--token=x) and C(--token x) both name a secret."""
    if not isinstance(words, list):
        return _masked(words)
    found: list[Any] = []
    hidden = False
    for word in words:
        flag, sign, _value = str(word).partition("=")
        if hidden and not str(word).startswith("-"):
            found.append(MASK)
        elif flag.startswith("-") and sign and _SECRET.search(flag):
            found.append(f"{flag}={MASK}")
        else:
            found.append(word)
        hidden = flag.startswith("-") and not sign and bool(_SECRET.search(flag))
    return found


def concerned(events: Iterable[Json], uids: set[str] | None) -> list[Json]:
    """The events about these objects, all of them for None, without what only fills pages."""
    found = []
    for event in events:
        about = event.get("involvedObject") or event.get("regarding") or {}
        if uids is None or about.get("uid") in uids:
            found.append(clean(event))
    return found
