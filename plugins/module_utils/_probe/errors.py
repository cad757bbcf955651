# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why no answer came. Each cause has a code, under which it is a finding C(probe.<code>)."""

from __future__ import annotations

import errno
import socket
import ssl
from http.client import HTTPException, IncompleteRead, RemoteDisconnected

from .._core.errors import Kind, Meaning, OpsError, later

_DNS = Meaning(Kind.UNREACHABLE, "dns", "Check the name, and the resolver of this machine.")
_REFUSED = later(Kind.UNREACHABLE, "refused", "Nothing listens there. Check the port, and whether the service runs.")
_NO_ROUTE = later(Kind.UNREACHABLE, "no_route", "No way leads there from this machine: check routes and firewalls.")
_RESET = later(Kind.UNREACHABLE, "reset", "The peer, or something on the way, closed the connection without an answer.")
_TLS = Meaning(Kind.UNREACHABLE, "tls", "Check the certificate of the server, ca_cert and the host name.")
_PROTOCOL = Meaning(Kind.UNREACHABLE, "protocol", "Something else than HTTP answers there, or it wants https://.")

_TIMEOUTS = {
    "dns": "The resolver of this machine does not answer.",
    "tcp": "Packets get lost on the way: a firewall, a route, or a machine that is down.",
    "tls": "It takes connections and does not speak: it hangs, or it is no TLS port.",
    "answer": "It takes connections and does not answer: it hangs, or waits for something itself.",
    "body": "It began to answer and did not end: it hangs, or streams. Ask with HEAD where it streams.",
}

_UNROUTED = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EPERM, errno.EACCES, errno.ENETDOWN}

#: OpenSSL's numbers for what is wrong with a certificate.
_CERTIFICATES = {
    9: "not_yet_valid",
    10: "expired",
    18: "self_signed",
    19: "unknown_authority",
    20: "unknown_authority",
    21: "unknown_authority",
    23: "revoked",
    62: "wrong_name",
    64: "wrong_name",
}


def no_answer(error: Exception, stage: str, seconds: float) -> OpsError | None:
    """What an exception on the way means, None for a bug. C(stage) is the part of the way where it came."""
    if isinstance(error, OpsError):
        return error
    if isinstance(error, TimeoutError):
        found = later(Kind.TIMEOUT, "timeout", _TIMEOUTS[stage]).error(f"nothing came within {seconds:g} s")
    elif isinstance(error, ssl.SSLCertVerificationError):
        found = _TLS.error(error.verify_message)
        found.facts["reason"] = _CERTIFICATES.get(error.verify_code, "certificate")
    else:
        meaning = _meaning(error, stage)
        if meaning is None:
            return None
        found = meaning.error(_words(error))
    found.facts["stage"] = stage
    return found


#: The most telling first.
_MEANINGS: tuple[tuple[tuple[type[Exception], ...], Meaning], ...] = (
    ((socket.gaierror,), _DNS),
    ((ConnectionRefusedError,), _REFUSED),
    ((RemoteDisconnected, IncompleteRead, ConnectionError, ssl.SSLEOFError), _RESET),
    ((ssl.SSLError,), _TLS),
    ((HTTPException,), _PROTOCOL),
    ((OSError,), _RESET),
)


def _meaning(error: Exception, stage: str) -> Meaning | None:
    # OpenSSL has numbers of its own in the same place.
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno in _UNROUTED:
        return _NO_ROUTE
    found = next((meaning for types, meaning in _MEANINGS if isinstance(error, types)), None)
    return _TLS if found is _RESET and stage == "tls" else found


def _words(error: Exception) -> str:
    """No word of what the server sent: http.client quotes it."""
    if isinstance(error, RemoteDisconnected):
        return "closed without an answer"
    if isinstance(error, HTTPException):
        return type(error).__name__
    if isinstance(error, ssl.SSLError):
        return error.reason or "no TLS handshake"
    return getattr(error, "strerror", None) or type(error).__name__


def translate(error: Exception) -> OpsError | None:
    """For the runner: what stops a look is told as a finding, so whatever is left is a bug."""
    return error if isinstance(error, OpsError) else None
