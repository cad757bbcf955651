# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""probe against real sockets: every way in which an answer can fail to come, or come wrong."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.certificates import make_certificates
from tests.lab.process import HOST, LabError, free_port
from tests.lab.prometheus import Prometheus, program, start_prometheus
from tests.lab.web_server import Asked, Reply, Web, full_port, silent_port, web
from tests.support import call, play

GOOD = Reply()


@pytest.fixture
def service() -> Iterator[Web]:
    with web() as running:
        yield running


def ids(result: dict[str, Any]) -> list[str]:
    return [finding["id"] for finding in result["findings"]]


def only(result: dict[str, Any]) -> dict[str, Any]:
    assert len(result["findings"]) == 1, result["findings"]
    found: dict[str, Any] = result["findings"][0]
    return found


def test_a_healthy_answer_is_measured_and_not_kept(service: Web) -> None:
    result = call("probe", url=f"{service.url}/health", json={"status": "ok"}, attempts=3, interval=0)
    assert (result["healthy"], result["changed"], result["findings"]) == (True, False, [])
    assert (result["looks"], result["misses"]) == (3, 0)
    answer = result["answer"]
    assert (answer["status"], answer["length"], answer["type"]) == (200, len(GOOD.body), "application/json")
    assert set(answer["ms"]) == {"dns", "tcp", "answer", "body"}
    assert answer["digest"].startswith("sha256:")
    assert "checks" not in str(result)
    assert result["plan"]["target"]["identity"] == service.url


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_methods(service: Web, method: str) -> None:
    assert call("probe", url=service.url, method=method)["healthy"]
    assert service.asked[0].method == method


@pytest.mark.parametrize(
    ("fault", "expected", "stage"),
    [
        ("hang", "probe.timeout", "answer"),
        ("drip", "probe.timeout", "body"),
        ("close", "probe.reset", "answer"),
        ("reset", "probe.reset", "answer"),
        ("cut", "probe.reset", "body"),
        ("garbage", "probe.protocol", "answer"),
    ],
)
def test_answers_that_do_not_come(service: Web, fault: str, expected: str, stage: str) -> None:
    service.replies = lambda _asked: Reply(fault=fault)
    started = time.monotonic()
    result = call("probe", url=service.url, op_timeout=0.4)
    assert time.monotonic() - started < 2
    assert (result["healthy"], "failed" in result) == (False, False)
    found = only(result)
    assert (found["id"], found["evidence"]["stage"]) == (expected, stage)
    assert found["suggest"]


def test_a_status_and_a_body_that_are_wrong(service: Web) -> None:
    service.replies = lambda _asked: Reply(503, b"pool exhausted for user=alice")
    assert only(call("probe", url=service.url))["evidence"]["status"] == 503
    result = call("probe", url=service.url, expect_status=["503"], body_regex="^ready")
    assert ids(result) == ["probe.body"]
    assert "alice" not in str(result)


def test_nobody_listens() -> None:
    port = free_port()
    assert ids(call("probe", url=f"http://{HOST}:{port}/")) == ["probe.refused"]
    assert ids(call("probe", tcp=f"{HOST}:{port}")) == ["probe.refused"]


def test_a_name_that_nobody_knows() -> None:
    result = call("probe", url="http://nobody.invalid/", use_proxy=False)
    assert ids(result) == ["probe.dns"]


def test_a_port_that_loses_what_is_sent() -> None:
    with full_port() as port:
        found = only(call("probe", tcp=f"{HOST}:{port}", op_timeout=0.3))
    assert (found["id"], found["evidence"]["stage"]) == ("probe.timeout", "tcp")


def test_no_way_leads_there() -> None:
    """Multicast takes no connections: the kernel says so at once, as it does for a network without a route."""
    assert ids(call("probe", tcp="224.0.0.1:80", op_timeout=2)) == ["probe.no_route"]


def test_a_port_that_is_silent_takes_connections() -> None:
    with silent_port() as port:
        assert call("probe", tcp=f"{HOST}:{port}")["healthy"]
        found = only(call("probe", url=f"https://{HOST}:{port}/", op_timeout=0.3))
    assert (found["id"], found["evidence"]["stage"]) == ("probe.timeout", "tls")


def test_tls_that_is_good_and_ends_soon(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "pki", days=3)
    with web(tls=made) as service:
        result = call("probe", url=service.url, ca_cert=str(made.ca_cert))
        assert (result["healthy"], ids(result)) == (True, ["probe.tls_expiring"])
        assert result["answer"]["tls"]["days_left"] == pytest.approx(3, abs=0.1)
        assert "tls" in result["answer"]["ms"]
        assert ids(call("probe", url=service.url, ca_cert=str(made.ca_cert), tls_warn_days=1)) == []
        unverified = call("probe", url=service.url, validate_certs=False)
        assert (unverified["healthy"], unverified["answer"]["tls"]["days_left"]) == (True, None)


