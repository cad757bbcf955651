# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL servers of our own: one, a primary with its standby, and PgBouncer in front of one.

PostgreSQL refuses root: then its processes run as `postgres` or `nobody`, and the scratch must be below /tmp.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self
from urllib.parse import quote

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from tests.lab.process import (
    HOST,
    Account,
    LabError,
    ProcessId,
    children,
    find_program,
    free_port,
    ordinary_account,
    spawn,
    wait_until,
)

Config = Mapping[str, str]

SUPERUSER = "postgres"
OPERATOR = "operator"
OWNER = "app"
APPLICATION = "lab"  # of the lab's own connections: the witness leaves them out
ROLES: Mapping[str, str] = MappingProxyType(
    {
        OPERATOR: "SUPERUSER",
        OWNER: "",
        "monitor": "IN ROLE pg_monitor",
        "signaller": "IN ROLE pg_monitor, pg_signal_backend",
        "nobody_special": "",
    }
)
# Fields between unit separators, which no name can hold: time, pid, application, user, database, backend type.
LOG_PREFIX = "%m\x1f%p\x1f%a\x1f%u\x1f%d\x1f%b\x1f "
_ADVICE = "`make test` installs it where apt is at hand and you are root; otherwise install the package"
_TEMPLATE = 1  # to be raised when what `_init_data` makes changes
_STARTS = 3
_START_SECONDS = 20.0
_SOCKET_PATH_BYTES = 107
_PREPARES_QUIETLY = "-c log_statement=none -c pg_stat_statements.track=none"
_BASE: Config = {
    "listen_addresses": HOST,
    "max_connections": "50",
    "shared_buffers": "16MB",
    "fsync": "off",
    "jit": "off",
    "wal_level": "replica",
    "max_wal_size": "256MB",
    "max_prepared_transactions": "5",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_statement": "all",
    "log_replication_commands": "on",
    "log_line_prefix": LOG_PREFIX,
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "200ms",
}


class PortTaken(LabError):
    """Somebody bound the port between our look and the server's start."""


@dataclass(frozen=True)
class Installation:
    """The programs of one PostgreSQL version."""

    bin: Path
    version: tuple[int, int]

    @property
    def major(self) -> int:
        return self.version[0]

    def program(self, name: str) -> str:
        """The path of a program of this version; LabError when it was not installed."""
        found = shutil.which(self.bin / name)
        if found is None:
            raise LabError(f"PostgreSQL {self.major} in {self.bin} came without {name}")
        return found

    @functools.cached_property
    def has_statistics(self) -> bool:
        """Is pg_stat_statements there? Bundled builds come without the contrib modules."""
        folder = _told(self.program("pg_config"), "--pkglibdir").strip()
        return any(Path(folder).glob("pg_stat_statements.*"))


@functools.cache
def installations() -> tuple[Installation, ...]:
    """One for each major version that this machine has, the preferred one first."""
    found: dict[int, Installation] = {}
    for folder in filter(_is_complete, _folders()):
        version = re.search(r"\) (\d+)(?:\.(\d+))?", _told(str(folder / "postgres"), "--version"))
        if version:
            known = Installation(folder, (int(version[1]), int(version[2] or 0)))
            found.setdefault(known.major, known)
    return tuple(found.values())


def installation() -> Installation:
    """$POSTGRES_BIN alone when it is set, else that of pg_config, else the newest; LabError when there is none."""
    if not installations():
        where = os.environ.get("POSTGRES_BIN") or "pg_config's folder, /usr/lib/postgresql/*/bin, PATH or pgserver"
        raise LabError(f"no PostgreSQL server (postgres and initdb) in {where}: {_ADVICE} postgresql")
    return installations()[0]


def _folders() -> Iterator[Path]:
    if os.environ.get("POSTGRES_BIN"):
        yield Path(os.environ["POSTGRES_BIN"])
        return
    if pg_config := shutil.which("pg_config"):
        yield Path(_told(pg_config, "--bindir").strip())
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(debian, key=lambda path: float(path.parent.name), reverse=True)
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent
    bundled = importlib.util.find_spec("pgserver")
    if bundled and bundled.origin:
        yield Path(bundled.origin).parent / "pginstall" / "bin"


def _is_complete(folder: Path) -> bool:
    return all(os.access(folder / name, os.X_OK) for name in ("postgres", "initdb"))


