# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One suite over both networks: the fake one that plans are tested with, and real sockets."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._probe.client import LIMIT, Net, Wire
from ansible_collections.sre.runbooks.plugins.module_utils._probe.model import Answer, Place, Request
from tests.fakes.net import FakeNet
from tests.lab.process import HOST, free_port
from tests.lab.web_server import Asked, Reply, web

Serve = Callable[[Callable[[Asked], Reply]], tuple[Net, Place]]


def wire() -> Wire:
    return Wire(0.4, ssl.create_default_context(), {})


@pytest.fixture(params=["fake", "real"])
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    if request.param == "fake":
        yield lambda replies: (FakeNet(replies), Place("http", HOST, 80, "/page?x=1"))
        return
    with web() as running:

        def real(replies: Callable[[Asked], Reply]) -> tuple[Net, Place]:
            running.replies = replies
            return wire(), Place("http", HOST, running.port, "/page?x=1")

        yield real


def test_an_answer(serve: Serve) -> None:
    net, place = serve(lambda asked: Reply(404, asked.path.encode(), {"X-Odd": "Yes"}))
    answer = net.exchange(Request(place))
    assert (answer.status, answer.body, answer.headers["x-odd"], answer.cut) == (404, b"/page?x=1", "Yes", False)
    assert set(answer.trace.ms) == {"dns", "tcp", "answer", "body"}
    assert answer.trace.address == HOST


@pytest.mark.parametrize(("method", "body"), [("GET", b"gone"), ("HEAD", b""), ("POST", b"gone")])
def test_methods_and_what_is_sent(serve: Serve, method: str, body: bytes) -> None:
    heard: list[Asked] = []

    def replies(asked: Asked) -> Reply:
        heard.append(asked)
        return Reply(200, b"gone")

    net, place = serve(replies)
    sent = b"query=up" if method == "POST" else b""
    assert net.exchange(Request(place, method, {"X-Token": "t"}, sent)).body == body
    assert (heard[0].method, heard[0].headers["X-Token"], heard[0].body) == (method, "t", sent)


def test_a_large_body_is_cut(serve: Serve) -> None:
    net, place = serve(lambda _asked: Reply(200, b"x" * (LIMIT + 1)))
    answer = net.exchange(Request(place))
    assert (len(answer.body), answer.cut) == (LIMIT, True)


@pytest.mark.parametrize(
    ("fault", "code", "stage"),
    [
        ("hang", "timeout", "answer"),
        ("drip", "timeout", "body"),
        ("close", "reset", "answer"),
        ("reset", "reset", "answer"),
        ("cut", "reset", "body"),
        ("garbage", "protocol", "answer"),
    ],
)
def test_faults(serve: Serve, fault: str, code: str, stage: str) -> None:
    net, place = serve(lambda _asked: Reply(fault=fault))
    with pytest.raises(OpsError) as caught:
        net.exchange(Request(place))
    assert (caught.value.code, caught.value.facts["stage"], bool(caught.value.hint)) == (code, stage, True)


def test_a_port_that_takes_connections(serve: Serve) -> None:
    net, place = serve(lambda _asked: Reply())
    assert set(net.touch(place).ms) == {"dns", "tcp"}


@pytest.mark.parametrize("net", [FakeNet(), wire()], ids=["fake", "real"])
@pytest.mark.parametrize(
    "ask",
    [lambda net, place: net.touch(place), lambda net, place: net.exchange(Request(place))],
    ids=["touch", "exchange"],
)
def test_a_port_that_refuses(net: Net, ask: Callable[[Net, Place], Answer]) -> None:
    with pytest.raises(OpsError) as caught:
        ask(net, Place("http", HOST, free_port(), "/"))
    assert (caught.value.code, caught.value.facts["stage"]) == ("refused", "tcp")
