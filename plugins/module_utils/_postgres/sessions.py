# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sessions of a server: what is known of one, and which ones a selection means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, TypeAlias

from .._core.errors import bad_parameter
from .._core.plan import Spared
from .._core.spec import Params
from .._core.units import parse_seconds
from .client import Row

CLIENT = "client backend"

#: A process id alone may be another's by now; together with its start it cannot.
Key: TypeAlias = tuple[int, datetime]

#: More sessions than this that are spared for one reason are reported as one class.
_SPARED_APART = 50

#: Of these a selection needs one that narrows it.
FILTERS = ("database", "role", "application", "client_addr", "query_regex", "root_blockers_only", "queued_ddl")
#: And of these one.
AGES = ("min_state_age", "min_xact_age", "min_query_age")


@dataclass(frozen=True, slots=True)
class Backend:
    """A row of pg_stat_activity with what else the server knows of it. Ages are in seconds, None where there is none.

    C(speech) classifies the latest statement and C(work) says what it reports progress of. C(blocks) is how many
    sessions wait for this one; C(waits) is true where it waits for a lock itself.
    """

    pid: int
    started: datetime | None
    kind: str
    database: str
    user: str
    application: str
    address: str
    state: str
    state_age: float | None
    xact_age: float | None
    query_age: float | None
    wait_event: str = ""
    leader: int = 0
    speech: str = ""
    work: str = ""
    query_matches: bool = True
    blocks: int = 0
    waits: bool = False
    queued_ddl: bool = False
    advisory: bool = False
    slot: bool = False
    exports_snapshot: bool = False
    superuser: bool = False
    replication: bool = False
    signallable: bool = True
    own: bool = False
    hidden: bool = False

    @classmethod
    def of(cls, row: Row) -> Backend:
        """From a row whose columns are called like our fields; what is NULL there keeps the field's plain default."""
        kept: dict[str, Any] = {name: "" if row[name] is None else row[name] for name in _TEXTS}
        rest = {name: value for name, value in row.items() if name in _OTHERS and value is not None}
        ages = {name: row[name] for name in ("started", "state_age", "xact_age", "query_age")}
        return cls(**kept, **rest, **ages)

    @property
    def key(self) -> Key:
        if self.started is None:
            raise ValueError(f"the start of process {self.pid} is hidden")
        return self.pid, self.started

    @property
    def subject(self) -> str:
        """The identity, with the names that a reader looks for."""
        start = self.started.isoformat() if self.started else "?"
        return f"pid={self.pid} start={start} user={self.user} application={self.application}"

    @property
    def is_client(self) -> bool:
        """A hidden session does not show what it is; only clients, walsenders and their kind have a user."""
        return self.kind == CLIENT or (self.hidden and bool(self.user))

    def as_dict(self) -> dict[str, Any]:
        """For the result. The statement's text is left out: it may hold data of the application."""
        texts = {name: getattr(self, name) for name in ("database", "user", "application", "address", "state")}
        ages = {name: getattr(self, name) for name in ("state_age", "xact_age", "query_age")}
        rounded = {name: None if age is None else round(age, 1) for name, age in ages.items()}
        start = self.started.isoformat() if self.started else ""
        return {"pid": self.pid, "backend_start": start, **texts, **rounded, "blocks": self.blocks}


