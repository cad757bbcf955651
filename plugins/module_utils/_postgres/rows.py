# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A guarded switch of rows that are there already: which they are, how they differ, and one statement that writes.

Values are bound as texts and cast by the server to the column's type. Names are those that the catalog gave, quoted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._core.errors import Kind, OpsError, bad_parameter
from .._core.redact import MASK, digest
from .client import Row, Session
from .errors import translate
from .tables import Table, as_text, require_columns

#: Longer values are cut in words, and told apart by a digest; the diff has them whole.
_LONGEST = 60

#: What the last line of the write divides by when it would have changed other rows than those that were looked at.
_DIVISION_BY_ZERO = "22012"


@dataclass(frozen=True, slots=True)
class Found:
    """A row that matches: its key, the values to be set as they are (C(old)) and as they shall be (C(new)).

    C(seen) is key and old values as one text, by which the write knows the row again. C(more) is what to return.
    """

    key: Mapping[str, str | None]
    old: Mapping[str, str | None]
    new: Mapping[str, str | None]
    more: Mapping[str, str | None]
    seen: str
    differs: bool


@dataclass(frozen=True, slots=True)
class Switch:
    """Rows of a table that match, and the values that they shall have. Values are texts, or None for NULL.

    With C(arrived) a row also matches that has the wanted value where a column is in both.
    """

    table: Table
    match: Mapping[str, str | None]
    wanted: Mapping[str, str | None]
    most: int
    more: tuple[str, ...] = ()
    arrived: bool = False

    @classmethod
    def of(
        cls, table: Table, match: Mapping[str, Any], wanted: Mapping[str, Any], most: int, more: Iterable[str] = ()
    ) -> Switch:
        """Raises a bad-parameter error for empty options, not_found for a column that is not there."""
        for option, given in (("match", match), ("set", wanted)):
            if not given:
                raise bad_parameter(option, "it is empty", "Name at least one column with its value.")
        if most < 1:
            raise bad_parameter("max_rows", f"{most} is not a limit", "Give the largest number that is right, from 1.")
        require_columns(table, (*match, *wanted, *more))
        switch = cls(table, _texts(table, match), _texts(table, wanted), most, tuple(more))
        switch._refuse_columns()
        return switch

    def _refuse_columns(self) -> None:
        """What can be known without a look at the rows, so that check mode knows it too."""
        columns, label = self.table.columns, self.table.label
        fixed = [name for name in self.wanted if columns[name].generated or name in self.table.key]
        if fixed:
            hint = "It identifies the row, or the server computes it."
            raise bad_parameter("set", f"{', '.join(fixed)} of {label} cannot be switched", hint)
        if self.both and not self.table.key:
            hint = "Match by other columns: the row could not be found again."
            raise OpsError(Kind.PRECONDITION, f"{label} has no primary key", hint, code="no_key")
        asked = (*self.match, *self.wanted, *self.more, *self.table.key)
        closed = [f"SELECT of {name}" for name in dict.fromkeys(asked) if not columns[name].readable]
        closed += [f"UPDATE of {name}" for name in self.wanted if not columns[name].writable]
        if closed:
            hint = "Grant it to this role, or use another one."
            raise OpsError(Kind.FORBIDDEN, f"{label}: no right for {', '.join(closed)}", hint, code="privilege")

    @property
    def both(self) -> tuple[str, ...]:
        """Columns that are matched and set."""
        return tuple(name for name in self.match if name in self.wanted)

    def read(self, session: Session) -> tuple[list[Found], int]:
        """The rows that match, no more than one above the limit, and how many there are in all."""
        key, wanted = self.table.key, tuple(self.wanted)
        shown = [f"{self._column(name)}::text" for name in (*key, *wanted, *self.more)]
        shown += [f"({self._value('s', name)})::text" for name in wanted]
        columns = ", ".join(f"{expression} AS c{number}" for number, expression in enumerate(shown))
        order = f" ORDER BY {', '.join(self._column(name) for name in key)}" if key else ""
        sql = (
            f"SELECT {columns}, {self._seen()} AS seen, ({self._differs()}) AS differs, count(*) OVER () AS total"
            f" FROM {self._place} AS t WHERE {self._where()}{order} LIMIT {self.most + 1}"
        )
        rows = self._ask(session, sql, {})
        return [self._found(row) for row in rows], int(rows[0]["total"]) if rows else 0

    def _found(self, row: Row) -> Found:
        key, wanted, more = self.table.key, tuple(self.wanted), self.more
        values = [row[f"c{number}"] for number in range(len(key) + 2 * len(wanted) + len(more))]
        parts: list[dict[str, str | None]] = []
        for names in (key, wanted, more, wanted):
            parts.append(dict(zip(names, values, strict=False)))
            values = values[len(names) :]
        identity, old, rest, new = parts
        return Found(identity, old, new, rest, row["seen"], row["differs"])

    def write(self, session: Session, rows: Sequence[Found], total: int) -> bool:
        """Sets the values in these rows, all or none, in one statement.

        Only where they still are as they were seen, and no other row has come to match: else the statement fails, and
        nothing of it is kept. Returns False then.
        """
        assigned = ", ".join(f"{self._quoted(name)} = {self._value('s', name)}" for name in self.wanted)
        sql = (
            f"WITH changed AS (UPDATE {self._place} AS t SET {assigned} WHERE {self._where()}"
            f" AND {self._seen()} = ANY (%(seen)s::text[])"
            f" AND (SELECT count(*) FROM {self._place} AS t WHERE {self._where()}) = %(total)s"
            " RETURNING 1) SELECT 1 / (count(*) = %(count)s)::int AS sure FROM changed"
        )
        values = {"seen": [row.seen for row in rows], "total": total, "count": len(rows)}
        try:
            self._ask(session, sql, values)
        except OpsError as error:
            if error.code == "changed_meanwhile":
                return False
            raise
        return True

    def _ask(self, session: Session, sql: str, more: Mapping[str, Any]) -> list[Row]:
        """Runs the statement. The server's words lose their detail: it quotes rows, with columns that nobody named."""
        values = {f"{sort}{number}": value for sort, number, value in self._numbered()}
        try:
            return session.rows(sql, {**values, **more})
        except Exception as error:
            known = translate(error)
            if known is None:
                raise
            if getattr(error, "pgcode", "") == _DIVISION_BY_ZERO:
                known.code = "changed_meanwhile"
            words = getattr(getattr(error, "diag", None), "message_primary", None) or known.message
            known.message = f"{self.table.label}: {words}"
            if self.table.hidden and known.code == "bad_value":
                known.message = f"{self.table.label}: a value does not fit its column"
            raise known from None

    def _numbered(self) -> list[tuple[str, int, str | None]]:
        named = (("m", self.match), ("s", self.wanted))
        return [(sort, number, value) for sort, given in named for number, value in enumerate(given.values())]

    def _where(self) -> str:
        return " AND ".join(self._matches(name) for name in self.match)

    def _matches(self, name: str) -> str:
        # Not IS NOT DISTINCT FROM: no index serves that.
        column = self._column(name)
        plain = f"{column} IS NULL" if self.match[name] is None else f"{column} = {self._value('m', name)}"
        return f"({plain} OR NOT ({self._differs(name)}))" if self.arrived and name in self.both else plain

    def _differs(self, *names: str) -> str:
        """Compared as texts: not every type has an equality, and 1.0 is not 1.00 to whoever reads it."""
        return " OR ".join(
            f'{self._column(name)}::text COLLATE "C" IS DISTINCT FROM ({self._value("s", name)})::text COLLATE "C"'
            for name in names or self.wanted
        )

    def _seen(self) -> str:
        names = dict.fromkeys((*self.table.key, *self.wanted))
        return f"jsonb_build_array({', '.join(f'{self._column(name)}::text' for name in names)})::text"

    def _value(self, sort: str, name: str) -> str:
        given = self.match if sort == "m" else self.wanted
        kind = self.table.columns[name].kind.replace("%", "%%")
        return f"%({sort}{list(given).index(name)})s::text::{kind}"

    def _quoted(self, name: str) -> str:
        return self.table.columns[name].quoted.replace("%", "%%")

    def _column(self, name: str) -> str:
        return f"t.{self._quoted(name)}"

    @property
    def _place(self) -> str:
        return self.table.place.replace("%", "%%")

    def subject(self, row: Found) -> str:
        """The row by its primary key, or by what it matches."""
        return f"{self.table.label} {words(self.table, row.key or self.match)}"

    def alone(self, row: Found) -> Switch:
        """The same for this row only, whatever its values are by now."""
        return replace(self, match=row.key or self.match, most=1, arrived=False)

    def back(self, row: Found) -> Switch:
        """What sets the row's old values again."""
        return replace(self.alone(row), wanted=row.old, more=())


