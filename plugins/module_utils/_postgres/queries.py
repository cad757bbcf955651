# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The questions of a diagnosis. None waits for a table: sizes are asked only of those that nobody has locked.

Each answers in few rows, whatever the server holds: aggregates are made there, lists are cut there.
"""

from __future__ import annotations

#: Rows of any list that a question returns; what is shown is cut again, after judging.
MOST = 200

_AT = '\'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\''

#: Settings that findings need, as this session would start with them: its own are not the server's.
BASICS = """
SELECT (SELECT json_agg(s) FROM (
         SELECT name, reset_val AS value, unit, vartype AS type, pending_restart AS pending
           FROM pg_settings WHERE name = ANY(%(names)s) OR pending_restart) s) AS settings,
       (SELECT json_agg(o) FROM (
         SELECT coalesce(r.rolname, '') AS role, coalesce(d.datname, '') AS database, option
           FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) AS option
           LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
          WHERE split_part(option, '=', 1) = ANY(%(timeouts)s) LIMIT 200) o) AS overrides,
       (SELECT json_build_object('schema', n.nspname, 'version', e.extversion)
          FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
         WHERE e.extname = 'pg_stat_statements') AS statements,
       (SELECT extract(epoch FROM clock_timestamp() - stats_reset)::float8
          FROM pg_stat_database WHERE datname = current_database()) AS counted_seconds,
       extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8 AS uptime_seconds
"""

#: Client backends only, without this one: walsenders, workers and the server's own processes take no such slot.
SESSIONS = f"""
WITH everyone AS MATERIALIZED (
  SELECT a.*, coalesce(host(client_addr), 'local') AS host,
         extract(epoch FROM clock_timestamp() - state_change)::float8 AS state_seconds,
         extract(epoch FROM clock_timestamp() - xact_start)::float8 AS xact_seconds,
         extract(epoch FROM clock_timestamp() - query_start)::float8 AS query_seconds
    FROM pg_stat_activity a WHERE pid <> pg_backend_pid()),
clients AS MATERIALIZED (SELECT * FROM everyone WHERE backend_type = 'client backend')
SELECT (SELECT count(*) FROM clients) AS used,
       (SELECT count(*) FROM everyone WHERE backend_type = 'walsender') AS walsenders,
       (SELECT count(*) FROM clients WHERE wait_event_type = 'Lock') AS waiting,
       (SELECT json_object_agg(state, n) FROM (
         SELECT coalesce(state, 'starting') AS state, count(*) AS n FROM clients GROUP BY 1) s) AS states,
       (SELECT json_agg(g) FROM (
         SELECT usename AS role, datname AS database, application_name AS application, host, count(*) AS total,
                count(*) FILTER (WHERE state = 'idle') AS idle,
                count(*) FILTER (WHERE state LIKE 'idle in transaction%%') AS idle_in_transaction,
                count(*) FILTER (WHERE state = 'active') AS active,
                coalesce(max(state_seconds) FILTER (WHERE state = 'idle'), 0) AS oldest_idle_seconds
           FROM clients GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC, 1, 2, 3, 4 LIMIT {MOST}) g) AS groups,
       (SELECT json_agg(l) FROM (
         SELECT 'role' AS kind, rolname AS name, rolconnlimit AS "limit",
                (SELECT count(*) FROM clients WHERE usesysid = r.oid) AS used
           FROM pg_roles r WHERE rolconnlimit >= 0 AND NOT rolsuper
         UNION ALL
         SELECT 'database', datname, datconnlimit, (SELECT count(*) FROM clients WHERE datid = d.oid)
           FROM pg_database d WHERE datconnlimit >= 0
         ORDER BY 4 DESC, 1, 2 LIMIT {MOST}) l) AS limits,
       (SELECT json_agg(s) FROM (
         SELECT pid, to_char(backend_start AT TIME ZONE 'UTC', {_AT}) AS backend_start, usename AS "user",
                datname AS database, application_name AS application, host, state, state_seconds, xact_seconds,
                query_seconds, coalesce(wait_event_type || ':' || wait_event, '') AS wait, left(query, 4000) AS query
           FROM clients WHERE xact_start IS NOT NULL ORDER BY xact_start LIMIT {MOST}) s) AS sessions
