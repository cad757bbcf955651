# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why a session that a selection means must not be ended all the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

from .client import OWN_NAME
from .sessions import CLIENT, Backend, Wanted

#: Programs whose sessions look idle, or old, while they do what they are for. In lower case.
_TOOLS = (
    *("pg_dump", "pg_dumpall", "pg_restore", "pg_basebackup", "pg_receivewal", "pg_recvlogical", "pg_rewind"),
    *("pg_upgrade", "pg_repack*", "pg_squeeze*", "pg_probackup*", "barman*", "pgbackrest*", "wal-g*", "wal-e*"),
    *("patroni*", "repmgr*", "stolon*", "pg_auto_failover*", "pg_autoctl*", "pgautofailover*", "cnpg*"),
    *("cloud_native_postgresql*", "pgbouncer*", "pgpool*", "pgcat*", "odyssey*", "postgres_exporter*"),
)

#: Roles with which managed services look after their servers.
_KEEPERS = ("rdsadmin", "rdsrepladmin", "cloudsqladmin", "cloudsqlagent", "azuresu", "azure_pg_admin", "cloud_admin")

_SPEECH: Mapping[str, str] = {
    "listen": "listens for notifications",
    "snapshot": "has exported its snapshot: others read through it",
    "backup": "a base backup lasts as long as this session",
    "copy": "copies rows",
    "wraparound": "vacuums to prevent wraparound",
}

_NO_CLIENTS: Mapping[str, str] = {
    "walsender": "a walsender: a standby, a backup or a consumer of changes reads through it",
    "parallel worker": "a parallel worker; it goes with its leader",
    "autovacuum worker": "autovacuum: it makes room again, and gives way to locks by itself",
}


def protected_by(backend: Backend, patterns: Iterable[str]) -> str:
    """The first pattern that names the application or the role; empty where none does."""
    own = next((tool for tool in _TOOLS if fnmatchcase(backend.application.lower(), tool)), "")
    own = own or next((role for role in _KEEPERS if backend.user == role), "")
    names = (backend.application, backend.user)
    return own or next((pattern for pattern in patterns if any(fnmatchcase(name, pattern) for name in names)), "")


def reason_to_spare(backend: Backend, wanted: Wanted) -> str:
    """Why a session that is meant must stay; empty where it may be ended."""
    return next((why for holds, why in _reasons(backend, wanted) if holds), "")


def _reasons(backend: Backend, wanted: Wanted) -> Iterator[tuple[bool, str]]:
    yield backend.own or backend.application == OWN_NAME, "a session of this collection"
    yield backend.speech == "wraparound", _SPEECH["wraparound"]
    kind = backend.kind or "process of an unknown kind"
    yield backend.kind != CLIENT, _NO_CLIENTS.get(backend.kind, f"not a client: {kind}")
    pattern = protected_by(backend, wanted.protect)
    yield bool(pattern), f"protected by {pattern}"
    yield backend.superuser and not wanted.superusers, "a superuser; ask for those with superusers"
    yield backend.replication and not backend.superuser, "its role is for replication"
    yield backend.advisory, "holds an advisory lock: a leader, or a migration"
    yield backend.exports_snapshot, _SPEECH["snapshot"]
    yield backend.slot, "reads a replication slot"
    yield bool(backend.work), f"runs {backend.work}"
    yield backend.wait_event == "SyncRep", "has committed and waits for a synchronous standby"
    yield bool(backend.speech), _SPEECH.get(backend.speech, backend.speech)
    idle = wanted.action == "cancel" and backend.state != "active"
    yield idle, f"is {backend.state}: there is nothing to cancel"
