# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far one gets on the way to a server, stage by stage, and where it ends. Nothing is written."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from .._core.errors import Kind, OpsError
from .._core.plan import Finding, Severity, Target
from .._core.spec import Params
from .._core.stages import Stage, milliseconds_since, where_it_ended
from . import line
from .address import Address, address_of, managed_by
from .client import DriverSession, Postgres, Row, Session, expect, identify
from .errors import translate
from .watch import bounded

STAGES = ("resolve", "tcp", "tls", "login", "serving", "rights", "writes")

#: Predefined roles, and attributes, that an operator may need.
RIGHTS = (
    *("superuser", "pg_monitor", "pg_read_all_stats", "pg_read_all_data", "pg_signal_backend", "pg_maintain"),
    *("pg_checkpoint", "pg_use_reserved_connections"),
)

#: Transactions that a server keeps for its own rescue: from there on it takes no write.
_LAST_TRANSACTIONS = 3_000_000

_SERVING = """
SELECT (SELECT count(*) FROM pg_class) AS relations,
       current_setting('default_transaction_read_only') AS read_only,
       current_setting('transaction_read_only') AS read_only_now,
       current_setting('synchronous_standby_names') AS wanted_standbys,
       current_setting('synchronous_commit') AS commits,
       (SELECT count(*) FILTER (WHERE state = 'streaming' AND sync_state IN ('sync', 'quorum'))
          FROM pg_stat_replication) AS standbys,
       (SELECT max(greatest(age(datfrozenxid), mxid_age(datminmxid))) FROM pg_database) AS oldest,
       pg_is_in_recovery() AS standby
"""


@dataclass(slots=True)
class Way:
    """The way to one server, and what was met on it. Everything here is learned stage by stage."""

    params: Params
    stack: ExitStack
    address: Address
    environ: Mapping[str, str] = field(default_factory=dict)
    places: tuple[line.Place, ...] = ()
    session: Session | None = None
    postgres: Postgres | None = None
    state: Row = field(default_factory=dict)
    rights: Mapping[str, bool] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    open: Callable[[Address], Session] = DriverSession

    @property
    def name(self) -> str:
        """Where it leads, in words that are safe to show."""
        if self.postgres is not None:
            return self.postgres.target.name
        database = self.address.keywords.get("dbname") or self.environ.get("PGDATABASE", "")
        return f"{self.address.host or 'local'}:{self.port}/{database}".rstrip("/")

    @property
    def port(self) -> str:
        return self.address.port or self.environ.get("PGPORT") or "5432"

    def opened(self) -> Session:
        """The session of an earlier stage. Raises M(unreachable) where there is none."""
        if self.session is None:
            raise OpsError(Kind.UNREACHABLE, "nobody is logged in", code="connection")
        return self.session


@contextmanager
def approach(params: Params) -> Iterator[Way]:
    """The product's way in: it connects nowhere yet, so that nothing can fail."""
    address = address_of(params, os.environ)
    # Whoever asks whether a server answers does not want to wait long for it.
    patience = min(address.statement_timeout, address.connect_timeout)
    short = replace(address, statement_timeout=patience, lock_timeout=min(address.lock_timeout, patience))
    with ExitStack() as stack:
        yield Way(params, stack, short, os.environ)


def walk(way: Way) -> tuple[Stage, ...]:
    """Goes as far as possible. After the first stage that fails, the others are not tried."""
    _only_expected(way)
    stages: list[Stage] = []
    for name in STAGES:
        if any(stage.ok is False for stage in stages):
            stages.append(Stage(name, None, detail="not reached"))
        else:
            stages.append(_timed(name, way))
    return tuple(stages)


def _only_expected(way: Way) -> None:
    """Refuses the wrong server before it is knocked at; the one that answers is looked at once more."""
    pattern, place = way.params.get("expect_host"), f"{way.address.host or 'local'}:{way.port}"
    if pattern and not way.address.keywords.get("service") and not re.fullmatch(pattern, place):
        hint = "Look at the connection options, DATABASE_URL and PG*: one of them points elsewhere."
        raise OpsError(Kind.PRECONDITION, f"{place} is not what expect_host asks for", hint, code="wrong_target")