def _told(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@dataclass(frozen=True)
class Recipe:
    """All that a server is started from."""

    scratch: Path
    installation: Installation
    directives: Config
    passwords: Mapping[str, str] = field(repr=False)
    account: Account | None
    detached: bool = False

    @property
    def data(self) -> Path:
        return self.scratch / "data"

    @property
    def archive(self) -> Path:
        return self.scratch / "archive"


class PostgresServer:
    """A server that this lab started. Ends with its starter unless the recipe says detached."""

    host = HOST

    def __init__(self, recipe: Recipe, port: int) -> None:
        self.recipe = recipe
        self.port = port
        self.identity = ProcessId(0, "")
        self.system_identifier = 0
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def scratch(self) -> Path:
        return self.recipe.scratch

    @property
    def installation(self) -> Installation:
        return self.recipe.installation

    @property
    def data(self) -> Path:
        return self.recipe.data

    @property
    def archive(self) -> Path:
        """Where the WAL goes when the server was started with `archive=True`."""
        return self.recipe.archive

    @property
    def socket_folder(self) -> str:
        """Where its socket is; empty when the path is too long for one."""
        length = len(f"{self.data}/.s.PGSQL.{self.port}".encode())
        return str(self.data) if length <= _SOCKET_PATH_BYTES else ""

    @property
    def log(self) -> Path:
        return self.scratch / "output.log"

    @property
    def pid(self) -> int:
        return self.identity.pid

    @property
    def servers(self) -> tuple[PostgresServer, ...]:
        return (self,)

    @property
    def passwords(self) -> Mapping[str, str]:
        """Password by role."""
        return self.recipe.passwords

    def connection(self, role: str = OPERATOR, database: str = "app") -> dict[str, Any]:
        """Connection options of our modules."""
        return connection_options(self.port, self.passwords, role, database)

    def dsn(self, role: str = OPERATOR, database: str = "app") -> str:
        """What a user would set as DATABASE_URL."""
        password = quote(self.passwords[role], safe="")
        return f"postgresql://{role}:{password}@{self.host}:{self.port}/{database}?sslmode=disable"

    def environment(self, role: str = OPERATOR, database: str = "app") -> dict[str, str]:
        """The environment of a client program, such as pg_dump."""
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD"}
        names |= {"dbname": "PGDATABASE", "sslmode": "PGSSLMODE"}
        theirs = {names[name]: str(value) for name, value in self.connection(role, database).items()}
        # A home of nobody's own: neither ~/.pgpass nor ~/.pg_service.conf of the person has a say here.
        return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.scratch), "LC_ALL": "C", **theirs}

    def connect(
        self,
        role: str = OPERATOR,
        database: str = "app",
        autocommit: bool = True,
        application_name: str = APPLICATION,
        **options: Any,
    ) -> Connection:
        """A connection of psycopg2; `options` go to libpq. Closing it is the caller's."""
        return open_connection(self.connection(role, database), autocommit, application_name, **options)

    def query(self, statement: Any, *parameters: Any, database: str = "app", role: str = SUPERUSER) -> list[Any]:
        """The rows of one statement of the lab's own account, on a connection of its own."""
        with contextlib.closing(self.connect(role, database)) as connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def prove_own(self) -> None:
        """LabError unless the server that answers on our port is the process that we started."""
        ask = "SELECT current_setting('data_directory'), system_identifier, pg_backend_pid() FROM pg_control_system()"
        try:
            with contextlib.closing(self.connect(SUPERUSER, "postgres")) as connection, connection.cursor() as cursor:
                cursor.execute(ask)
                folder, system, backend = cursor.fetchone() or ("", 0, 0)
                is_child = backend in {child.pid for child in children(self.pid)}
        except psycopg2.Error as error:
            raise LabError(f"the server on {self.host}:{self.port} gives no proof of itself: {error}") from error
        wanted = (str(self.data), self.system_identifier, True, True)
        if (folder, system, is_child, self.alive()) != wanted or self._pid_file()[:1] != [str(self.pid)]:
            raise LabError(f"the server on {self.host}:{self.port} is not ours: {folder}, system {system}")

    def alive(self) -> bool:
        return self.identity.alive()

    def start(self) -> Self:
        """Start on the same port with the data folder as the server left it; PortTaken or LabError."""
        begin = self.log.stat().st_size if self.log.exists() else 0
        self.log.touch(mode=0o600)
        command = [self.installation.program("postgres"), "-D", str(self.data)]
        self._child = spawn(
            command, self.scratch, self.recipe.detached, self.recipe.account, {"PATH": os.defpath, "LC_ALL": "C"}
        )
        self.identity = ProcessId.of(self._child.pid)
        try:
            wait_until(lambda: self._ready(begin), _START_SECONDS, f"start on port {self.port}, see {self.log}", 0.005)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Immediate shutdown, then SIGKILL after 5 s; the next start recovers. Harmless when repeated."""
        self.thaw()
        self.identity.end(5, signal.SIGQUIT)
        self._reap()

    def kill(self) -> None:
        """SIGKILL to the postmaster and to all its processes: none has time to say good-bye."""
        self.identity.send(signal.SIGSTOP)  # so that no process is born between the look and the end
        family = self._family()
        for member in (self.identity, *family):
            member.send(signal.SIGKILL)
        for member in family:
            wait_until(functools.partial(_is_gone, member), 5, f"end of killed process {member.pid}", 0.005)
        self._reap()

    def restart(self) -> Self:
        """Fast shutdown with a checkpoint, so that statistics survive, and start."""
        self.thaw()
        self.identity.end(15, signal.SIGINT)
        self._reap()
        return self.start()

    def freeze(self) -> None:
        """SIGSTOP to all processes: the port still accepts connections, nobody answers."""
        self.identity.send(signal.SIGSTOP)
        wait_until(lambda: self.identity.state() == "T", 2, f"freeze of process {self.pid}")
        for member in self._family():
            member.send(signal.SIGSTOP)

    def thaw(self) -> None:
        for member in (*self._family(), self.identity):
            member.send(signal.SIGCONT)

    def promote(self) -> None:
        """Make a standby a primary; returns when it takes writes."""
        self.query("SELECT pg_promote(true, 20)", database="postgres")
        wait_until(lambda: not self.in_recovery(), 20, "promotion")

    def in_recovery(self) -> bool:
        return bool(self.query("SELECT pg_is_in_recovery()", database="postgres")[0][0])

    def log_tail(self, lines: int = 20) -> str:
        """The last `lines` of the server's log, with readable separators."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.replace("\x1f", "|").splitlines()[-lines:])

    def write_config(self) -> None:
        """postgresql.conf, whole; what ALTER SYSTEM set stays in its own file and wins."""
        own = {"port": str(self.port), "unix_socket_directories": self.socket_folder}
        lines = [f"{name} = {_quoted(value)}\n" for name, value in {**own, **self.recipe.directives}.items()]
        (self.data / "postgresql.conf").write_text("".join(lines))  # written in place: it stays the server's own

    def _family(self) -> tuple[ProcessId, ...]:
        """All processes of the postmaster; none unless the pid was ours before and after the look."""
        found = children(self.pid) if self.alive() else ()
        return found if self.alive() else ()

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _ready(self, begin: int) -> bool:
        if not self.alive():
            with self.log.open(errors="replace") as log:
                log.seek(begin)
                told = log.read().replace("\x1f", "|")
            kind = PortTaken if "Address already in use" in told else LabError
            raise kind(f"the server for port {self.port} ended at once:\n{told[-3000:]}")
        lines = self._pid_file()
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _reap(self) -> None:
        if self._child is not None:
            self._child.wait(timeout=5)
        # A killed postmaster leaves a small segment behind; the kernel has room for 4096 of them.
        lines = self._pid_file()
        if lines[:1] == [str(self.pid)] and len(lines) > 6 and not self.alive():
            ctypes.CDLL(None).shmctl(int(lines[6].split()[1]), 0, None)  # IPC_RMID


