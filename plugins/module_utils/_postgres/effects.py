# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What ending sessions has brought: connections before and after, who came back, and what would last."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from .._core.plan import Aftermath, Finding, Severity
from .census import Census, activity
from .client import Postgres
from .sessions import Backend, Key
from .signals import Campaign

_CLIENTS = """
SELECT count(*)::int AS clients FROM pg_stat_activity
 WHERE usesysid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend' AND pid <> pg_backend_pid()
"""

# What a session of the role gets in the database: its own setting there, else of the role, of the database, of all.
_LIMITS = """
SELECT w.role, quote_ident(w.role) AS quoted, s.name, coalesce(own.value, s.reset_val) AS value
  FROM unnest(%(databases)s::text[], %(roles)s::text[], %(settings)s::text[]) AS w(database, role, name)
  JOIN pg_settings s ON s.name = w.name
  LEFT JOIN LATERAL (
    SELECT substr(c.item, strpos(c.item, '=') + 1) AS value
      FROM pg_db_role_setting d LEFT JOIN pg_database b ON b.oid = d.setdatabase
           LEFT JOIN pg_roles r ON r.oid = d.setrole, unnest(d.setconfig) AS c(item)
     WHERE (d.setdatabase = 0 OR b.datname = w.database) AND (d.setrole = 0 OR r.rolname = w.role)
       AND split_part(c.item, '=', 1) = w.name
     ORDER BY d.setrole = 0, d.setdatabase = 0 LIMIT 1) own ON true
"""

_TIMEOUTS = {"idle": "idle_session_timeout", "idle in transaction": "idle_in_transaction_session_timeout"}


def connections(postgres: Postgres, settle: float = 0.0) -> int:
    """Client sessions without our own, after C(settle) seconds in which pools may come back."""
    time.sleep(settle)
    return int(postgres.session.rows(_CLIENTS)[0]["clients"])


def no_timeout(postgres: Postgres, meant: Sequence[Backend]) -> tuple[Finding, ...]:
    """One for each role whose sessions nothing ends when they idle: the setting that would."""
    kinds = {(one.database, one.user, _TIMEOUTS.get(one.state.removesuffix(" (aborted)"), "")) for one in meant}
    asked = sorted(kind for kind in kinds if kind[2])
    if not asked:
        return ()
    databases, roles, settings = (list(column) for column in zip(*asked, strict=True))
    rows = postgres.session.rows(_LIMITS, {"databases": databases, "roles": roles, "settings": settings})
    unset = {(row["role"], row["quoted"], row["name"]) for row in rows if str(row["value"]).rstrip("smhdin") == "0"}
    return tuple(
        Finding(
            "postgres.no_idle_timeout",
            Severity.INFO,
            role,
            {"setting": name, "value": 0},
            f"Mend the pool; what lasts is ALTER ROLE {quoted} SET {name} = '15min', for sessions from then on.",
        )
        for role, quoted, name in sorted(unset)
    )


def pooled(postgres: Postgres) -> tuple[Finding, ...]:
    """That a pooler stands between: the addresses are its own, and so are idle connections."""
    if not postgres.session.pooled:
        return ()
    advice = "client_addr is the pooler's. Look at SHOW POOLS and SHOW CLIENTS there for who is behind it."
    return (Finding("postgres.pooled", Severity.INFO, postgres.target.name, {}, advice),)


def came_back(postgres: Postgres, census: Census, campaign: Campaign, facts: dict[str, Any]) -> Callable[[], Aftermath]:
    """Looks for new sessions like those that were ended: a pool fills itself up again."""

    def look() -> Aftermath:
        ended = campaign.terminated
        names = {_like(one) for one in census.selected if one.key in ended}
        known = {_seen(one) for one in census.everyone}
        back = sum(_seen(one) not in known and _like(one) in names for one in activity(postgres)) if ended else 0
        counts = {
            "signalled": len(ended | set(campaign.cancelled)),
            "cancelled": len(set(campaign.cancelled) - ended),
            "ended": len(ended),
            "gone": len(ended) - len(campaign.left()),
            "reconnected": back,
        }
        after = {"sessions": {**facts, **counts}}
        if not back:
            return Aftermath(after)
        evidence = {"ended": len(ended), "reconnected": back}
        advice = "The clients' pools fill up again. Lower the pool's size, or mend what leaks."
        name = postgres.target.name
        return Aftermath(after, (Finding("postgres.sessions_reconnect", Severity.WARNING, name, evidence, advice),))

    return look


def _like(backend: Backend) -> tuple[str, ...]:
    return backend.database, backend.user, backend.application, backend.address


def _seen(backend: Backend) -> Key | tuple[int, None]:
    return (backend.pid, None) if backend.started is None else backend.key
