# SPDX-License-Identifier: GPL-3.0-or-later
"""Makers of PostgreSQL incidents: each bounded, each only on a server that proved to be the lab's own.

All are context managers that take back what they made, unless a runbook was quicker. Ages cannot be faked: a session
is as old as the test has waited.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from tests.lab.postgres_servers import OPERATOR, OWNER, SUPERUSER, PostgresServer
from tests.lab.process import LabError, ProcessId, spawn, wait_until

_MAX_SESSIONS = 1000
_MAX_SECONDS = 120.0
_WAIT = 10.0


@dataclass(frozen=True)
class Session:
    """One session of a fault; pid and start together cannot be another's."""

    connection: Connection
    pid: int
    started: Any
    server: PostgresServer

    def alive(self) -> bool:
        """Does the server still have it?"""
        return self.activity() is not None

    def activity(self) -> dict[str, Any] | None:
        """Its row of pg_stat_activity, in part."""
        columns = ("state", "wait_event_type", "wait_event", "query")
        ask = f"SELECT {', '.join(columns)} FROM pg_stat_activity WHERE pid = %s AND backend_start = %s"
        rows = self.server.query(ask, self.pid, self.started, database="postgres")
        return dict(zip(columns, rows[0], strict=True)) if rows else None

    def execute(self, statement: Any, *parameters: Any) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)


@contextlib.contextmanager
def session(
    server: PostgresServer,
    role: str = OWNER,
    name: str = "web",
    *statements: str,
    database: str = "app",
    autocommit: bool = True,
) -> Iterator[Session]:
    """One session called `name` that ran `statements` and then does nothing."""
    server.prove_own()
    with contextlib.closing(server.connect(role, database, application_name=name)) as connection:
        made = _identified(server, connection)
        connection.autocommit = autocommit
        for statement in statements:
            made.execute(statement)
        yield made


def _identified(server: PostgresServer, connection: Connection) -> Session:
    with connection.cursor() as cursor:
        # No row of pg_stat_activity is hidden from its own role.
        cursor.execute("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")
        pid, started = cursor.fetchone() or (0, None)
    return Session(connection, pid, started, server)


@dataclass(frozen=True)
class Sessions:
    """Several sessions; `refusal` is what the server said when it took no more."""

    members: tuple[Session, ...]
    refusal: str = ""

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(member.pid for member in self.members)

    def alive(self) -> tuple[int, ...]:
        """The pids of those that the server still has."""
        if not self.members:
            return ()
        rows = self.members[0].server.query("SELECT pid, backend_start FROM pg_stat_activity", database="postgres")
        return tuple(member.pid for member in self.members if (member.pid, member.started) in rows)


@contextlib.contextmanager
def idle_sessions(
    server: PostgresServer, n: int, role: str = OWNER, name: str = "web", database: str = "app"
) -> Iterator[Sessions]:
    """`n` sessions that do nothing; LabError when the server has no room for them."""
    with _opened(server, n, role, name, database) as held:
        if held.refusal:
            raise LabError(f"only {len(held.members)} of {n} sessions: {held.refusal}")
        yield held


@contextlib.contextmanager
def fill_connections(
    server: PostgresServer, role: str = OWNER, name: str = "web", database: str = "app"
) -> Iterator[Sessions]:
    """Idle sessions of `role` until the server refuses one; the slots reserved for superusers stay free of `app`."""
    with _opened(server, _MAX_SESSIONS, role, name, database) as held:
        if not held.refusal:
            raise LabError(f"{_MAX_SESSIONS} sessions and still not full: give the server fewer max_connections")
        yield held


@contextlib.contextmanager
def _opened(server: PostgresServer, n: int, role: str, name: str, database: str) -> Iterator[Sessions]:
    if not 0 < n <= _MAX_SESSIONS:
        raise LabError(f"{n} sessions: give 1 to {_MAX_SESSIONS}")
    server.prove_own()
    refusal = ""
    with contextlib.ExitStack() as stack:
        members = []
        for _number in range(n):
            try:
                connection = server.connect(role, database, application_name=name)
            except psycopg2.OperationalError as error:
                refusal = str(error).strip()
                break
            stack.callback(connection.close)
            members.append(_identified(server, connection))
        yield Sessions(tuple(members), refusal)