def connection_options(port: int, passwords: Mapping[str, str], role: str, database: str) -> dict[str, Any]:
    """As our modules take them."""
    login = {"user": role, "password": passwords[role]}
    return {"host": HOST, "port": port, **login, "dbname": database, "sslmode": "disable"}


def open_connection(
    login: Mapping[str, Any], autocommit: bool = True, application_name: str = APPLICATION, **more: Any
) -> Connection:
    known = {**login, "application_name": application_name, "connect_timeout": 10, **more}
    made = psycopg2.connect(**known)
    made.autocommit = autocommit
    return made


@dataclass(frozen=True)
class PostgresPair:
    primary: PostgresServer
    standby: PostgresServer

    @property
    def servers(self) -> tuple[PostgresServer, ...]:
        return self.primary, self.standby

    def stop(self) -> None:
        for server in reversed(self.servers):
            server.stop()


def start_postgres(
    scratch: Path,
    *,
    config: Config | None = None,
    databases: Sequence[str] = ("app",),
    roles: Mapping[str, str] = ROLES,
    archive: bool = False,
    using: Installation | None = None,
    detached: bool = False,
) -> PostgresServer:
    """One server with `databases` owned by `app`, and `roles` (name: attributes) with random passwords.

    `config` is added to postgresql.conf. With `archive` finished WAL segments (1 MB each) go to `.archive`.
    """
    programs = using or installation()
    account = ordinary_account("postgres")
    passwords = {role: secrets.token_urlsafe(12) for role in (*roles, SUPERUSER)}
    recipe = Recipe(scratch, programs, _directives(programs, scratch, config, archive), passwords, account, detached)
    _make_scratch(recipe)
    key = _copy_template(recipe)
    server = _launch(recipe)
    try:
        _furnish(server, key, databases, roles)
        server.prove_own()
    except BaseException:
        server.kill()
        raise
    return server


