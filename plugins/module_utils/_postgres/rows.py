# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A guarded switch of rows that are there already: which they are, how they differ, and one statement that writes.

Names and values reach a statement only through the server's own C(format): C(%I) for names, C(%L) for values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._core.errors import Kind, OpsError, bad_parameter
from .._core.plan import Done, Finding, Progress, Severity, Step, Undo
from .client import Row, Session

#: Kinds of relations whose rows are their own: tables, and tables in partitions.
_TABLES = frozenset("rp")


@dataclass(frozen=True, slots=True)
class Table:
    """A table with the types of its columns, its primary key, and what happens beside an update."""

    schema: str
    name: str
    types: Mapping[str, str]
    key: tuple[str, ...]
    triggers: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"{self.schema}.{self.name}"


_TABLE = """
SELECT n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
       (SELECT json_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)) FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS types,
       (SELECT coalesce(json_agg(a.attname ORDER BY array_position(i.indkey::int2[], a.attnum)), '[]')
          FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
         WHERE i.indrelid = c.oid AND i.indisprimary) AS key,
       (SELECT coalesce(json_agg(t.tgname ORDER BY t.tgname), '[]') FROM pg_trigger t
         WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D') AS triggers
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = to_regclass(%(table)s)
"""


def read_table(session: Session, name: str) -> Table:
    """The table of that name. Raises M(not_found), or M(unsupported) for a view."""
    rows = session.rows(_TABLE, {"table": name})
    if not rows:
        hint = "Give it with its schema, and quotes as in SQL where it needs them."
        raise OpsError(Kind.NOT_FOUND, f"there is no table {name}", hint, code="no_such_table")
    (row,) = rows
    if row["kind"] not in _TABLES:
        hint = "Name the table whose row it is: through a view nobody can tell which rows would be written."
        raise OpsError(Kind.UNSUPPORTED, f"{name} is not a table", hint, code="not_a_table")
    return Table(row["schema"], row["name"], row["types"], tuple(row["key"]), tuple(row["triggers"]))


