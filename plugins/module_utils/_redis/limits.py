# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a memory limit, or an eviction policy, would do to the data: judged before it is set."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import ceil

from .._core.errors import Kind, OpsError
from .._core.units import human
from .client import Redis, Server
from .configure import Change
from .errors import translate
from .facts import fresh_memory
from .model import Memory
from .replies import parse_info, text

#: Keys that only a queue's library writes.
_QUEUES = re.compile(
    rb"\{?bull\}?:[^:]+:(?:id|meta|wait|active|delayed|failed|events|stalled-check)$"
    rb"|bullmq:|_kombu\.binding\.|unacked(?:_index)?$|rq:(?:queues?|workers?|job)|resque:|stat:processed$|arq:"
)

#: Queues that a short walk might miss in a large database.
_KNOWN = (b"_kombu.binding.celery", b"unacked_index", b"celery", b"rq:queues", b"resque:queues", b"queues")

#: Keys that are looked at in each database before "no queue was seen" is said.
_LOOKED_AT = 20_000

_MIB = 1024 * 1024

#: Room for what is written between the look and the new limit, so that the condition does not just miss.
_ROOM = 1.01


def refuse_hazards(redis: Redis, wanted: Sequence[Change], host_memory: int, confirm: str) -> None:
    """Raises guard_refused for a limit that the host cannot bear, or a change that could cost data unconfirmed."""
    for change in wanted:
        if change.name == "maxmemory":
            memory = fresh_memory(change.server, host_memory)
            refuse_unbearable(change.server, int(change.after), memory)
            if 0 < int(change.after) < memory.counted:
                now = f"{human(memory.counted)} in use, more than the new limit {human(int(change.after))}"
                effect = "keys would be evicted" if memory.evicts else "every write would be refused"
                _confirmed(redis, confirm, f"{change.server.address.name}: {now}: {effect}", "below_used")
        elif change.name == "maxmemory-policy" and _rank(change.after) > _rank(change.before):
            seen = find_queue(change.server)
            if seen:
                reason = f"{change.after} may evict the jobs of a queue ({seen})"
                _confirmed(redis, confirm, f"{change.server.address.name}: {reason}", "queue_present")


def refuse_unbearable(server: Server, limit: int, memory: Memory) -> None:
    """Raises guard_refused for a limit above what the host, or the container, can stand; 0 is no limit at all."""
    if not memory.bearable or 0 < limit <= memory.bearable:
        return
    words = human(limit) if limit else "no limit"
    text_ = f"{server.address.name}: {words}, but the host bears {human(memory.bearable)} of {human(memory.host_total)}"
    hint = "Above that the kernel ends the server. Add memory, or declare host_memory if more is really there."
    raise OpsError(Kind.GUARD_REFUSED, text_, hint, code="bearable")


def _confirmed(redis: Redis, confirm: str, text_: str, code: str) -> None:
    if confirm != redis.target.name:
        hint = f"Nothing was changed. If it is meant, pass confirm={redis.target.name}."
        raise OpsError(Kind.GUARD_REFUSED, text_, hint, code=code)


def _rank(policy: str) -> int:
    """How much a policy may evict."""
    return {"noeviction": 0, "volatile": 1, "allkeys": 2}.get(policy.partition("-")[0], 2)


def needed_limit(memory: Memory, ratio: float) -> int:
    """The smallest limit, in whole MiB, of which no more than C(ratio) is in use; the one of now if it holds."""
    if not memory.over(ratio):
        return memory.limit
    return ceil(memory.counted * _ROOM / ratio / _MIB) * _MIB


def find_queue(server: Server) -> str:
    """The name of a key that belongs to a queue, in any database; empty when a bounded look finds none."""
    return next((key.decode("utf-8", "backslashreplace") for key in _queue_keys(server)), "")


def _queue_keys(server: Server) -> Iterator[bytes]:
    databases = [name[2:] for name in parse_info(server.call("INFO", "keyspace")) if re.fullmatch(r"db\d+", name)]
    for database in databases:
        yield from _in_database(server, database)


def _in_database(server: Server, database: str) -> Iterator[bytes]:
    """SELECT belongs to the connection, so the own database is put back whatever happens."""
    elsewhere = database != str(server.address.db)
    if elsewhere:
        server.call("SELECT", database)
    try:
        known = server.batch([("EXISTS", key) for key in _KNOWN])
        yield from (key for key, reply in zip(_KNOWN, known, strict=True) if reply == 1)
        yield from _walk(server)
    except Exception as error:
        # Where looking is forbidden, the caller's own judgment remains.
        if translate(error) is None:
            raise
    finally:
        if elsewhere:
            server.call("SELECT", server.address.db)


def _walk(server: Server) -> Iterator[bytes]:
    cursor, looked = "0", 0
    while looked < _LOOKED_AT:
        reply = server.call("SCAN", cursor, "COUNT", 1000)
        cursor, looked = text(reply[0]), looked + 1000
        yield from (key for key in reply[1] if _QUEUES.match(key))
        if cursor == "0":
            return