@contextlib.contextmanager
def idle_in_transaction(
    server: PostgresServer,
    role: str = OWNER,
    name: str = "web",
    table: str | None = "held",
    statement: str = "UPDATE {table} SET note = 'held'",
) -> Iterator[Session]:
    """A session that ran `statement` in a transaction and forgot to end it; by default it holds row locks of `table`.

    `table` (id, note) is made when it is missing; with None the transaction holds nothing but its beginning.
    """
    text = "SELECT 1" if table is None else sql.SQL(statement).format(table=sql.Identifier(table))
    if table is not None:
        small_table(server, table)
    with session(server, role, name, autocommit=False) as held:
        held.execute("SET LOCAL lock_timeout = '5s'")  # another fault may hold the same rows
        held.execute(text)
        yield held


def small_table(server: PostgresServer, table: str, rows: int = 10, database: str = "app") -> None:
    """A table (id, note) of `app`, unless there is one."""
    server.prove_own()
    name = sql.Identifier(table)
    make = "CREATE TABLE IF NOT EXISTS {} (id bigint PRIMARY KEY, note text)"
    fill = "INSERT INTO {} SELECT g, 'note ' || g FROM generate_series(1, {}) g ON CONFLICT DO NOTHING"
    with _lab_cursor(server, database, OWNER) as cursor:
        cursor.execute(sql.SQL(make).format(name))
        cursor.execute(sql.SQL(fill).format(name, sql.Literal(rows)))


@contextlib.contextmanager
def _lab_cursor(server: PostgresServer, database: str = "app", role: str = SUPERUSER) -> Iterator[Any]:
    with contextlib.closing(server.connect(role, database)) as connection, connection.cursor() as cursor:
        yield cursor


class Running:
    """A statement that runs in a session of its own, until it ends or `close()` cancels it."""

    def __init__(self, held: Session, statement: Any) -> None:
        self.session = held
        self.error: psycopg2.Error | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(statement,), daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        return self.session.pid

    @property
    def running(self) -> bool:
        return not self._over.is_set()

    def wait(self, seconds: float = _WAIT) -> bool:
        """Did it end within `seconds`? Look at `error` then."""
        return self._over.wait(seconds)

    def close(self) -> None:
        """Harmless when repeated."""
        for _attempt in range(3):
            with contextlib.suppress(psycopg2.Error):
                if self.running:
                    self.session.connection.cancel()
            if self._over.wait(2):
                break
        self._thread.join(timeout=1)

    def _run(self, statement: Any) -> None:
        try:
            self.session.execute(statement)
        except psycopg2.Error as error:
            self.error = error
        finally:
            self._over.set()


@contextlib.contextmanager
def running(
    server: PostgresServer, statement: Any, role: str = OWNER, name: str = "web", seconds: float = 60
) -> Iterator[Running]:
    """Run one statement in the background, as long as the block lasts and at most `seconds`."""
    if not 0 < seconds <= _MAX_SECONDS:
        raise LabError(f"{seconds} s: give at most {_MAX_SECONDS:g}")
    limit = f"SET statement_timeout = {int(seconds * 1000)}"
    with session(server, role, name, limit) as held:
        work = Running(held, statement)
        try:
            yield work
        finally:
            work.close()


@contextlib.contextmanager
def long_query(
    server: PostgresServer, seconds: float = 60, role: str = OWNER, name: str = "report", busy: bool = False
) -> Iterator[Running]:
    """An active query of `seconds`; `busy` burns CPU instead of sleeping."""
    statement = "SELECT count(*) FROM generate_series(1, 1000000000) a, generate_series(1, 1000) b"
    with running(server, statement if busy else f"SELECT pg_sleep({seconds + 1})", role, name, seconds) as work:
        wait_until(lambda: (work.session.activity() or {}).get("state") == "active", _WAIT, "an active query")
        yield work


@dataclass(frozen=True)
class LockQueue:
    """`holder` is idle in its transaction; `ddl` waits for it; the `readers` wait behind `ddl`."""

    holder: Session
    ddl: Running
    readers: tuple[Running, ...]