def as_text(value: Any) -> str | None:
    """A value as the server reads it from text; lists and mappings are JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _texts(given: Mapping[str, Any]) -> dict[str, str | None]:
    return {name: as_text(value) for name, value in given.items()}


@dataclass(frozen=True, slots=True)
class Switch:
    """Rows of a table that match, and the values that they shall have. Values are texts, or None for NULL."""

    table: Table
    match: Mapping[str, str | None]
    wanted: Mapping[str, str | None]
    most: int

    @classmethod
    def of(cls, table: Table, match: Mapping[str, Any], wanted: Mapping[str, Any], most: int) -> Switch:
        """Raises a bad-parameter error for empty options, M(not_found) for a column that is not there."""
        for option, given in (("match", match), ("set", wanted)):
            if not given:
                raise bad_parameter(option, "it is empty", "Name at least one column with its value.")
        strange = [name for name in (*match, *wanted) if name not in table.types]
        if strange:
            words = f"{table.label} has no column {', '.join(strange)}"
            hint = f"It has {', '.join(sorted(table.types))}."
            raise OpsError(Kind.NOT_FOUND, words, hint, code="no_such_column")
        return cls(table, _texts(match), _texts(wanted), most)

    @property
    def shown(self) -> tuple[str, ...]:
        """The key and the columns to set: what identifies a row, and what is compared."""
        return tuple(dict.fromkeys((*self.table.key, *self.wanted)))

    def read(self, session: Session) -> list[Row]:
        """The rows that match, no more than one above the limit, each with whether it differs."""
        parts, names = self._where(self.match)
        columns = ", ".join("%I::text AS %I" for _column in self.shown)
        twice = [name for column in self.shown for name in (column, column)]
        template = f"SELECT {columns}, ({self._differs()}) AS differs FROM %I.%I WHERE {parts} LIMIT {self.most + 1}"
        values = [*twice, *self._differing(), self.table.schema, self.table.name, *names]
        return session.command(template, *values)

    def step(self, session: Session, row: Row) -> Step:
        """Writes one row, found again by its key and by the match, if it still differs and is still alone."""
        key = {name: row[name] for name in self.table.key} or dict(self.match)
        subject = f"{self.table.label} {_words(key)}"

        def act(_progress: Progress) -> Done:
            written = self._write(session, {**self.match, **key})
            return Done(len(written), note="" if written else "the row is no longer as it was planned")

        old = {name: row[name] for name in self.wanted}
        args = {"table": self.table.label, "match": key, "set": old}
        undo = Undo(f"set {_words(old)} again", lambda: self._restore(session, key, old), "postgres_row", args)
        return Step(subject, f"set {_words(self.wanted)} in {subject}", act, undo)

    def _write(self, session: Session, where: Mapping[str, str | None]) -> list[Row]:
        """Counts and writes in one statement, under the rows' locks: another row that matches means no write."""
        parts, names = self._where(where)
        place = (self.table.schema, self.table.name)
        assignments = ", ".join("%I = %L::%s" for _column in self.wanted)
        set_values = [part for name, value in self.wanted.items() for part in (name, value, self.table.types[name])]
        template = (
            f"WITH target AS MATERIALIZED (SELECT ctid FROM %I.%I WHERE {parts} FOR UPDATE) "
            f"UPDATE %I.%I SET {assignments} WHERE {parts} AND ({self._differs()}) "
            "AND (SELECT count(*) FROM target) = 1 RETURNING 1 AS done"
        )
        return session.command(template, *place, *names, *place, *set_values, *names, *self._differing())

    def _restore(self, session: Session, key: Mapping[str, str | None], old: Mapping[str, str | None]) -> None:
        Switch(self.table, key, old, 1)._write(session, key)

    def _where(self, given: Mapping[str, str | None]) -> tuple[str, list[str | None]]:
        parts = " AND ".join("%I IS NOT DISTINCT FROM %L::%s" for _column in given)
        return parts, [part for name, value in given.items() for part in (name, value, self.table.types[name])]

    def _differs(self) -> str:
        return " OR ".join("%I IS DISTINCT FROM %L::%s" for _column in self.wanted)

    def _differing(self) -> Sequence[str | None]:
        return [part for name, value in self.wanted.items() for part in (name, value, self.table.types[name])]


def refuse(switch: Switch, rows: Sequence[Row], expected: int | None) -> None:
    """Raises when no row, too many, or another number than expected matches."""
    what = f"{switch.table.label} {_words(switch.match)}"
    if not rows:
        hint = "Check the values of match; row-level security can hide rows from this role as well."
        raise OpsError(Kind.NOT_FOUND, f"no row matches {what}", hint, code="no_row")
    if len(rows) > switch.most:
        hint = "Nothing was changed. Match by the primary key; raise max_rows only if all of them are meant."
        raise OpsError(Kind.GUARD_REFUSED, f"more than {switch.most} rows match {what}", hint, code="max_rows")
    if expected is not None and len(rows) != expected:
        words = f"{len(rows)} rows match {what}, not {expected}"
        raise OpsError(Kind.GUARD_REFUSED, words, "Nothing was changed.", code="expect_rows")
    if len(rows) > 1 and not switch.table.key:
        hint = "Match a single row: without a primary key the others cannot be told apart."
        raise OpsError(Kind.PRECONDITION, f"{switch.table.label} has no primary key", hint, code="no_key")


def beside(table: Table, subject: str) -> tuple[Finding, ...]:
    """That an update does more than it says."""
    if not table.triggers:
        return ()
    advice = "They run with the update. Know what they do."
    return (Finding("postgres.row_triggers", Severity.INFO, subject, {"triggers": list(table.triggers)}, advice),)


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={'NULL' if value is None else value}" for name, value in values.items())