_TEXTS = ("kind", "database", "user", "application", "address", "state", "wait_event", "speech", "work")
_OTHERS = frozenset(Backend.__dataclass_fields__) - {*_TEXTS, "started", "state_age", "xact_age", "query_age"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which sessions are meant, and what is to be left alone besides the built-in rest. Ages are in seconds."""

    database: str | None
    user: str | None
    application: str | None
    network: IPv4Network | IPv6Network | None
    query_regex: str | None
    state: str
    min_state_age: int
    min_xact_age: int
    min_query_age: int
    blocking: bool
    roots: bool
    queued_ddl: bool
    superusers: bool
    action: str
    protect: tuple[str, ...]

    @classmethod
    def of(cls, params: Params) -> Wanted:
        """Reads the options. Raises a bad-parameter error for a selection that means everybody, or nobody."""
        ages = {name: parse_seconds(params[name] or 0, name) for name in AGES}
        wanted = cls(
            params["database"],
            params["role"],
            params["application"],
            _network(params["client_addr"]),
            params["query_regex"] or None,
            params["state"],
            ages["min_state_age"],
            ages["min_xact_age"],
            ages["min_query_age"],
            bool(params["blocking"]),
            bool(params["root_blockers_only"]),
            bool(params["queued_ddl"]),
            params["superusers"],
            params["action"],
            tuple(params["protect"]),
        )
        wanted._refuse_the_pointless()
        return wanted

    @property
    def is_narrow(self) -> bool:
        """Whether something else than the text of statements narrows the selection."""
        names = any((pattern or "").strip("*?") for pattern in (self.database, self.user, self.application))
        place = self.network is not None and self.network.prefixlen > 0
        return names or place or self.roots or self.queued_ddl

    def could_match(self, backend: Backend) -> bool:
        """As far as everybody may see: database, role and application."""
        patterns = (
            (self.database, backend.database),
            (self.user, backend.user),
            (self.application, backend.application),
        )
        return all(pattern is None or fnmatchcase(value, pattern) for pattern, value in patterns)

    def matches(self, backend: Backend) -> bool:
        """True where the selection means this session, whether it may be ended or not."""
        return (
            self.could_match(backend)
            and not backend.hidden
            and backend.query_matches
            and self.state in ("any", backend.state)
            and self._is_old(backend)
            and self._is_there(backend)
            and (backend.blocks > 0 or not (self.blocking or self.roots))
            and not (self.roots and backend.waits)
            and (backend.queued_ddl or not self.queued_ddl)
        )

    def _is_old(self, backend: Backend) -> bool:
        ages = (
            (self.min_state_age, backend.state_age),
            (self.min_xact_age, backend.xact_age),
            (self.min_query_age, backend.query_age),
        )
        return all(not least or (age is not None and age >= least) for least, age in ages)

    def _is_there(self, backend: Backend) -> bool:
        if self.network is None:
            return True
        if not backend.address:
            return False
        place = ip_address(backend.address)
        return place.version == self.network.version and place in self.network

    def _refuse_the_pointless(self) -> None:
        if not (self.min_state_age or self.min_xact_age or self.min_query_age):
            raise bad_parameter(
                "min_state_age", "no age is given", "Give min_state_age, min_xact_age or min_query_age."
            )
        if not self.is_narrow and not self.query_regex:
            hint = "Give database, role, application, client_addr, query_regex, root_blockers_only or queued_ddl."
            raise bad_parameter("role", "the selection means every session", hint)
        if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in self.query_regex or ""):
            raise bad_parameter("query_regex", "it holds a character that no statement can hold")
        if self.min_query_age and self.state not in ("any", "active"):
            raise bad_parameter("min_query_age", f"no query runs in state {self.state}", "Give min_state_age instead.")
        if self.min_xact_age and self.state.startswith("idle") and self.state != "idle in transaction":
            hint = "Give min_state_age instead."
            raise bad_parameter("min_xact_age", f"in state {self.state} a transaction has no age", hint)


def _network(words: str | None) -> IPv4Network | IPv6Network | None:
    if not words:
        return None
    try:
        return ip_network(words.strip("[]"), strict=False)
    except ValueError:
        hint = "Write an address, or a network such as 10.0.0.0/8."
        raise bad_parameter("client_addr", f"{words!r} is not an address", hint) from None


def spared_classes(spared: Iterable[tuple[Backend, str]]) -> tuple[Spared, ...]:
    """Each one with its reason; one line with a count where many of a name share it."""
    kinds: dict[tuple[str, str, str], list[Backend]] = {}
    for backend, reason in spared:
        kinds.setdefault((backend.user, backend.application, reason), []).append(backend)
    found: list[Spared] = []
    for (user, application, reason), members in kinds.items():
        if len(members) > _SPARED_APART:
            found.append(Spared(f"user={user} application={application}", reason, len(members)))
        else:
            found += [Spared(backend.subject, reason) for backend in members]
    return tuple(found)


def by_kind(backends: Iterable[Backend], top: int = 20) -> list[Mapping[str, Any]]:
    """How many sessions there are of each database, role, application and state, the most first."""
    names = ("database", "user", "application", "state")
    counts = Counter(tuple(getattr(backend, name) for name in names) for backend in backends)
    return [{**dict(zip(names, kind, strict=True)), "count": count} for kind, count in counts.most_common(top)]
