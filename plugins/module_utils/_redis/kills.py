# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ending client connections, each by an identity that cannot be mistaken, and seeing who comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from .._core.plan import Aftermath, Done, Finding, Progress, Severity, Step, Undo, Verify
from .client import Redis, Server, require
from .errors import translate
from .replies import number, pairs, parse_info
from .sessions import Session, Wanted, parse_sessions

_UNDO = Undo("A client that is still wanted connects again by itself.")


@dataclass(frozen=True, slots=True)
class Seen:
    """The connections of one server, and which of them are our own."""

    server: Server
    sessions: tuple[Session, ...]
    own: frozenset[int]


@dataclass(slots=True)
class Census:
    """The deployment's connections before, and what became of them."""

    seen: tuple[Seen, ...]
    selected: list[tuple[Server, Session]] = field(default_factory=list)
    spared: list[tuple[Session, str]] = field(default_factory=list)
    ended: list[tuple[Server, Session]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """As INFO counts connected_clients: without the replicas' links."""
        return sum(session.type != "replica" for seen in self.seen for session in seen.sessions)


def take_census(redis: Redis, wanted: Wanted) -> Census:
    """Everybody who is connected, sorted into those to be ended and those to be spared."""
    census = Census(tuple(_look(server) for server in redis.servers))
    for seen in census.seen:
        for session in seen.sessions:
            if not wanted.matches(session):
                continue
            reason = wanted.reason_to_spare(session, seen.own)
            if reason:
                census.spared.append((session, reason))
            else:
                census.selected.append((seen.server, session))
        if any(server is seen.server for server, _session in census.selected):
            require(seen.server, ("CLIENT", "KILL", "ID", "0"))
    return census


def _look(server: Server) -> Seen:
    own = int(server.call("CLIENT", "ID"))
    return Seen(server, parse_sessions(server.call("CLIENT", "LIST"), server.address.name), frozenset({own}))


def steps(census: Census, wanted: Wanted, clustered: bool) -> tuple[Step, ...]:
    """One for each connection, the longest idle first: those are missed the least."""
    ordered = sorted(census.selected, key=lambda pair: (-pair[1].idle, pair[1].id))
    return tuple(_step(census, server, session, wanted, clustered) for server, session in ordered)


def _step(census: Census, server: Server, session: Session, wanted: Wanted, clustered: bool) -> Step:
    where = f"{session.node} " if clustered else ""

    def act(_progress: Progress) -> Done:
        now = parse_sessions(server.call("CLIENT", "LIST", "ID", session.id), session.node)
        if not now:
            return Done(0, note="it has gone by itself")
        if not wanted.matches(now[0]) or wanted.reason_to_spare(now[0]):
            return Done(0, note=f"it is at work again: idle {now[0].idle} s, {now[0].command}")
        # Filters are ANDed, so the server itself checks the identity once more. Only Valkey can also be
        # given the idle time here; with Redis a client that wakes between the two calls loses one reply.
        command = ("CLIENT", "KILL", "ID", session.id, "ADDR", session.addr, "TYPE", wanted.type, "SKIPME", "yes")
        if not server.call(*command):
            return Done(0, note="it has gone by itself")
        census.ended.append((server, session))
        return Done()

    words = f"End {where}{session.subject} user={session.user}"
    return Step(f"{where}{session.subject}", words, act, _UNDO)


def gone(census: Census) -> Verify:
    """That none of the connections that were ended is still there."""

    def check() -> str:
        left = [name for server, sessions in _per_server(census.ended) for name in _listed(server, sessions)]
        return f"still connected: {', '.join(left)}" if left else ""

    return Verify("no ended connection is listed", check, interval=0.1, timeout=5.0)


def _per_server(pairs_: Iterable[tuple[Server, Session]]) -> list[tuple[Server, list[Session]]]:
    found: dict[int, tuple[Server, list[Session]]] = {}
    for server, session in pairs_:
        found.setdefault(id(server), (server, []))[1].append(session)
    return list(found.values())


def _listed(server: Server, sessions: list[Session]) -> list[str]:
    reply = server.call("CLIENT", "LIST", "ID", *(session.id for session in sessions))
    return [session.subject for session in parse_sessions(reply, server.address.name)]


def connections(redis: Redis, settle: float = 0.0) -> int:
    """Connected clients of all servers, after C(settle) seconds in which pools may come back."""
    time.sleep(settle)
    return sum(number(parse_info(server.call("INFO", "clients")), "connected_clients") for server in redis.servers)


def no_timeout(redis: Redis) -> tuple[Finding, ...]:
    """That the server never ends an idle connection by itself, as far as this user may see it."""
    try:
        values = dict(pairs(redis.entry.call("CONFIG", "GET", "timeout")))
    except Exception as error:
        if translate(error) is None:
            raise
        return ()
    if values.get("timeout") != "0":
        return ()
    advice = "The pool leaks or has no idle limit: fix it there, or set timeout with redis_setting."
    return (Finding("redis.timeout_unset", Severity.INFO, redis.target.name, {"timeout": 0}, advice),)


def who_came_back(redis: Redis, census: Census, facts: dict[str, Any]) -> Callable[[], Aftermath]:
    """Looks for new connections under the names that were ended: a pool fills itself up again."""

    def look() -> Aftermath:
        names = {(session.name, session.user, str(session.ip)) for _server, session in census.ended}
        known = {(seen.server.address.name, session.id) for seen in census.seen for session in seen.sessions}
        now = [session for server in redis.servers for session in _look(server).sessions]
        back = [s for s in now if (s.node, s.id) not in known and (s.name, s.user, str(s.ip)) in names]
        facts_now = {"clients": {**facts, "ended": len(census.ended), "reconnected": len(back)}}
        if not back:
            return Aftermath(facts_now)
        evidence = {"ended": len(census.ended), "reconnected": len(back)}
        advice = "The clients' pools fill up again. Lower the pool's size, or mend what leaks."
        finding = Finding("redis.clients_reconnect", Severity.WARNING, redis.target.name, evidence, advice)
        return Aftermath(facts_now, (finding,))

    return look
