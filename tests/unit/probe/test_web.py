# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which answers are healthy, and that what is not said stays unsaid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import Kind, OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._probe import tcp, watch, web
from ansible_collections.sre.runbooks.plugins.module_utils._probe.model import (
    Answer,
    Certificate,
    Place,
    Request,
    Seen,
    Trace,
)
from ansible_collections.sre.runbooks.plugins.module_utils._probe.place import is_loopback, place_of, place_of_tcp

OPTIONS: Mapping[str, Any] = {
    "url": "http://api.example/health?token=t0psecret",
    "tcp": None,
    "method": "GET",
    "headers": None,
    "username": None,
    "password": None,
    "expect_status": ["2xx"],
    "body_regex": None,
    "json": None,
    "follow": 0,
    "tls_warn_days": 14,
    "attempts": 1,
    "consecutive": None,
}


@dataclass
class FakeNet:
    """Answers by path and query, else with the error."""

    answers: dict[str, Answer] = field(default_factory=dict)
    error: OpsError | None = None
    asked: list[Request] = field(default_factory=list)

    def exchange(self, request: Request) -> Answer:
        self.asked.append(request)
        if self.error:
            raise self.error
        return self.answers[f"{request.place.origin}{request.place.path}"]

    def touch(self, place: Place) -> Trace:
        if self.error:
            raise self.error
        return Trace(place.host)


def answer(status: int = 200, body: bytes = b"{}", **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body, Trace("192.0.2.1"))


def looked(given: Answer, **options: Any) -> Seen:
    wanted = web.Wanted.of({**OPTIONS, **options})
    place = wanted.request.place
    return web.look(FakeNet({f"{place.origin}{place.path}": given}), wanted)


def ids(seen: Seen) -> list[str]:
    return [finding.id for finding in seen.findings]


@pytest.mark.parametrize(
    ("wanted", "status", "healthy"),
    [
        (["2xx"], 204, True),
        (["2xx"], 301, False),
        (["200"], 204, False),
        (["200", "503"], 503, True),
        (["200-299", "401"], 401, True),
        (["200-299"], 300, False),
    ],
)
def test_statuses(wanted: list[str], status: int, healthy: bool) -> None:
    assert looked(answer(status), expect_status=wanted).healthy is healthy


@pytest.mark.parametrize("text", ["", "20", "6xx", "299-200", "200,204", "2000", "٢٠٠"])
def test_what_is_no_status_is_refused(text: str) -> None:
    with pytest.raises(OpsError, match="expect_status"):
        web.statuses(text)


@pytest.mark.parametrize(
    ("wanted", "healthy"),
    [
        ({"status": "ok"}, True),
        ({"checks.0.up": True}, True),
        ({"checks.0.up": "True"}, True),
        ({"checks.0.up": 1}, False),
        ({"checks.0.count": "2"}, True),
        ({"checks.0.count": 2}, True),
        ({"checks.1.up": True}, False),
        ({"checks.-1.up": True}, False),
        ({"status": "ok", "version": "1"}, False),
        ({"status.x": "ok"}, False),
    ],
)
def test_values_of_a_json_body(wanted: dict[str, Any], healthy: bool) -> None:
    seen = looked(answer(body=b'{"status": "ok", "checks": [{"up": true, "count": 2}]}'), json=wanted)
    assert seen.healthy is healthy
    assert ids(seen) == ([] if healthy else ["probe.body"])


def test_a_body_is_judged_and_not_told() -> None:
    seen = looked(answer(body=b"user=alice balance=12345678"), body_regex="^ready$")
    told = repr(seen.findings) + repr(seen.facts)
    assert ids(seen) == ["probe.body"]
    assert "alice" not in told
    assert "12345678" not in told
    assert seen.facts["answer"]["length"] == 27


def test_an_error_page_is_a_status_before_it_is_a_body() -> None:
    assert ids(looked(answer(503, b"<html>"), json={"status": "ok"})) == ["probe.status"]


def test_the_query_of_a_url_is_not_shown() -> None:
    seen = looked(answer(500))
    assert "t0psecret" not in repr(seen)
    assert seen.findings[0].subject == "http://api.example:80/health"


@pytest.mark.parametrize("url", ["http://u:p@h/", "http://u@h/", "ftp://h/", "h/path", "http://", "http://h:0/"])
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(OpsError) as caught:
        place_of(url, "url")
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://h/\r\nHost: x", "http://h/a b", "http://h:99999/", "http://[::1/"])
def test_urls_that_cannot_be_read_are_not_repeated(url: str) -> None:
    with pytest.raises(OpsError, match="url: it cannot be read"):
        place_of(url, "url")


def test_places() -> None:
    assert place_of("https://API.example", "url") == Place("https", "api.example", 443, "/")
    assert place_of("http://[::1]:81/ä?q=ü%20", "url") == Place("http", "::1", 81, "/%C3%A4?q=%C3%BC%20")
    assert place_of("http://[::1]:81/", "url").origin == "http://[::1]:81"
    assert place_of("http://bücher.example/", "url").host == "xn--bcher-kva.example"
    assert place_of_tcp("[::1]:5432") == Place("tcp", "::1", 5432)