@contextlib.contextmanager
def lock_queue(
    server: PostgresServer,
    n: int = 5,
    table: str = "orders",
    ddl: str = "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS extra text",
    holder_role: str = OWNER,
) -> Iterator[LockQueue]:
    """A reader that forgot its transaction, a DDL (or `VACUUM FULL {table}`) behind it, `n` SELECTs behind that.

    At the end those who still wait are cancelled before the holder goes, so that the table stays as it was.
    """
    small_table(server, table)
    name = sql.Identifier(table)
    read = sql.SQL("SELECT count(*) FROM {table}").format(table=name)
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(session(server, holder_role, "forgotten", autocommit=False))
        holder.execute(read)
        change = sql.SQL(ddl).format(table=name)
        queued = stack.enter_context(running(server, change, name="migration"))
        wait_until(lambda: _waiting(server) >= 1, _WAIT, "a DDL that waits")
        readers = tuple(stack.enter_context(running(server, read, name="web")) for _number in range(n))
        wait_until(lambda: _waiting(server) >= n + 1, _WAIT, f"{n} readers that wait")
        yield LockQueue(holder, queued, readers)


def _waiting(server: PostgresServer) -> int:
    rows = server.query("SELECT count(*) FROM pg_locks WHERE NOT granted", database="postgres")
    return int(rows[0][0])


@contextlib.contextmanager
def prepared_transaction(server: PostgresServer, gid: str = "lab-forgotten", table: str = "held") -> Iterator[str]:
    """A two-phase transaction that nobody ends; it holds the row locks of `table`. Yields its gid."""
    small_table(server, table)
    with session(server, autocommit=False) as made:
        made.execute(sql.SQL("UPDATE {} SET note = 'prepared'").format(sql.Identifier(table)))
        made.execute("PREPARE TRANSACTION %s", gid)
    try:
        yield gid
    finally:
        if server.alive() and server.query("SELECT 1 FROM pg_prepared_xacts WHERE gid = %s", gid):
            server.query("ROLLBACK PREPARED %s", gid)


@dataclass(frozen=True)
class Bloat:
    table: str
    bytes_full: int  # as it is
    bytes_needed: int  # as it was before the updates


@contextlib.contextmanager
def bloat(server: PostgresServer, table: str = "bloated", rows: int = 20_000, updates: int = 3) -> Iterator[Bloat]:
    """A table of `rows` (1 to 5,000,000), all of them updated `updates` times, that no autovacuum comes to."""
    if not 0 < rows <= 5_000_000:
        raise LabError(f"{rows} rows: give 1 to 5,000,000")
    server.prove_own()
    name = sql.Identifier(table)
    size = sql.SQL("SELECT pg_total_relation_size({}::regclass)").format(sql.Literal(table))
    make = "CREATE TABLE {} (id bigint PRIMARY KEY, note text, n int) WITH (autovacuum_enabled = off)"
    fill = "INSERT INTO {} SELECT g, md5(g::text), 0 FROM generate_series(1, {}) g"
    with _lab_cursor(server, role=OWNER) as cursor:
        cursor.execute(sql.SQL(make).format(name))
        cursor.execute(sql.SQL("CREATE INDEX ON {} (n, note)").format(name))
        cursor.execute(sql.SQL(fill).format(name, sql.Literal(rows)))
        cursor.execute(sql.SQL("ANALYZE {}").format(name))
        (needed,) = server.query(size)[0]
        for _turn in range(updates):
            cursor.execute(sql.SQL("UPDATE {} SET n = n + 1").format(name))
    with _dropping(server, "TABLE", table):
        dead = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = %s"
        wait_until(
            lambda: server.query(dead, table)[0][0] >= rows * updates * 0.9, _WAIT, "dead rows in the statistics"
        )
        yield Bloat(table, server.query(size)[0][0], needed)


@contextlib.contextmanager
def _dropping(server: PostgresServer, kind: str, name: str) -> Iterator[None]:
    """Drop the table or index at the end, if the server still lives; never longer than 5 s behind a lock."""
    try:
        yield
    finally:
        if server.alive():
            with _lab_cursor(server) as cursor:
                cursor.execute("SET lock_timeout = '5s'")
                cursor.execute(sql.SQL(f"DROP {kind} IF EXISTS {{}} CASCADE").format(sql.Identifier(name)))


@contextlib.contextmanager
def old_snapshot(server: PostgresServer, role: str = OWNER, name: str = "report") -> Iterator[Session]:
    """A transaction that has looked once and keeps its snapshot: no vacuum removes what died since."""
    begin = ("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1")
    with session(server, role, name, *begin) as held:
        yield held


