# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A network in memory that speaks the `Net` protocol, for tests of plans: the services behind it are functions.

`tests/contract/test_probe_net.py` holds it to what real sockets do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import Kind, OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._probe.client import LIMIT
from ansible_collections.sre.runbooks.plugins.module_utils._probe.model import Answer, Place, Request, Trace
from tests.lab.web_server import Asked, Reply

#: How a service that misbehaves looks from outside: the kind, the code, and the part of the way where it shows.
_FAULTS = {
    "hang": (Kind.TIMEOUT, "timeout", "answer"),
    "drip": (Kind.TIMEOUT, "timeout", "body"),
    "close": (Kind.UNREACHABLE, "reset", "answer"),
    "reset": (Kind.UNREACHABLE, "reset", "answer"),
    "cut": (Kind.UNREACHABLE, "reset", "body"),
    "garbage": (Kind.UNREACHABLE, "protocol", "answer"),
}


@dataclass
class FakeNet:
    """One service for every place; where there is none, the port refuses."""

    replies: Callable[[Asked], Reply] | None = None
    asked: list[Request] = field(default_factory=list)

    def exchange(self, request: Request) -> Answer:
        trace = self.touch(request.place)
        self.asked.append(request)
        assert self.replies
        reply = self.replies(Asked(request.method, request.place.path, request.headers, request.body))
        if reply.fault:
            raise _failed(*_FAULTS[reply.fault])
        body = b"" if request.method == "HEAD" else reply.body
        headers = {name.lower(): value for name, value in reply.headers.items()}
        ms = {"dns": 0.1, "tcp": 0.1, "answer": 0.1, "body": 0.1}
        return Answer(reply.status, headers, body[:LIMIT], Trace(trace.address, None, ms), len(body) > LIMIT)

    def touch(self, place: Place) -> Trace:
        if self.replies is None:
            raise _failed(Kind.UNREACHABLE, "refused", "tcp")
        return Trace(place.host, None, {"dns": 0.1, "tcp": 0.1})


def _failed(kind: Kind, code: str, stage: str) -> OpsError:
    return OpsError(kind, code, "look at it", code, retryable=True, facts={"stage": stage, "ms": {}})
