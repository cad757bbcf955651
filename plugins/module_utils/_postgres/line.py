# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The first bytes of a connection, by hand: libpq says less about where it got stuck."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest

from .._core.errors import Kind, OpsError

#: The request for TLS: its length, then a number that is no version of the protocol.
_SSL_REQUEST = struct.pack("!II", 8, 80877103)


@dataclass(frozen=True, slots=True)
class Place:
    """One address of a server: C(host) is an address, or the folder of a Unix socket."""

    host: str
    port: int

    @property
    def is_socket(self) -> bool:
        return self.host.startswith(("/", "@"))

    @property
    def name(self) -> str:
        if self.is_socket:
            return f"{self.host}/.s.PGSQL.{self.port}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def places(hosts: str, ports: str) -> tuple[Place, ...]:
    """Every address of every host; libpq takes lists of both, and one port for all.

    Raises M(unreachable) with the code C(dns) when none of the names resolves.
    """
    names, numbers = hosts.split(","), ports.split(",")
    pairs = zip_longest(names, numbers[: len(names)], fillvalue=numbers[0])
    found: list[Place] = []
    failed: list[str] = []
    for host, port in pairs:
        number = int(port) if port.isdigit() else 5432
        if host.startswith(("/", "@")):
            found.append(Place(host, number))
            continue
        try:
            answers = socket.getaddrinfo(host or "localhost", number, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            failed.append(f"{host}: {error}")
            continue
        found += [Place(str(answer[4][0]), number) for answer in answers]
    if not found:
        hint = "The host name does not resolve. Check host, and the name server of this machine."
        raise OpsError(Kind.UNREACHABLE, "; ".join(failed), hint, "dns")
    return tuple(dict.fromkeys(found))


def dial(place: Place, timeout: float) -> socket.socket:
    """A bare connection; an error with the code C(refused), C(timeout) or C(connection) where there is none."""
    try:
        if place.is_socket:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            made.settimeout(timeout)
            try:
                made.connect(place.name)
            except OSError:
                made.close()
                raise
            return made
        return socket.create_connection((place.host, place.port), timeout)
    except TimeoutError as error:
        hint = "A firewall drops the packets, or the machine is down."
        raise OpsError(Kind.TIMEOUT, f"{place.name} does not answer", hint, "timeout", retryable=True) from error
    except (ConnectionRefusedError, FileNotFoundError) as error:
        hint = "Nothing listens there. Check host and port, and whether the server runs."
        raise OpsError(
            Kind.UNREACHABLE, f"{place.name} refuses connections", hint, "refused", retryable=True
        ) from error
    except OSError as error:
        hint = "Look at routes and firewalls between here and there."
        raise OpsError(Kind.UNREACHABLE, f"{place.name}: {error}", hint, "connection", retryable=True) from error


def speaks_tls(place: Place, timeout: float) -> bool:
    """Whether the server is ready for TLS. Raises M(timeout) for silence, M(unreachable) for what is no PostgreSQL."""
    with dial(place, timeout) as open_line:
        try:
            open_line.sendall(_SSL_REQUEST)
            reply = open_line.recv(64)
        except TimeoutError as error:
            hint = "It takes connections and says nothing: a stopped or overloaded server, or something else."
            raise OpsError(Kind.TIMEOUT, "no answer in time", hint, "timeout", retryable=True) from error
        except OSError as error:
            reply, why = b"", str(error)
        else:
            why = "it closed the connection"
        with suppress(OSError):
            open_line.shutdown(socket.SHUT_RDWR)
    if reply[:1] in (b"S", b"N") and len(reply) == 1:
        return reply == b"S"
    # A server that cannot even start a process for us says so in words.
    if reply[:1] == b"E":
        return False
    hint = "Check host and port: something else may listen there."
    raise OpsError(
        Kind.UNREACHABLE, f"that is no PostgreSQL: {why if not reply else 'a strange reply'}", hint, "protocol"
    )