@contextlib.contextmanager
def invalid_index(server: PostgresServer, table: str = "orders", how: str = "create") -> Iterator[str]:
    """An index that a failure left behind on `table`; yields its name.

    `how` "create": CREATE UNIQUE INDEX CONCURRENTLY met a duplicate. "reindex": a cancelled REINDEX CONCURRENTLY of a
    good index left its `_ccnew`, and a further one `_ccnew1`.
    """
    small_table(server, table)
    name = sql.Identifier(table)
    if how == "create":
        left = f"{table}_unique_idx"
        make = sql.SQL("CREATE UNIQUE INDEX CONCURRENTLY {} ON {} ((1))").format(sql.Identifier(left), name)
        with _lab_cursor(server, role=OWNER) as cursor, contextlib.suppress(psycopg2.errors.UniqueViolation):
            cursor.execute(make)
    else:
        good = f"{table}_note_idx"
        make = sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} (note)").format(sql.Identifier(good), name)
        with _lab_cursor(server, role=OWNER) as cursor:
            cursor.execute(make)
        before = _invalid(server, table)
        _cancel_reindex(server, table, good)
        (left,) = _invalid(server, table) - before
    if left not in _invalid(server, table):
        raise LabError(f"{left} is not invalid: {_invalid(server, table)}")
    with _dropping(server, "INDEX", left):
        yield left


def _invalid(server: PostgresServer, table: str) -> set[str]:
    ask = "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = %s::regclass AND NOT indisvalid"
    return {name for (name,) in server.query(ask, table)}


def _cancel_reindex(server: PostgresServer, table: str, index: str) -> None:
    """Let a writer's lock stop the build at its first wait, when the new index is already in the catalogue."""
    before = _invalid(server, table)
    work = sql.SQL("REINDEX INDEX CONCURRENTLY {}").format(sql.Identifier(index))
    with idle_in_transaction(server, table=table), running(server, work, name="reindex") as build:
        wait_until(lambda: bool(_invalid(server, table) - before), _WAIT, "an index under construction")
        build.close()


@contextlib.contextmanager
def index_under_construction(server: PostgresServer, table: str = "orders") -> Iterator[Running]:
    """CREATE INDEX CONCURRENTLY that waits for a writer: its index is invalid, and must be left alone."""
    small_table(server, table)
    index = f"{table}_being_built_idx"
    work = sql.SQL("CREATE INDEX CONCURRENTLY {} ON {} (note)").format(sql.Identifier(index), sql.Identifier(table))
    before = _invalid(server, table)
    with _dropping(server, "INDEX", index), contextlib.ExitStack() as stack:
        stack.enter_context(idle_in_transaction(server, table=table))
        build = stack.enter_context(running(server, work, name="builder"))
        wait_until(lambda: bool(_invalid(server, table) - before), _WAIT, "an index under construction")
        yield build


def write_wal(server: PostgresServer, segments: int) -> None:
    """Fill so many WAL segments (1 MB each) that do nothing to the data."""
    if not 0 < segments <= 500:
        raise LabError(f"{segments} segments: give 1 to 500")
    server.prove_own()
    with _lab_cursor(server, "postgres") as cursor:
        for _number in range(segments):
            cursor.execute("SELECT pg_logical_emit_message(false, 'lab', repeat('x', 1000)), pg_switch_wal()")


@contextlib.contextmanager
def inactive_slot(server: PostgresServer, name: str = "forgotten", segments: int = 8) -> Iterator[str]:
    """A physical replication slot that nobody reads, with so many segments of WAL kept for it. Yields its name."""
    server.prove_own()
    server.query("SELECT pg_create_physical_replication_slot(%s, true)", name)
    try:
        write_wal(server, segments)
        yield name
    finally:
        if server.alive():
            drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s"
            server.query(drop, name)


@contextlib.contextmanager
def pause_replay(standby: PostgresServer) -> Iterator[None]:
    """A standby that receives and does not apply."""
    standby.prove_own()
    standby.query("SELECT pg_wal_replay_pause()")
    try:
        # PostgreSQL 13 knows no third state between asked and paused.
        wait_until(lambda: standby.query("SELECT pg_is_wal_replay_paused()") == [(True,)], _WAIT, "paused replay")
        yield
    finally:
        if standby.alive() and standby.in_recovery():
            standby.query("SELECT pg_wal_replay_resume()")


@contextlib.contextmanager
def listener(
    server: PostgresServer, channel: str = "jobs", role: str = OWNER, name: str = "worker"
) -> Iterator[Session]:
    """A session that looks idle and waits for NOTIFY."""
    with session(server, role, name, f'LISTEN "{channel}"') as held:
        yield held