"""

#: Those who wait for a lock and those in their way. A prepared transaction has no process: the server calls it 0.
LOCKS = f"""
WITH waiting AS MATERIALIZED (
  SELECT pid, pg_blocking_pids(pid) AS blockers FROM pg_stat_activity WHERE wait_event_type = 'Lock'),
held AS MATERIALIZED (SELECT * FROM pg_locks WHERE EXISTS (SELECT FROM waiting)),
wanted AS (SELECT DISTINCT ON (pid) * FROM held WHERE NOT granted AND pid IN (SELECT pid FROM waiting) ORDER BY pid),
prepared AS (
  -- Its locks bear the virtual transaction of the session that is gone, so the lock on its own id leads to them.
  SELECT p.gid, held.* FROM pg_prepared_xacts p
    JOIN held own ON own.pid IS NULL AND own.granted AND own.transactionid = p.transaction
    JOIN held ON held.pid IS NULL AND held.granted AND held.virtualtransaction = own.virtualtransaction)
SELECT a.pid, to_char(a.backend_start AT TIME ZONE 'UTC', {_AT}) AS backend_start, a.usename AS "user",
       a.datname AS database, a.application_name AS application, coalesce(host(a.client_addr), 'local') AS host,
       a.state, extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS xact_seconds,
       extract(epoch FROM clock_timestamp() - coalesce({{waitstart}}, a.query_start))::float8 AS wait_seconds,
       coalesce(w.blockers, '{{{{}}}}') AS blockers, l.mode,
       CASE WHEN d.oid = l.database THEN l.relation::regclass::text ELSE l.relation::text END AS relation,
       l.locktype AS kind, left(a.query, 4000) AS query,
       (SELECT json_agg(DISTINCT p.gid) FROM prepared p
         WHERE 0 = ANY(w.blockers) AND p.locktype = l.locktype
           AND (p.database, p.relation, p.page, p.tuple, p.transactionid, p.classid, p.objid, p.objsubid)
               IS NOT DISTINCT FROM
               (l.database, l.relation, l.page, l.tuple, l.transactionid, l.classid, l.objid, l.objsubid)) AS gids
  FROM pg_stat_activity a
  LEFT JOIN waiting w ON w.pid = a.pid
  LEFT JOIN wanted l ON l.pid = w.pid
  LEFT JOIN pg_database d ON d.datname = current_database()
 WHERE w.pid IS NOT NULL OR a.pid IN (SELECT unnest(blockers) FROM waiting)
"""

#: Whoever keeps old row versions from being removed, with its age in transactions.
HORIZON = f"""
SELECT 'transaction' AS kind, coalesce(nullif(a.application_name, ''), a.usename::text, a.backend_type) AS name,
       a.pid, to_char(a.backend_start AT TIME ZONE 'UTC', {_AT}) AS backend_start, a.usename::text AS "user",
       a.datname::text AS database, a.state,
       greatest(age(a.backend_xmin), age(a.backend_xid)) AS age,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds
  FROM pg_stat_activity a
 WHERE a.pid <> pg_backend_pid() AND coalesce(a.backend_xmin, a.backend_xid) IS NOT NULL
   AND a.backend_type NOT IN ('walsender', 'autovacuum worker')
   AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.pid = a.pid)
UNION ALL
SELECT 'prepared', gid, NULL, '', owner::text, database::text, 'prepared', age(transaction),
       extract(epoch FROM clock_timestamp() - prepared)::float8
  FROM pg_prepared_xacts
UNION ALL
SELECT 'slot', slot_name::text, active_pid, '', '', coalesce(database::text, ''),
       CASE WHEN active THEN 'active' ELSE 'inactive' END, greatest(age(xmin), age(catalog_xmin)), NULL
  FROM pg_replication_slots WHERE coalesce(xmin, catalog_xmin) IS NOT NULL
UNION ALL
SELECT 'standby', application_name, pid, to_char(backend_start AT TIME ZONE 'UTC', {_AT}), usename::text, '',
       state, age(backend_xmin), NULL
  FROM pg_stat_replication WHERE backend_xmin IS NOT NULL
 ORDER BY age DESC NULLS LAST LIMIT {MOST}
