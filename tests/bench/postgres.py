# SPDX-License-Identifier: GPL-3.0-or-later
"""Ending 200 sessions among 1,000, and what a look at a PostgreSQL costs: the one who looks, and everybody else."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection

from tests.bench.bundle import community_postgresql
from tests.bench.measure import ROOT, Contender, Failed, Stage, environment, play, tasks, with_bundle
from tests.bench.stats import (
    Reading,
    Results,
    Summary,
    Target,
    milliseconds,
    ratio,
    seconds,
    summarize,
    table,
    verdicts,
)
from tests.bench.tasks import EMPTY, TASKS, per_task
from tests.lab import postgres_faults as faults
from tests.lab.postgres_servers import OPERATOR, OWNER, PostgresServer, installation, start_postgres
from tests.lab.postgres_witness import statements
from tests.lab.process import LabError
from tests.lab.world import lab

SESSIONS = "`postgres_session`, a process of its own"
SEED = "`psql`: `pg_terminate_backend` where `state = 'idle'`"
NARROW = "`psql`: the same, of that application and for five seconds"
ENDERS = (SESSIONS, SEED, NARROW)

CALL, PEER_CALL = "`postgres_info`", "`community.postgresql.postgresql_info`"
CROWDED = "`postgres_info` among 1,000 sessions"
PEER_CROWDED = "`community.postgresql.postgresql_info` among 1,000 sessions"

IN_PROCESS = "`sre.runbooks.postgres_info`, in-process"
SHIPPED = "`sre.runbooks.postgres_info`, shipped as other modules are"
PEER = "`community.postgresql.postgresql_info`, shipped"

CALM, LOOKED_AT = "nobody looks", "`postgres_info` again and again, without a pause"
QUERIES = "queries"

_AGE = 5.0
_SILENT = {"log_statement": "none", "log_replication_commands": "off"}
_TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle'"
_OPTIONS: dict[str, Any] = {"application": "web", "state": "idle", "min_state_age": f"{_AGE:g}s", "max_count": 300}


@dataclass(frozen=True)
class Kind:
    """Sessions alike. `doomed` are those that should go; `young` ones were busy a moment ago."""

    count: int
    application: str
    statement: str = "SELECT 1"
    transaction: bool = False
    doomed: bool = False
    young: bool = False


#: A thousand. Only the first are the leak; the others of `web` work, wait for a message, lead, or are back from work.
KINDS = (
    Kind(200, "web", doomed=True),
    Kind(50, "web", young=True),
    Kind(200, "web", transaction=True),
    Kind(100, "web", "LISTEN jobs"),
    Kind(50, "web", "SELECT pg_advisory_lock(pg_backend_pid())"),
    Kind(250, "cron"),
    Kind(150, "api"),
)


def missing() -> str:
    """Why nothing can be measured here; empty when all is there."""
    try:
        installation()
    except LabError as error:
        return str(error)
    return ""


def circumstances() -> list[str]:
    """What a reader needs to know of the contenders."""
    return [
        f"PostgreSQL {'.'.join(map(str, installation().version))} on loopback",
        f"psycopg2 {psycopg2.__version__.partition(' ')[0]}",
        f"community.postgresql {community_postgresql() or 'missing'}",
    ]


def measure(stage: Stage) -> dict[str, list[Reading]]:
    """Readings by contender."""
    results: dict[str, list[Reading]] = {}
    with lab() as world:
        crowded = world.start(start_postgres, config={**_SILENT, "max_connections": "1100"})
        with contextlib.closing(Crowd(crowded, 10 if stage.quick else 1)) as crowd:
            results |= stage.in_turns(_enders(stage, crowd))
            crowd.fill()
            results |= stage.in_turns(_callers(stage, crowded, CROWDED, PEER_CROWDED))
        server = world.start(start_postgres, config=_SILENT)
        with faults.load(server, seconds=2):
            pass  # makes its tables
        results |= stage.in_turns(_callers(stage, server, CALL, PEER_CALL))
        results |= stage.in_turns(_plays(stage, server))
        results |= stage.in_turns(_neighbours(stage, server))
        results[QUERIES] = [_queries(stage, world.start(start_postgres))]
    return results


class Crowd:
    """The sessions, as their clients see them: a socket whose other end was closed is a slot that is free."""

    def __init__(self, server: PostgresServer, part: int) -> None:
        self.server = server
        self._held: list[tuple[Kind, Connection | None]] = [
            (kind, None) for kind in KINDS for _number in range(kind.count // part)
        ]

    def fill(self) -> None:
        """All of them, of the right age."""
        self.server.prove_own()
        gone = self._hung(self.of(lambda _kind: True))
        self._held = [(kind, self._opened(kind, old, gone)) for kind, old in self._held]
        time.sleep(_AGE + 0.5)
        for kind, held in self._held:
            if held and kind.transaction:
                held.rollback()
            if held and (kind.young or kind.transaction):
                _said(held, kind.statement)

    def of(self, wanted: Callable[[Kind], bool]) -> list[Connection]:
        return [held for kind, held in self._held if held and wanted(kind)]

    def gone_of_others(self) -> int:
        """How many sessions ended that should not have."""
        return len(self._hung(self.of(lambda kind: not kind.doomed)))

    @contextlib.contextmanager
    def watched(self) -> Iterator[Reading]:
        """Fills `gone`: seconds until the last of the doomed has left its slot; Failed after half a minute."""
        reading: Reading = {}
        begun = time.monotonic()
        left = self.of(lambda kind: kind.doomed)

        def watch() -> None:
            if len(self._hung(left, until=begun + 30)) == len(left):
                reading["gone"] = time.monotonic() - begun

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        yield reading
        watcher.join()
        if "gone" not in reading:
            raise Failed("some of the sessions that should go are still there")

    def close(self) -> None:
        for _kind, held in self._held:
            if held:
                held.close()

    def _opened(self, kind: Kind, old: Connection | None, gone: set[int]) -> Connection:
        if old and old.fileno() not in gone:
            return old
        if old:
            old.close()
        made = self.server.connect(OWNER, application_name=kind.application, autocommit=not kind.transaction)
        _said(made, kind.statement)
        return made

    @staticmethod
    def _hung(held: list[Connection], until: float = 0.0) -> set[int]:
        """Descriptors of those whose server process has ended, of all of them if that is before `until`."""
        poll = select.poll()
        found: set[int] = set()
        for one in held:
            poll.register(one.fileno(), select.POLLRDHUP)
        while len(found) < len(held):
            for descriptor, _event in poll.poll(20 if until else 0):
                poll.unregister(descriptor)
                found.add(descriptor)
            if time.monotonic() >= until:
                break
        return found


def _said(connection: Connection, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def _enders(stage: Stage, crowd: Crowd) -> list[Contender]:
    given = json.dumps({**crowd.server.connection(), **_OPTIONS})
    narrow = f"{_TERMINATE} AND application_name = 'web' AND state_change < now() - interval '{_AGE:g} s'"
    psql = [crowd.server.installation.program("psql"), "-X", "-q", "-c"]
    commands = {
        SESSIONS: [sys.executable, "-m", "tests.bench.ours", "postgres_session", given],
        SEED: [*psql, _TERMINATE],
        NARROW: [*psql, narrow],
    }

    def run(command: list[str]) -> Reading:
        with faults.load(crowd.server, seconds=60) as load:
            before = set(load.pids())
            with crowd.watched() as watched:
                reading, _told = stage.metered(command, _login(crowd.server))
            time.sleep(1)  # the last of them have time to go, too
            wrong = crowd.gone_of_others() + len(before - set(load.pids()))
        stage.say(f"gone after {watched['gone']:.2f} s, {wrong} wrong")
        return {**reading, **watched, "wrong": wrong}

    return [Contender(name, lambda command=command: run(command), crowd.fill) for name, command in commands.items()]  # type: ignore[misc]


def _login(server: PostgresServer) -> dict[str, str]:
    return {name: value for name, value in server.environment(OPERATOR).items() if name.startswith("PG")}


def _peers_login(server: PostgresServer) -> dict[str, Any]:
    given = server.connection()
    names = {"host": "login_host", "port": "login_port", "user": "login_user", "password": "login_password"}
    renamed = {theirs: given[name] for name, theirs in names.items()}
    return {**renamed, "login_db": given["dbname"], "ssl_mode": given["sslmode"]}


def _callers(stage: Stage, server: PostgresServer, ours: str, peer: str) -> list[Contender]:
    """One call after the other in a process that has loaded all, a new connection each time."""

    def caller(who: str, login: Mapping[str, Any]) -> Callable[[], Reading]:
        command = [sys.executable, "-m", "tests.bench.postgres_calls", who, json.dumps(login), "20"]

        def run() -> Reading:
            reading, said = stage.metered(command, with_bundle(stage))
            return {**reading, **json.loads(said)}

        return run

    found = [Contender(ours, caller("ours", server.connection()))]
    if community_postgresql():
        found.append(Contender(peer, caller("peer", _peers_login(server))))
    return found


def _plays(stage: Stage, server: PostgresServer) -> list[Contender]:
    host = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    hosts = stage.write("inventory-postgres", {"postgres": {"hosts": {"bench": host}}})
    ours = {"sre.runbooks.postgres_info": server.connection()}
    kinds: dict[str, list[Mapping[str, Any]]] = {
        EMPTY: [],
        IN_PROCESS: [ours] * TASKS,
        SHIPPED: [{**ours, "environment": {"BENCH": "shipped"}}] * TASKS,
    }
    if community_postgresql():
        kinds[PEER] = [{"community.postgresql.postgresql_info": _peers_login(server)}] * TASKS
    plays = {name: tasks(stage, f"pg-{at}", kind, "postgres") for at, (name, kind) in enumerate(kinds.items())}
    found = [Contender(name, lambda book=book: play(stage, book, hosts)) for name, book in plays.items()]  # type: ignore[misc]
    for one in found:
        one.run()  # Python compiles once, not in each run
    return found


def _neighbours(stage: Stage, server: PostgresServer) -> list[Contender]:
    """What an application's transactions take, 200 a second, while somebody looks and while nobody does."""
    length = 3 if stage.quick else 6

    def run(looks: bool) -> Reading:
        begun = time.monotonic()
        neighbour = _looking(stage, server) if looks else contextlib.nullcontext()
        with neighbour, faults.load(server, seconds=length) as load:
            since = time.time() + 0.5  # they have connected
            load.finish()
            reading = {name: load.percentile(share, since) / 1000 for name, share in _SHARES.items()}
        return {**reading, "wall": time.monotonic() - begun}

    return [Contender(CALM, lambda: run(False)), Contender(LOOKED_AT, lambda: run(True))]


