# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prepared transactions: no session holds them, so no session can be ended; only their name can."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .._core.errors import Kind, OpsError
from .._core.plan import Done, Finding, Progress, Severity, Spared, Step, Undo, Verify
from .client import Postgres, primary_only

# pg_blocking_pids gives 0 for a prepared transaction: who waits for it shows only by the lock that both name. Its locks
# have no process, and the virtual transaction of whoever prepared it (after a restart another one) holds them together.
_PREPARED = """
WITH locks AS MATERIALIZED (SELECT * FROM pg_locks WHERE pid IS NULL OR NOT granted),
waiting AS MATERIALIZED (SELECT * FROM locks WHERE NOT granted AND 0 = ANY (pg_blocking_pids(pid)))
SELECT p.gid, p.prepared, p.owner, p.database, extract(epoch FROM clock_timestamp() - p.prepared)::float8 AS age,
       (SELECT count(DISTINCT w.pid)::int FROM locks own
          JOIN locks h ON h.pid IS NULL AND h.virtualtransaction = own.virtualtransaction
          JOIN waiting w ON w.locktype = h.locktype
           AND (w.database, w.relation, w.page, w.tuple, w.transactionid::text, w.classid, w.objid, w.objsubid)
               IS NOT DISTINCT FROM
               (h.database, h.relation, h.page, h.tuple, h.transactionid::text, h.classid, h.objid, h.objsubid)
         WHERE own.pid IS NULL AND own.locktype = 'transactionid' AND own.transactionid = p.transaction) AS blocks
  FROM pg_prepared_xacts p ORDER BY p.prepared, p.gid
"""
_THERE = "SELECT gid FROM pg_prepared_xacts WHERE gid = %(gid)s AND prepared = %(since)s"

_FOREVER = Undo("What the transaction had written is gone; its coordinator has to send it again.")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A transaction between its two phases. C(age) is in seconds, C(blocks) how many sessions wait for its locks."""

    gid: str
    since: datetime
    owner: str
    database: str
    age: float
    blocks: int

    @property
    def subject(self) -> str:
        return f"gid={self.gid} prepared={self.since.isoformat()} owner={self.owner} database={self.database}"

    def as_dict(self) -> dict[str, Any]:
        texts = {name: getattr(self, name) for name in ("gid", "owner", "database", "blocks")}
        return {**texts, "prepared": self.since.isoformat(), "age": round(self.age, 1)}


def prepared_transactions(postgres: Postgres) -> tuple[Prepared, ...]:
    """All of the server, the oldest first."""
    names = ("gid", "owner", "database", "age", "blocks")
    rows = postgres.session.rows(_PREPARED)
    return tuple(Prepared(since=row["prepared"], **{name: row[name] for name in names}) for row in rows)


def blocking(found: Sequence[Prepared]) -> tuple[Finding, ...]:
    """One for each for which sessions wait."""
    advice = "Let its coordinator end it. Else: postgres_session with prepared, and confirm, set to this gid."
    evidence = {one.gid: {"age": round(one.age, 1), "blocks": one.blocks, "owner": one.owner} for one in found}
    return tuple(
        Finding("postgres.prepared_blocks", Severity.CRITICAL, one.gid, evidence[one.gid], advice)
        for one in found
        if one.blocks
    )


def spared_roots(found: Sequence[Prepared]) -> tuple[Spared, ...]:
    """Those that a selection of blockers means, and cannot end."""
    why = "a prepared transaction has no session; name it in prepared to roll it back"
    return tuple(Spared(one.subject, why) for one in found if one.blocks)


def steps(postgres: Postgres, found: Sequence[Prepared], gids: Collection[str]) -> tuple[Step, ...]:
    """One for each that is named and there. Raises an error where this role or connection cannot do it."""
    named = [one for one in found if one.gid in gids]
    for one in named:
        primary_only(postgres)
        _refuse_powerless(postgres, one)
    return tuple(_step(postgres, one) for one in named)


def ended(postgres: Postgres, gids: Collection[str]) -> Verify:
    def check() -> str:
        left = [one.gid for one in prepared_transactions(postgres) if one.gid in gids]
        return f"still prepared: {', '.join(left)}" if left else ""

    return Verify("none of the prepared transactions is left", check, timeout=5.0)


def _step(postgres: Postgres, one: Prepared) -> Step:
    def act(_progress: Progress) -> Done:
        # The command stands alone by its nature, so the look is the statement before it.
        if not postgres.session.rows(_THERE, {"gid": one.gid, "since": one.since}):
            return Done(0, note="it was ended by somebody else")
        postgres.session.isolated("ROLLBACK PREPARED %L", one.gid)
        return Done()

    return Step(one.subject, f"Roll back the prepared transaction {one.subject}", act, _FOREVER)


def _refuse_powerless(postgres: Postgres, one: Prepared) -> None:
    if postgres.database != one.database:
        words = f"{one.gid} was prepared in database {one.database}, this is {postgres.database}"
        raise OpsError(Kind.PRECONDITION, words, f"Set dbname to {one.database}.", code="wrong_database")
    if postgres.session.pooled:
        hint = "Give the server's own address."
        raise OpsError(Kind.UNSUPPORTED, "ROLLBACK PREPARED does not work through a pooler", hint, code="pooled")
    if not postgres.superuser and postgres.user != one.owner:
        hint = f"Only {one.owner} or a superuser may end it."
        raise OpsError(Kind.FORBIDDEN, f"{postgres.user} does not own {one.gid}", hint, code="privilege")