def start_standby(
    scratch: Path, primary: PostgresServer, *, config: Config | None = None, detached: bool = False
) -> PostgresServer:
    """A hot standby of `primary` that streams through a physical slot of its own, called as its scratch folder."""
    primary.prove_own()
    slot = re.sub(r"\W", "_", f"standby_{scratch.name}".lower())
    inherited = {**primary.recipe.directives, "cluster_name": slot}
    if inherited.get("archive_mode") == "on":
        inherited["archive_command"] = _archive_command(scratch)
    recipe = replace(primary.recipe, scratch=scratch, directives={**inherited, **(config or {})}, detached=detached)
    _make_scratch(recipe)
    copy = [primary.installation.program("pg_basebackup"), "-D", str(recipe.data), "-R", "-X", "stream", "--no-sync"]
    run_as(recipe.account, [*copy, "-c", "fast", "-C", "-S", slot], primary.environment(SUPERUSER), scratch)
    server = _launch(recipe)
    try:
        server.system_identifier = primary.system_identifier
        server.prove_own()
        seen = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s AND active"
        wait_until(lambda: primary.query(seen, slot) == [(1,)], 15, "a streaming standby")
    except BaseException:
        server.kill()
        raise
    return server


def start_pair(
    scratch: Path,
    *,
    config: Config | None = None,
    databases: Sequence[str] = ("app",),
    archive: bool = False,
    using: Installation | None = None,
    detached: bool = False,
) -> PostgresPair:
    """A primary, started as by `start_postgres`, and a hot standby that streams from it."""
    primary = start_postgres(
        scratch / "primary", config=config, databases=databases, archive=archive, using=using, detached=detached
    )
    try:
        return PostgresPair(primary, start_standby(scratch / "standby", primary, detached=detached))
    except BaseException:
        primary.kill()
        raise


