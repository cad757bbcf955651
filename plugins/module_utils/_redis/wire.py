# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The way to a server below its protocol: names, connections, certificates. Each look ends in time."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import Empty, Queue
from threading import Thread

from .._core.errors import Kind, OpsError
from .address import Address, Tls

#: Longest greeting that is worth reading, in bytes.
_GREETING = 512


@dataclass(frozen=True, slots=True)
class Certificate:
    """A server's certificate that was found good. C(expires) is None where the server was not verified."""

    version: str
    expires: datetime | None

    def days_left(self, now: datetime) -> float | None:
        return None if self.expires is None else (self.expires - now).total_seconds() / 86400


def resolve(address: Address) -> tuple[str, ...]:
    """The addresses behind the host name, in the order in which clients try them.

    The system's resolver has no deadline of its own, so it is asked in a thread that is left behind.
    """
    answers: Queue[tuple[str, ...] | OSError] = Queue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            answers.put(tuple(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except OSError as error:
            answers.put(error)

    Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=address.connect_timeout)
    except Empty:
        text = f"the resolver did not answer for {address.host} within {address.connect_timeout:g} s"
        raise OpsError(Kind.TIMEOUT, text, "Check the resolver of this machine.", "dns", retryable=True) from None
    if isinstance(answer, OSError):
        hint = "Check host, and the resolver of this machine."
        raise OpsError(Kind.UNREACHABLE, f"{address.host}: {answer}", hint, "dns") from answer
    return answer


def dial(address: Address, place: str) -> socket.socket:
    """A connection to one of the addresses, or to the Unix socket's path. Raises OpsError."""
    try:
        if address.path:
            return _dial_path(address)
        return socket.create_connection((place, address.port), address.connect_timeout)
    except OSError as error:
        raise _not_dialed(address.path or f"{place}:{address.port}", error, address.connect_timeout) from error


def _dial_path(address: Address) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.settimeout(address.connect_timeout)
    try:
        line.connect(address.path)
    except OSError:
        line.close()
        raise
    return line


def _not_dialed(where: str, error: OSError, seconds: float) -> OpsError:
    if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
        hint = "Nothing listens there. Check host and port, and whether Redis runs."
        return OpsError(Kind.UNREACHABLE, f"{where} refuses connections", hint, "refused", retryable=True)
    if isinstance(error, TimeoutError):
        hint = "Packets get lost on the way: a firewall, a route, or a machine that is down."
        return OpsError(Kind.TIMEOUT, f"{where} did not answer within {seconds:g} s", hint, "timeout", retryable=True)
    if isinstance(error, PermissionError):
        return OpsError(Kind.FORBIDDEN, f"{where}: {error}", "Check the socket's mode and group.", "permission")
    hint = "No way leads there from this machine: check its routes and its network."
    return OpsError(Kind.UNREACHABLE, f"{where}: {error}", hint, "no_route", retryable=True)


def handshake(address: Address, place: str, tls: Tls) -> Certificate:
    """Speaks TLS as a client would, and returns the certificate. Raises OpsError with the code C(tls)."""
    try:
        return _handshake(address, place, tls)
    except OpsError as error:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            raise
        if not greeting(address, place, b"PING\r\n").startswith(("+", "-")):
            raise
        hint = "Leave tls out, or write redis:// - or use the server's TLS port."
        raise OpsError(Kind.UNREACHABLE, "the port answers without TLS", hint, "tls") from error


def _handshake(address: Address, place: str, tls: Tls) -> Certificate:
    context = _context(tls)
    with dial(address, place) as line:
        try:
            with context.wrap_socket(line, server_hostname=address.host) as secured:
                found = secured.getpeercert() or {}
                return Certificate(secured.version() or "", _moment(found.get("notAfter")))
        except ssl.SSLCertVerificationError as error:
            hint = "Check ca_cert and the host name against the server's certificate."
            text = f"the certificate is not good: {error.verify_message}"
            raise OpsError(Kind.UNREACHABLE, text, hint, "tls") from error
        except OSError as error:
            text = f"no TLS handshake: {error}"
            raise OpsError(Kind.UNREACHABLE, text, "Check tls, and the port.", "tls") from error


def _context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca_cert or None)
        if tls.cert:
            context.load_cert_chain(tls.cert, tls.key or None)
    except OSError as error:
        text = f"a file of ca_cert, cert or key cannot be used: {error}"
        raise OpsError(Kind.UNREACHABLE, text, "Check ca_cert, cert and key.", "tls") from error
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _moment(words: object) -> datetime | None:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(words)), UTC) if words else None


def greeting(address: Address, place: str, words: bytes = b"") -> str:
    """What the server says to a plain connection, first sent C(words); empty when it says nothing within a second.

    A server that turns a client away says why and closes; whoever sends at once may never read it.
    """
    with suppress(OSError, OpsError), dial(address, place) as line:
        line.settimeout(min(1.0, address.connect_timeout))
        if words:
            line.sendall(words)
        return line.recv(_GREETING).decode("utf-8", "backslashreplace").strip()
    return ""


def speaks_tls(address: Address, place: str) -> bool:
    """Whether the port answers a TLS handshake, trusted or not."""
    try:
        _handshake(address, place, Tls(verify=False))
    except OpsError as error:
        # A server that wants a client's certificate is one that speaks TLS.
        return "alert" in error.message.lower()
    return True