@contextlib.contextmanager
def advisory_lock_holder(
    server: PostgresServer, key: int = 42, role: str = OWNER, name: str = "leader"
) -> Iterator[Session]:
    """A session that looks idle and holds an advisory lock, as leader elections and migrations do."""
    with session(server, role, name, f"SELECT pg_advisory_lock({int(key)})") as held:
        yield held


@contextlib.contextmanager
def stale_statistics(server: PostgresServer, table: str = "stale", rows: int = 20_000) -> Iterator[str]:
    """A table that was analysed with 10 rows and then grew, where no autovacuum comes. Yields its name."""
    server.prove_own()
    name = sql.Identifier(table)
    fill = sql.SQL("INSERT INTO {} SELECT g, md5(g::text) FROM generate_series({}, {}) g")
    with _lab_cursor(server, role=OWNER) as cursor:
        make = "CREATE TABLE {} (id bigint PRIMARY KEY, note text) WITH (autovacuum_enabled = off)"
        cursor.execute(sql.SQL(make).format(name))
        cursor.execute(fill.format(name, sql.Literal(1), sql.Literal(10)))
        cursor.execute(sql.SQL("ANALYZE {}").format(name))
        cursor.execute(fill.format(name, sql.Literal(11), sql.Literal(rows)))
    with _dropping(server, "TABLE", table):
        grown = "SELECT n_mod_since_analyze FROM pg_stat_user_tables WHERE relname = %s"
        wait_until(lambda: server.query(grown, table)[0][0] >= rows - 10, _WAIT, "changes in the statistics")
        yield table


def slow_statements(server: PostgresServer, n: int = 3, seconds: float = 0.1, role: str = OWNER) -> tuple[str, ...]:
    """`n` statements of `seconds` and more, now in pg_stat_statements; returns them as they stand there."""
    if not server.installation.has_statistics:
        raise LabError(f"PostgreSQL in {server.installation.bin} came without pg_stat_statements")
    with session(server, role, "report") as held:
        for number in range(n):
            # The server tells statements apart by their shape, not by their names.
            held.execute(f"SELECT pg_sleep({seconds * (number + 1)})" + ", 1" * number)
    return tuple(f"SELECT {', '.join(['pg_sleep($1)', *_placeholders(number)])}" for number in range(n))


def _placeholders(n: int) -> list[str]:
    return [f"${number}" for number in range(2, n + 2)]