def run_as(
    account: Account | None, command: Sequence[str], env: Mapping[str, str], folder: Path, words: str = ""
) -> str:
    """The output of a program that reads `words` and must end well; LabError with what it said when it does not."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=dict(env),
        input=words,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **(account.options() if account else {}),
    )
    if done.returncode:
        raise LabError(f"{Path(command[0]).name} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return str(done.stdout)


def _launch(recipe: Recipe) -> PostgresServer:
    for _attempt in range(_STARTS):
        server = PostgresServer(recipe, free_port())
        server.write_config()
        with contextlib.suppress(PortTaken):
            return server.start()
    raise LabError(f"{_STARTS} times the port was taken between look and start:\n{server.log_tail()}")


def _furnish(server: PostgresServer, key: str, databases: Sequence[str], roles: Mapping[str, str]) -> None:
    """Passwords, roles and databases, without a word in the log or in the statistics of statements."""
    options = {**server.connection(SUPERUSER, "postgres"), "password": key}
    owner = sql.Identifier(OWNER if OWNER in roles else SUPERUSER)
    with contextlib.closing(open_connection(options, options=_PREPARES_QUIETLY)) as connection:
        cursor = connection.cursor()
        cursor.execute("ALTER ROLE postgres PASSWORD %s", (server.passwords[SUPERUSER],))
        for role, attributes in roles.items():
            made = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} " + attributes)
            cursor.execute(made.format(sql.Identifier(role), sql.Literal(server.passwords[role])))
        for database in databases:
            cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), owner))
        cursor.execute("SELECT system_identifier FROM pg_control_system()")
        (server.system_identifier,) = cursor.fetchone() or (0,)


def _directives(programs: Installation, scratch: Path, config: Config | None, archive: bool) -> Config:
    optional: dict[str, str] = {}
    if programs.has_statistics:
        optional["shared_preload_libraries"] = "pg_stat_statements"
    if archive:
        optional |= {"archive_mode": "on", "archive_command": _archive_command(scratch)}
    return {**_BASE, **optional, **(config or {})}


def _archive_command(scratch: Path) -> str:
    """Refuses to overwrite, as the manual asks. The folder's name is the lab's own, so it needs no quoting but this."""
    return f'test ! -f "{scratch}/archive/%f" && cp %p "{scratch}/archive/%f"'


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "''").replace("\x1f", "\\037")
    return f"'{escaped}'"


def _make_scratch(recipe: Recipe) -> None:
    """The folder of a server, with what must be the server's own inside."""
    make_reachable(recipe.scratch, recipe.account)
    for folder in (recipe.archive, recipe.data):
        make_own(folder, recipe.account)


def make_own(folder: Path, account: Account | None) -> None:
    """An empty folder that only the server may enter."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if account:
        os.chown(folder, account.uid, account.gid)


def make_reachable(scratch: Path, account: Account | None) -> None:
    """Make `scratch`; let the server's account pass (not list) those of our temporary folders that lead to it."""
    scratch.mkdir(mode=0o711 if account else 0o700, parents=True, exist_ok=True)
    if account is None:
        return
    base = Path(tempfile.gettempdir()).resolve()
    for folder in (scratch.resolve(), *scratch.resolve().parents):
        mode = folder.stat().st_mode
        if mode & 0o001:
            continue
        if base not in folder.parents or folder.stat().st_uid != os.geteuid():
            raise LabError(
                f"the servers run as user {account.uid}, who cannot pass {folder}: use a scratch below {base}"
            )
        folder.chmod(mode & 0o777 | 0o011)


def _copy_template(recipe: Recipe) -> str:
    """Fill the data folder; returns the superuser's password in it."""
    template = _template(recipe.installation, recipe.account)
    subprocess.run(["cp", "-a", f"{template}/data/.", str(recipe.data)], check=True)
    return (template / "password").read_text()


