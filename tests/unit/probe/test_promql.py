# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a Prometheus answers, and what that means. The answers are as 2.42 writes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import Kind, OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._probe import promql
from ansible_collections.sre.runbooks.plugins.module_utils._probe.model import Answer, Place, Request, Trace

REQUEST = Request(Place("http", "prom", 9090, "/api/v1/query"), "POST")


def answered(document: Any, status: int = 200) -> Answer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Answer(status, {}, body, Trace())


def vector(*values: str, **more: Any) -> Answer:
    result = [{"metric": {"pod": f"api-{n}"}, "value": [1763701200.0, value]} for n, value in enumerate(values)]
    return answered({"status": "success", "data": {"resultType": "vector", "result": result}, **more})


def judged(given: Answer, **limits: float) -> list[str]:
    wanted = promql.Wanted(REQUEST, "x", **limits)
    return [finding.id for finding in promql.judged(wanted, promql.parsed(given))]


@pytest.mark.parametrize(
    ("values", "limits", "expected"),
    [
        (["0.001"], {"below": 0.01}, []),
        (["0.01"], {"below": 0.01}, ["probe.threshold"]),
        (["0"], {"below": 0.01}, []),
        ([], {"below": 0.01}, ["probe.no_data"]),
        (["NaN"], {"below": 0.01}, ["probe.no_data"]),
        (["0", "NaN"], {"below": 0.01}, ["probe.no_data"]),
        (["0", "0.5", "0.7"], {"below": 0.01}, ["probe.threshold", "probe.threshold"]),
        (["+Inf"], {"below": 1}, ["probe.threshold"]),
        (["-Inf"], {"above": 0}, ["probe.threshold"]),
        (["1"], {"above": 1}, ["probe.threshold"]),
        (["2"], {"above": 1, "below": 3}, []),
        (["3"], {"above": 1, "below": 3}, ["probe.threshold"]),
    ],
)
def test_each_series_is_judged_and_no_data_is_not_zero(
    values: list[str], limits: dict[str, float], expected: list[str]
) -> None:
    assert judged(vector(*values), **limits) == expected


def test_a_scalar_is_one_series() -> None:
    given = answered({"status": "success", "data": {"resultType": "scalar", "result": [1.0, "0.5"]}})
    assert judged(given, below=0.1) == ["probe.threshold"]


@pytest.mark.parametrize("kind", ["matrix", "string"])
def test_other_results_are_refused(kind: str) -> None:
    with pytest.raises(OpsError, match=kind):
        promql.parsed(answered({"status": "success", "data": {"resultType": kind, "result": []}}))


@pytest.mark.parametrize(
    ("given", "kind", "code"),
    [
        (
            answered({"status": "error", "errorType": "bad_data", "error": "1:3: parse error"}, 400),
            Kind.PRECONDITION,
            "bad_query",
        ),
        (
            answered({"status": "error", "errorType": "execution", "error": "many-to-many"}, 422),
            Kind.PRECONDITION,
            "bad_query",
        ),
        (
            answered({"status": "error", "errorType": "timeout", "error": "too long"}, 503),
            Kind.TIMEOUT,
            "timeout",
        ),
        (answered({"status": "error", "errorType": "internal", "error": "x"}, 500), Kind.UNREACHABLE, "status"),
        (answered(b"<html>log in</html>"), Kind.UNREACHABLE, "protocol"),
        (answered(b"", 502), Kind.UNREACHABLE, "status"),
        (answered([]), Kind.UNREACHABLE, "protocol"),
    ],
)
def test_what_is_no_answer(given: Answer, kind: Kind, code: str) -> None:
    with pytest.raises(OpsError) as caught:
        promql.parsed(given)
    assert (caught.value.kind, caught.value.code) == (kind, code)


@pytest.mark.parametrize(
    ("value", "rendered"),
    [
        ("api", 'x{job="api"}'),
        ('a"} or vector(0) #', 'x{job="a\\"} or vector(0) #"}'),
        ("a\\", 'x{job="a\\\\"}'),
        ("a\nb", 'x{job="a\\nb"}'),
        ("{{ ü }}", 'x{job="{{ ü }}"}'),
        (5, 'x{job="5"}'),
    ],
)
def test_values_are_quoted(value: Any, rendered: str) -> None:
    assert promql.rendered("x{$match}", {"job": value}, "query") == rendered


def test_several_labels_and_several_places() -> None:
    assert promql.rendered("x{$match} / y{$match}", {"a": "1", "b": "2"}, "query") == 'x{a="1",b="2"} / y{a="1",b="2"}'


@pytest.mark.parametrize(
    ("query", "match"),
    [
        ("x", {"a": "1"}),
        ("x{$match}", {}),
        ("x{$match}", {'a="1"} or y{b': "1"}),
        ("x{$match}", {"a-b": "1"}),
        ("x{$match}", {"a": "\x00"}),
        ("x{$match}", {"a": "\ud800"}),
    ],
)
def test_what_cannot_be_rendered_is_refused(query: str, match: dict[str, str]) -> None:
    with pytest.raises(OpsError):
        promql.rendered(query, match, "query")


@pytest.mark.parametrize(
    ("age", "expected"), [("5", []), ("61", ["probe.stale"]), ("NaN", ["probe.no_data"]), (None, ["probe.no_data"])]
)
def test_old_data_is_told(age: str | None, expected: list[str]) -> None:
    wanted = promql.Wanted(REQUEST, "x", below=1, source="x", max_age=60)
    found = promql.stale(wanted, promql.parsed(vector(*([age] if age else []))))
    assert [finding.id for finding in found] == expected


class _Net:
    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[Request] = []

    def exchange(self, request: Request) -> Answer:
        self.asked.append(request)
        return self.answers.pop(0)

    def touch(self, place: Place) -> Trace:
        raise AssertionError("no connection of its own")


def test_a_warning_is_told_and_does_not_make_sick() -> None:
    seen = promql.look(_Net(vector("0", warnings=["1 of 3 stores is down"])), promql.Wanted(REQUEST, "x", below=1))
    assert seen.healthy
    assert [finding.id for finding in seen.findings] == ["probe.warnings"]


def test_the_age_of_the_source_is_asked_for() -> None:
    net = _Net(vector("0"), vector("500"))
    seen = promql.look(net, promql.Wanted(REQUEST, "x", below=1, source='up{job="api"}'))
    assert [finding.id for finding in seen.findings] == ["probe.stale"]
    assert net.asked[1].body == b"query=time%28%29+-+max%28timestamp%28up%7Bjob%3D%22api%22%7D%29%29"


def test_many_series_are_all_judged_and_few_are_shown() -> None:
    seen = promql.look(_Net(vector(*["0.5"] * 300)), promql.Wanted(REQUEST, "x", below=0.1))
    assert (len(seen.findings), len(seen.facts["series"]), seen.facts["series_count"]) == (20, 20, 300)


def test_a_limit_has_to_be_given() -> None:
    options = {"prometheus_url": "http://prom:9090", "query": "x", "below": None, "above": None, "headers": None}
    with pytest.raises(OpsError, match="no limit"):
        promql.Wanted.of({**options, "username": None, "match": None, "source": None, "max_age": 60})
