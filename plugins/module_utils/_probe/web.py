# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether an HTTP answer is the one that is wanted. Of the body only its length and digest are told."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin

from .._core.errors import OpsError, bad_parameter
from .._core.plan import Finding, Severity
from .._core.redact import digest
from .._core.spec import Params
from .client import Net
from .model import Answer, Certificate, Place, Request, Seen, Trace
from .place import place_of

_REDIRECTS = {301, 302, 303, 307, 308}

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Wanted:
    """The request, and what a healthy answer to it looks like. C(warn_days) before its end a certificate is told."""

    request: Request
    statuses: tuple[range, ...] = (range(200, 300),)
    pattern: re.Pattern[bytes] | None = None
    json: Mapping[str, Any] = field(default_factory=dict)
    follow: int = 0
    warn_days: float = 14

    @classmethod
    def of(cls, params: Params) -> Wanted:
        """Reads the module's options. Raises for those that make no sense, before anything is asked."""
        place = place_of(params["url"], "url")
        if params["method"] == "HEAD" and (params["body_regex"] or params["json"]):
            raise bad_parameter("method", "HEAD has no body to judge", "Use GET, or leave body_regex and json out.")
        return cls(
            Request(place, params["method"], headers_of(params)),
            tuple(statuses(text) for text in params["expect_status"]),
            _pattern(params["body_regex"]),
            params["json"] or {},
            params["follow"],
            params["tls_warn_days"],
        )


def headers_of(params: Params) -> dict[str, str]:
    """The headers to send. A line break in one would be a header, or a request, of its own."""
    headers = {str(name): str(value) for name, value in (params["headers"] or {}).items()}
    if any(not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII) for name in headers):
        raise bad_parameter("headers", "a name is not that of a header")
    if any(not re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value) for value in headers.values()):
        raise bad_parameter("headers", "a value holds a control character")
    if params["username"]:
        pair = f"{params['username']}:{params['password'] or ''}".encode()
        headers["Authorization"] = f"Basic {b64encode(pair).decode()}"
    return headers


def statuses(text: str) -> range:
    """C(200), C(200-299) and C(2xx)."""
    match = re.fullmatch(r"([1-5])xx|(\d{3})(?:-(\d{3}))?", text.strip(), re.ASCII)
    if match is None:
        raise bad_parameter("expect_status", f"{text!r} is no status", "Write 200, 200-299 or 2xx.")
    if match[1]:
        return range(int(match[1]) * 100, int(match[1]) * 100 + 100)
    found = range(int(match[2]), int(match[3] or match[2]) + 1)
    if not found:
        raise bad_parameter("expect_status", f"{text!r} ends before it begins", "Write 200-299.")
    return found


def _pattern(text: str | None) -> re.Pattern[bytes] | None:
    try:
        return re.compile(text.encode()) if text else None
    except re.error as error:
        raise bad_parameter("body_regex", f"it is no regular expression: {error}") from error


def look(net: Net, wanted: Wanted) -> Seen:
    """One request, its redirects as far as they are followed, and what is wrong with the answer."""
    subject = wanted.request.place.shown
    try:
        answer, hops = _followed(net, wanted)
    except OpsError as error:
        return unanswered(error, subject)
    found = (*_judged(wanted, answer, subject), *expiring(answer.trace, subject, wanted.warn_days))
    return Seen(found, {"answer": {**described(answer), "redirects": hops}})


def _followed(net: Net, wanted: Wanted) -> tuple[Answer, int]:
    request = wanted.request
    for hop in range(wanted.follow + 1):
        answer = net.exchange(request)
        onward = _onward(request, answer) if hop < wanted.follow else None
        if onward is None:
            break
        request = onward
    return answer, hop


def _onward(request: Request, answer: Answer) -> Request | None:
    """Where a redirect leads. Never from TLS to plain text; secrets do not go along to another origin."""
    place = _location(request.place, answer)
    if place is None or (request.place.scheme, place.scheme) == ("https", "http"):
        return None
    headers = request.headers if place.origin == request.place.origin else {}
    return replace(request, place=place, headers=headers)


