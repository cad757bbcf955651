# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One reading of the tables, indexes and materialized views of a database, for whoever maintains them.

Sizes and definitions are asked only of what nobody has locked for himself: the functions that tell them would wait
for the lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .client import Postgres, Row, Session
from .errors import translate
from .horizon import Holder, holders
from .indexes import Index
from .maintenance import Limits, Table, Wanted, means, require_known
from .matviews import MatView, edges_of

_LOCKED = """
WITH locked AS MATERIALIZED (
  SELECT relation, min(pid) FILTER (WHERE granted AND pid <> pg_backend_pid()) AS pid, min(pid) AS anybody,
         bool_or(mode = 'AccessExclusiveLock') AS closed
    FROM pg_locks
   WHERE locktype = 'relation' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
     AND mode IN ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                  'AccessExclusiveLock')
   GROUP BY relation)
"""
_OURS = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relpersistence <> 't'"
_TABLES = (
    _LOCKED
    + """
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
       CASE WHEN c.relkind = 'p' THEN 0 WHEN l.closed THEN c.relpages::int8 * current_setting('block_size')::int8
            ELSE coalesce(pg_table_size(c.oid), 0) END AS bytes,
       c.reltuples::float8 AS tuples, coalesce(pg_stat_get_live_tuples(c.oid), 0) AS live,
       coalesce(pg_stat_get_dead_tuples(c.oid), 0) AS dead,
       coalesce(pg_stat_get_mod_since_analyze(c.oid), 0) AS modified,
       CASE WHEN c.relkind = 'p' THEN 0 ELSE greatest(age(c.relfrozenxid), age(t.relfrozenxid)) END AS frozen_age,
       CASE WHEN c.relkind = 'p' THEN 0 ELSE greatest(mxid_age(c.relminmxid), mxid_age(t.relminmxid)) END AS multi_age,
       greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid)) AS vacuumed,
       greatest(pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid)) AS analyzed,
       CASE WHEN c.relkind = 'p' THEN (SELECT max(pg_stat_get_last_autoanalyze_time(relid))
                                         FROM pg_partition_tree(c.oid) WHERE isleaf) END AS leaf_analyzed,
       coalesce(pg_stat_get_numscans(c.oid), 0) AS scans,
       coalesce(pg_stat_get_tuples_returned(c.oid), 0) AS rows_scanned,
       coalesce((SELECT sum(pg_stat_get_numscans(indexrelid)) FROM pg_index WHERE indrelid = c.oid), 0)::int8
         AS index_scans,
       {may} AS may,
       coalesce((SELECT min(pid) FROM pg_stat_progress_vacuum WHERE relid = c.oid AND datname = current_database()),
                (SELECT min(pid) FROM pg_stat_progress_analyze WHERE relid = c.oid AND datname = current_database()),
                CASE WHEN l.closed THEN l.anybody END)
         AS worked_by
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_class t ON t.oid = c.reltoastrelid LEFT JOIN locked l ON l.relation = c.oid
 WHERE c.relkind IN ('r', 'm', 'p') AND {ours} ORDER BY 2, 3
"""
)
_INDEXES = (
    _LOCKED
    + """
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, i.indrelid::int8 AS "table",
       n.nspname || '.' || t.relname AS table_name, c.relkind::text AS kind, m.amname::text AS method,
       i.indisunique AS "unique", i.indisvalid AND i.indisready AND i.indislive AS valid,
       CASE WHEN l.closed OR tl.closed THEN 'unknown ' || c.oid
            ELSE substr(pg_get_indexdef(c.oid), length(format('CREATE %%sINDEX %%I ON %%s%%I.%%I USING ',
                 CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, c.relname,
                 CASE WHEN c.relkind = 'I' THEN 'ONLY ' ELSE '' END, n.nspname, t.relname)) + 1) END AS shape,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place)
               LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.attnum <> 0
              ORDER BY k.place) AS columns,
       ARRAY(SELECT CASE WHEN l.closed OR tl.closed THEN '' ELSE pg_get_indexdef(c.oid, k.place::int, false) END
               FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place)
              WHERE k.attnum = 0 ORDER BY k.place) AS expressions,
       CASE WHEN i.indpred IS NULL THEN '' WHEN l.closed OR tl.closed THEN 'unknown'
            ELSE pg_get_expr(i.indpred, i.indrelid) END AS predicate,
       EXISTS (SELECT 1 FROM unnest(i.indoption::int2[]) o WHERE o <> 0) AS sorted_otherwise,
       coalesce((SELECT min(CASE contype WHEN 'x' THEN 'exclusion ' ELSE '' END || 'constraint ' || conname)
                   FROM pg_constraint WHERE conindid = c.oid),
                CASE WHEN i.indisreplident THEN 'the replica identity' END,
                CASE WHEN EXISTS (SELECT 1 FROM pg_inherits WHERE inhrelid = c.oid) THEN 'a partitioned index' END,
                '') AS "constraint",
       CASE WHEN c.relkind = 'I' THEN 0
            WHEN l.closed OR tl.closed THEN c.relpages::int8 * current_setting('block_size')::int8
            ELSE coalesce(pg_relation_size(c.oid), 0) END AS bytes,
       c.reltuples::float8 AS tuples,
       coalesce((SELECT option_value::int FROM pg_options_to_table(c.reloptions) WHERE option_name = 'fillfactor'), 90)
         AS fillfactor,
       coalesce(pg_stat_get_numscans(c.oid), 0) AS scans, {may} AS may,
       coalesce((SELECT min(pid) FROM pg_stat_progress_create_index
                  WHERE datname = current_database() AND c.oid IN (index_relid, relid)),
                CASE WHEN NOT i.indisvalid THEN coalesce(l.pid, tl.pid) END,
                CASE WHEN l.closed THEN l.anybody WHEN tl.closed THEN tl.anybody END) AS builder
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class t ON t.oid = i.indrelid JOIN pg_am m ON m.oid = c.relam
  LEFT JOIN locked l ON l.relation = c.oid LEFT JOIN locked tl ON tl.relation = t.oid
 WHERE {ours} ORDER BY 2, 3
"""
)
_MATVIEWS = """
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relispopulated AS populated,
       EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid
                  AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL) AS concurrent,
       coalesce(obj_description(c.oid, 'pg_class'), '') AS comment,
       c.relpages::int8 * current_setting('block_size')::int8 AS bytes, {may} AS may
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'm' AND {ours}
"""
_LIMITS = """
SELECT current_setting('autovacuum_freeze_max_age')::int AS freeze_age,
       current_setting('autovacuum_multixact_freeze_max_age')::int AS multixact_age,
       clock_timestamp() AS now, current_setting('track_counts')::bool AS counts
"""
_SINCE = "SELECT coalesce(stats_reset::text, '') AS since FROM pg_stat_database WHERE datname = current_database()"
_STATEMENTS = """
SELECT left(query, 500) AS query, calls, round(total_exec_time)::int8 AS total_ms,
       round(mean_exec_time)::int8 AS mean_ms
  FROM %I.pg_stat_statements
 WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND position(lower(%L) IN lower(query)) > 0 AND query ~* '^\\s*(select|with|update|delete)'
 ORDER BY total_exec_time DESC LIMIT 3
"""


