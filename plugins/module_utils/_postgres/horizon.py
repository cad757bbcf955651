# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who keeps old row versions alive, and whom a concurrent index build would have to wait for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .client import Session

#: A holder that says no time (a standby, a slot in use) counts as old from so many transactions on.
_OLD_XIDS = 1_000_000

# Only this database's transactions hold its tables; slots and standbys hold everything.
_HOLDERS = """
WITH locked AS MATERIALIZED (
  SELECT pid, virtualtransaction, array_agg(DISTINCT relation::int8) AS relations FROM pg_locks
   WHERE locktype = 'relation' AND granted
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
   GROUP BY pid, virtualtransaction)
SELECT 'transaction' AS kind, a.pid::text AS id, coalesce(a.usename::text, '') AS "user",
       a.application_name AS application, coalesce(a.state, '') AS state,
       greatest(coalesce(age(a.backend_xmin), 0), coalesce(age(a.backend_xid), 0)) AS xids,
       a.xact_start AS since, a.backend_xmin IS NOT NULL AS snapshot, coalesce(l.relations, '{}') AS relations
  FROM pg_stat_activity a LEFT JOIN locked l ON l.pid = a.pid
 WHERE a.pid <> pg_backend_pid() AND a.datname = current_database() AND a.xact_start IS NOT NULL
   AND a.backend_type <> 'autovacuum worker' AND a.pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum)
UNION ALL
SELECT 'prepared transaction', p.gid, p.owner::text, '', '', age(p.transaction), p.prepared, false,
       coalesce(l.relations, '{}')
  FROM pg_prepared_xacts p LEFT JOIN locked l ON l.virtualtransaction = '-1/' || p.transaction::text
 WHERE p.database = current_database()
UNION ALL
SELECT CASE WHEN active THEN 'slot' ELSE 'unused slot' END, slot_name::text, '', '', '', age(xmin), NULL, false, '{}'
  FROM pg_replication_slots WHERE xmin IS NOT NULL
UNION ALL
SELECT 'standby', r.pid::text, r.usename::text, r.application_name, coalesce(r.state, ''), age(r.backend_xmin), NULL,
       false, '{}'
  FROM pg_stat_replication r WHERE r.backend_xmin IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Holder:
    """A transaction, prepared transaction, slot or standby. C(xids) is how many transactions it lags behind.

    C(since) is None where the server does not tell. C(relations) are oids of what it has locked.
    """

    kind: str
    id: str
    user: str
    application: str
    state: str
    xids: int
    since: datetime | None
    snapshot: bool = False
    relations: frozenset[int] = frozenset()

    @property
    def words(self) -> str:
        who = " ".join(filter(None, (self.application, f"({self.user})" if self.user else "", self.state)))
        return f"{self.kind} {self.id}{' of ' + who if who else ''}"

    @property
    def holds_rows(self) -> bool:
        """Whether anything can have died since its snapshot."""
        return self.xids > 0

    @property
    def advice(self) -> str:
        """What to do about it."""
        return {
            "transaction": "End it with postgres_session, or let it finish; then run again.",
            "prepared transaction": "Find out whose it is; then COMMIT PREPARED or ROLLBACK PREPARED, and run again.",
            "unused slot": "Nobody reads this slot. Bring its standby back, or drop the slot by hand.",
        }.get(self.kind, "A query on the standby holds rows through hot_standby_feedback: end it there.")

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "id": self.id,
            "user": self.user,
            "application": self.application,
            "state": self.state,
            "transactions_behind": self.xids,
            "since": self.since.isoformat() if self.since else "",
        }

    def is_old(self, seconds: int, now: datetime) -> bool:
        """Whether it stands for so long that work should wait for it rather than with it."""
        if self.since is None:
            return self.kind == "unused slot" or self.xids >= _OLD_XIDS
        return (now - self.since).total_seconds() >= seconds

    def outlived(self, vacuumed: datetime | None, seconds: int, now: datetime) -> bool:
        """Whether it held rows when the table was last vacuumed; one without a time is believed for C(seconds)."""
        if vacuumed is None:
            return False
        return vacuumed >= self.since if self.since else (now - vacuumed).total_seconds() < seconds

    def delays(self, table: int, *, build: bool) -> bool:
        """Whether a concurrent drop on this table would wait for it; a build waits for foreign snapshots as well."""
        return table in self.relations or (build and self.snapshot)


def holders(session: Session) -> tuple[Holder, ...]:
    """Everybody with an open transaction or a hold on old rows, but ourselves and vacuums."""
    rows = session.rows(_HOLDERS)
    return tuple(Holder(**{**row, "relations": frozenset(row["relations"])}) for row in rows)