def _timed(name: str, way: Way) -> Stage:
    start = time.monotonic()
    try:
        detail = _LOOKS[name](way)
    except Exception as error:
        known = translate(error)
        if known is None or known.code == "wrong_target":
            raise
        return Stage(name, False, milliseconds_since(start), known.message, known.code or known.kind.value, known.hint)
    return Stage(name, None if detail is None else True, milliseconds_since(start), detail or "not needed")


def _resolve(way: Way) -> str | None:
    """Each host of a list; where libpq alone knows the way, there is nothing to look at before the login."""
    host = way.address.keywords.get("hostaddr") or way.address.host
    if not host:
        return None
    way.places = line.places(host, way.port)
    if all(place.is_socket for place in way.places):
        return None
    return f"{host} is {', '.join(place.name for place in way.places)}"


def _tcp(way: Way) -> str | None:
    """All addresses are tried: one that is dead costs every client its timeout, now and then."""
    if not way.places:
        return None
    failed: dict[str, OpsError] = {}
    for place in way.places:
        try:
            line.dial(place, way.address.connect_timeout).close()
        except OpsError as error:
            failed[place.name] = error
    alive = tuple(place for place in way.places if place.name not in failed)
    if not alive:
        raise next(iter(failed.values()))
    if failed:
        advice = "Clients that try it first wait for it in vain: mend it, or take it out of DNS."
        evidence = {name: error.message for name, error in failed.items()}
        way.findings.append(Finding("postgres.address_down", Severity.WARNING, way.name, evidence, advice))
    way.places = alive
    return f"connected to {', '.join(place.name for place in alive)}"


def _tls(way: Way) -> str | None:
    """Asks as libpq does whether the server speaks TLS; the login then checks the certificate."""
    mode = way.address.keywords.get("sslmode") or way.environ.get("PGSSLMODE") or "prefer"
    if not way.places or way.places[0].is_socket or way.address.keywords.get("sslnegotiation") == "direct":
        return None
    speaks = line.speaks_tls(way.places[0], way.address.connect_timeout)
    if not speaks and mode in ("require", "verify-ca", "verify-full"):
        hint = f"Switch ssl on there. sslmode={mode} refuses to go on without it."
        raise OpsError(Kind.UNREACHABLE, "the server does not speak TLS", hint, "tls")
    if mode == "disable":
        return None
    return "the server speaks TLS" if speaks else "the server does not speak TLS, and need not"


def _login(way: Way) -> str:
    """A real login, tried once: a server without a free slot is an answer."""
    try:
        way.session = session = way.open(way.address)
    except Exception as error:
        known = translate(error)
        if known is None:
            raise
        raise _told_better(way, known) from error
    way.stack.callback(session.close)
    through = ", through a connection pooler" if session.pooled else ""
    return f"as {way.address.keywords.get('user') or way.environ.get('PGUSER') or 'the own name'}{through}"


def _told_better(way: Way, error: OpsError) -> OpsError:
    """libpq tries several ways and joins what each was told; the last word of each is enough."""
    words = re.sub(
        r'connection to server (?:at|on) "[^"]*"(?: \([^)]*\))?,? ?(?:port \d+)? failed: ', "", error.message
    )
    words = words.replace("FATAL: ", "").strip()
    hint = error.hint
    if error.code == "too_many_clients" and "for role" in words:
        hint = "This role has used up its own CONNECTION LIMIT; others still get in."
    elif error.code == "too_many_clients" and "for database" in words:
        hint = "This database has used up its own CONNECTION LIMIT; others are still open."
    return OpsError(error.kind, words or error.message, hint, error.code, error.retryable)


def _serving(way: Way) -> str:
    session = way.opened()
    # The server's own timeout needs its help; this one does not.
    with bounded(session, way.address.statement_timeout + 1):
        way.postgres = postgres = identify(session, way.address)
        expect(way.params, postgres)
        (way.state,) = session.rows(_SERVING)
    return f"PostgreSQL {postgres.target.version}, {postgres.target.role}"


