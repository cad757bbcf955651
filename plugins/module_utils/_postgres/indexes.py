# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Indexes: which were left behind by failed builds, whether the one asked for is there, and what to advise."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._core.errors import Kind, OpsError, bad_parameter
from .._core.plan import Severity
from .._core.spec import Params
from .maintenance import Due, Judged, Table, Wanted, means
from .relation import Relation

#: The suboptions of O(index).
INDEX: Mapping[str, Mapping[str, Any]] = {
    "table": {"type": "str", "required": True},
    "name": {"type": "str", "required": True},
    "columns": {"type": "list", "elements": "str"},
    "expressions": {"type": "list", "elements": "str"},
    "unique": {"type": "bool", "default": False},
    "method": {"type": "str", "default": "btree"},
    "where": {"type": "str"},
}

#: What REINDEX CONCURRENTLY calls its new and its old index while it is at work.
_LEFTOVER = re.compile(r"(?P<origin>.+)_cc(?:new|old)\d*", re.DOTALL)
_LONGEST_NAME = 63
_UNUSED_FROM = 1 << 20
_SCANNED_FROM = 10_000
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*\"""")


@dataclass(frozen=True, slots=True)
class Index(Relation):
    """An index. C(shape) is its definition without its name and table; C(columns) has None for an expression.

    C(constraint) names what would break without it; C(builder) is the session that works on it or its table.
    """

    table: int
    table_name: str
    kind: str
    method: str
    unique: bool
    valid: bool
    shape: str
    columns: tuple[str | None, ...]
    expressions: tuple[str, ...]
    predicate: str
    sorted_otherwise: bool
    constraint: str
    bytes: int
    tuples: float
    fillfactor: int
    scans: int
    may: bool
    builder: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"index": self.qualified, "table": self.table_name, "definition": self.shape, "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class Definition:
    """The index that is asked for. Columns are names; expressions and C(where) are SQL, as in CREATE INDEX."""

    table: str
    name: str
    columns: tuple[str, ...]
    expressions: tuple[str, ...]
    unique: bool
    method: str
    where: str

    @classmethod
    def of(cls, params: Params) -> Definition | None:
        """Reads O(index); refuses SQL that could be more than an expression."""
        index: Mapping[str, Any] | None = params["index"]
        if "create_index" not in params["tasks"]:
            return None
        if index is None:
            raise bad_parameter("index", "the task create_index needs it")
        columns, expressions = tuple(index["columns"] or ()), tuple(index["expressions"] or ())
        if not columns and not expressions:
            raise bad_parameter("index", "it has neither columns nor expressions")
        if len(index["name"].encode()) > _LONGEST_NAME:
            raise bad_parameter("index", f"the server would cut the name after {_LONGEST_NAME} bytes")
        where = (index["where"] or "").strip()
        for text in (*expressions, *filter(None, (where,))):
            _refuse_more_than_an_expression(text)
        method = index["method"]
        return cls(index["table"], index["name"], columns, expressions, bool(index["unique"]), method, where)

    def statement(self, table: Table) -> tuple[str, tuple[str, ...]]:
        """CREATE INDEX CONCURRENTLY as a template for the server's format(), and the names for it."""
        keys = ["%I"] * len(self.columns) + [f"({_literally(text)})" for text in self.expressions]
        unique = "UNIQUE " if self.unique else ""
        where = f" WHERE ({_literally(self.where)})" if self.where else ""
        text = f"CREATE {unique}INDEX CONCURRENTLY %I ON %I.%I USING %I ({', '.join(keys)}){where}"
        return text, (self.name, table.schema, table.name, self.method, *self.columns)

    def difference(self, index: Index) -> str:
        """In what a found index differs; expressions are compared by number here, by text in L(doubt)."""
        expected = (*self.columns, *(None for text in self.expressions))
        pairs = (
            ("unique", self.unique, index.unique),
            ("method", self.method, index.method),
            ("columns", expected, index.columns),
            ("where", bool(self.where), bool(index.predicate)),
            ("another order", False, index.sorted_otherwise),
        )
        return next((f"{name}: {found}, not {wanted}" for name, wanted, found in pairs if wanted != found), "")

    def doubt(self, index: Index) -> bool:
        """Whether the SQL reads otherwise than what the server made of it, which only a person can judge."""
        wanted = [_bare(text) for text in (*self.expressions, self.where)]
        return wanted != [_bare(text) for text in (*index.expressions, index.predicate)]