def _location(place: Place, answer: Answer) -> Place | None:
    """The place that a redirect names, None where it names none that may be asked."""
    location = answer.headers.get("location", "")
    if answer.status not in _REDIRECTS or not location:
        return None
    try:
        return place_of(urljoin(f"{place.origin}{place.path}", location), "location")
    except (OpsError, ValueError):
        return None


def unanswered(error: OpsError, subject: str) -> Seen:
    """What stopped a look, as a finding."""
    evidence = {"detail": error.message, **error.facts}
    found = Finding(f"probe.{error.code}", Severity.CRITICAL, subject, evidence, error.hint)
    return Seen((found,), {"answer": {"ms": error.facts.get("ms", {})}})


def _judged(wanted: Wanted, answer: Answer, subject: str) -> tuple[Finding, ...]:
    if not any(answer.status in accepted for accepted in wanted.statuses):
        evidence: dict[str, Any] = {"status": answer.status, "expected": [_range(one) for one in wanted.statuses]}
        if answer.status in _REDIRECTS:
            place = _location(wanted.request.place, answer)
            evidence["location"] = place.shown if place else "not an HTTP URL, or one with credentials"
        advice = "It answers, and says itself that it is not well." if answer.status >= 500 else _ADVICE
        return (Finding("probe.status", Severity.CRITICAL, subject, evidence, advice),)
    wrong = _wrong_body(wanted, answer)
    if not wrong:
        return ()
    evidence = {**wrong, "status": answer.status, "length": len(answer.body), "digest": digest(answer.body)}
    advice = "The status is right, the body is not: look at it yourself, it is not kept here."
    return (Finding("probe.body", Severity.CRITICAL, subject, evidence, advice),)


_ADVICE = "It answers, but not as expected: check path, headers and expect_status."


def _wrong_body(wanted: Wanted, answer: Answer) -> dict[str, Any]:
    if wanted.pattern and not wanted.pattern.search(answer.body):
        return {"body_regex": wanted.pattern.pattern.decode(), "cut": answer.cut}
    if not wanted.json:
        return {}
    try:
        found = json.loads(answer.body)
    except ValueError:
        return {"json": "the body is not JSON", "cut": answer.cut}
    wrong = {path: "missing" if at(found, path) is _ABSENT else "different" for path in _unequal(found, wanted.json)}
    return {"json": wrong} if wrong else {}


def _unequal(found: Any, wanted: Mapping[str, Any]) -> list[str]:
    return [path for path, value in wanted.items() if not _equal(at(found, path), value)]


def _equal(found: Any, wanted: Any) -> bool:
    """Templates turn numbers and booleans into text, so text is compared with how JSON writes them."""
    if isinstance(wanted, str) and isinstance(found, (bool, int, float)):
        return json.dumps(found) == wanted.lower()
    return type(found) is type(wanted) and bool(found == wanted)


def at(found: Any, path: str) -> Any:
    """The value at C(a.b.0.c) of a document."""
    for part in path.split("."):
        if isinstance(found, dict) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isascii() and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        else:
            return _ABSENT
    return found


def described(answer: Answer) -> dict[str, Any]:
    """An answer without its payload."""
    secure = answer.trace.certificate
    return {
        "status": answer.status,
        "length": len(answer.body),
        "cut": answer.cut,
        "digest": digest(answer.body),
        "type": answer.headers.get("content-type", "")[:100],
        "address": answer.trace.address,
        "ms": dict(answer.trace.ms),
        "tls": _described(secure) if secure else {},
    }


def _described(certificate: Certificate) -> dict[str, Any]:
    expires = certificate.expires.strftime("%Y-%m-%dT%H:%M:%SZ") if certificate.expires else ""
    return {
        "version": certificate.version,
        "expires": expires,
        "days_left": certificate.days_left(datetime.now(UTC)),
    }


def expiring(trace: Trace, subject: str, warn_days: float) -> tuple[Finding, ...]:
    """A certificate that is good today, and not for long."""
    days = trace.certificate.days_left(datetime.now(UTC)) if trace.certificate else None
    if days is None or days >= warn_days:
        return ()
    advice = "Renew the server's certificate."
    return (Finding("probe.tls_expiring", Severity.WARNING, subject, {"days_left": days}, advice),)


def _range(found: range) -> str:
    return str(found.start) if len(found) == 1 else f"{found.start}-{found.stop - 1}"
