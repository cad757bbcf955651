# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Everybody who is connected, sorted into those to be ended and those to be spared.

The texts of statements are classified by the server and never fetched: they may hold data of the application.
"""

from __future__ import annotations

from dataclasses import dataclass

from .._core.errors import Kind, OpsError, bad_parameter
from .client import Postgres
from .hazards import reason_to_spare
from .sessions import Backend, Wanted

#: What the latest statement of C(a) is, where that matters. A statement may follow a comment, or another statement.
SPEECH = r"""
CASE WHEN a.query ~* '(^|;|\*/)\s*listen\M' THEN 'listen'
     WHEN a.state <> 'idle' AND a.query ~* '\mpg_export_snapshot\M' THEN 'snapshot'
     WHEN a.query ~* '\m(pg_start_backup|pg_backup_start)\M' THEN 'backup'
     WHEN a.state = 'active' AND a.query ~* '(^|;|\*/)\s*copy\M' THEN 'copy'
     WHEN a.query LIKE 'autovacuum: %%(to prevent wraparound)' THEN 'wraparound'
     ELSE '' END"""

#: DDL that waits for a table: whoever comes later waits behind it.
QUEUED_DDL = """
EXISTS (SELECT FROM pg_locks k WHERE k.pid = a.pid AND NOT k.granted AND k.locktype = 'relation'
           AND k.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))"""

_ACTIVITY = """
WITH waiting AS MATERIALIZED (
  SELECT coalesce(s.leader_pid, w.pid) AS pid, pg_blocking_pids(w.pid) AS blockers
    FROM (SELECT DISTINCT pid FROM pg_locks WHERE NOT granted) w LEFT JOIN pg_stat_activity s ON s.pid = w.pid),
blocking AS (
  SELECT b.pid, count(DISTINCT w.pid)::int AS blocks FROM waiting w, unnest(w.blockers) AS b(pid) GROUP BY b.pid),
work AS (SELECT pid, min(what) AS what FROM ({work}) p GROUP BY pid),
advisory AS (SELECT DISTINCT pid FROM pg_locks WHERE locktype = 'advisory' AND granted)
SELECT a.pid, a.backend_start AS started, a.backend_type AS kind, a.datname AS database, a.usename AS "user",
       a.application_name AS application, host(a.client_addr) AS address, a.state,
       extract(epoch FROM clock_timestamp() - a.state_change)::float8 AS state_age,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS xact_age,
       CASE WHEN a.state = 'active' THEN extract(epoch FROM clock_timestamp() - a.query_start)::float8 END AS query_age,
       a.wait_event, a.leader_pid AS leader, {speech} AS speech, work.what AS work,
       %(regex)s::text IS NULL OR a.query ~ %(regex)s::text AS query_matches,
       blocking.blocks, EXISTS (SELECT FROM waiting w WHERE w.pid = a.pid) AS waits, {queued_ddl} AS queued_ddl,
       advisory.pid IS NOT NULL AS advisory,
       EXISTS (SELECT FROM pg_replication_slots s WHERE s.active_pid = a.pid) AS slot,
       r.rolsuper AS superuser, r.rolreplication AS replication,
       coalesce(%(all)s OR (NOT r.rolsuper AND (%(signal)s OR pg_has_role(a.usesysid, 'USAGE'))), false) AS signallable,
       a.pid = pg_backend_pid() AS own,
       a.backend_start IS NULL AND a.query = '<insufficient privilege>' AS hidden
  FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid
       LEFT JOIN work ON work.pid = a.pid LEFT JOIN blocking ON blocking.pid = a.pid
       LEFT JOIN advisory ON advisory.pid = a.pid
 ORDER BY a.backend_start, a.pid
"""

# The name of a file there is the virtual transaction that exported the snapshot, in hexadecimal digits.
_EXPORTED = """
SELECT DISTINCT k.pid FROM pg_ls_dir('pg_snapshots', true, false) AS f(name)
  JOIN pg_locks k ON k.locktype = 'virtualxid' AND k.pid IS NOT NULL
   AND k.virtualxid = ('x' || substr(f.name, 1, 8))::bit(32)::int::text || '/'
                      || ('x' || substr(f.name, 10, 8))::bit(32)::bigint::text
 WHERE f.name ~ '^[0-9A-F]{8}-[0-9A-F]{8}-'