def _literally(text: str) -> str:
    return text.replace("%", "%%")


def _bare(text: str) -> str:
    """Without casts, parentheses, blanks and case: what the server adds when it prints an expression."""
    without = re.sub(r"::(?:\"[^\"]+\"|[a-z_ ]+(?:\(\d+\))?(?:\[\])?)", "", text, flags=re.IGNORECASE)
    return re.sub(r"[\s()]+", "", without).lower()


def _refuse_more_than_an_expression(text: str) -> None:
    """Refuses what could end the expression and begin something else."""
    bare = _QUOTED.sub("''", text)
    depth = 0
    for char in bare:
        depth += (char == "(") - (char == ")")
        if depth < 0:
            break
    odd = any(part in bare.replace("''", "") for part in ("'", '"', ";", "--", "/*", "$$", "\\", "\0"))
    if depth or odd or not bare.strip():
        hint = "Give one expression, with its parentheses and quotes closed, without semicolon, comment or backslash."
        raise bad_parameter("index", f"{text!r} is not one expression", hint)


def origin_of(index: Index, others: Iterable[Index]) -> Index | None:
    """The index that a failed REINDEX CONCURRENTLY worked on: on the same table, alike, valid, and of that name."""
    match = _LEFTOVER.fullmatch(index.name)
    if match is None:
        return None
    stem = match["origin"]
    # The server cuts a long name to make room for the suffix.
    was_cut = len(index.name.encode()) >= _LONGEST_NAME - 3
    for other in others:
        same_name = other.name == stem or (was_cut and other.name.startswith(stem))
        alike = (other.table, other.shape, other.unique) == (index.table, index.shape, index.unique)
        if same_name and alike and other.valid and other.oid != index.oid:
            return other
    return None


def due_leftovers(indexes: Sequence[Index], wanted: Wanted) -> Judged:
    """Invalid indexes: leftovers are due, the others are reported."""
    judged = Judged()
    for index in indexes:
        if index.valid:
            continue
        origin = origin_of(index, indexes)
        reason, report = _reason_to_keep(index, origin, wanted)
        if "drop_leftovers" in wanted.tasks and not reason and origin:
            why = f"invalid, left behind by a failed rebuild of {origin.name}, which is valid"
            judged.due.append(Due("drop", index.oid, index.schema, index.name, why, index.bytes, table=index.table))
            continue
        if reason:
            judged.spare(index.subject, reason)
        if report:
            advice = "Drop and rebuild it: task create_index with its name, or REINDEX INDEX CONCURRENTLY by hand."
            evidence = {**index.as_dict(), "constraint": index.constraint, "reason": reason}
            judged.find("index_invalid", Severity.WARNING, index.qualified, evidence, advice)
    return judged


def _reason_to_keep(index: Index, origin: Index | None, wanted: Wanted) -> tuple[str, bool]:
    """Why an invalid index is not dropped, and whether somebody should know; empty for a leftover."""
    reasons = (
        (index.builder, f"session {index.builder} works on it or on its table right now", False),
        (index.constraint, f"{index.constraint} rests on it", True),
        (index.kind == "I", "it waits for the indexes of its partitions", True),
        (means(wanted.protect, index.qualified), "protected", True),
        (not index.may, "only its owner may drop it", True),
        (origin is None, "no valid index is known of which it would be the leftover", True),
    )
    return next(((why, report) for holds, why, report in reasons if holds), ("", True))