_SHARES = {"p50": 0.5, "p99": 0.99, "worst": 1.0}


@contextlib.contextmanager
def _looking(stage: Stage, server: PostgresServer) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.bench.postgres_calls", "loop", json.dumps(server.connection())]
    with subprocess.Popen(command, cwd=ROOT, env=environment(stage.scratch), stdout=subprocess.DEVNULL) as looker:
        try:
            time.sleep(1)  # it has loaded all
            yield
            if looker.poll() is not None:
                raise Failed("whoever should look has ended")
        finally:
            looker.kill()


def _queries(stage: Stage, server: PostgresServer) -> Reading:
    """What one call asks: all of it, and without the session's own settings."""
    with statements(server) as seen:
        stage.metered([sys.executable, "-m", "tests.bench.ours", "postgres_info", json.dumps(server.connection())])
        said = [one.text for one in seen.by("sre.runbooks")]
    return {"all": len(said), "looking": len([text for text in said if not _of_the_session(text)])}


def _of_the_session(text: str) -> bool:
    return text.startswith("SELECT set_config(") or "pg_backend_pid() AS pid" in text


def tell(results: Results) -> str:
    """The tables of this benchmark."""
    told = {name: summarize(readings) for name, readings in results.items()}
    ended = [[name, *_ended(told[name])] for name in ENDERS]
    called = [[name, _shown(told[name]["call"])] for name in (CALL, PEER_CALL, CROWDED, PEER_CROWDED) if name in told]
    costs = {name: per_task(results, name) for name in (IN_PROCESS, SHIPPED, PEER) if name in results}
    cost = [[name, *(_shown(one[of]) for of in ("wall", "cpu"))] for name, one in costs.items()]
    felt = [[name, *(_shown(told[name][of]) for of in _SHARES)] for name in (CALM, LOOKED_AT)]
    return "\n\n".join(
        (
            table(["200 of 1,000 sessions", "gone, s", "wall, s", "CPU of client, s", "wrong ones ended"], ended),
            table(["one call", "ms"], called),
            table(["one task", "wall, ms", "CPU, ms"], cost),
            table(["a transaction of `pgbench`", "median, ms", "p99, ms", "worst, ms"], felt),
            verdicts(targets(results)),
        )
    )


