# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is asked of an endpoint, what it answered, and what one look at it has shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .._core.plan import Finding, Severity


@dataclass(frozen=True, slots=True)
class Place:
    """Where a service listens. C(path) is what is asked for there, with its query; it may hold a token."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def netloc(self) -> str:
        return f"{self._host}:{self.port}"

    @property
    def authority(self) -> str:
        """As a client writes it: without the scheme's own port."""
        return self._host if (self.scheme, self.port) in (("http", 80), ("https", 443)) else self.netloc

    @property
    def _host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def origin(self) -> str:
        """The target's identity, C(scheme://host:port)."""
        return f"{self.scheme}://{self.netloc}"

    @property
    def shown(self) -> str:
        """The place as it may stand in a record: without the query."""
        return f"{self.origin}{self.path.partition('?')[0]}"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. C(headers) are secret."""

    place: Place
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What TLS has shown. C(expires) is None where the certificate was not verified."""

    version: str
    expires: datetime | None = None

    def days_left(self, now: datetime) -> float | None:
        return None if self.expires is None else round((self.expires - now).total_seconds() / 86400, 1)


@dataclass(slots=True)
class Trace:
    """Milliseconds of each part of the way, filled in as it is gone, and who answered."""

    address: str = ""
    certificate: Certificate | None = None
    ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. C(body) is read up to a limit, beyond which it is C(cut)."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    trace: Trace
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """One look: what is wrong, and what was measured."""

    findings: tuple[Finding, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """A warning is worth telling, and does not make a service sick."""
        return all(finding.severity is not Severity.CRITICAL for finding in self.findings)

    @property
    def wrong(self) -> str:
        """What makes it sick, in words; empty where it is not."""
        bad = [finding for finding in self.findings if finding.severity is Severity.CRITICAL]
        return "; ".join(f"{finding.id} {dict(finding.evidence)}" for finding in bad)