def _rights(way: Way) -> str:
    postgres = way.postgres
    if postgres is None:
        raise OpsError(Kind.UNREACHABLE, "nobody is logged in", code="connection")
    way.rights = {name: postgres.superuser if name == "superuser" else postgres.may(name) for name in RIGHTS}
    missing = sorted(name for name in way.params.get("needs") or () if not way.rights[name])
    if missing:
        hint = f"GRANT {missing[0]} TO {postgres.user}, or use another role."
        raise OpsError(Kind.FORBIDDEN, f"{postgres.user} is not: {', '.join(missing)}", hint, "rights")
    held = [name for name, has in way.rights.items() if has]
    return f"{postgres.user} has {', '.join(held)}" if held else f"{postgres.user} has none of the operators' roles"


def _writes(way: Way) -> str:
    """What would refuse a write, or never let it end, by the server's own numbers."""
    for code, look in _REFUSALS.items():
        problem = look(way.state, way.rights)
        if problem:
            raise OpsError(Kind.PRECONDITION, problem, _HINTS[code], code)
    return "nothing would refuse a write"


def _standby(state: Row, _rights: Mapping[str, bool]) -> str:
    return "it is a standby" if state["standby"] else ""


def _read_only(state: Row, _rights: Mapping[str, bool]) -> str:
    names = {"read_only": "default_transaction_read_only", "read_only_now": "transaction_read_only"}
    on = [setting for name, setting in names.items() if state[name] == "on"]
    return f"{on[0]} is on" if on else ""


def _wraparound(state: Row, _rights: Mapping[str, bool]) -> str:
    left = 2**31 - (state["oldest"] or 0)
    return f"{left} transaction numbers are left, and kept for the rescue" if left <= _LAST_TRANSACTIONS else ""


def _no_sync_standby(state: Row, rights: Mapping[str, bool]) -> str:
    """Without the right to see them, standbys are not counted as missing."""
    waits = state["wanted_standbys"] and state["commits"] not in ("off", "local")
    if not waits or state["standbys"] or not rights.get("pg_read_all_stats"):
        return ""
    return f"commits wait for a standby of {state['wanted_standbys']}, and none is in step"


_REFUSALS: Mapping[str, Callable[[Row, Mapping[str, bool]], str]] = {
    "standby": _standby,
    "read_only": _read_only,
    "wraparound": _wraparound,
    "no_sync_standby": _no_sync_standby,
}

_HINTS = {
    "standby": "Aim at the primary, or set target_session_attrs=read-write.",
    "read_only": "See who set it: the role, the database, the configuration, or a service whose disk is full.",
    "wraparound": "VACUUM the oldest tables of the oldest database now; end whoever holds xmin first.",
    "no_sync_standby": "Bring the standby back, or take it out of synchronous_standby_names.",
}

_LOOKS: Mapping[str, Callable[[Way], str | None]] = {
    "resolve": _resolve,
    "tcp": _tcp,
    "tls": _tls,
    "login": _login,
    "serving": _serving,
    "rights": _rights,
    "writes": _writes,
}


def findings(way: Way, stages: tuple[Stage, ...]) -> tuple[Finding, ...]:
    """What was met on the way, and where the way ended."""
    return (*way.findings, *where_it_ended("postgres", way.name, stages))


def target(way: Way) -> Target:
    """The server as far as it has shown itself."""
    return (
        way.postgres.target if way.postgres else Target("postgres", way.name, "", managed=managed_by(way.address.host))
    )


def summary(way: Way, stages: tuple[Stage, ...]) -> dict[str, Any]:
    """What the module returns."""
    by_name = {stage.name: stage for stage in stages}
    reachable = by_name["rights"].ok is True
    return {
        "reachable": reachable,
        "writable": bool(by_name["writes"].ok),
        "stages": [stage.as_dict() for stage in stages],
        "addresses": [place.name for place in way.places],
        "pooled": bool(way.session and way.session.pooled),
        "rights": dict(way.rights),
    }