def due_creation(definition: Definition, tables: Iterable[Table], indexes: Sequence[Index]) -> Judged:
    """Whether the index that is asked for has to be built. An invalid one of its name makes way."""
    table = _table_of(definition, tables)
    judged = Judged()
    named = next((i for i in indexes if (i.schema, i.name) == (table.schema, definition.name)), None)
    alike = next((i for i in indexes if i.table == table.oid and i.valid and _is_same(definition, i)), None)
    if named and named.table != table.oid:
        words = f"index {named.qualified} belongs to {named.table_name}"
        raise OpsError(Kind.CONFLICT, words, "Choose another name.", code="name_taken")
    if named and named.valid:
        _require_same(definition, named, judged)
    elif alike and not named:
        judged.spare(alike.subject, f"it already is what {definition.name} would be")
    elif named and (named.builder or named.constraint):
        at_work = f"session {named.builder} works on it or on its table right now"
        judged.spare(named.subject, at_work if named.builder else f"{named.constraint} rests on it")
        if named.constraint:
            judged.find("index_invalid", Severity.WARNING, named.qualified, named.as_dict(), "Rebuild it by hand.")
    else:
        why = f"asked for on {table.qualified}" + ("; an invalid one of this name makes way" if named else "")
        oid = named.oid if named else 0
        judged.due.append(Due("create", oid, table.schema, definition.name, why, table.bytes, table=table.oid))
    return judged


def _table_of(definition: Definition, tables: Iterable[Table]) -> Table:
    found = [t for t in tables if definition.table in (t.qualified, t.name if "." not in definition.table else "")]
    if len(found) != 1:
        words = f"there {'are several tables' if found else 'is no table'} {definition.table}"
        raise OpsError(Kind.NOT_FOUND, words, "Write schema.table as the catalog has it.", code="no_such_table")
    if found[0].kind == "p":
        words = f"{definition.table} has partitions: their parent takes no CONCURRENTLY"
        hint = "Create the index on each partition, then CREATE INDEX ... ON ONLY the parent and attach them."
        raise OpsError(Kind.UNSUPPORTED, words, hint, code="partitioned")
    return found[0]


def _is_same(definition: Definition, index: Index) -> bool:
    return not definition.difference(index) and not definition.doubt(index)


def _require_same(definition: Definition, index: Index, judged: Judged) -> None:
    differs = definition.difference(index)
    if differs:
        words = f"{index.qualified} is another index than the one asked for ({differs})"
        raise OpsError(Kind.CONFLICT, words, "Choose another name, or drop the old one first.", code="name_taken")
    if definition.doubt(index):
        evidence = {
            "found": [*index.expressions, index.predicate],
            "asked": [*definition.expressions, definition.where],
        }
        advice = "Compare the two by eye. They are taken for the same because name, table and columns agree."
        judged.find("index_unproved", Severity.INFO, index.qualified, evidence, advice)


def advice(
    tables: Sequence[Table], indexes: Sequence[Index], statements: Mapping[int, Any], since: str
) -> dict[str, Any]:
    """What an owner should think about, with the evidence. Nothing of it is ever done unasked."""
    return {
        "since": since,
        "missing": _missing(tables, statements),
        "unused": [
            {**index.as_dict(), "scans": index.scans}
            for index in sorted(indexes, key=lambda index: -index.bytes)
            if index.valid and not (index.scans or index.unique or index.constraint) and index.bytes >= _UNUSED_FROM
        ],
        "duplicates": _duplicates(indexes),
        "invalid": [{**index.as_dict(), "built_by": index.builder} for index in indexes if not index.valid],
    }


def _missing(tables: Iterable[Table], statements: Mapping[int, Any]) -> list[dict[str, Any]]:
    """Tables that are read from end to end again and again, the most rows read first."""
    found = [
        {
            "table": table.qualified,
            "bytes": table.bytes,
            "seq_scans": table.scans,
            "rows_per_scan": table.rows_scanned // table.scans,
            "index_scans": table.index_scans,
            "statements": statements.get(table.oid, []),
        }
        for table in sorted(tables, key=lambda table: -table.rows_scanned)
        if table.scans > 1 and table.live >= _SCANNED_FROM and table.rows_scanned // table.scans >= _SCANNED_FROM
    ]
    return found[:20]


def _duplicates(indexes: Sequence[Index]) -> list[dict[str, Any]]:
    """Valid indexes of one table that are alike; the one that nothing rests on could go."""
    groups: dict[tuple[Any, ...], list[Index]] = {}
    for index in indexes:
        if index.valid:
            groups.setdefault((index.table, index.unique, index.shape), []).append(index)
    return [
        {
            "table": group[0].table_name,
            "definition": group[0].shape,
            "indexes": [
                index.qualified for index in sorted(group, key=lambda index: (not index.constraint, index.name))
            ],
            "bytes": sum(index.bytes for index in group) - max(index.bytes for index in group),
        }
        for group in groups.values()
        if len(group) > 1
    ]