@pytest.mark.parametrize(("days", "trusted", "reason"), [(2, False, "unknown_authority"), (-1, True, "expired")])
def test_certificates_that_are_not_good(tmp_path: Path, days: float, trusted: bool, reason: str) -> None:
    if days < 0:
        pytest.importorskip("cryptography")
        days = -0.003  # the lab's certificates begin five minutes ago
    made = make_certificates(tmp_path / "pki", days=days)
    with web(tls=made) as service:
        result = call("probe", url=service.url, **({"ca_cert": str(made.ca_cert)} if trusted else {}))
    found = only(result)
    assert (found["id"], found["evidence"]["reason"]) == ("probe.tls", reason)


def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "pki")
    with web(tls=made) as service:
        url = f"https://127.0.0.2:{service.port}/"  # the listener is on 127.0.0.1 only, so lend it a door there
        with _forwarded("127.0.0.2", service.port):
            found = only(call("probe", url=url, ca_cert=str(made.ca_cert)))
    assert (found["id"], found["evidence"]["reason"]) == ("probe.tls", "wrong_name")


def test_plain_where_tls_is_and_tls_where_plain_is(tmp_path: Path, service: Web) -> None:
    assert ids(call("probe", url=service.url.replace("http:", "https:"))) == ["probe.tls"]
    with web(tls=make_certificates(tmp_path / "pki")) as secure:
        assert ids(call("probe", url=secure.url.replace("https:", "http:"))) in (["probe.protocol"], ["probe.reset"])


def test_a_file_of_authorities_that_is_not_there() -> None:
    result = call("probe", url="https://127.0.0.1/", ca_cert="/nonexistent/ca.pem")
    assert result["error"]["code"] == "bad_parameter"


def test_credentials_are_sent_and_never_shown(service: Web) -> None:
    service.replies = lambda _asked: Reply(401)
    options = {"username": "probe", "password": "s3cretpass", "headers": {"X-Token": "t0ken-value"}}
    result = call("probe", url=f"{service.url}/?key=querysecret", **options)
    headers = service.asked[0].headers
    assert headers["X-Token"] == "t0ken-value"
    assert headers["Authorization"].startswith("Basic ")
    assert not [word for word in ("s3cretpass", "t0ken-value", "querysecret", "cHJvYmU") if word in str(result)]


def test_a_url_with_a_password_is_refused_unseen(service: Web) -> None:
    result = call("probe", url=service.url.replace("//", "//alice:s3cretpass@"))
    assert (result["error"]["code"], service.asked) == ("bad_parameter", [])
    assert "s3cretpass" not in str(result)


def test_redirects(service: Web) -> None:
    def replies(asked: Asked) -> Reply:
        return GOOD if asked.path == "/new" else Reply(302, b"", {"Location": "/new"})

    service.replies = replies
    assert ids(call("probe", url=service.url)) == ["probe.status"]
    followed = call("probe", url=service.url, follow=2)
    assert (followed["healthy"], followed["answer"]["redirects"]) == (True, 1)


def test_it_waits_for_healthy_answers_in_a_row(service: Web) -> None:
    def replies(_asked: Asked) -> Reply:
        return Reply(503) if len(service.asked) in (1, 2, 4) else GOOD

    service.replies = replies
    result = call("probe", url=service.url, consecutive=3, interval=0.01)
    assert (result["healthy"], result["verify"]["ok"], result["verify"]["consecutive"]) == (True, True, 3)
    assert (len(service.asked), result["looks"], result["misses"]) == (7, 7, 3)


@pytest.mark.parametrize("strict", [True, False])
def test_waiting_ends(service: Web, strict: bool) -> None:
    service.replies = lambda _asked: Reply(503)
    result = call("probe", url=service.url, consecutive=2, interval=0.01, timeout=0.1, strict=strict)
    assert result["verify"]["ok"] is False
    assert "probe.status" in result["verify"]["wrong"]
    assert result.get("error", {}).get("kind") == ("verify_failed" if strict else None)


