# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A table as the catalog describes it: names as the server quotes them, types, key, and what runs beside an update."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._core.errors import Kind, OpsError
from .client import Row, Session

#: What cannot be switched row by row, in words.
_OTHERS = {
    "f": "a foreign table: its rows are on another server",
    "m": "a materialized view: its rows are computed",
    "S": "a sequence",
    "i": "an index",
    "I": "an index",
    "c": "a type",
    "t": "storage of another table",
}

_CATALOGS = frozenset({"pg_catalog", "information_schema", "pg_toast"})

# A cast to text of a fixed length would cut the value without a word; the assignment itself refuses what is too long.
_TABLE = """
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, format('%%I.%%I', n.nspname, c.relname)
       AS place, c.relkind::text AS kind, row_security_active(c.oid) AS policies,
       CASE WHEN c.relkind = 'v' THEN pg_relation_is_updatable(c.oid, true) & 4 = 4 ELSE true END AS updatable,
       EXISTS (SELECT FROM pg_rewrite w WHERE w.ev_class = c.oid AND w.ev_type = '2' AND c.relkind <> 'v') AS rules,
       (SELECT json_agg(json_build_object(
                 'name', a.attname, 'quoted', quote_ident(a.attname), 'generated', a.attgenerated <> '',
                 'array', t.typcategory = 'A',
                 'kind', CASE WHEN a.atttypid = ANY (
                                '{varchar,bpchar,bit,varbit,varchar[],bpchar[],bit[],varbit[]}'::regtype[])
                              THEN format_type(a.atttypid, -1) ELSE format_type(a.atttypid, a.atttypmod) END,
                 'readable', has_column_privilege(c.oid, a.attnum, 'SELECT'),
                 'writable', has_column_privilege(c.oid, a.attnum, 'UPDATE')) ORDER BY a.attnum)
          FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       (SELECT json_agg(a.attname ORDER BY array_position(i.indkey::int2[], a.attnum))
          FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])
         WHERE i.indrelid = c.oid AND i.indisprimary
           AND (c.relkind = 'p' OR NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = c.oid))) AS key,
       (SELECT json_agg(g.tgname ORDER BY g.tgname) FROM pg_trigger g
         WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 16 = 16) AS triggers
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = to_regclass(%(table)s)
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column. C(quoted) and C(kind), its type, are the server's own words for it."""

    name: str
    quoted: str
    kind: str
    array: bool = False
    generated: bool = False
    readable: bool = True
    writable: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """A table, or a view. C(place) is its name for a statement, C(triggers) are those that an update sets off.

    C(key) is empty without a primary key, and where tables inherit from this one: there it is not unique.
    """

    schema: str
    name: str
    place: str
    columns: Mapping[str, Column]
    key: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    policies: bool = False
    hidden: frozenset[str] = field(default_factory=frozenset)

    @property
    def label(self) -> str:
        return f"{self.schema}.{self.name}"


def read_table(session: Session, name: str, *, views: bool, hidden: Iterable[str] = ()) -> Table:
    """The table of that name. Raises not_found, unsupported for what has no rows of its own, or guard_refused."""
    rows = session.rows(_TABLE, {"table": name})
    if not rows:
        hint = "Give it with its schema, and quotes as in SQL where it needs them."
        raise OpsError(Kind.NOT_FOUND, f"there is no table {name}", hint, code="no_such_table")
    (row,) = rows
    _refuse_kind(row, views=views)
    columns = {found["name"]: Column(**found) for found in row["columns"] or ()}
    table = Table(
        row["schema"],
        row["name"],
        row["place"],
        columns,
        tuple(row["key"] or ()),
        tuple(row["triggers"] or ()),
        row["policies"],
        frozenset(hidden),
    )
    require_columns(table, table.hidden)
    return table


def _refuse_kind(row: Row, *, views: bool) -> None:
    label, kind = f"{row['schema']}.{row['name']}", row["kind"]
    if kind in _OTHERS:
        raise OpsError(Kind.UNSUPPORTED, f"{label} is {_OTHERS[kind]}", "Name a table.", code="not_a_table")
    if row["schema"] in _CATALOGS and kind != "v":
        hint = "Nothing was changed. Use the statements that the server has for it."
        raise OpsError(Kind.GUARD_REFUSED, f"{label} is the server's own", hint, code="protected")
    if kind == "v" and not (views and row["updatable"]):
        hint = "Name the table behind it." if views else "Name the table behind it, or say views=true."
        raise OpsError(Kind.UNSUPPORTED, f"{label} is a view", hint, code="not_a_table")
    if row["rules"]:
        hint = "Use UPDATE by hand: a rule may put anything in its place."
        raise OpsError(Kind.UNSUPPORTED, f"{label} has a rule for UPDATE", hint, code="rules")


def require_columns(table: Table, names: Iterable[str]) -> None:
    """Raises not_found for columns that the table does not have."""
    strange = [name for name in names if name not in table.columns]
    if strange:
        words = f"{table.label} has no column {', '.join(strange)}"
        hint = f"It has {', '.join(sorted(table.columns))}."
        raise OpsError(Kind.NOT_FOUND, words, hint, code="no_such_column")


def as_text(value: Any, *, array: bool = False) -> str | None:
    """A value as the server reads it from text; lists are arrays where the column is one, else JSON like mappings."""
    if value is None:
        return None
    if isinstance(value, list) and array:
        return "{" + ",".join(_element(item) for item in value) + "}"
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if "\0" in text:
        raise OpsError(Kind.PRECONDITION, "a value holds a zero byte", "PostgreSQL has no such text.", code="bad_value")
    return text


def _element(item: Any) -> str:
    if isinstance(item, list):
        return as_text(item, array=True) or ""
    text = as_text(item)
    return "NULL" if text is None else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
