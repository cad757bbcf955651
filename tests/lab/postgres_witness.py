# SPDX-License-Identifier: GPL-3.0-or-later
"""What was done to a PostgreSQL server, told by its own log. For the lab only: it must log them all."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import psycopg2
from psycopg2 import sql

from tests.lab.postgres_servers import APPLICATION, LOG_PREFIX, SUPERUSER, PostgresServer
from tests.lab.process import LabError, wait_until

_FENCE_SECONDS = 15.0
_FENCER = "lab-witness"
# The server puts a tab before each further line of an entry, so that no statement can forge a beginning.
_ENTRY = re.compile(
    r"^[\d-]+ [\d:.]+ \w+\x1f(\d+)\x1f([^\x1f\n]*)\x1f([^\x1f\n]*)\x1f([^\x1f\n]*)\x1f([^\x1f\n]*)\x1f "
    r"(\w+):  (.*(?:\n\t.*)*)",
    re.MULTILINE,
)
_TAKEN = re.compile(
    r"(statement|execute|fastpath function call|received replication command)(?: [^:]*)?: (.*)", re.DOTALL
)
_QUIET = re.compile(
    r"""--[^\n]* | /\*.*?\*/ | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ | [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*'
    | (?P<name>"(?:[^"]|"")*")""",
    re.DOTALL | re.VERBOSE,
)
_SESSION_ONLY = frozenset(  # first words
    {"abort", "begin", "close", "commit", "deallocate", "declare", "discard", "end", "execute", "fetch", "listen"}
    | {"move", "prepare", "release", "reset", "rollback", "savepoint", "set", "show", "start", "unlisten"}
)
_READING = frozenset({"copy", "explain", "lock", "select", "table", "values", "with"})
_CHANGING_WORDS = re.compile(r'(?<![".\w])(insert|update|delete|merge|into|create|share)(?![".\w])')
_CHANGING_CALLS = re.compile(
    r"""\b(?:pg_(?:terminate_backend|cancel_backend|reload_conf|rotate_logfile\w*|switch_wal|create_restore_point|promote
    |wal_replay_(?:pause|resume)|(?:create|drop|copy)_\w*replication_slot|replication_slot_advance|sync_replication_slots
    |replication_origin_\w+|logical_emit_message|logical_slot_get\w*|(?:start|stop)_backup|backup_(?:start|stop)
    |stat_reset\w*|stat_statements_reset|notify|log_\w+|file_(?:write|unlink|rename|sync)|import_system_collations
    |truncate_visibility_map|(?:restore|clear)_\w+_stats)
    |nextval|setval|dblink\w*|lo_(?:create?|import|export|unlink|from_bytea|put|truncate\w*)|lowrite
    |brin_(?:de)?summarize\w*|gin_clean_pending_list|heap_force_\w+)"?\s*\(""",
    re.VERBOSE,
)
_BLINDING = re.compile(r"\blog_(statement|min_messages|line_prefix|destination)\b")
_READS_OBJECT = re.compile(r'"(lo_open|loread|lo_lseek\w*|lo_tell\w*|lo_close)"')


@dataclass(frozen=True)
class Statement:
    """A statement as the server took it, before it ran: also when it then failed. Parameters are `$1` and so on."""

    pid: int
    application: str
    user: str
    database: str
    kind: Literal["statement", "execute", "fastpath function call", "received replication command"]
    text: str

    @property
    def writes(self) -> bool:
        """Does it change data, the server or another session? A function of somebody's own is not looked into."""
        if self.kind == "fastpath function call":
            return not _READS_OBJECT.match(self.text)
        if self.kind == "received replication command":
            return bool(re.match(r"\s*(create|drop|alter)_", self.text, re.IGNORECASE))
        blinding = "set_config" in self.text and _BLINDING.search(self.text)
        return bool(blinding) or any(map(_changes, _quieted(self.text).split(";")))


class Witness:
    """The statements of all others, in the server's order. Complete up to the last `fence()`.

    The lab's own connections (application_name `lab`) are left out; a fault's or a test's have names of their own.
    """

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._begin = 0
        self._end = 0
        self._over = False
        self._connection = server.connect(SUPERUSER, "postgres", application_name=_FENCER)
        self.fence()
        self._begin = self._end

    @property
    def statements(self) -> tuple[Statement, ...]:
        """All up to now, or up to the end of the block."""
        if not self._over:
            self.fence()
        with self._server.log.open("rb") as log:
            log.seek(self._begin)
            told = log.read(self._end - self._begin).decode(errors="replace")
        return tuple(taken for taken in _parsed(told) if taken.application not in (APPLICATION, _FENCER))

    def by(self, application: str) -> tuple[Statement, ...]:
        """The statements of the connections with this application_name."""
        return tuple(taken for taken in self.statements if taken.application == application)

    def writes(self, application: str | None = None) -> tuple[Statement, ...]:
        """Those that change data, the server or another session, refused ones included.

        What is not known to be harmless counts: DO, CALL, LOCK above ACCESS SHARE, SELECT FOR UPDATE, a change of the
        log's own settings. Advisory locks and settings of the own session do not.
        """
        wanted = self.statements if application is None else self.by(application)
        return tuple(taken for taken in wanted if taken.writes)

    def fence(self) -> None:
        """Return when all that the server took before this call is in the record; LabError after 15 s."""
        nonce = secrets.token_hex(16)
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(f"SELECT 'fence {nonce}'")
        except psycopg2.Error as error:
            raise LabError(f"the witness lost the server: {error}") from error
        # A process writes its entry before it runs the statement: whatever began before the fence is above it.
        wait_until(lambda: self._found(nonce.encode()), _FENCE_SECONDS, "the witness's own fence in the log", 0.005)

    def close(self) -> None:
        self._over = True
        self._connection.close()

    def _found(self, nonce: bytes) -> bool:
        with self._server.log.open("rb") as log:
            log.seek(self._end)
            at = log.read().find(nonce)
        if at >= 0:
            self._end += at
        return at >= 0