"""

REPLICATION = f"""
WITH here AS MATERIALIZED (
  SELECT CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
              ELSE pg_current_wal_lsn() END AS lsn)
SELECT (SELECT json_agg(r) FROM (
         SELECT application_name AS application, pid, coalesce(host(client_addr), 'local') AS host, state, sync_state,
                pg_wal_lsn_diff(lsn, sent_lsn)::int8 AS unsent_bytes,
                pg_wal_lsn_diff(lsn, coalesce(replay_lsn, flush_lsn, write_lsn, sent_lsn))::int8 AS lag_bytes,
                extract(epoch FROM coalesce(replay_lag, flush_lag))::float8 AS lag_seconds
           FROM pg_stat_replication, here ORDER BY 7 DESC NULLS LAST LIMIT {MOST}) r) AS standbys,
       (SELECT json_agg(s) FROM (
         SELECT slot_name AS name, slot_type AS kind, coalesce(database, '') AS database, active, temporary,
                coalesce(wal_status, '') AS wal_status, pg_wal_lsn_diff(lsn, restart_lsn)::int8 AS retained_bytes,
                safe_wal_size AS safe_bytes
           FROM pg_replication_slots, here ORDER BY 7 DESC NULLS LAST LIMIT {MOST}) s) AS slots,
       CASE WHEN pg_is_in_recovery() THEN (
         SELECT json_build_object(
           'receive_lsn', pg_last_wal_receive_lsn()::text, 'replay_lsn', pg_last_wal_replay_lsn()::text,
           'lag_bytes', greatest(0, pg_wal_lsn_diff(lsn, pg_last_wal_replay_lsn())::int8),
           'lag_seconds', CASE WHEN lsn > pg_last_wal_replay_lsn()
             THEN extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 ELSE 0 END,
           'paused', pg_is_wal_replay_paused(),
           'receiver', (SELECT status FROM pg_stat_wal_receiver),
           'primary', (SELECT sender_host || ':' || sender_port FROM pg_stat_wal_receiver)) FROM here)
       END AS standby
"""

WRAPAROUND = f"""
SELECT (SELECT json_agg(d) FROM (
         SELECT datname AS name, age(datfrozenxid) AS xid_age, mxid_age(datminmxid) AS mxid_age
           FROM pg_database ORDER BY greatest(age(datfrozenxid), mxid_age(datminmxid)) DESC LIMIT {MOST}
       ) d) AS databases,
       (SELECT json_agg(t) FROM (
         SELECT quote_ident(n.nspname) || '.' || quote_ident(relname) AS name, age(relfrozenxid) AS xid_age,
                mxid_age(relminmxid) AS mxid_age
           FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
          WHERE relkind IN ('r', 'm', 't') AND relfrozenxid <> '0'
          ORDER BY greatest(age(relfrozenxid), mxid_age(relminmxid)) DESC LIMIT {MOST}) t) AS tables
"""

ARCHIVER = """
SELECT archived_count AS archived, failed_count AS failed, coalesce(last_failed_wal, '') AS last_failed_wal,
       extract(epoch FROM clock_timestamp() - last_archived_time)::float8 AS last_archived_seconds,
       extract(epoch FROM clock_timestamp() - last_failed_time)::float8 AS last_failed_seconds
  FROM pg_stat_archiver
"""

#: An index under construction is invalid too; any build on its table counts, because a rebuild works on two at once.
INDEXES = f"""
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,
       quote_ident(tn.nspname) || '.' || quote_ident(t.relname) AS "table",
       c.relpages::int8 * current_setting('block_size')::int8 AS bytes, i.indisvalid AS valid, i.indisready AS ready,
       i.indisunique AS "unique", c.relkind = 'I' AS partitioned, coalesce(k.conname::text, '') AS "constraint",
       pg_stat_get_numscans(i.indexrelid) AS scans,
       EXISTS (SELECT FROM pg_stat_progress_create_index p JOIN pg_database d ON d.oid = p.datid
                WHERE d.datname = current_database() AND p.relid = i.indrelid) AS building
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
  LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_temp'
   AND (NOT i.indisvalid
        OR (pg_stat_get_numscans(i.indexrelid) = 0 AND c.relpages >= %(pages)s AND n.nspname <> 'pg_toast'
            AND c.relkind = 'i' AND NOT i.indisunique AND NOT i.indisreplident AND k.oid IS NULL))
 ORDER BY i.indisvalid, c.relpages DESC, 1 LIMIT {MOST}