class Tool:
    """A client program in a process group of its own."""

    def __init__(self, server: PostgresServer, command: list[str], name: str, environment: dict[str, str]) -> None:
        self.server = server
        self.name = name
        self.folder = server.scratch / f"{name}-{time.monotonic_ns()}"
        self.folder.mkdir(mode=0o700)
        program = server.installation.program(command[0])
        self._child = spawn([program, *command[1:]], self.folder, env={**environment, "PGAPPNAME": name})
        self.identity = ProcessId.of(self._child.pid)

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def pids(self) -> tuple[int, ...]:
        """The backends of its sessions, the leader's first."""
        ask = "SELECT pid FROM pg_stat_activity WHERE application_name = %s ORDER BY backend_start"
        return tuple(pid for (pid,) in self.server.query(ask, self.name, database="postgres"))

    def finish(self, seconds: float = 60) -> int:
        """Let it go on to its end; its exit code."""
        self.signal(signal.SIGCONT)
        try:
            return self._child.wait(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.name} did not end: {self.said()}") from error

    def signal(self, number: signal.Signals) -> None:
        """To the whole group, as long as its leader is not reaped (so the number is still the group's)."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)

    def close(self) -> None:
        """Harmless when repeated."""
        self.signal(signal.SIGKILL)
        self._child.wait(timeout=5)

    def said(self) -> str:
        return (self.folder / "output.log").read_text(errors="replace")[-2000:]


@contextlib.contextmanager
def dump_running(
    server: PostgresServer, jobs: int = 2, role: str = OPERATOR, name: str = "pg_dump", database: str = "app"
) -> Iterator[Tool]:
    """A parallel pg_dump held in its middle: the leader is idle in transaction, which is as it must be.

    `.pids()` are its backends, leader first; `.finish()` lets it go on and tells its exit code. Makes a table
    `dumped`, large enough to be met half-way.
    """
    server.prove_own()
    with _lab_cursor(server, database, OWNER) as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS dumped (id bigint, note text)")
        cursor.execute("INSERT INTO dumped SELECT g, md5(g::text) || md5((-g)::text) FROM generate_series(1, 200000) g")
    with _dropping(server, "TABLE", "dumped"):
        command = ["pg_dump", "-Fd", f"-j{jobs}", "-Z9", "-f", "dump"]
        with contextlib.closing(Tool(server, command, name, server.environment(role, database))) as tool:
            wait_until(lambda: _is_dumping(tool, jobs), _WAIT, "a dump in its middle", 0.005)
            tool.signal(signal.SIGSTOP)
            if not _is_dumping(tool, jobs):
                raise LabError(f"the dump was quicker than the lab: {tool.said()}")
            yield tool


def _is_dumping(tool: Tool, jobs: int) -> bool:
    """The leader waits for its workers, which are all there, and at least one of which is at work."""
    if not tool.running:
        raise LabError(f"the dump ended early: {tool.said()}")
    ask = "SELECT state, query FROM pg_stat_activity WHERE application_name = %s ORDER BY backend_start"
    rows = tool.server.query(ask, tool.name, database="postgres")
    copies = [state for state, query in rows[1:] if query.startswith("COPY")]
    return bool(copies) and len(rows) > jobs and rows[0][0] == "idle in transaction"


@contextlib.contextmanager
def receivewal(server: PostgresServer, name: str = "pg_receivewal", slot: str | None = None) -> Iterator[Tool]:
    """pg_receivewal that streams into a folder of the lab: a walsender that no runbook may end."""
    server.prove_own()
    command = ["pg_receivewal", "-D", ".", *(["--slot", slot] if slot else [])]
    with contextlib.closing(Tool(server, command, name, server.environment(OPERATOR, "postgres"))) as tool:
        streaming = "SELECT count(*) FROM pg_stat_replication WHERE application_name = %s AND state = 'streaming'"
        wait_until(lambda: server.query(streaming, name) == [(1,)], _WAIT, f"a walsender; {tool.said()}")
        yield tool


class Load(Tool):
    """pgbench at work. Its log is whole once it ended."""

    def latencies(self, since: float = 0.0) -> tuple[float, ...]:
        """Milliseconds of each transaction that ended after `since` (of time.time()), in order of their end."""
        told: list[tuple[float, float]] = []
        for file in self.folder.glob("latency.*"):
            for line in file.read_text().splitlines():
                fields = line.split()
                if len(fields) >= 6 and fields[2].isdigit():  # a killed pgbench leaves half a line
                    told.append((int(fields[4]) + int(fields[5]) / 1e6, int(fields[2]) / 1000))
        return tuple(took for at, took in sorted(told) if at >= since)

    def percentile(self, share: float = 0.99, since: float = 0.0) -> float:
        """So many milliseconds or less were enough for this share of the transactions; LabError without any."""
        took = sorted(self.latencies(since))
        if not took:
            raise LabError(f"no transaction of the load is in its log yet: {self.said()}")
        return took[max(0, math.ceil(share * len(took)) - 1)]

    @property
    def p99(self) -> float:
        return self.percentile(0.99)


@contextlib.contextmanager
def load(
    server: PostgresServer,
    clients: int = 4,
    seconds: int = 10,
    *,
    rate: int = 200,
    builtin: str = "simple-update",
    name: str = "pgbench",
) -> Iterator[Load]:
    """pgbench of role `app`, about `rate` transactions a second; latencies count from when they were due.

    Ends with the block; `.finish()` waits for its own end and a whole log.
    """
    if not 0 < seconds <= _MAX_SECONDS:
        raise LabError(f"{seconds} s: give at most {_MAX_SECONDS:g}")
    server.prove_own()
    program = server.installation.program("pgbench")
    if server.query("SELECT to_regclass('pgbench_accounts') IS NULL") == [(True,)]:
        init = [program, "--initialize", "--quiet", "--scale=1", "--init-steps=dtGvp"]
        subprocess.run(init, env=server.environment(OWNER), check=True, capture_output=True, timeout=60)
    command = ["pgbench", "-c", str(clients), "-j1", "-T", str(seconds), "-R", str(rate), "-b", builtin]
    command += ["--no-vacuum", "--log", "--log-prefix=latency"]
    with contextlib.closing(Load(server, command, name, server.environment(OWNER))) as tool:
        wait_until(lambda: len(tool.pids()) >= clients, _WAIT, "clients of pgbench")
        yield tool
