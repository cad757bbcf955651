# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A lease in Redis: one run at a time works on a target. Taken, renewed and given back in one server call each."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from .._core.errors import Kind, OpsError
from .client import Redis, Server
from .errors import translate
from .holder import Holder, is_gone

PREFIX = "sre.runbooks:lease:"

#: Seconds between two looks at a lease that somebody else holds.
_PAUSE = 0.25

# A server at maxmemory refuses SET, and a script whose first write is one; but not a script that has
# written before. DEL frees memory, so it is always let through, and here it takes nothing away that
# SET does not put back. (The flag allow-oom would say it plainly, but Redis 6.2 does not know it.)
# The fence is the server's own clock in microseconds: it grows, and leaves no counter behind.
_SWAP = """
local held = redis.call('GET', ARGV[1])
if (held or '') ~= ARGV[2] then return 0 end
redis.call('DEL', ARGV[1])
if ARGV[3] == '' then return 1 end
local now, fence = redis.call('TIME'), ARGV[4]
if fence == '0' then fence = string.format('%d%06d', now[1], now[2]) end
redis.call('SET', ARGV[1], ARGV[3] .. fence .. '}', 'PX', ARGV[5])
return 1
"""


@dataclass(frozen=True, slots=True)
class Lease:
    """What is stored. C(since) is UTC; C(fence) grows with each taking, for whoever can check it."""

    owner: str
    holder: Holder
    since: str
    fence: int = 0

    def head(self) -> str:
        """The value up to the fence, which is added where the lease is written; it comes last."""
        words = json.dumps({"owner": self.owner, **asdict(self.holder), "since": self.since, "fence": 0})
        return words.removesuffix("0}")

    @classmethod
    def load(cls, raw: bytes) -> Lease:
        """Raises a conflict for a value that is not ours: whoever wrote it may rely on it."""
        try:
            found = json.loads(raw)
            who = Holder(found["by"], found["place"], int(found["pid"]), found["started"])
            return cls(found["owner"], who, found["since"], int(found["fence"]))
        except (ValueError, KeyError, TypeError):
            hint = "Look who writes keys under this prefix, or choose another name."
            raise OpsError(
                Kind.CONFLICT, "the lease's key holds something else", hint, code="lease_unreadable"
            ) from None


@dataclass(frozen=True, slots=True)
class Held:
    """A lease as it was found: its raw value, and the milliseconds that it still runs."""

    lease: Lease
    raw: bytes
    left: int

    @property
    def until(self) -> str:
        return _utc(datetime.now(UTC) + timedelta(milliseconds=self.left))


@dataclass(slots=True)
class Cell:
    """The one key that stands for the lease, on the server that keeps it."""

    server: Server
    key: str
    #: Cleared where this user may not run scripts.
    scripts: bool = field(default=True)

    def read(self) -> Held | None:
        raw, left = self.server.call("GET", self.key), self.server.call("PTTL", self.key)
        # It may end between the two calls.
        return Held(Lease.load(raw), raw, max(0, left)) if raw is not None and left != -2 else None

    def swap(self, expected: Held | None, wanted: Lease | None, ttl: int) -> bool:
        """Puts C(wanted) in the place of C(expected), for C(ttl) milliseconds; false if another came first."""
        raw = expected.raw if expected else b""
        head, fence = (wanted.head(), wanted.fence) if wanted else ("", 0)
        if self.scripts:
            try:
                return bool(self.server.script(_SWAP, self.key, raw, head, fence, ttl))
            except Exception as error:
                known = translate(error)
                if known is None or known.kind not in (Kind.FORBIDDEN, Kind.UNSUPPORTED):
                    raise
                self.scripts = False
        # Without scripts the fence is this machine's clock, which may stand a little apart from the server's.
        value = f"{head}{fence or time.time_ns() // 1000}}}" if head else ""
        return self._swap_watched(raw, value, ttl)

    def _swap_watched(self, raw: bytes, value: str, ttl: int) -> bool:
        """The same by WATCH, on this one connection. A full server refuses it: that only a script can avoid."""
        call = self.server.call
        call("WATCH", self.key)
        try:
            if (call("GET", self.key) or b"") != raw:
                return False
            call("MULTI")
            call("SET", self.key, value, "PX", ttl) if value else call("DEL", self.key)
            return call("EXEC") is not None
        except Exception as error:
            raise _unavailable(error) from error
        finally:
            # Ends a transaction that was not executed, and the watching of one that was not begun.
            for command in ("DISCARD", "UNWATCH"):
                with suppress(Exception):
                    call(command)


def _unavailable(error: Exception) -> Exception:
    known = translate(error)
    if known is None or known.kind is not Kind.EXHAUSTED:
        return error
    hint = "Let this user run scripts: a script may take the lease on a full server. Or set lease to none."
    return OpsError(Kind.EXHAUSTED, "the server is full and refuses the lease", hint, code="lease_unavailable")


def cell(redis: Redis, name: str) -> Cell:
    """The lease's place. On a cluster, the primary that serves its slot: the others say MOVED."""
    key = PREFIX + name
    for server in redis.servers:
        try:
            server.call("EXISTS", key)
        except Exception as error:
            known = translate(error)
            if known is None or known.code != "cluster_node":
                raise
            continue
        return Cell(server, key)
    hint = "Look at CLUSTER SLOTS: the slot may be moving. Run again."
    raise OpsError(Kind.PRECONDITION, f"no primary serves the slot of {key}", hint, code="clusterdown", retryable=True)


def new_lease(owner: str, holder: Holder) -> Lease:
    return Lease(owner, holder, _utc(datetime.now(UTC)))


def free(place: Cell, name: str, owner: str, deadline: float) -> Held | None:
    """What stands where the lease goes: nothing, our own, or that of a run that is certainly dead.

    Raises a conflict when somebody else still holds it at C(deadline), by the monotonic clock.
    """
    while True:
        held = place.read()
        if held is None or held.lease.owner == owner or is_gone(held.lease.holder):
            return held
        left = deadline - time.monotonic()
        if left <= 0:
            raise refused(name, held)
        time.sleep(min(_PAUSE, left))


def refused(name: str, held: Held) -> OpsError:
    """That another run has the lease: who, since when, and until when."""
    lease = held.lease
    message = f"lease {name} is held by {lease.owner} ({lease.holder.by}) since {lease.since}, until {held.until}"
    hint = "Wait for that run to end. A run that was killed on another machine ends when its lease does."
    facts = {"lease": as_facts(name, held, ours=False)}
    return OpsError(Kind.CONFLICT, message, hint, code="lease_held", retryable=True, facts=facts)


def as_facts(name: str, held: Held | None, *, ours: bool) -> dict[str, Any]:
    """What a module returns under C(lease)."""
    described: dict[str, Any] = {"owner": "", "by": "", "since": "", "until": "", "fence": 0}
    if held:
        lease = held.lease
        described = {
            "owner": lease.owner,
            "by": lease.holder.by,
            "since": lease.since,
            "until": held.until,
            "fence": lease.fence,
        }
    is_ours = ours and held is not None
    return {"name": name, "key": PREFIX + name, "held": held is not None, "ours": is_ours, **described}


def _utc(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
