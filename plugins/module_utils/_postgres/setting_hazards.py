# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Settings that are never changed from here, and values that somebody has to confirm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from .._core.errors import Kind, OpsError
from .settings import Known, canonical

_LOSES = "after a crash the data may be gone"
_RUNS = "the server runs what it names"
_SHUTS = "it may open the server to the network, or close it to everybody"
_STARTS = "with a wrong value the server does not start again"

#: Why a setting is never changed from here, by glob pattern.
PROTECTED: Mapping[str, str] = {
    "data_directory": _STARTS,
    "config_file": _STARTS,
    "hba_file": _SHUTS,
    "ident_file": _SHUTS,
    "external_pid_file": "the server writes there",
    "archive_command": f"{_RUNS}, and the WAL archive depends on it",
    "archive_library": f"{_RUNS}, and the WAL archive depends on it",
    "archive_cleanup_command": _RUNS,
    "restore_command": _RUNS,
    "recovery_*": "it steers a recovery",
    "primary_*": "replication breaks where it does not fit, and it may hold a password",
    "promote_trigger_file": "it promotes a standby",
    "ssl": _SHUTS,
    "ssl_*": "clients are locked out, or no longer protected",
    "krb_*": "clients are locked out",
    "gss_*": "clients are locked out",
    "oauth_*": "clients are locked out",
    "listen_addresses": _SHUTS,
    "port": _SHUTS,
    "unix_socket_*": _SHUTS,
    "*_preload_libraries": f"{_RUNS}; {_STARTS}",
    "dynamic_library_path": _RUNS,
    "extension_control_path": _RUNS,
    "jit_provider": _RUNS,
    "event_source": "the log would go elsewhere",
    "allow_alter_system": "it is for the server's own configuration to say",
    "allow_system_table_mods": "a slip in a catalog destroys the database",
    "allow_in_place_tablespaces": "for developers of the server only",
    "debug_discard_caches": "for developers of the server only",
}

#: Values that are never set; the way back from them is open.
_NEVER: Mapping[str, tuple[str, str]] = {
    "fsync": ("off", _LOSES),
    "full_page_writes": ("off", _LOSES),
    "zero_damaged_pages": ("on", "damaged pages are lost for good"),
    "ignore_checksum_failure": ("on", "damage spreads unseen"),
    "ignore_invalid_pages": ("on", "damage spreads unseen"),
    "ignore_system_indexes": ("on", "for repairs by hand only"),
    "data_sync_retry": ("on", _LOSES),
}


def _is(*values: str) -> Callable[[str], bool]:
    return lambda value: value in values


def _positive(value: str) -> bool:
    return float(value) > 0


def _anything(_value: str) -> bool:
    return True


#: What has to be confirmed, whatever the scope.
_CONFIRM: Mapping[str, tuple[Callable[[str], bool], str]] = {
    "synchronous_commit": (_is("off"), "the latest commits are lost in a crash"),
    "synchronous_standby_names": (_anything, "commits wait for ever where a standby is missing"),
    "default_transaction_read_only": (_is("on"), "writes fail"),
    "session_replication_role": (_is("replica", "local"), "triggers and foreign keys no longer work"),
    "row_security": (_is("off"), "queries on tables with policies fail"),
    "autovacuum": (_is("off"), "tables bloat, and the wraparound of transaction ids comes nearer"),
    "track_counts": (_is("off"), "autovacuum no longer works"),
    "password_encryption": (_is("md5"), "new passwords are stored weakly"),
    "wal_level": (_anything, "replication and archiving depend on it, and a standby may stop"),
    "archive_mode": (_anything, "the WAL archive depends on it"),
    "hot_standby": (_is("off"), "a standby answers no queries"),
    "restart_after_crash": (_is("off"), "the server stays down after a crash"),
    "max_connections": (_anything, "memory is reserved for each, and a standby with fewer stops"),
    "max_wal_senders": (_anything, "standbys and backups need them"),
    "max_replication_slots": (_anything, "with too few the server does not start"),
    "max_prepared_transactions": (_anything, "with too few the server does not start"),
    "shared_buffers": (_anything, "with too many the server does not start"),
    "huge_pages": (_is("on"), "without huge pages the server does not start"),
    "max_slot_wal_keep_size": (_anything, "a standby whose WAL is removed has to be built anew"),
    "idle_replication_slot_timeout": (_positive, "a standby whose slot ends has to be built anew"),
}

#: What has to be confirmed for everybody, dumps, migrations and vacuums included.
_CONFIRM_SYSTEM: Mapping[str, tuple[Callable[[str], bool], str]] = dict.fromkeys(
    ("statement_timeout", "transaction_timeout", "lock_timeout", "idle_session_timeout"),
    (_positive, "it ends the work of backups and migrations too; set it for the application's role"),
)


def refuse_protected(name: str, protect: Sequence[str]) -> None:
    """Raises guard_refused for a setting that can lock everybody out, run code, or lose data."""
    for pattern, reason in {**PROTECTED, **dict.fromkeys(protect, "protect names it")}.items():
        if fnmatchcase(name.lower(), pattern.lower()):
            hint = "Nothing was changed. Change it where the server's configuration is kept."
            raise OpsError(Kind.GUARD_REFUSED, f"{name} is protected: {reason}", hint, code="protected")


def refuse_hazards(known: Known, value: str, *, everybody: bool, confirm: str) -> None:
    """Raises guard_refused for a value that is never set, or one that has to be confirmed and is not."""
    found = canonical(known, value)
    never, reason = _NEVER.get(known.lower, ("", ""))
    if never and found == never:
        hint = "Nothing was changed. Change it where the server's configuration is kept."
        raise OpsError(Kind.GUARD_REFUSED, f"{known.name} {found} is protected: {reason}", hint, code="protected")
    rules = {**_CONFIRM, **_CONFIRM_SYSTEM} if everybody else _CONFIRM
    meant, reason = rules.get(known.lower, (_is(), ""))
    if meant(found) and confirm != known.name:
        hint = f"If that is meant, pass confirm={known.name}."
        raise OpsError(Kind.GUARD_REFUSED, f"{known.name} {found}: {reason}", hint, code="confirm")
