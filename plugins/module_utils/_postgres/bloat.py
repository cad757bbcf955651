# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How much of an index or a table is empty: by estimate, and by reading it where pgstattuple is installed.

The estimate knows rows and average widths only. It errs on the side of too little bloat (it takes no
deduplication into account), so that an index which was just rebuilt is not rebuilt again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .._core.plan import Severity
from .._core.units import human
from .client import Session
from .indexes import Index
from .maintenance import Due, Judged, Limits, Table, Wanted, means

_PAGE = 8192
_PAGE_OVERHEAD = 40  # header and the special space of a b-tree's page
_TUPLE_OVERHEAD = 12  # item pointer and the header of an index tuple
_ROW_OVERHEAD = 28  # item pointer and the header of a row
_ALIGN = {"c": 1, "s": 2, "i": 4, "d": 8}

_COLUMNS = """
SELECT i.indexrelid::int8 AS oid, a.attlen AS length, a.attalign::text AS align, s.avg_width AS width
  FROM pg_index i
  JOIN pg_class ic ON ic.oid = i.indexrelid
  JOIN pg_class t ON t.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = t.relnamespace
  JOIN pg_attribute a ON a.attrelid = i.indexrelid
  LEFT JOIN pg_attribute ta
    ON ta.attrelid = i.indrelid AND i.indkey[a.attnum - 1] <> 0 AND ta.attnum = i.indkey[a.attnum - 1]
  LEFT JOIN pg_stats s ON s.schemaname = n.nspname AND NOT s.inherited
   AND s.tablename = CASE WHEN ta.attname IS NULL THEN ic.relname ELSE t.relname END
   AND s.attname = coalesce(ta.attname, a.attname)
 WHERE i.indexrelid = ANY(%(oids)s::oid[]) ORDER BY 1, a.attnum
"""
_WIDTHS = """
SELECT c.oid::int8 AS oid, sum(coalesce(s.avg_width * (1 - s.null_frac), 0))::float8 AS width,
       count(*) = count(s.attname) AS known, pg_relation_size(c.oid) AS heap
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname
   AND NOT s.inherited
 WHERE c.oid = ANY(%(oids)s::oid[]) GROUP BY c.oid
"""
_EXTENSION = """
SELECT n.nspname AS schema FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
 WHERE e.extname = 'pgstattuple' AND has_schema_privilege(n.oid, 'USAGE') AND EXISTS (
   SELECT 1 FROM pg_proc p WHERE p.pronamespace = n.oid AND p.proname = 'pgstatindex'
      AND has_function_privilege(p.oid, 'EXECUTE'))
"""


@dataclass(frozen=True, slots=True)
class Column:
    """One key: its fixed length, or -1 and the average width; the width is None without statistics."""

    length: int
    align: str
    width: int | None


@dataclass(frozen=True, slots=True)
class Bloat:
    """The share that is empty. C(read) is true where the object itself was read, false for an estimate."""

    share: float
    read: bool

    @property
    def words(self) -> str:
        return f"{self.share:.0%} bloat ({'measured' if self.read else 'estimated'})"