@contextlib.contextmanager
def statements(server: PostgresServer) -> Iterator[Witness]:
    """Record what others do to `server` during the block; it must log all statements, as it does by default."""
    server.prove_own()
    _must_tell_all(server)
    seen = Witness(server)
    try:
        yield seen
        seen.fence()
    finally:
        seen.close()


def _must_tell_all(server: PostgresServer) -> None:
    told = server.query("SELECT current_setting('log_statement'), current_setting('log_line_prefix')")
    silenced = server.query("SELECT count(*) FROM pg_db_role_setting WHERE setconfig::text LIKE '%log_%'")
    if told != [("all", LOG_PREFIX)] or silenced != [(0,)]:
        raise LabError("the witness needs log_statement=all and the lab's own log_line_prefix, for all roles")


def _parsed(told: str) -> Iterator[Statement]:
    """What the server took. EXECUTE is told by its name only: the DETAIL after it has what was prepared."""
    waiting: dict[str, Statement] = {}
    for pid, application, user, database, _backend, level, message in _ENTRY.findall(told):
        text = message.replace("\n\t", "\n")
        if level == "DETAIL" and pid in waiting and text.startswith("prepare: "):
            known = waiting.pop(pid)
            prepared = re.sub(r"^prepare: \s*prepare\b.*?\bas\b", "", text, flags=re.IGNORECASE | re.DOTALL)
            yield Statement(known.pid, known.application, known.user, known.database, "execute", prepared.strip())
        elif level == "LOG" and (found := _TAKEN.match(text)):
            taken = Statement(int(pid), application, user, database, found[1], found[2])  # type: ignore[arg-type]
            if re.match(r"\s*execute\b", taken.text, re.IGNORECASE):
                waiting[pid] = taken
            else:
                yield taken
    yield from waiting.values()


def _quieted(text: str) -> str:
    """In lower case, without comments and without what stands in literals."""
    return _QUIET.sub(lambda found: found["name"] or (" " if found[0][:2] in ("--", "/*") else "''"), text).lower()


def _changes(statement: str) -> bool:
    words = re.findall(r"\w+", statement)
    match words:
        case []:
            sure = False
        case ["commit" | "rollback", "prepared", *_] | ["prepare", "transaction", *_]:
            sure = True
        case ["lock", *_]:
            sure = not re.search(r"\bin access share mode\b", statement)
        case ["copy", *_]:
            sure = not re.search(r"\bto stdout\b", statement)
        case ["set" | "reset", *_]:
            sure = bool(_BLINDING.search(statement))
        case _:
            sure = words[0] not in _SESSION_ONLY | _READING
    # What is only planned, and how strong a lock is, was judged above.
    judged = words[:1] == ["lock"] or (words[:1] == ["explain"] and "analyze" not in words)
    return sure or (not judged and bool(_CHANGING_WORDS.search(statement) or _CHANGING_CALLS.search(statement)))


@dataclass(frozen=True)
class Fingerprint:
    """The same before and after, unless something was touched."""

    tables: Mapping[str, tuple[int, int]]  # name -> (rows, sum of their hashes, whatever their order)
    indexes: Mapping[str, tuple[bool, str]]  # name -> (valid, definition)
    settings: tuple[tuple[str, str, tuple[str, ...]], ...]  # (database, role, what is set there)
    system_settings: str  # what ALTER SYSTEM wrote


_TABLES = """SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relispopulated AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1"""
_INDEXES = """SELECT format('%I.%I', n.nspname, c.relname), i.indisvalid AND i.indisready, pg_get_indexdef(i.indexrelid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_' ORDER BY 1"""
_SETTINGS = """SELECT coalesce(d.datname, ''), coalesce(r.rolname, ''), s.setconfig
FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole
ORDER BY 1, 2"""


def fingerprint(server: PostgresServer, database: str = "app") -> Fingerprint:
    """Of the tables and indexes of one database and of the settings of all; LabError behind a lock of 5 s."""
    connection = server.connect(SUPERUSER, database, options="-c lock_timeout=5s")
    try:
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(_TABLES)
            tables = {}
            for (name,) in cursor.fetchall():
                # The name comes quoted by the server.
                count = "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM {} t"
                cursor.execute(sql.SQL(count).format(sql.SQL(name)))
                rows, digest = cursor.fetchone() or (0, 0)
                tables[name] = (rows, int(digest))
            cursor.execute(_INDEXES)
            indexes = {name: (valid, definition) for name, valid, definition in cursor.fetchall()}
            cursor.execute(_SETTINGS)
            settings = tuple((where, who, tuple(what)) for where, who, what in cursor.fetchall())
    except psycopg2.errors.LockNotAvailable as error:
        raise LabError(f"no fingerprint while a table is locked: {error}") from error
    return Fingerprint(tables, indexes, settings, (server.data / "postgresql.auto.conf").read_text())