@pytest.mark.parametrize("text", ["db", "db:", ":5432", "db:x", "u@db:1", "db:1/x", "db:0"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(OpsError, match="tcp"):
        place_of_tcp(text)


def test_which_hosts_are_this_machine() -> None:
    assert [is_loopback(host) for host in ("127.0.0.2", "::1", "localhost", "a.localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("192.0.2.1", "localhost.example", "127.example")] == [False] * 3


@pytest.mark.parametrize("headers", [{"X": "a\r\nY: b"}, {"X\n": "a"}, {"": "a"}, {"X": "\x00"}])
def test_headers_are_headers_only(headers: dict[str, str]) -> None:
    with pytest.raises(OpsError, match="headers"):
        web.headers_of({**OPTIONS, "headers": headers})


def redirecting(location: str, **options: Any) -> tuple[Seen, FakeNet]:
    wanted = web.Wanted.of({**OPTIONS, "url": "https://api.example/old", **options})
    pages = {
        "https://api.example:443/old": answer(302, location=location),
        "https://api.example:443/new": answer(200),
        "https://other.example:443/": answer(200),
    }
    net = FakeNet(pages)
    return web.look(net, wanted), net


def test_a_redirect_is_an_answer_like_any_other() -> None:
    seen, net = redirecting("/new")
    assert (ids(seen), len(net.asked)) == (["probe.status"], 1)
    assert seen.findings[0].evidence["location"] == "https://api.example:443/new"


def test_a_redirect_is_followed_when_told_to() -> None:
    seen, net = redirecting("/new", follow=1, headers={"Authorization": "x"})
    assert (seen.healthy, seen.facts["answer"]["redirects"]) == (True, 1)
    assert net.asked[1].headers == {"Authorization": "x"}


def test_secrets_do_not_go_along_to_another_origin() -> None:
    seen, net = redirecting("https://other.example", follow=3, headers={"Authorization": "x"})
    assert seen.healthy
    assert net.asked[1].headers == {}


@pytest.mark.parametrize("location", ["http://api.example/new", "file:///etc/passwd", "https://u:p@x/", "https://[x"])
def test_redirects_that_are_not_followed(location: str) -> None:
    seen, net = redirecting(location, follow=3)
    assert (ids(seen), len(net.asked)) == (["probe.status"], 1)
    assert "u:p" not in repr(seen)


def test_redirects_end() -> None:
    seen, net = redirecting("/old", follow=4)
    assert (ids(seen), len(net.asked)) == (["probe.status"], 5)


@pytest.mark.parametrize(("days", "healthy", "found"), [(3, True, ["probe.tls_expiring"]), (30, True, [])])
def test_a_certificate_that_ends_soon_is_a_warning(days: float, healthy: bool, found: list[str]) -> None:
    given = answer()
    given.trace.certificate = Certificate("TLSv1.3", datetime.now(UTC) + timedelta(days=days, hours=1))
    seen = looked(given)
    assert (seen.healthy, ids(seen)) == (healthy, found)
    assert seen.facts["answer"]["tls"]["days_left"] == pytest.approx(days, abs=0.1)


def test_no_answer_is_a_finding() -> None:
    error = OpsError(Kind.TIMEOUT, "nothing came", "wait", "timeout", facts={"stage": "answer", "ms": {"tcp": 1.0}})
    seen = web.look(FakeNet(error=error), web.Wanted.of(OPTIONS))
    assert ids(seen) == ["probe.timeout"]
    assert seen.findings[0].evidence["stage"] == "answer"
    assert ids(tcp.look(FakeNet(error=error), place_of_tcp("db:1"))) == ["probe.timeout"]


def test_options_that_cannot_go_together() -> None:
    for options in ({"method": "HEAD", "json": {"a": 1}}, {"body_regex": "("}):
        with pytest.raises(OpsError):
            web.Wanted.of({**OPTIONS, **options})


def test_one_of_three_looks_that_fails_is_not_healthy() -> None:
    turns = iter([200, 503, 200])

    class Flapping(FakeNet):
        def exchange(self, request: Request) -> Answer:
            return answer(next(turns))

    watched = watch.watch_of(Flapping(), OPTIONS)
    found = watched.several(3, 0)
    assert [(finding.id, finding.evidence["times"], finding.evidence["looks"]) for finding in found] == [
        ("probe.status", 1, 3)
    ]
    assert (watched.facts["healthy"], watched.facts["misses"], watched.facts["looks"]) == (False, 1, 3)


@pytest.mark.parametrize("options", [{"attempts": 0}, {"consecutive": 0}])
def test_looks_have_to_be_some(options: dict[str, Any]) -> None:
    with pytest.raises(OpsError, match="tell nothing"):
        watch.watch_of(FakeNet(), {**OPTIONS, **options})
