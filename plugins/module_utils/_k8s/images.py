# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why an image does not come: what kubelet, runtime and registry said about it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from .causes import Cause, words
from .errors import Json
from .slim import Container

#: Reasons of a waiting container that are about its image.
REASONS = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "RegistryUnavailable",
    "ImageInspectError",
    "SignatureValidationFailed",
}
_BY_REASON = {"InvalidImageName": "invalid_name", "ErrImageNeverPull": "never", "RegistryUnavailable": "network"}

#: What the words mean. The first that is found counts: a way that broke before it got to the registry says less about
#: the image than a registry that answered, and many say "not found" where they mean "not for you".
_WORDS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        ("throttled", r"pull qps exceeded"),
        ("rate_limit", r"toomanyrequests|too many requests|\brate.?limit"),
        ("platform", r"no match(?:ing manifest)? for (?:platform|\S+/\S+)|does not match the specified platform"),
        ("tls", r"x509|certificate|gave http response to https|tls: (?!handshake timeout)"),
        (
            "network",
            r"no such host|connection refused|connection reset|i/o timeout|handshake timeout|no route to host|"
            r"network is unreachable|context deadline exceeded|dial tcp|server misbehaving|proxyconnect|"
            r"name resolution|unexpected eof|client\.timeout|\b50[0234]\b",
        ),
        (
            "auth",
            r"unauthori[sz]ed|authentication required|no basic auth|authorization (?:failed|required)|\b40[13]\b|"
            r"forbidden|denied|insufficient_scope",
        ),
        ("not_found", r"not found|notfound|manifest unknown|name unknown|\b404\b"),
        ("invalid_name", r"invalid reference format|couldn't parse image|invalid image name"),
    )
)
#: Some registries say the same of an image that is not there and of one that is somebody else's.
_EITHER = re.compile(r"repository does not exist or may require", re.IGNORECASE)


def pull_cause(container: Container, said: Iterable[str]) -> Cause:
    """The cause from the container's own message and what the events of the pod C(said), the newest first."""
    told = [container.message, *(text for text in said if container.image in text or "pull QPS" in text)]
    texts = [text for text in told if text]
    name, text = _BY_REASON.get(container.reason, ""), texts[0] if texts else ""
    if not name:
        name, text = next(_known(texts, container.image), ("unknown", text))
    evidence: dict[str, Any] = {
        "image": container.image,
        "registry": registry_of(container.image),
        "reason": container.reason,
        "pinned": "@sha256:" in container.image,
        "message": words(text),
    }
    if container.digest:
        evidence["ran"] = container.digest
    if _EITHER.search(text):
        evidence["or"] = "not_found"
    return Cause(f"k8s.image_pull.{name}", evidence, container.name)


def _known(texts: Iterable[str], image: str) -> Iterator[tuple[str, str]]:
    for text in texts:
        # An image's own name must not be taken for the registry's words.
        plain = text.replace(image, "").replace(image.rpartition(":")[0] or image, "")
        for name, pattern in _WORDS:
            if pattern.search(plain):
                yield name, text
                break


def registry_of(image: str) -> str:
    """The registry's host: that of Docker where none is named."""
    head, slash, _rest = image.partition("/")
    named = slash and ("." in head or ":" in head or head == "localhost")
    return head if named else "docker.io"


def secret_state(secret: Json | None, registry: str) -> str:
    """Whether a pull secret can be of use for a registry. Nothing of its content is shown."""
    if secret is None:
        return "missing"
    data = secret.get("data") or {}
    raw = data.get(".dockerconfigjson") or data.get(".dockercfg")
    if not raw:
        return "not a pull secret"
    try:
        content = json.loads(base64.b64decode(raw))
        known = content.get("auths", content)
        hosts = {re.sub(r"^https?://", "", host).partition("/")[0] for host in known}
    except (ValueError, AttributeError, TypeError):
        return "not readable"
    aliases = {"docker.io", "index.docker.io", "registry-1.docker.io"}
    fits = bool(hosts & aliases) if registry in aliases else registry in hosts
    return "has this registry" if fits else "lacks this registry"