@functools.cache
def _template(programs: Installation, account: Account | None) -> Path:
    """A fresh data folder, made once for each version and user: initdb takes longer than all the rest."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sre-runbooks-lab"
    uid = account.uid if account else os.geteuid()
    ready = base / f"postgres-{'.'.join(map(str, programs.version))}-{uid}-{_TEMPLATE}"
    if ready.exists():
        return ready
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=base) as fresh, tempfile.TemporaryDirectory() as work:
        _init_data(programs, account, Path(work), Path(fresh))
        with contextlib.suppress(OSError):  # another process was quicker, with the same result
            (Path(fresh) / "template").rename(ready)
    return ready


def _init_data(programs: Installation, account: Account | None, work: Path, fresh: Path) -> None:
    """`fresh`/template with `data` and `password`; initdb works in `work`, which its account can reach."""
    make_reachable(work, account)
    make_own(work / "own", account)
    password, template = work / "own" / "password", fresh / "template"
    password.write_text(secrets.token_urlsafe(12))
    data = work / "own" / "data"
    command = [programs.program("initdb"), "-D", str(data), "--username", SUPERUSER, "--pwfile", str(password)]
    command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--wal-segsize=1"]
    if account:
        os.chown(password, account.uid, account.gid)
    run_as(account, command, {"PATH": os.defpath, "LC_ALL": "C"}, work)
    for database in ("template1", "postgres") if programs.has_statistics else ():
        single = [programs.program("postgres"), "--single", "-F", "-D", str(data), database]
        extend = "CREATE EXTENSION pg_stat_statements\n"
        run_as(account, single, {"PATH": os.defpath, "LC_ALL": "C"}, work, words=extend)
    template.mkdir(mode=0o700)
    subprocess.run(["cp", "-a", str(data), str(password), str(template)], check=True)


def _is_gone(member: ProcessId) -> bool:
    return not member.alive()


class PgBouncer:
    """A pooler in front of one server; the same roles and passwords, every database."""

    host = HOST

    def __init__(self, primary: PostgresServer, scratch: Path, port: int, mode: str) -> None:
        self.primary = primary
        self.scratch = scratch
        self.port = port
        self.mode = mode
        self.identity = ProcessId(0, "")
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self.identity.pid

    @property
    def servers(self) -> tuple[PostgresServer, ...]:
        return self.primary.servers

    def connection(self, role: str = OPERATOR, database: str = "app") -> dict[str, Any]:
        """Connection options of our modules, through the pooler; database `pgbouncer` is its console (operator)."""
        return connection_options(self.port, self.primary.passwords, role, database)

    def connect(
        self, role: str = OPERATOR, database: str = "app", application_name: str = APPLICATION, **options: Any
    ) -> Connection:
        return open_connection(self.connection(role, database), True, application_name, **options)

    def console(self, command: str) -> list[dict[str, Any]]:
        """The rows of one command of the admin console, such as SHOW POOLS."""
        with contextlib.closing(self.connect(database="pgbouncer")) as connection, connection.cursor() as cursor:
            cursor.execute(command)
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in (cursor.fetchall() if names else ())]

    def alive(self) -> bool:
        return self.identity.alive()

    def start(self, config: Config, detached: bool = False) -> Self:
        account = self.primary.recipe.account
        make_reachable(self.scratch, account)
        make_own(self.scratch / "own", account)
        for name, text in {"pgbouncer.ini": self._ini(config), "userlist.txt": self._users()}.items():
            file = self.scratch / "own" / name
            file.touch(mode=0o600)
            file.write_text(text)
            if account:
                os.chown(file, account.uid, account.gid)
        command = [pgbouncer_program(), str(self.scratch / "own" / "pgbouncer.ini")]
        self._child = spawn(command, self.scratch, detached, account)
        self.identity = ProcessId.of(self._child.pid)
        try:
            wait_until(self._ready, 10, f"start of PgBouncer, see {self.scratch}/output.log")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Harmless when repeated. The server behind it is stopped by whoever started that."""
        self.identity.end(2)
        if self._child is not None:
            self._child.wait(timeout=5)

    def _ready(self) -> bool:
        if not self.alive():
            told = (self.scratch / "output.log").read_text(errors="replace")
            raise LabError(f"PgBouncer ended at once:\n{told[-2000:]}")
        try:
            self.console("SHOW VERSION")
        except psycopg2.OperationalError:
            return False
        return True

    def _ini(self, config: Config) -> str:
        own = {"listen_addr": HOST, "listen_port": str(self.port), "unix_socket_dir": "", "pool_mode": self.mode}
        own |= {"auth_type": "scram-sha-256", "auth_file": str(self.scratch / "own" / "userlist.txt")}
        own |= {
            "admin_users": OPERATOR,
            "default_pool_size": "5",
            "max_client_conn": "200",
            "server_tls_sslmode": "disable",
        }
        lines = [f"{name} = {value}" for name, value in {**own, **config}.items()]
        target = f"* = host={HOST} port={self.primary.port}"
        return "\n".join(["[databases]", target, "[pgbouncer]", *lines]) + "\n"

    def _users(self) -> str:
        return "".join(f'"{role}" "{password}"\n' for role, password in self.primary.passwords.items())


def start_pgbouncer(
    scratch: Path,
    primary: PostgresServer,
    mode: Literal["session", "transaction"] = "session",
    *,
    config: Config | None = None,
    detached: bool = False,
) -> PgBouncer:
    """A pooler of `mode` in front of `primary`, with 5 server connections for each pair of role and database."""
    primary.prove_own()
    return PgBouncer(primary, scratch, free_port(), mode).start(config or {}, detached)


def pgbouncer_program() -> str:
    """LabError when it is not installed."""
    sbin = Path("/usr/sbin/pgbouncer")  # not on everybody's PATH
    return find_program(("pgbouncer", str(sbin)), "PGBOUNCER", f"{_ADVICE} pgbouncer")
