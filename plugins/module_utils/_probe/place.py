# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Places as people write them: URLs, and C(host:port)."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import SplitResult, quote, urlsplit

from .._core.errors import OpsError, bad_parameter
from .model import Place

_PORTS = {"http": 80, "https": 443}

#: Whatever a request line must not hold as it is. A percent sign is somebody's own quoting.
_SAFE = "/%:=&?~#+!$,;'@()*[]|"


def place_of(url: str, option: str) -> Place:
    """The place that a URL names. Raises for one that holds a password: URLs stand in logs and in process lists."""
    parts = _split(url, option)
    if parts.username is not None or parts.password is not None:
        hint = "Give username and password as options of their own: a URL stands in logs."
        raise bad_parameter(option, "it holds credentials", hint)
    if parts.scheme.lower() not in _PORTS or not parts.hostname:
        raise bad_parameter(option, "it is no HTTP URL", "Write http://host:port/path, or https://.")
    scheme = parts.scheme.lower()
    path = quote(parts.path or "/", safe=_SAFE) + (f"?{quote(parts.query, safe=_SAFE)}" if parts.query else "")
    return Place(scheme, _host(parts.hostname, option), parts.port or _PORTS[scheme], path)


def place_of_tcp(text: str, option: str = "tcp") -> Place:
    """The place of C(host:port) or C([address]:port)."""
    parts = _split(f"tcp://{text}", option)
    if "@" in text or "/" in text or not parts.hostname or not parts.port:
        raise bad_parameter(option, f"{text!r} is not host:port", "Write db.example.com:5432, or [::1]:5432.")
    return Place("tcp", _host(parts.hostname, option), parts.port)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _split(url: str, option: str) -> SplitResult:
    try:
        if re.search(r"[\x00-\x20\x7f]", url):
            raise _unreadable(option)
        parts = urlsplit(url)
        # A port that is no number is told only when it is asked for.
        return parts if parts.port != 0 else parts._replace(netloc="")
    except ValueError as error:
        raise _unreadable(option) from error


def _unreadable(option: str) -> OpsError:
    """Says nothing of the value, which may hold a token."""
    return bad_parameter(option, "it cannot be read", "Leave blanks out, and give a port from 1 to 65535.")


def _host(name: str, option: str) -> str:
    try:
        return name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise bad_parameter(option, f"{name!r} is no name of a host") from error