def test_a_proxy_of_the_environment_is_asked_for_others_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with web() as proxy, web() as service:
        monkeypatch.setenv("http_proxy", f"http://user:pw@{HOST}:{proxy.port}")
        monkeypatch.setenv("https_proxy", f"http://{HOST}:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        assert call("probe", url=service.url)["healthy"]
        assert (len(service.asked), len(proxy.asked)) == (1, 0)
        assert call("probe", url="http://api.invalid/health")["healthy"]
        asked = proxy.asked[0]
        assert (asked.path, asked.headers["Host"]) == ("http://api.invalid/health", "api.invalid")
        assert "Proxy-Authorization" in asked.headers
        assert ids(call("probe", url="https://api.invalid/", op_timeout=2)) == ["probe.tls"]  # it speaks no TLS
        assert (proxy.asked[1].method, proxy.asked[1].path) == ("CONNECT", "api.invalid:443")
        proxy.replies = lambda _asked: Reply(403)
        refused = only(call("probe", url="https://api.invalid/", op_timeout=2))
        assert (refused["id"], "403" in refused["evidence"]["detail"]) == ("probe.proxy", True)
        monkeypatch.setenv("http_proxy", f"socks5://{HOST}:{proxy.port}")
        assert ids(call("probe", url="http://api.invalid/")) == ["probe.proxy"]
        monkeypatch.setenv("no_proxy", ".invalid")
        assert ids(call("probe", url="http://api.invalid/health")) == ["probe.dns"]
        assert len(proxy.asked) == 3


def test_both_ways_of_running_it_agree(service: Web) -> None:
    task = {"sre.runbooks.probe": {"url": service.url, "headers": {"X-Token": "t0ken-value"}}}
    shipped = {**task, "environment": {"SRE": "1"}}
    inside, outside = play([task]).result(), play([shipped]).result()
    assert set(inside) - {"invocation"} == set(outside) - {"invocation"}
    assert inside["healthy"] is outside["healthy"] is True
    assert "t0ken-value" not in str(outside)


# --- Prometheus -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    try:
        program()
    except LabError as error:
        pytest.skip(str(error))
    text = (
        b'http_requests_total{code="200"} 100\nhttp_requests_total{code="500"} 7\n'
        b'odd{name="quo\\"te\\\\back\\nline"} 1\nnot_a_number NaN\n'
    )
    with web(lambda _asked: Reply(200, text, {"Content-Type": "text/plain; version=0.0.4"})) as target:
        server = start_prometheus(tmp_path_factory.mktemp("prometheus") / "server", [f"{HOST}:{target.port}"])
        yield server
        server.stop()


def asked(prometheus: Prometheus, query: str, **options: Any) -> dict[str, Any]:
    return call("probe", prometheus_url=prometheus.url, query=query, **options)


def test_every_series_is_judged(prometheus: Prometheus) -> None:
    result = asked(prometheus, "http_requests_total{$match}", match={"job": "api"}, below=50)
    found = only(result)
    assert (found["id"], found["evidence"]["value"], found["evidence"]["labels"]["code"]) == (
        "probe.threshold",
        100,
        "200",
    )
    assert asked(prometheus, "sum(http_requests_total)", below=200)["healthy"]
    assert asked(prometheus, "scalar(sum(http_requests_total))", above=200)["healthy"] is False


@pytest.mark.parametrize("query", ['http_requests_total{code="404"}', "not_a_number", "sum(nothing) / sum(nothing)"])
def test_no_data_is_not_zero(prometheus: Prometheus, query: str) -> None:
    assert ids(asked(prometheus, query, below=1e9)) == ["probe.no_data"]


def test_odd_values_stay_values(prometheus: Prometheus) -> None:
    assert asked(prometheus, "odd{$match}", match={"name": 'quo"te\\back\nline'}, above=0)["healthy"]
    injected = asked(prometheus, "odd{$match}", match={"name": 'x"} or vector(1) or odd{name="x'}, above=0)
    assert ids(injected) == ["probe.no_data"]


@pytest.mark.parametrize("query", ["sum(", "rate(http_requests_total)", "http_requests_total[1m]"])
def test_a_query_that_is_wrong_is_not_a_sick_patient(prometheus: Prometheus, query: str) -> None:
    result = asked(prometheus, query, below=1)
    assert result["error"]["kind"] == "precondition"


def test_the_age_of_the_data(prometheus: Prometheus) -> None:
    options = {"below": 1000, "source": "http_requests_total"}
    assert asked(prometheus, "sum(http_requests_total)", **options)["healthy"]
    assert ids(asked(prometheus, "sum(http_requests_total)", **options, max_age=-1)) == ["probe.stale"]


def test_a_prometheus_that_is_down_or_something_else(service: Web) -> None:
    gone = call("probe", prometheus_url=f"http://{HOST}:{free_port()}", query="up", below=1)
    assert ids(gone) == ["probe.refused"]
    assert ids(call("probe", prometheus_url=service.url, query="up", below=1)) == ["probe.protocol"]


class _forwarded:
    """Another address of loopback, behind which the same service answers."""

    def __init__(self, address: str, port: int) -> None:
        self._listener = socket.create_server((address, port))
        self._port = port
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_exception: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        taken, _peer = self._listener.accept()
        with taken, socket.create_connection((HOST, self._port)) as onward:
            thread = threading.Thread(target=_pump, args=(onward, taken), daemon=True)
            thread.start()
            _pump(taken, onward)
            thread.join(1)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return
