# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A question to Prometheus, and whether each of its series is within its limits. No data is not zero."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from .._core.errors import Kind, OpsError, bad_parameter
from .._core.plan import Finding, Severity
from .._core.spec import Params
from .client import Net
from .model import Answer, Request, Seen
from .place import place_of
from .web import headers_of, unanswered

#: Series that are shown at most; all are judged.
_SHOWN = 20

_PLACEHOLDER = "$match"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The question and its limits. C(source) are series whose newest sample may be C(max_age) seconds old."""

    request: Request
    query: str
    below: float | None = None
    above: float | None = None
    source: str = ""
    max_age: float = 60.0

    @classmethod
    def of(cls, params: Params) -> Wanted:
        """Reads the module's options. Raises for those that make no sense, before anything is asked."""
        place = place_of(params["prometheus_url"], "prometheus_url")
        if "?" in place.path:
            raise bad_parameter("prometheus_url", "it has a query", "Give the URL before /api/v1.")
        place = replace(place, path=f"{place.path.rstrip('/')}/api/v1/query")
        headers = {**headers_of(params), "Content-Type": "application/x-www-form-urlencoded"}
        if params["below"] is None and params["above"] is None:
            raise bad_parameter("below", "there is no limit to judge by", "Give below, above or both.")
        match = params["match"] or {}
        return cls(
            Request(place, "POST", headers),
            rendered(params["query"], match, "query"),
            params["below"],
            params["above"],
            rendered(params["source"], match, "source") if params["source"] else "",
            params["max_age"],
        )


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer."""

    labels: Mapping[str, str]
    value: float

    @property
    def name(self) -> str:
        return "{" + ", ".join(f"{label}={value}" for label, value in sorted(self.labels.items())) + "}"

    def as_dict(self) -> dict[str, Any]:
        """JSON has no infinity, and what is not a number is none."""
        return {"labels": dict(self.labels), "value": self.value if math.isfinite(self.value) else str(self.value)}


@dataclass(frozen=True, slots=True)
class Result:
    """What Prometheus answered."""

    series: tuple[Series, ...]
    warnings: tuple[str, ...] = ()


def rendered(query: str, match: Mapping[str, Any], option: str) -> str:
    """The query with C($match) replaced by matchers. Values are quoted here, and never by whoever writes the query."""
    if (_PLACEHOLDER in query) is not bool(match):
        hint = "Write http_requests_total{$match} and give match: {job: api}."
        raise bad_parameter(option, f"it needs {_PLACEHOLDER} and match, or neither", hint)
    return query.replace(_PLACEHOLDER, ",".join(matcher(str(label), value) for label, value in match.items()))


def matcher(label: str, value: Any) -> str:
    """One matcher for equality."""
    if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", label):
        raise bad_parameter("match", f"{label!r} is no name of a label")
    text = str(value)
    if re.search(r"[\x00-\x09\x0b-\x1f\x7f\ud800-\udfff]", text):
        raise bad_parameter("match", f"the value of {label} holds a control character")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{label}="{escaped}"'


def look(net: Net, wanted: Wanted) -> Seen:
    """One question, and a second one where the age of its data counts."""
    subject = wanted.request.place.origin
    try:
        result = _ask(net, wanted.request, wanted.query)
        age = _ask(net, wanted.request, f"time() - max(timestamp({wanted.source}))") if wanted.source else None
    except OpsError as error:
        if error.kind is Kind.PRECONDITION:  # the question is wrong, not the patient
            raise
        return unanswered(error, subject)
    found = (*judged(wanted, result), *(stale(wanted, age) if age else ()))
    facts = {"series": [one.as_dict() for one in result.series[:_SHOWN]], "series_count": len(result.series)}
    return Seen((*found, *_warned(result, subject)), facts)


def _ask(net: Net, request: Request, query: str) -> Result:
    answer = net.exchange(replace(request, body=urlencode({"query": query}).encode()))
    return parsed(answer)


def parsed(answer: Answer) -> Result:
    """The series of an answer. Raises C(precondition) for a query that Prometheus does not take."""
    try:
        document = json.loads(answer.body)
        if document["status"] == "error":
            raise _refusal(document, answer)
        kind, found = document["data"]["resultType"], document["data"]["result"]
    except (ValueError, KeyError, TypeError):
        raise _not_prometheus(answer) from None
    warnings = tuple(str(words) for words in document.get("warnings") or ())
    if kind == "scalar":
        return Result((Series({}, _number(found[1])),), warnings)
    if kind != "vector":
        hint = "Ask for an instant vector or a scalar: rate(x[1m]), not x[1m]."
        raise bad_parameter("query", f"its result is a {kind}", hint)
    return Result(tuple(Series(one["metric"], _number(one["value"][1])) for one in found), warnings)


def _number(text: str) -> float:
    """Prometheus writes C(NaN), C(+Inf) and C(-Inf)."""
    return float(text)


def _not_prometheus(answer: Answer) -> OpsError:
    hint = "Check prometheus_url, and whether a login stands in front of it."
    words = f"status {answer.status}, and no answer of Prometheus"
    code = "protocol" if answer.status == 200 else "status"
    return OpsError(Kind.UNREACHABLE, words, hint, code, facts={"status": answer.status})


def _refusal(document: Mapping[str, Any], answer: Answer) -> OpsError:
    kind, words = str(document.get("errorType", "")), str(document.get("error", ""))[:500]
    if kind in ("bad_data", "execution"):
        return OpsError(Kind.PRECONDITION, f"query: {words}", "Try it in Prometheus' own page.", "bad_query")
    if kind in ("timeout", "canceled"):
        return OpsError(Kind.TIMEOUT, words, "Prometheus itself is slow, or the query is too wide.", "timeout")
    facts = {"status": answer.status, "error_type": kind}
    return OpsError(Kind.UNREACHABLE, words, "Look at Prometheus itself.", "status", facts=facts)


def judged(wanted: Wanted, result: Result) -> tuple[Finding, ...]:
    """A finding for each series beyond a limit, and one where there is nothing to judge."""
    subject = wanted.request.place.origin
    numbers = [one for one in result.series if not math.isnan(one.value)]
    found = [_beyond(one, wanted) for one in numbers if _limit(one.value, wanted)]
    empty = len(result.series) - len(numbers)
    if empty or not result.series:
        evidence = {"why": "not a number" if empty else "no series", "series": len(result.series), "empty": empty}
        advice = "Nobody knows: no traffic, a scrape that fails, or a label that no series has. It is not zero."
        found.append(Finding("probe.no_data", Severity.CRITICAL, subject, evidence, advice))
    return tuple(found[:_SHOWN])


def _limit(value: float, wanted: Wanted) -> dict[str, float]:
    """The limit that a value is not within; empty where it is within both."""
    if wanted.below is not None and value >= wanted.below:
        return {"below": wanted.below}
    if wanted.above is not None and value <= wanted.above:
        return {"above": wanted.above}
    return {}


def _beyond(series: Series, wanted: Wanted) -> Finding:
    evidence = {**series.as_dict(), **_limit(series.value, wanted)}
    subject = series.name if series.labels else wanted.request.place.origin
    return Finding("probe.threshold", Severity.CRITICAL, subject, evidence, "Look at what this series counts.")


def stale(wanted: Wanted, age: Result) -> tuple[Finding, ...]:
    """Whether the data behind the answer is old: C(rate) over a long window hides a scrape that has stopped."""
    subject = wanted.request.place.origin
    seconds = age.series[0].value if age.series else math.nan
    if math.isnan(seconds):
        evidence = {"why": "source has no series"}
        return (Finding("probe.no_data", Severity.CRITICAL, subject, evidence, "Check source, and the scrape."),)
    if seconds <= wanted.max_age:
        return ()
    old = {"age": round(seconds, 1), "max_age": wanted.max_age}
    return (Finding("probe.stale", Severity.CRITICAL, subject, old, "The scrape has stopped: look at its target."),)


def _warned(result: Result, subject: str) -> tuple[Finding, ...]:
    if not result.warnings:
        return ()
    evidence = {"warnings": [words[:300] for words in result.warnings[:5]], "count": len(result.warnings)}
    return (Finding("probe.warnings", Severity.WARNING, subject, evidence, "The answer may lack a part."),)