@dataclass(frozen=True, slots=True)
class Survey:
    """What is there. C(tables), C(indexes) and C(matviews) are those that are meant, C(all_*) the whole database's."""

    tables: tuple[Table, ...]
    all_tables: Mapping[int, Table]
    indexes: tuple[Index, ...]
    all_indexes: tuple[Index, ...]
    matviews: tuple[MatView, ...]
    edges: tuple[tuple[int, int], ...]
    holders: tuple[Holder, ...]
    limits: Limits
    since: str

    @property
    def population(self) -> int:
        return len(self.tables) + len(self.indexes) + len(self.matviews)


def survey(postgres: Postgres, wanted: Wanted) -> Survey:
    """Reads all that the plan needs; NOT_FOUND for a plain name that nothing bears."""
    session = postgres.session
    tables = [Table(**row) for row in session.rows(_for(postgres, _TABLES))]
    indexes = all_indexes(postgres)
    meant = tuple(table for table in tables if means(wanted.tables, table.qualified))
    oids = {table.oid for table in meant}
    views = [MatView(**row) for row in session.rows(_for(postgres, _MATVIEWS))] if "refresh" in wanted.tasks else []
    require_known(wanted.tables, [*(t.qualified for t in tables), *(i.qualified for i in indexes)])
    if "refresh" in wanted.tasks:
        require_known(wanted.matviews, [view.qualified for view in views])
    return Survey(
        meant,
        {table.oid: table for table in tables},
        tuple(i for i in indexes if i.table in oids or means(wanted.tables, i.qualified)),
        indexes,
        tuple(view for view in views if means(wanted.matviews, view.qualified)),
        tuple(edges_of(session)) if views else (),
        holders(session),
        Limits(**session.rows(_LIMITS)[0]),
        str(session.rows(_SINCE)[0]["since"]),
    )


def all_indexes(postgres: Postgres) -> tuple[Index, ...]:
    """Every index of the database that is not the system's."""
    return tuple(_index(row) for row in postgres.session.rows(_for(postgres, _INDEXES)))


def table_now(postgres: Postgres, oid: int) -> Table | None:
    """The table of this oid as it is now; None where it has gone."""
    return next((Table(**row) for row in postgres.session.rows(_one(postgres, _TABLES), {"oid": oid})), None)


def index_now(postgres: Postgres, oid: int) -> Index | None:
    """The index of this oid as it is now; None where it has gone."""
    return next((_index(row) for row in postgres.session.rows(_one(postgres, _INDEXES), {"oid": oid})), None)


def matview_now(postgres: Postgres, oid: int) -> MatView | None:
    """The view of this oid as it is now; None where it has gone."""
    return next((MatView(**row) for row in postgres.session.rows(_one(postgres, _MATVIEWS), {"oid": oid})), None)


def statements_on(session: Session, tables: Sequence[Table]) -> dict[int, list[Row]]:
    """The costliest statements that name each table, where pg_stat_statements is there and may be read."""
    found: dict[int, list[Row]] = {}
    ask = "SELECT n.nspname::text AS schema FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
    rows = session.rows(f"{ask} WHERE e.extname = 'pg_stat_statements'")
    for table in sorted(tables, key=lambda table: -table.rows_scanned)[:20] if rows else ():
        try:
            found[table.oid] = session.command(_STATEMENTS, rows[0]["schema"], table.name)
        except Exception as error:  # installed, but not loaded with the server
            if translate(error) is None:
                raise
            break
    return found


def _index(row: Row) -> Index:
    return Index(**{**row, "columns": tuple(row["columns"]), "expressions": tuple(row["expressions"])})


def _one(postgres: Postgres, template: str) -> str:
    return _for(postgres, template.replace("{ours}", "{ours} AND c.oid = %(oid)s"))


def _for(postgres: Postgres, template: str) -> str:
    """The text with this version's idea of who may maintain a relation."""
    may = "pg_has_role(c.relowner, 'USAGE')"
    if postgres.major >= 17:
        may = f"({may} OR (c.relkind NOT IN ('i', 'I') AND has_table_privilege(c.oid, 'MAINTAIN')))"
    return template.replace("{may}", may).replace("{ours}", _OURS)
