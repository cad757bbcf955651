# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One connection to a PostgreSQL, through which a module does all that it does.

Values are always bound. Names become part of a statement by the server's own C(format(%I)), never by pasting.
Behind a pooler that shares its server connections (PgBouncer in transaction mode) nothing is ever SET for the
session: the next client would inherit it.
"""

from __future__ import annotations

import importlib
import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .._core.errors import Kind, OpsError
from .._core.plan import Target
from .._core.spec import Params
from .address import Address, address_of, managed_by
from .errors import translate

Row = Mapping[str, Any]

#: How this collection names its own sessions, so that it never ends one of them.
OWN_NAME = "sre.runbooks"


class Session(Protocol):
    """A connection in autocommit. Whatever answers these four can be operated on."""

    @property
    def pooled(self) -> bool:
        """Whether a pooler stands in between, so that two statements may meet two server processes."""

    @property
    def notices(self) -> Sequence[str]:
        """What the server has said by NOTICE and WARNING since the start, the oldest first."""

    def rows(self, sql: str, values: Mapping[str, Any] | None = None) -> list[Row]:
        """Runs one statement and returns its rows. C(%(name)s) in it stands for a value."""

    def command(self, template: str, *names: str | None) -> list[Row]:
        """Runs a statement into which the server itself puts names (C(%I)) and values (C(%L)), quoted as it needs."""

    def isolated(self, template: str, *names: str, settings: Mapping[str, str] | None = None) -> None:
        """Runs a statement that must not stand in a transaction, with C(settings) for its time; refused when pooled."""

    def close(self) -> None:
        """Lets go of the connection."""

    def hang_up(self) -> None:
        """Breaks the connection under a call of another thread, which then fails as for a server that went away."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """The server behind the connection options. C(version) is C(server_version_num), 150004 for 15.4.

    C(again) opens a second session to the same address, for whoever has to look while the first one is at work.
    """

    target: Target
    session: Session
    version: int
    standby: bool
    user: str
    superuser: bool
    memberships: frozenset[str]
    database: str
    ignored: tuple[str, ...] = ()
    again: Callable[[], AbstractContextManager[Session]] | None = None

    @property
    def major(self) -> int:
        return self.version // 10000

    def may(self, role: str) -> bool:
        """Whether this user has the rights of a predefined role such as C(pg_monitor)."""
        return self.superuser or role in self.memberships


class DriverSession:
    """A session through psycopg2."""

    def __init__(self, address: Address) -> None:
        driver = _driver()
        keywords: dict[str, Any] = {
            **address.keywords,
            "application_name": OWN_NAME,
            "connect_timeout": max(2, int(address.connect_timeout)),
        }
        if keywords.get("sslmode", "").startswith("verify") and "sslrootcert" not in keywords:
            keywords |= _system_authorities(driver)
        self._connection = driver.connect(**keywords)
        self._connection.autocommit = True
        self._rows = importlib.import_module("psycopg2.extras").RealDictCursor
        self._settings = {
            "statement_timeout": f"{int(address.statement_timeout * 1000)}ms",
            "lock_timeout": f"{int(address.lock_timeout * 1000)}ms",
            "idle_in_transaction_session_timeout": "60s",
        }
        if address.search_path:
            self._settings["search_path"] = address.search_path
        (row,) = self._fetch("SELECT pg_backend_pid() AS pid", None)
        self._pooled = row["pid"] != self._connection.info.backend_pid
        if not self._pooled:
            self._set(self._settings, local=False)

    @property
    def pooled(self) -> bool:
        return bool(self._pooled)

    @property
    def notices(self) -> Sequence[str]:
        return tuple(self._connection.notices)

    def rows(self, sql: str, values: Mapping[str, Any] | None = None) -> list[Row]:
        if not self.pooled:
            return self._fetch(sql, values)
        # One transaction keeps one server process, and SET LOCAL ends with it.
        self._fetch("BEGIN", None)
        try:
            self._set(self._settings, local=True)
            found = self._fetch(sql, values)
        except Exception:
            with suppress(_driver().Error):
                self._fetch("ROLLBACK", None)
            raise
        self._fetch("COMMIT", None)
        return found

    def command(self, template: str, *names: str | None) -> list[Row]:
        return self.rows(self._formatted(template, names))

    def isolated(self, template: str, *names: str, settings: Mapping[str, str] | None = None) -> None:
        if self.pooled:
            hint = "Give the server's own address: a pooler may hand each statement to another server process."
            raise OpsError(Kind.UNSUPPORTED, "this does not work through a connection pooler", hint, code="pooled")
        statement = self._formatted(template, names)
        self._set(settings or {}, local=False)
        try:
            self._fetch(statement, None)
        finally:
            with suppress(_driver().Error):
                self._set({name: self._settings.get(name, "") for name in settings or {}}, local=False)

    def close(self) -> None:
        self._connection.close()

    def hang_up(self) -> None:
        with suppress(_driver().Error, OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)

    def _formatted(self, template: str, names: Sequence[str | None]) -> str:
        if not names:
            return template
        values = {f"n{number}": name for number, name in enumerate(names)}
        places = "".join(f", %(n{number})s::text" for number in range(len(names)))
        (row,) = self.rows(f"SELECT format(%(template)s{places}) AS made", {"template": template, **values})
        return str(row["made"]).replace("%", "%%")

    def _set(self, settings: Mapping[str, str], *, local: bool) -> None:
        """All in one question: a pooled session asks it before each statement."""
        if settings:
            places = ", ".join(
                f"set_config(%(n{number})s, %(v{number})s, %(local)s)" for number in range(len(settings))
            )
            names = {f"n{number}": name for number, name in enumerate(settings)}
            values = {f"v{number}": value for number, value in enumerate(settings.values())}
            self._fetch(f"SELECT {places}", {**names, **values, "local": local})

    def _fetch(self, sql: str, values: Mapping[str, Any] | None) -> list[Row]:
        with self._connection.cursor(cursor_factory=self._rows) as cursor:
            cursor.execute(sql, values if values is not None else {})
            return [dict(row) for row in cursor.fetchall()] if cursor.description else []


@contextmanager
def connect(params: Params) -> Iterator[Postgres]:
    """Opens the server that the options name, proves that it is the expected one, closes it."""
    address = address_of(params, os.environ)
    session = open_session(address)
    try:
        postgres = identify(session, address)
        expect(params, postgres)
        yield postgres
    finally:
        session.close()


def open_session(address: Address) -> DriverSession:
    """Connects. Where no slot is free it tries again, with jitter, for as long as a connection may take."""
    until = time.monotonic() + address.connect_timeout
    while True:
        try:
            return DriverSession(address)
        except Exception as error:
            known = translate(error)
            if known is None:
                raise
            if known.kind is not Kind.EXHAUSTED or time.monotonic() > until:
                raise known from error
        time.sleep(random.uniform(0.1, 0.4))


def primary_only(postgres: Postgres) -> None:
    """Refuses to change anything through a standby."""
    if postgres.standby:
        hint = "Aim at the primary, or set target_session_attrs=read-write."
        raise OpsError(Kind.PRECONDITION, f"{postgres.target.name} is a standby", hint, code="read_only")


def _driver() -> Any:
    return importlib.import_module("psycopg2")


def _system_authorities(driver: Any) -> dict[str, str]:
    """The system's own authorities, where nobody has put a file of authorities into libpq's place for it."""
    own = Path.home() / ".postgresql" / "root.crt"
    is_new = driver.extensions.libpq_version() >= 160000
    return {"sslrootcert": "system"} if is_new and not own.exists() and "PGSSLROOTCERT" not in os.environ else {}


_WHO = """
SELECT current_setting('server_version_num')::int AS version,
       current_setting('server_version') AS version_text,
       pg_is_in_recovery() AS standby,
       current_user AS "user",
       current_database() AS database,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
       (SELECT coalesce(array_agg(rolname::text), '{}') FROM pg_roles
         WHERE rolname LIKE 'pg\\_%%' AND pg_has_role(current_user, oid, 'USAGE')) AS memberships,
       (SELECT system_identifier::text FROM pg_control_system()) AS identity