def _texts(table: Table, given: Mapping[str, Any]) -> dict[str, str | None]:
    return {name: as_text(value, array=table.columns[name].array) for name, value in given.items()}


def refuse(switch: Switch, count: int, expected: int | None) -> None:
    """Raises when no row, too many, or another number than expected matches."""
    table = switch.table
    what = f"{table.label} {words(table, switch.match)}"
    if not count:
        hint = "Check the values of match."
        if table.policies:
            hint = f"Row-level security is on and may hide it from this role. {hint}"
        raise OpsError(Kind.NOT_FOUND, f"no row matches {what}", hint, code="no_row")
    if count > switch.most:
        hint = "Nothing was changed. Match by the primary key; raise max_rows only if all of them are meant."
        text = f"{count} rows match {what}, more than max_rows {switch.most}"
        raise OpsError(Kind.GUARD_REFUSED, text, hint, code="max_rows")
    if expected is not None and count != expected:
        text = f"{count} rows match {what}, not {expected}"
        raise OpsError(Kind.GUARD_REFUSED, text, "Nothing was changed.", code="expect_rows")
    if count > 1 and not table.key:
        hint = "Match a single row: without a primary key the others cannot be told apart."
        raise OpsError(Kind.PRECONDITION, f"{table.label} has no primary key", hint, code="no_key")


def shown(table: Table, values: Mapping[str, str | None]) -> dict[str, str | None]:
    """Values for people: those of hidden columns are masked."""
    return {name: MASK if name in table.hidden and value is not None else value for name, value in values.items()}


def words(table: Table, values: Mapping[str, str | None]) -> str:
    """The same on one line. What is hidden is told apart by a digest."""
    parts = []
    for name, value in values.items():
        text = "NULL" if value is None else digest(value.encode()) if name in table.hidden else value
        parts.append(f"{name}={text if len(text) <= _LONGEST else f'{text[:_LONGEST]}...{digest(text.encode())}'}")
    return ", ".join(parts)
