# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keeping secrets and payloads out of whatever leaves a module."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

MASK = "***"

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # The password part of a URL; the user stays, because it says which account failed.
    # Up to the last C(@): a password that should have been quoted is still one. Bounded, so that no text takes long.
    (
        re.compile(r"(?P<head>\b[a-z][a-z0-9+.-]{0,30}://[^\s/:@]{0,256}):[^\s\"']{1,256}@", re.IGNORECASE),
        r"\g<head>:" + MASK + "@",
    ),
    (re.compile(r"(?P<head>\bbearer\s+)[a-z0-9._~+/=-]{8,}", re.IGNORECASE), r"\g<head>" + MASK),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), MASK),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), MASK),
    (
        re.compile(
            r"(?P<head>\b(?:password|passwd|pwd|secret|token|requirepass|masterauth)\b\s*[=:]\s*)[^\s,;&]+",
            re.IGNORECASE,
        ),
        r"\g<head>" + MASK,
    ),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), MASK),
)

#: Shorter secrets would mask ordinary words all over a report.
_SHORTEST = 4


def redact_text(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without passwords, tokens, keys, and without the secrets that are known by value."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, MASK)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact(value: Any, secrets: Iterable[str] = ()) -> Any:
    """The same for a tree of mappings and lists; numbers and booleans pass, bytes become text."""
    known = tuple(secrets)
    if isinstance(value, str):
        return redact_text(value, known)
    if isinstance(value, bytes):
        return redact_text(printable(value), known)
    if isinstance(value, Mapping):
        return {redact(str(key), known): redact(item, known) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(item, known) for item in value]
    return value


def printable(raw: bytes) -> str:
    """Bytes as text that survives JSON and a terminal: UTF-8 where it is, C(\\xNN) where it is not."""
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def digest(raw: bytes) -> str:
    """A name that tells two keys apart without showing either."""
    return f"sha256:{hashlib.sha256(raw).hexdigest()[:12]}"