"""


def identify(session: Session, address: Address) -> Postgres:
    """Which server answers, and who one is there."""
    (row,) = session.rows(_WHO)
    host, port = address.host or "local", address.port or "5432"
    role = "standby" if row["standby"] else "primary"
    name = f"{host}:{port}/{row['database']}"
    return Postgres(
        Target("postgres", name, row["identity"], row["version_text"].split()[0], role, managed_by(host)),
        session,
        row["version"],
        row["standby"],
        row["user"],
        bool(row["superuser"]),
        frozenset(row["memberships"]),
        row["database"],
        address.ignored,
        lambda: _another(address),
    )


@contextmanager
def _another(address: Address) -> Iterator[Session]:
    session = open_session(address)
    try:
        yield session
    finally:
        session.close()


def expect(params: Params, postgres: Postgres) -> None:
    """Refuses a server, or a database, that is not the one meant."""
    hint = "Look at the connection options, DATABASE_URL and PG*: one of them points elsewhere."
    place = postgres.target.name.rpartition("/")[0]
    for option, found in (("expect_host", place), ("expect_database", postgres.database)):
        pattern = params.get(option)
        if pattern and not re.fullmatch(pattern, found):
            words = f"{found} is not what {option} asks for ({pattern})"
            raise OpsError(Kind.PRECONDITION, words, hint, code="wrong_target")
