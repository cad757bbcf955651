# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a setting can be stored, what is stored there, and which of several places wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._core.errors import Kind, OpsError, bad_parameter
from .._core.spec import Params
from .client import Postgres, Row, Session
from .settings import Known, same, written

#: Sources that win over every file.
_STRONGER = frozenset({"command line", "environment variable", "override"})

#: Contexts of settings that a role or a database may have for itself.
_PERSONAL = frozenset({"user", "superuser"})

_KNOWN = """
SELECT name, vartype AS kind, context, unit, enumvals, min_val AS smallest, max_val AS largest, boot_val, reset_val,
       source, sourcefile, sourceline, pending_restart
  FROM pg_settings WHERE lower(name) = lower(%(name)s)
"""

_ENTRIES = """
SELECT coalesce(r.rolname, '')::text AS role, coalesce(d.datname, '')::text AS database,
       substr(c.item, strpos(c.item, '=') + 1) AS value,
       (s.setrole = 0 OR r.rolname = session_user) AND (s.setdatabase = 0 OR d.datname = current_database()) AS mine
  FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase,
       unnest(s.setconfig) AS c(item)
 WHERE lower(split_part(c.item, '=', 1)) = lower(%(name)s)
 ORDER BY 1, 2
"""

# A row without a name stands for a file that cannot be read. ALTER SYSTEM has a file of its own, which is read last.
_FILES = """
SELECT sourcefile || ':' || sourceline AS place, coalesce(name, '') AS name, setting AS value,
       coalesce(error, '') AS error, sourcefile ~ '/postgresql[.]auto[.]conf$' AS own
  FROM pg_file_settings
 WHERE lower(name) = lower(%(name)s) OR (name IS NULL AND error IS NOT NULL)
 ORDER BY seqno
"""

# Whole seconds are all that the server tells of the file.
_STALE = """
SELECT CASE WHEN has_function_privilege('pg_stat_file(text)', 'EXECUTE')
            THEN (pg_stat_file('postgresql.auto.conf')).modification > pg_conf_load_time() END AS stale
"""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose setting it is: the whole server's (C(system)), or that of sessions of a role, in a database, or both."""

    kind: str
    role: str = ""
    database: str = ""

    @classmethod
    def of(cls, params: Params) -> Scope:
        """Reads the options. Raises a bad-parameter error for a role or database that the scope does not have."""
        kind, role, database = params["scope"], params["role"] or "", params["database"] or ""
        for option, value in (("role", role), ("database", database)):
            if bool(value) != (option in kind.split("_in_")):
                words = "is needed for" if not value else "does not belong to"
                raise bad_parameter(option, f"it {words} scope {kind}", "Give the scope that is meant.")
        return cls(kind, role, database)

    @property
    def is_system(self) -> bool:
        return self.kind == "system"

    def __str__(self) -> str:
        parts = (("role", self.role), ("database", self.database))
        return " in ".join(f"{word} {name}" for word, name in parts if name) or "system"

    def template(self, act: str) -> tuple[str, tuple[str, ...]]:
        """The statement that does C(act), with places for names, and the names of role and database for it."""
        place = {"system": "SYSTEM", "role": "ROLE %I", "database": "DATABASE %I"}.get(
            self.kind, "ROLE %I IN DATABASE %I"
        )
        return f"ALTER {place} {act}", tuple(name for name in (self.role, self.database) if name)

    def args(self) -> dict[str, str]:
        """As options of the module."""
        named = {"role": self.role, "database": self.database}
        return {"scope": self.kind, **{name: value for name, value in named.items() if value}}


@dataclass(frozen=True, slots=True)
class Entry:
    """A value that a role or database has. C(mine) is true where it holds for this very session."""

    role: str
    database: str
    value: str
    mine: bool

    def beats(self, scope: Scope) -> bool:
        """Whether it wins over the scope for some of the sessions that the scope means."""
        mine = -1 if scope.is_system else _rank(scope.role, scope.database)
        meets_role = not scope.role or not self.role or scope.role == self.role
        meets_database = not scope.database or not self.database or scope.database == self.database
        return _rank(self.role, self.database) > mine and meets_role and meets_database