"""

#: Tables with the most dead rows, changes, rows read one by one, and bytes. Statistics of columns tell the size needed.
TABLES = """
WITH locked AS MATERIALIZED (
  SELECT DISTINCT relation FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation IS NOT NULL),
seen AS MATERIALIZED (
  SELECT s.*, c.relpages, c.reltuples::float8 AS reltuples, c.reloptions,
         CASE WHEN s.n_live_tup > 0 THEN s.n_live_tup ELSE greatest(c.reltuples, 0) END::float8 AS live,
         row_number() OVER (ORDER BY s.n_dead_tup DESC) AS by_dead,
         row_number() OVER (ORDER BY s.n_mod_since_analyze DESC) AS by_changed,
         row_number() OVER (ORDER BY s.seq_tup_read DESC) AS by_read,
         row_number() OVER (ORDER BY c.relpages DESC) AS by_size
    FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid),
worst AS (
  SELECT *, CASE WHEN relid IN (SELECT relation FROM locked) THEN relpages::int8 * current_setting('block_size')::int8
                 ELSE pg_relation_size(relid) END AS bytes
    FROM seen WHERE least(by_dead, by_changed, by_read, by_size) <= %(rank)s)
SELECT quote_ident(schemaname) || '.' || quote_ident(relname) AS name, bytes, live, n_dead_tup AS dead,
       n_mod_since_analyze AS changed, seq_scan AS seq_scans, seq_tup_read AS seq_rows,
       coalesce(idx_scan, 0) AS index_scans,
       extract(epoch FROM clock_timestamp() - greatest(last_vacuum, last_autovacuum))::float8 AS vacuum_seconds,
       extract(epoch FROM clock_timestamp() - greatest(last_analyze, last_autoanalyze))::float8 AS analyze_seconds,
       (ceil(live * (28 + 8 * ceil(width / 8))
             / ((current_setting('block_size')::float8 - 24) * coalesce(fill.factor, 100) / 100))
        * current_setting('block_size')::float8)::int8 AS needed
  FROM worst
  LEFT JOIN LATERAL (SELECT sum((1 - null_frac) * avg_width)::float8 AS width FROM pg_stats p
                      WHERE p.schemaname = worst.schemaname AND p.tablename = worst.relname AND NOT p.inherited
                    ) w ON true
  LEFT JOIN LATERAL (SELECT option_value::float8 AS factor FROM pg_options_to_table(worst.reloptions)
                      WHERE option_name = 'fillfactor') fill ON true
"""

#: {total} and {mean} depend on the extension's version, {texts} on whether texts are wanted. Times there are in ms.
#: The first %I is the extension's schema; {since} reads it once more where the version knows.
STATEMENTS = """
WITH seen AS MATERIALIZED (
  SELECT queryid::text AS query_id, userid, dbid, calls, {total} / 1000 AS total, {mean} / 1000 AS mean, rows,
         left(query, 4000) AS query, sum({total}) OVER () / 1000 AS whole,
         row_number() OVER (ORDER BY {total} DESC) AS by_total, row_number() OVER (ORDER BY {mean} DESC) AS by_mean
    FROM %I.pg_stat_statements({texts}) WHERE queryid IS NOT NULL)
SELECT query_id, coalesce(r.rolname::text, '') AS role, coalesce(d.datname::text, '') AS database, calls,
       total AS total_seconds, mean AS mean_seconds, rows, query, whole AS whole_seconds, by_total, by_mean,
       {since} AS since_seconds
  FROM seen LEFT JOIN pg_roles r ON r.oid = userid LEFT JOIN pg_database d ON d.oid = dbid
 WHERE by_total <= 100 OR by_mean <= 100
"""

SINCE = "(SELECT extract(epoch FROM clock_timestamp() - stats_reset)::float8 FROM %I.pg_stat_statements_info)"
