# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The network as a look needs it: one request and its answer, or one connection. Nothing is kept open."""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment

from .._core.errors import Kind, OpsError, bad_parameter
from .._core.spec import Params
from .errors import no_answer
from .line import Clock, Line, dialled
from .model import Answer, Place, Request, Trace
from .place import is_loopback

#: Bytes of an answer that are read at most.
LIMIT = 1 << 20

_CHUNK = 1 << 16


class Net(Protocol):
    """Whatever can be asked. An answer that did not come is an OpsError with the code of its cause."""

    def exchange(self, request: Request) -> Answer:
        """Sends one request, and reads its answer."""

    def touch(self, place: Place) -> Trace:
        """Opens a connection, and closes it."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """Who asks for us. C(token) is for its own door."""

    host: str
    port: int
    token: str = ""


@dataclass(frozen=True, slots=True)
class Wire:
    """The real network, over the standard library alone. C(seconds) is what one look may take."""

    seconds: float
    context: ssl.SSLContext
    proxies: Mapping[str, str]

    def exchange(self, request: Request) -> Answer:
        clock = Clock(self.seconds)
        try:
            return self._exchange(request, clock)
        except Exception as error:
            known = no_answer(error, clock.stage, self.seconds)
            if known is None:
                raise
            known.facts["ms"] = dict(clock.trace.ms)
            raise known from error

    def touch(self, place: Place) -> Trace:
        clock = Clock(self.seconds)
        try:
            with dialled(place.host, place.port, clock):
                return clock.trace
        except OSError as error:
            known = no_answer(error, clock.stage, self.seconds)
            raise (known or error) from error

    def _exchange(self, request: Request, clock: Clock) -> Answer:
        place, secure = request.place, request.place.scheme == "https"
        proxy = proxy_for(place, self.proxies)
        with dialled(proxy.host if proxy else place.host, proxy.port if proxy else place.port, clock) as line:
            headers = dict(request.headers)
            target = place.path
            if proxy and secure:
                _tunnel(line, place, proxy, clock)
            elif proxy:
                target = f"http://{place.authority}{place.path}"
                headers |= proxy_headers(proxy)
            if secure:
                with clock.measured("tls"):
                    clock.trace.certificate = line.secure(self.context, place.host)
            return _ask(line, request, target, headers, clock)


def _ask(line: Line, request: Request, target: str, headers: Mapping[str, str], clock: Clock) -> Answer:
    connection = HTTPConnection(request.place.host, request.place.port)
    connection.sock = line
    with clock.measured("answer"):
        sent = {"User-Agent": "sre.runbooks", "Accept": "*/*", "Connection": "close", **headers}
        connection.request(request.method, target, body=request.body or None, headers=sent)
        answer = connection.getresponse()
    with clock.measured("body"):
        body, cut = _read(answer)
    fields = {name.lower(): value for name, value in answer.getheaders()}
    return Answer(answer.status, fields, body, clock.trace, cut)


def _read(answer: HTTPResponse) -> tuple[bytes, bool]:
    """The body, up to the limit: it is judged and forgotten."""
    parts: list[bytes] = []
    size = 0
    while size <= LIMIT:
        part = answer.read(_CHUNK)
        if not part and answer.length:
            raise IncompleteRead(b"", answer.length)
        if not part:
            return b"".join(parts), False
        parts.append(part)
        size += len(part)
    return b"".join(parts)[:LIMIT], True


def _tunnel(line: Line, place: Place, proxy: Proxy, clock: Clock) -> None:
    with clock.measured("proxy"):
        clock.stage = "answer"
        extra = "".join(f"{name}: {value}\r\n" for name, value in proxy_headers(proxy).items())
        line.sendall(f"CONNECT {place.netloc} HTTP/1.1\r\nHost: {place.netloc}\r\n{extra}\r\n".encode("ascii"))
        held: Any = line
        answer = HTTPResponse(held, method="CONNECT")
        answer.begin()
        if answer.status != 200:
            raise _proxy_fails(f"the proxy {proxy.host}:{proxy.port} answered {answer.status}")


def proxy_for(place: Place, proxies: Mapping[str, str]) -> Proxy | None:
    """The proxy that the environment names for a place. This machine itself is never asked for through one."""
    url = proxies.get(place.scheme, "")
    if not url or is_loopback(place.host) or _spared(place, proxies.get("no", "")):
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise _proxy_fails(f"a proxy of the kind {parts.scheme} is not known here")
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    token = b64encode(pair.encode()).decode() if parts.username else ""
    return Proxy(parts.hostname, parts.port or 80, token)


def _proxy_fails(words: str) -> OpsError:
    hint = "Look at HTTP_PROXY, HTTPS_PROXY and NO_PROXY, or go without them: use_proxy=false."
    return OpsError(Kind.UNREACHABLE, words, hint, "proxy", facts={"stage": "proxy"})


def _spared(place: Place, names: str) -> bool:
    """Whether C(NO_PROXY) names the place: C(*), a host, C(host:port), or a domain above it."""
    known = [name.strip().lower().removeprefix(".") for name in names.split(",")]
    host = place.host.lower()
    return any(name in ("*", host, place.netloc.lower()) or host.endswith(f".{name}") for name in known if name)


def proxy_headers(proxy: Proxy) -> dict[str, str]:
    return {"Proxy-Authorization": f"Basic {proxy.token}"} if proxy.token else {}


@contextmanager
def connect(params: Params) -> Iterator[Wire]:
    """Nothing is opened yet: each look opens its own connection, as a new client would."""
    proxies = getproxies_environment() if params["use_proxy"] else {}
    yield Wire(params["op_timeout"], _context(params), proxies)


def _context(params: Params) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=params["ca_cert"] or None)
    except (OSError, ssl.SSLError) as error:
        raise bad_parameter("ca_cert", f"{params['ca_cert']} cannot be used: {error}") from error
    if not params["validate_certs"]:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
