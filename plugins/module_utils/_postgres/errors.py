# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What SQLSTATEs, and the messages of connections that were never made, mean."""

from __future__ import annotations

from collections.abc import Mapping

from .._core.errors import Kind, Meaning, OpsError, later

_FULL = later(
    Kind.EXHAUSTED,
    "too_many_clients",
    "No slot is free. A superuser, or from PostgreSQL 16 a member of pg_use_reserved_connections, still gets in.",
)
_STARTING = later(Kind.UNREACHABLE, "starting", "The server starts up, shuts down or recovers. Look at its log.")
_GONE = later(Kind.UNREACHABLE, "connection", "The connection broke. See whether the server still runs.")
_PASSWORD = Meaning(Kind.AUTH, "password", "Check user and password, PGPASSWORD and the pass file.")
_NO_DATABASE = Meaning(Kind.NOT_FOUND, "no_such_database", "Check dbname.")
_TLS = Meaning(Kind.UNREACHABLE, "tls", "Check sslmode, sslrootcert, and the host name against the certificate.")

#: SQLSTATEs, whole or by their class (the first two characters).
_STATES: Mapping[str, Meaning] = {
    "28P01": _PASSWORD,
    "28000": Meaning(Kind.AUTH, "rejected", "Check pg_hba.conf for this user, database and address, and TLS."),
    "3D000": _NO_DATABASE,
    "53300": _FULL,
    "53100": Meaning(Kind.EXHAUSTED, "disk_full", "The server's disk is full. Nothing of this statement is kept."),
    "53": later(Kind.EXHAUSTED, "resources", "The server is short of a resource; see its log."),
    "42501": Meaning(Kind.FORBIDDEN, "privilege", "Grant the right to this role, or use another one."),
    "57014": later(
        Kind.TIMEOUT, "statement_timeout", "It took longer than statement_timeout, or somebody cancelled it."
    ),
    "55P03": later(Kind.TIMEOUT, "lock_timeout", "Somebody holds the lock: see postgres_locks for who."),
    "55P02": Meaning(Kind.UNSUPPORTED, "immutable", "This setting cannot be changed in this way while it runs."),
    "25006": Meaning(Kind.PRECONDITION, "read_only", "This is a standby, or read-only. Aim at the primary."),
    "57P03": _STARTING,
    "57P": _GONE,
    "08": _GONE,
    "42P01": Meaning(Kind.NOT_FOUND, "no_such_table", "Check the name, with its schema."),
    "42703": Meaning(Kind.NOT_FOUND, "no_such_column", "Check the name of the column."),
    "42704": Meaning(Kind.NOT_FOUND, "no_such_object", "Check the name."),
    "42883": Meaning(Kind.UNSUPPORTED, "no_such_function", "This version, or this database, does not have it."),
    "0A000": Meaning(Kind.UNSUPPORTED, "not_supported", "This version, or this service, does not do that."),
    "55000": Meaning(Kind.PRECONDITION, "state", "The object is not in the state that this needs."),
    "40": later(Kind.CONFLICT, "conflict", "Another transaction was in the way. Run again."),
    "23": Meaning(Kind.CONFLICT, "constraint", "A constraint forbids it. Nothing of this statement is kept."),
    "2201B": Meaning(Kind.PRECONDITION, "bad_parameter", "Write a regular expression as PostgreSQL has them."),
    "22": Meaning(Kind.PRECONDITION, "bad_value", "The value does not fit the column or setting."),
    "42": Meaning(Kind.PRECONDITION, "refused_statement", "The server does not accept this for the object."),
}

#: Messages of connections that failed, for which the driver gives no SQLSTATE. The first that is found counts.
_MESSAGES: tuple[tuple[str, Meaning], ...] = (
    ("too many clients", _FULL),
    ("too many connections", _FULL),
    ("connection slots are reserved", _FULL),
    ("no more connections allowed", _FULL),
    ("password authentication failed", _PASSWORD),
    ("no password supplied", _PASSWORD),
    ("no pg_hba.conf entry", _STATES["28000"]),
    ("pg_hba.conf rejects", _STATES["28000"]),
    ("is not permitted to log in", _STATES["28000"]),
    ("no such database", _NO_DATABASE),
    ("no such user", _PASSWORD),
    ("starting up", _STARTING),
    ("shutting down", _STARTING),
    ("recovery mode", _STARTING),
    ("not yet accepting connections", _STARTING),
    ("certificate", _TLS),
    ("ssl", _TLS),
    ("could not translate host name", Meaning(Kind.UNREACHABLE, "dns", "The host name does not resolve. Check host.")),
    (
        "connection refused",
        later(Kind.UNREACHABLE, "refused", "Nothing listens there. Check host and port, and whether it runs."),
    ),
    ("timeout expired", later(Kind.TIMEOUT, "timeout", "No answer in time: a firewall, or a stopped server.")),
    ("session is read-only", _STATES["25006"]),
    ("definition of service", Meaning(Kind.NOT_FOUND, "no_such_service", "Check service and PGSERVICEFILE.")),
)


def translate(error: Exception) -> OpsError | None:
    """An exception of the driver as one of ours; None for a bug."""
    if isinstance(error, OpsError):
        return error
    if type(error).__module__.partition(".")[0] != "psycopg2":
        return None
    words = " ".join(str(error).split())
    meaning = _of_state(getattr(error, "pgcode", None) or "") or _of_message(words.lower())
    if meaning is None and type(error).__name__ in ("OperationalError", "InterfaceError"):
        meaning = _GONE
    return meaning.error(words) if meaning else None


def _of_state(state: str) -> Meaning | None:
    parts = (state, state[:3], state[:2]) if state else ()
    return next((_STATES[part] for part in parts if part in _STATES), None)


def _of_message(words: str) -> Meaning | None:
    if 'database "' in words and "does not exist" in words:
        return _NO_DATABASE
    return next((meaning for part, meaning in _MESSAGES if part in words), None)