def _rank(role: str, database: str) -> int:
    """A role's value in a database wins over the role's, that over the database's, that over everybody's."""
    return 2 * bool(role) + bool(database)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a configuration file. C(own) is true in the file that ALTER SYSTEM writes."""

    place: str
    name: str
    value: str
    error: str
    own: bool


@dataclass(frozen=True, slots=True)
class Situation:
    """All that is stored of one setting, and what holds now.

    C(stale) is true where the server's value is hidden and its files are younger than what it has loaded.
    """

    known: Known
    scope: Scope
    entries: tuple[Entry, ...] = ()
    lines: tuple[Line, ...] = ()
    stale: bool = False

    @property
    def stored(self) -> str | None:
        """What the scope itself holds; None where it holds nothing."""
        if self.scope.is_system:
            own = [line.value for line in self.lines if line.own and line.name]
            return own[-1] if own else None
        place = (self.scope.role, self.scope.database)
        return next((entry.value for entry in self.entries if (entry.role, entry.database) == place), None)

    @property
    def beneath(self) -> str:
        """What the server has once ALTER SYSTEM RESET is loaded."""
        others = [line.value for line in self.lines if line.name and not line.own]
        return others[-1] if others else self.known.boot_val

    @property
    def filed(self) -> str:
        """What the files say; without a word there, what holds: the server may have computed its default."""
        named = [line.value for line in self.lines if line.name]
        return named[-1] if named else self.in_force or self.known.boot_val

    @property
    def in_force(self) -> str | None:
        """The server's value; None where this session has one of its own, which hides it."""
        return None if any(entry.mine for entry in self.entries) else self.known.reset_val

    @property
    def is_loaded(self) -> bool:
        """Whether the running server has what the files say, or has said that this takes a restart, or an override."""
        if self.in_force is None:
            return not self.stale
        if self.known.pending_restart or self.is_fixed or self.holds(self.filed) or self.known.is_computed(self.filed):
            return True
        last = [line.place for line in self.lines if line.name][-1:]
        return self.known.is_rewritten and last == [self.known.place]

    @property
    def is_fixed(self) -> bool:
        """Whether the value was given to the server at its start in a way that wins over every file."""
        return self.known.source in _STRONGER

    @property
    def broken(self) -> str:
        """Why the server cannot load its files as they are; empty where it can."""
        wrong = [line for line in self.lines if line.error and not (line.name and self.known.pending_restart)]
        return f"{wrong[0].place}: {wrong[0].error}" if wrong else ""

    def holds(self, text: str) -> bool:
        """Whether the server's value is this one."""
        return self.in_force is not None and same(self.known, self.in_force, text)

    def files_say(self, text: str) -> bool:
        """Whether the server's files, or its own default, come to this value."""
        return same(self.known, self.filed, text)

    def stores(self, text: str | None) -> bool:
        """Whether the scope holds this, and nothing where it is None."""
        if text is None or self.stored is None:
            return text is None and self.stored is None
        return same(self.known, self.stored, text)

    def overridden_by(self, text: str) -> list[dict[str, Any]]:
        """Who gives some of the sessions meant another value than this."""
        found: list[dict[str, Any]] = []
        if self.scope.is_system:
            found += [{"source": self.known.source}] if self.is_fixed and not self.holds(text) else []
            last = max((number for number, line in enumerate(self.lines) if line.own), default=len(self.lines))
            later = [line for line in self.lines[last + 1 :] if line.name]
            found += [
                {"file": line.place, "value": line.value} for line in later if not same(self.known, line.value, text)
            ]
        for entry in self.entries:
            if entry.beats(self.scope) and not same(self.known, entry.value, text):
                found.append({"role": entry.role, "database": entry.database, "value": entry.value})
        return found


def look(session: Session, scope: Scope, name: str) -> Situation:
    """Reads the setting. Raises not_found for one that the server does not have, or does not show to this role."""
    found = session.rows(_KNOWN, {"name": name})
    entries = tuple(Entry(**row) for row in session.rows(_ENTRIES, {"name": name}))
    if not found and (scope.is_system or "." not in name):
        hint = "Check the name and the server's version. Some are shown to members of pg_read_all_settings only."
        raise OpsError(Kind.NOT_FOUND, f"the server has no setting {name}", hint, code="unknown_setting")
    known = Known.of(found[0]) if found else Known.custom(name)
    if not scope.is_system:
        return Situation(known, scope, entries)
    lines = tuple(Line(**row) for row in _file_rows(session, name))
    hidden = any(entry.mine for entry in entries) and any(line.own for line in lines)
    return Situation(known, scope, entries, lines, hidden and bool(session.rows(_STALE)[0]["stale"]))


def _file_rows(session: Session, name: str) -> Sequence[Row]:
    (row,) = session.rows(
        "SELECT has_table_privilege('pg_file_settings', 'SELECT')"
        " AND has_function_privilege('pg_show_all_file_settings()', 'EXECUTE') AS may"
    )
    if not row["may"]:
        hint = "Be a superuser, or grant SELECT on pg_file_settings and EXECUTE on pg_show_all_file_settings()."
        raise OpsError(Kind.FORBIDDEN, "this role may not see the configuration files", hint, code="privilege")
    return session.rows(_FILES, {"name": name})


def refuse_misplaced(known: Known, scope: Scope) -> None:
    """Raises for a setting that nobody can change, and for one of the whole server at another scope."""
    if known.context == "internal":
        hint = "It tells how the server was built, or its data made."
        raise OpsError(Kind.UNSUPPORTED, f"{known.name} cannot be changed", hint, code="immutable")
    if not scope.is_system and known.context not in _PERSONAL:
        hint = "Set it with scope=system."
        text = f"{known.name} is a setting of the whole server ({known.context}), not of a {scope.kind}"
        raise OpsError(Kind.PRECONDITION, text, hint, code="wrong_scope")


def store(postgres: Postgres, known: Known, scope: Scope, value: str | tuple[str, ...] | None) -> None:
    """Writes the value at the scope, takes it away where it is None. Sees no transaction where it must not."""
    texts = written(known, value) if isinstance(value, str) else value
    act = "RESET %I" if texts is None else f"SET %I = {', '.join('%L' for text in texts)}"
    template, places = scope.template(act)
    names = (*places, known.name, *(texts or ()))
    if scope.is_system:
        postgres.session.isolated(template, *names)
    else:
        postgres.session.command(template, *names)