"""
_MAY_LOOK = "SELECT has_function_privilege('pg_ls_dir(text, boolean, boolean)', 'EXECUTE') AS may"

_MATCHES_ALL = "SELECT '' ~ %(regex)s::text AS everything"


@dataclass(frozen=True, slots=True)
class Census:
    """C(everyone) who had a session, C(selected) to be ended, and C(spared) with the reason."""

    everyone: tuple[Backend, ...]
    selected: tuple[Backend, ...]
    spared: tuple[tuple[Backend, str], ...]

    @property
    def clients(self) -> tuple[Backend, ...]:
        """Without our own session."""
        return tuple(backend for backend in self.everyone if backend.is_client and not backend.own)

    @property
    def roots(self) -> tuple[Backend, ...]:
        return tuple(backend for backend in self.everyone if backend.blocks and not backend.waits)


def take_census(postgres: Postgres, wanted: Wanted) -> Census:
    """Raises M(forbidden) where the role cannot see, or cannot signal, what the selection may mean."""
    _refuse_any_text(postgres, wanted)
    everyone = activity(postgres, wanted.query_regex)
    hidden = [backend for backend in everyone if backend.hidden and backend.user and wanted.could_match(backend)]
    if hidden:
        hint = "Grant pg_read_all_stats or pg_monitor to this role: without it idle sessions look like none."
        words = f"{postgres.user} cannot see the state of {len(hidden)} sessions"
        raise OpsError(Kind.FORBIDDEN, words, hint, code="privilege")
    reasons = [(backend, reason_to_spare(backend, wanted)) for backend in everyone if wanted.matches(backend)]
    census = Census(
        everyone,
        tuple(backend for backend, reason in reasons if not reason),
        (*((backend, reason) for backend, reason in reasons if reason), *_unknown(everyone, wanted)),
    )
    _refuse_powerless(postgres, census)
    return census


def activity(postgres: Postgres, regex: str | None = None) -> tuple[Backend, ...]:
    """Every process that pg_stat_activity has, the oldest first."""
    sql = _ACTIVITY.format(work=work_in_progress(postgres.major), speech=SPEECH, queued_ddl=QUEUED_DDL)
    values = {"regex": regex, "all": postgres.superuser, "signal": postgres.may("pg_signal_backend")}
    exported = _exporting(postgres)
    rows = postgres.session.rows(sql, values)
    return tuple(Backend.of({**row, "exports_snapshot": row["pid"] in exported}) for row in rows)


def work_in_progress(major: int) -> str:
    """A query for C(pid) and C(what) of all work that would be lost, or would leave something behind, if ended."""
    views = {
        "CREATE INDEX or REINDEX": "create_index",
        "VACUUM": "vacuum",
        "CLUSTER or VACUUM FULL": "cluster",
        "ANALYZE": "analyze",
        **({"COPY": "copy"} if major >= 14 else {}),
        "BASE_BACKUP": "basebackup",
    }
    parts = (f"SELECT pid, '{what}' AS what FROM pg_stat_progress_{view}" for what, view in views.items())
    return " UNION ALL ".join(parts)


def _exporting(postgres: Postgres) -> frozenset[int]:
    """Who has exported a snapshot, as far as this role may look; the text of the statement tells for the others."""
    if not postgres.session.rows(_MAY_LOOK)[0]["may"]:
        return frozenset()
    return frozenset(row["pid"] for row in postgres.session.rows(_EXPORTED))


def _unknown(everyone: tuple[Backend, ...], wanted: Wanted) -> list[tuple[Backend, str]]:
    why = "its state is unknown: track_activities is off"
    return [(backend, why) for backend in everyone if backend.state == "disabled" and wanted.could_match(backend)]


def _refuse_any_text(postgres: Postgres, wanted: Wanted) -> None:
    """The server knows its own dialect of regular expressions best, also whether one means any text at all."""
    if wanted.query_regex is None:
        return
    (row,) = postgres.session.rows(_MATCHES_ALL, {"regex": wanted.query_regex})
    if row["everything"] and not wanted.is_narrow:
        hint = "Write a word that the statement must hold, or give another filter too."
        raise bad_parameter("query_regex", "it matches every text", hint)


def _refuse_powerless(postgres: Postgres, census: Census) -> None:
    beyond = [backend for backend in census.selected if not backend.signallable]
    if not beyond:
        return
    above = sum(backend.superuser for backend in beyond)
    words = f"{postgres.user} may not signal {len(beyond)} of {len(census.selected)} sessions"
    hint = "Grant pg_signal_backend to this role. Nothing was signalled."
    if above:
        hint = f"{above} of them are of superusers, which takes a superuser. Nothing was signalled."
    raise OpsError(Kind.FORBIDDEN, words, hint, code="privilege")