def _ended(told: Mapping[str, Summary]) -> list[str]:
    return [
        *(told[of].shown(seconds) for of in ("gone", "wall", "cpu")),
        told["wrong"].shown(lambda value: f"{value:.0f}"),
    ]


def _shown(summary: Summary) -> str:
    return summary.shown(milliseconds)


def targets(results: Results) -> list[Target]:
    wrong = max(reading["wrong"] for reading in results[SESSIONS])
    call = max(summarize(results[name])["call"].median for name in (CALL, CROWDED))
    asked = results[QUERIES][0]
    of_all = f"{asked['looking']:.0f}, and {asked['all'] - asked['looking']:.0f} for the session itself"
    found = [
        Target("`postgres_session` ends no wrong session, in any run", f"{wrong:.0f}", wrong == 0),
        Target("`postgres_info` takes at most 150 ms", f"{milliseconds(call)} ms", call <= 0.150),
        Target("`postgres_info` asks at most 12 queries", of_all, asked["looking"] <= 12),
    ]
    words = "a task is cheaper than `community.postgresql.postgresql_info`"
    if PEER not in results:
        return [*found, Target(words, "", None)]
    faster = ratio(per_task(results, PEER)["wall"], per_task(results, IN_PROCESS)["wall"])
    alone = ratio(summarize(results[PEER_CALL])["call"], summarize(results[CALL])["call"])
    return [
        *found,
        Target(words, f"{faster:.1f}x", faster > 1),
        Target("so is the call alone, without Ansible", f"{alone:.1f}x", alone > 1),
    ]