def tuple_width(columns: Iterable[Column]) -> int | None:
    """Bytes of an index tuple with its overhead, as the server aligns it; None without statistics."""
    at = 0
    for column in columns:
        width = column.length if column.length > 0 else column.width
        if width is None:
            return None
        # A short value of variable length has a one-byte header and is not aligned.
        unit = 1 if column.length < 0 and width < 127 else _ALIGN.get(column.align, 8)
        at = -(-at // unit) * unit + width
    return -(-at // 8) * 8 + _TUPLE_OVERHEAD


def index_share(index: Index, rows: float, columns: Sequence[Column]) -> float | None:
    """The share of a b-tree that a fresh one would not need; None where that cannot be estimated."""
    width = tuple_width(columns)
    if index.method != "btree" or index.predicate or not columns or width is None or index.bytes <= 0 or rows < 1:
        return None
    room = (_PAGE - _PAGE_OVERHEAD) * index.fillfactor / 100
    pages = rows * width / room * 1.01 + 2  # inner pages are about one in a hundred
    return max(0.0, 1 - pages * _PAGE / index.bytes)


def table_share(heap: int, rows: float, width: float) -> float:
    """The share of a heap that its live rows would not need if they were packed."""
    row = -(-(width + _ROW_OVERHEAD) // 8) * 8
    return max(0.0, 1 - (rows * row / (_PAGE - 24) * _PAGE) / heap) if heap else 0.0


class Scales:
    """Weighs indexes and tables: all by estimate, those that look bloated by reading them, if that is possible."""

    def __init__(self, session: Session) -> None:
        self._session = session
        found = session.rows(_EXTENSION)
        self._schema = str(found[0]["schema"]) if found else ""

    def columns(self, oids: Sequence[int]) -> Mapping[int, Sequence[Column]]:
        found: dict[int, list[Column]] = {}
        for row in self._session.rows(_COLUMNS, {"oids": list(oids)}) if oids else ():
            found.setdefault(row["oid"], []).append(Column(row["length"], row["align"], row["width"]))
        return found

    def widths(self, oids: Sequence[int]) -> Mapping[int, tuple[float, int]]:
        """Row width and heap size of each table whose columns all have statistics."""
        rows = self._session.rows(_WIDTHS, {"oids": list(oids)}) if oids else ()
        return {row["oid"]: (row["width"], row["heap"]) for row in rows if row["known"]}

    def read_index(self, index: Index) -> Bloat | None:
        """Reads all of a b-tree; None without the extension. Entries of dead rows count as used."""
        if not self._schema:
            return None
        template = "SELECT * FROM %I.pgstatindex(%L::oid::regclass)"
        (row,) = self._session.command(template, self._schema, str(index.oid))
        leaves = row["leaf_pages"] + row["empty_pages"] + row["deleted_pages"]
        if not leaves:
            return Bloat(0.0, True)
        filled = row["leaf_pages"] * row["avg_leaf_density"] / (leaves * index.fillfactor)
        return Bloat(max(0.0, 1 - filled), True)

    def read_table(self, oid: int) -> Bloat | None:
        """Reads the pages of a heap that are not all-visible; None without the extension."""
        if not self._schema:
            return None
        template = "SELECT * FROM %I.pgstattuple_approx(%L::oid::regclass)"
        (row,) = self._session.command(template, self._schema, str(oid))
        return Bloat((row["approx_free_percent"] + row["dead_tuple_percent"]) / 100, True)


def due_rebuilds(scales: Scales, indexes: Iterable[Index], tables: Mapping[int, Table], wanted: Wanted) -> Judged:
    """Valid indexes that are too bloated, the most wasteful first."""
    judged = Judged()
    large = [i for i in indexes if i.kind == "i" and i.valid and i.bytes >= wanted.bloat_min and i.method == "btree"]
    columns = scales.columns([index.oid for index in large])
    for index in large:
        table = tables[index.table]
        guess = index_share(index, max(index.tuples, table.tuples, table.live), columns.get(index.oid, ()))
        if guess is not None and guess <= wanted.bloat_ratio:
            continue
        reason = _reason_to_leave(index, wanted)
        bloat = None if reason else _weighed(scales, index, table, guess, wanted)
        if reason or bloat is None:
            judged.spare(index.subject, reason or "its bloat cannot be estimated; pgstattuple could measure it")
        elif bloat.share > wanted.bloat_ratio:
            gain = int(index.bytes * bloat.share)
            why = f"{bloat.words} of {human(index.bytes)}"
            common = (index.oid, index.schema, index.name, why, index.bytes)
            judged.due.append(Due("reindex", *common, gain=gain, table=index.table))
    judged.due.sort(key=lambda due: (-due.gain, due.qualified))
    return judged


def _reason_to_leave(index: Index, wanted: Wanted) -> str:
    if means(wanted.protect, index.qualified) or means(wanted.protect, index.table_name):
        return "protected"
    if index.constraint.startswith("exclusion"):
        return "the index of an exclusion constraint cannot be rebuilt concurrently"
    if index.builder:
        return f"session {index.builder} works on its table right now"
    return "" if index.may else "only its owner may rebuild it"


def _weighed(scales: Scales, index: Index, table: Table, guess: float | None, wanted: Wanted) -> Bloat | None:
    """As read, if it can be read and few of its entries are dead: a reading takes dead ones for live ones."""
    estimate = None if guess is None else Bloat(guess, False)
    if estimate and table.dead > wanted.dead_ratio * (table.live + table.dead):
        return estimate
    return scales.read_index(index) or estimate


def bloated_tables(scales: Scales, tables: Iterable[Table], wanted: Wanted, limits: Limits) -> Judged:
    """A finding for each table that is mostly empty: only a rewrite would give its space back, and none is made."""
    judged = Judged()
    large = [t for t in tables if t.kind != "p" and t.bytes >= wanted.bloat_min and not t.worked_by]
    widths = scales.widths([table.oid for table in large]) if limits.counts else {}
    for table in large:
        width, heap = widths.get(table.oid, (0.0, 0))
        share = table_share(heap, max(table.live, table.tuples if not table.live else 0), width)
        if share <= wanted.bloat_ratio:
            continue
        bloat = scales.read_table(table.oid) or Bloat(share, False)
        if bloat.share > wanted.bloat_ratio:
            evidence = {"bytes": heap, "share": round(bloat.share, 3), "measured": bloat.read, "dead_rows": table.dead}
            advice = "Vacuum lets new rows use the space. To give it back, plan pg_repack, or VACUUM FULL by hand."
            judged.find("table_bloat", Severity.INFO, table.qualified, evidence, advice)
    return judged
