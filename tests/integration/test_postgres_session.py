# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_session on real servers: the sessions that are meant go, and nobody else."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")

from psycopg2 import sql  # noqa: E402

from tests.lab import postgres_faults as faults  # noqa: E402
from tests.lab.postgres_servers import (  # noqa: E402
    PgBouncer,
    PostgresServer,
    installation,
    pgbouncer_program,
    start_pgbouncer,
    start_postgres,
)
from tests.lab.postgres_witness import fingerprint, statements  # noqa: E402
from tests.lab.process import LabError, wait_until  # noqa: E402
from tests.lab.world import Lab, lab  # noqa: E402
from tests.support import call, play  # noqa: E402

AGE = 1.05
OURS = "sre.runbooks"


def end(server: PostgresServer | PgBouncer, login: str = "operator", /, **options: Any) -> dict[str, Any]:
    wanted = {"settle": 0.0, "max_count": 500, "max_fraction": 1.0, "grace": 1.0, **server.connection(login)}
    return call("postgres_session", **{**wanted, **options})


def idle_web(server: PostgresServer, login: str = "operator", /, **options: Any) -> dict[str, Any]:
    """The web application's sessions that have been idle for a second."""
    return end(server, login, **{"application": "web*", "state": "idle", "min_state_age": "1s", **options})


def reasons(result: dict[str, Any]) -> dict[str, str]:
    """By application name."""
    return {entry["subject"].rpartition("=")[2]: entry["reason"] for entry in result["spared"]}


def kind_and_code(result: dict[str, Any]) -> tuple[str, str]:
    return result["error"]["kind"], result["error"]["code"]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One for the file: each test ends its own sessions."""
    try:
        installation()
    except LabError as error:
        pytest.skip(str(error))
    with lab() as world:
        yield world.start(start_postgres, config={"max_connections": "300"})


class TestPool:
    def test_ends_exactly_the_idle_application(self, postgres_lab: Lab) -> None:
        """The pool is full: only the superuser's reserved slots are left."""
        server = postgres_lab.start(start_postgres, config={"max_connections": "40"})
        with contextlib.ExitStack() as held:
            dump = held.enter_context(faults.dump_running(server, role="operator"))
            wal = held.enter_context(faults.receivewal(server))
            stay = [
                held.enter_context(faults.session(server, "operator", "psql")),
                held.enter_context(faults.session(server, "app", "cron")),
                held.enter_context(faults.listener(server, name="web-news")),
                held.enter_context(faults.advisory_lock_holder(server, name="web-leader")),
                held.enter_context(faults.idle_in_transaction(server, name="web-busy")),
                held.enter_context(faults.long_query(server, name="web-report")).session,
            ]
            pool = held.enter_context(faults.fill_connections(server))
            tools = (dump.pids(), wal.pids())
            time.sleep(AGE)
            checked = idle_web(server, check_mode=True)
            done = idle_web(server)
            assert (done["sessions"]["ended"], done["sessions"]["gone"]) == (len(pool.members),) * 2
            assert pool.alive() == ()
            assert all(member.alive() for member in stay)
            assert (dump.pids(), wal.pids()) == tools
            for name in ("actions", "plan", "diff"):
                assert checked[name] == done[name], name
            assert reasons(done) == {
                "web-news": "listens for notifications",
                "web-leader": "holds an advisory lock: a leader, or a migration",
            }
            assert done["measured"]["after"] == done["measured"]["forecast"]
            assert dump.finish() == 0
            again = idle_web(server)
            assert (again["changed"], again["plan"]["count"], again["verify"]) == (False, 0, {})

    def test_spares_all_but_the_application_of_a_whole_database(self, server: PostgresServer) -> None:
        with contextlib.ExitStack() as held:
            dump = held.enter_context(faults.dump_running(server, role="app", name="pg_dump"))
            wal = held.enter_context(faults.receivewal(server))
            held.enter_context(faults.session(server, "operator", "psql"))
            held.enter_context(faults.index_under_construction(server))
            held.enter_context(faults.session(server, "app", "cron"))
            web = held.enter_context(faults.session(server, "app", "web"))
            tools = (dump.pids(), wal.pids())
            time.sleep(AGE)
            done = end(server, role="*[!y]", client_addr="127.0.0.0/8", min_state_age="1s", protect=["cron"])
            found = reasons(done)
            assert not web.alive()
            assert found["psql"] == "a superuser; ask for those with superusers"
            assert found["cron"] == "protected by cron"
            assert found["builder"] == "runs CREATE INDEX or REINDEX"
            assert found["pg_dump"] == "protected by pg_dump"
            assert found["pg_receivewal"].startswith("a walsender")
            assert (dump.pids(), wal.pids()) == tools

    def test_spares_work_that_a_signal_would_spoil(self, server: PostgresServer) -> None:
        copy = "COPY (SELECT pg_sleep(0.01) FROM generate_series(1, 3000)) TO PROGRAM 'cat > /dev/null'"
        parallel = (
            "SET min_parallel_table_scan_size = 0",
            "SET parallel_setup_cost = 0",
            "SET parallel_tuple_cost = 0",
        )
        server.query("CREATE TABLE big AS SELECT g FROM generate_series(1, 200000) g")
        server.query("ANALYZE big; GRANT SELECT ON big TO app")
        count = "SELECT count(*) FROM big a JOIN big b ON a.g % 500 = b.g % 500 WHERE a.g % 2 >= b.g % 2"
        server.query("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        faults.small_table(server, "orders")
        with contextlib.ExitStack() as held:
            held.callback(server.query, "SELECT pg_reload_conf()")
            held.callback(server.query, "ALTER SYSTEM RESET synchronous_standby_names")
            held.enter_context(faults.running(server, copy, "operator", "copies"))
            joins = faults.Running(held.enter_context(faults.session(server, "app", "joins", *parallel)), count)
            held.callback(joins.close)
            held.enter_context(faults.session(server, "app", "listens", "/* app */ SELECT 1; LISTEN x"))
            server.query("SELECT pg_reload_conf()")
            time.sleep(0.1)
            held.enter_context(faults.running(server, "UPDATE orders SET note = 'z'", name="commits"))
            time.sleep(AGE)
            options = {"application": "*s", "min_state_age": "1s", "superusers": True, "action": "terminate"}
            checked = end(server, check_mode=True, **options)
            assert [entry["application"] for entry in checked["sessions"]["list"]] == ["joins"]
            assert reasons(checked) == {
                "copies": "runs COPY",
                "joins": "a parallel worker; it goes with its leader",
                "listens": "listens for notifications",
                "commits": "has committed and waits for a synchronous standby",
            }
            assert end(server, **options)["sessions"]["ended"] == 1
            assert joins.wait()

    def test_finds_a_snapshot_that_others_read_through(self, server: PostgresServer) -> None:
        begin = ("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT pg_export_snapshot()", "SELECT 1")
        with faults.session(server, "app", "nightly", *begin) as leader:
            time.sleep(AGE)
            done = end(server, application="nightly", min_xact_age="1s")
            assert reasons(done)["nightly"] == "has exported its snapshot: others read through it"
            assert leader.alive()

    def test_check_mode_signals_nobody(self, server: PostgresServer) -> None:
        with faults.idle_sessions(server, 3) as pool, statements(server) as seen:
            time.sleep(AGE)
            checked = idle_web(server, check_mode=True)
            assert checked["plan"]["count"] == 3
            assert [finding["id"] for finding in checked["findings"]] == ["postgres.no_idle_timeout"]
            server.query("ALTER ROLE app SET idle_session_timeout = '1h'")
            assert idle_web(server, check_mode=True)["findings"] == []
            server.query("ALTER ROLE app RESET idle_session_timeout")
            assert seen.writes(OURS) == ()
            assert len(pool.alive()) == 3

    def test_superusers_go_only_when_asked_for(self, server: PostgresServer) -> None:
        with faults.session(server, "operator", "web-admin") as admin:
            time.sleep(AGE)
            assert idle_web(server)["changed"] is False
            refused = idle_web(server, "signaller", superusers=True)
            assert kind_and_code(refused) == ("forbidden", "privilege")
            assert "takes a superuser" in refused["msg"]
            assert idle_web(server, superusers=True)["sessions"]["ended"] == 1
            assert not admin.alive()

    def test_one_that_wakes_up_is_left_alone(self, server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
        from ansible_collections.sre.runbooks.plugins.module_utils._postgres import signals

        with faults.session(server) as sleeper, faults.session(server) as leaver, faults.session(server):
            time.sleep(AGE)
            planned = signals.Campaign.steps

            def steps(campaign: Any) -> Any:
                sleeper.execute("SELECT 1")
                leaver.connection.close()
                wait_until(lambda: not leaver.alive(), 5, "the end of a session")
                return planned(campaign)

            monkeypatch.setattr(signals.Campaign, "steps", steps)
            done = idle_web(server)
            assert done["sessions"]["ended"] == 1
            notes = sorted(entry["reason"] for entry in done["spared"])
            assert notes == ["it has gone by itself", "it is no longer as planned: idle for 0 s"]
            assert sleeper.alive()

    def test_ends_hundreds_in_slices(self, server: PostgresServer) -> None:
        with faults.idle_sessions(server, 200) as pool, statements(server) as seen:
            time.sleep(AGE)
            done = idle_web(server)
            assert (done["sessions"]["ended"], pool.alive()) == (200, ())
            assert done["measured"]["seconds"] < 3
            signals = [taken for taken in seen.by(OURS) if "pg_terminate_backend" in taken.text]
            assert len(signals) == 4

    def test_finds_the_pool_that_comes_back(self, server: PostgresServer) -> None:
        stop = threading.Event()

        def stay_connected() -> None:
            while not stop.is_set():
                with contextlib.suppress(psycopg2.Error), faults.session(server, "app", "web-pool") as held:
                    while not stop.is_set() and not select.select([held.connection], [], [], 0.05)[0]:
                        continue

        pool = [threading.Thread(target=stay_connected) for _number in range(4)]
        for thread in pool:
            thread.start()
        try:
            time.sleep(AGE + 0.5)
            done = idle_web(server, application="web-pool", settle=0.8)
        finally:
            stop.set()
            for thread in pool:
                thread.join()
        assert (done["sessions"]["ended"], done["sessions"]["reconnected"]) == (4, 4)
        found = {finding["id"]: finding for finding in done["findings"]}
        assert set(found) == {"postgres.sessions_reconnect", "postgres.no_idle_timeout"}
        assert "ALTER ROLE app SET idle_session_timeout" in found["postgres.no_idle_timeout"]["suggest"]
        assert done["measured"]["after"] - done["measured"]["forecast"] == 4


class TestLimits:
    def test_refuses_before_the_first_signal(self, server: PostgresServer) -> None:
        with faults.idle_sessions(server, 6) as pool:
            time.sleep(AGE)
            for options in ({"max_count": 5}, {"max_fraction": 0.5}):
                assert kind_and_code(idle_web(server, **options)) == ("guard_refused", *options)
            approved = idle_web(server, check_mode=True)["plan"]["id"]
            with faults.idle_sessions(server, 1):
                time.sleep(AGE)
                assert kind_and_code(idle_web(server, approved_plan=approved)) == ("conflict", "stale_plan")
            assert len(pool.alive()) == 6
            wait_until(lambda: idle_web(server, check_mode=True)["plan"]["count"] == 6, 5, "the end of one")
            assert idle_web(server, approved_plan=approved)["sessions"]["ended"] == 6

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"role": "*", "min_state_age": "1s"}, "means every session"),
            ({"application": "", "min_state_age": "1s"}, "means every session"),
            ({"client_addr": "0.0.0.0/0", "min_state_age": "1s"}, "means every session"),
            ({"query_regex": ".*", "min_state_age": "1s"}, "matches every text"),
            ({"query_regex": "(", "min_state_age": "1s"}, "invalid regular expression"),
            ({"query_regex": "[[:nonsense:]]", "role": "app", "min_state_age": "1s"}, "invalid regular expression"),
            ({"role": "app"}, "no age is given"),
            ({"role": "app", "min_state_age": "0"}, "no age is given"),
            ({"role": "app", "min_state_age": "soon"}, "not a duration"),
            ({"role": "app", "min_query_age": "1s", "state": "idle"}, "no query runs"),
            ({"role": "app", "min_xact_age": "1s", "state": "idle"}, "has no age"),
            ({"role": "app", "min_state_age": "1s", "grace": -1.0}, "not a wait"),
            ({"role": "app", "min_state_age": "1s", "settle": float("nan")}, "not a wait"),
            ({"client_addr": "here", "min_state_age": "1s"}, "not an address"),
            ({"prepared": ["x"], "role": "app"}, "stands alone"),
        ],
    )
    def test_refuses_a_selection_that_is_none(
        self, server: PostgresServer, options: dict[str, Any], words: str
    ) -> None:
        refused = end(server, **options)
        assert kind_and_code(refused) == ("precondition", "bad_parameter")
        assert words in refused["msg"]

    def test_says_what_the_role_lacks(self, server: PostgresServer) -> None:
        with faults.idle_sessions(server, 2) as pool:
            time.sleep(AGE)
            blind = idle_web(server, "nobody_special", dbname="app")
            assert kind_and_code(blind) == ("forbidden", "privilege")
            assert "pg_read_all_stats" in blind["msg"]
            watcher = idle_web(server, "monitor")
            assert kind_and_code(watcher) == ("forbidden", "privilege")
            assert "pg_signal_backend" in watcher["msg"]
            assert len(pool.alive()) == 2
            # A role may look at, and end, what is its own.
            assert idle_web(server, "app", role="app")["sessions"]["ended"] == 2
        with faults.idle_sessions(server, 2):
            time.sleep(AGE)
            assert idle_web(server, "signaller")["sessions"]["ended"] == 2


class TestNames:
    def test_takes_any_name(self, server: PostgresServer) -> None:
        names = ("it's; DROP", '100%s "%(pid)s"', "back\\slash {0}", "a*b?[c]", "  spaces  ", "wéb")
        with contextlib.ExitStack() as held:
            strange = [held.enter_context(faults.session(server, "app", name)) for name in names]
            other = held.enter_context(faults.session(server, "app", "other"))
            time.sleep(AGE)
            for name, one in zip(names, strange, strict=True):
                # The server shows what is not ASCII in another way.
                done = idle_web(server, application="w*b" if name == "wéb" else name.replace("[", "[[]"))
                assert (done["sessions"]["ended"], one.alive(), other.alive()) == (1, False, True), name

    def test_takes_hostile_roles_databases_and_queries(self, server: PostgresServer) -> None:
        role, database = "o'ne \"ä%", "d'b %s"
        server.query(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(sql.Identifier(role)))
        server.query(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        login = {**server.connection(), "user": role, "password": "x", "dbname": database}
        with contextlib.closing(psycopg2.connect(**login)) as strange:
            strange.autocommit = True
            strange.cursor().execute("SELECT '100%' AS \"it's ünique\"")
            time.sleep(AGE)
            options = {"application": None, "role": role, "database": "d'b*", "query_regex": "100%.*it's .+nique"}
            checked = idle_web(server, check_mode=True, **options)
            assert checked["plan"]["count"] == 1
            assert 'ALTER ROLE "o\'ne ""ä%" SET' in checked["findings"][0]["suggest"]
            assert idle_web(server, **{**options, "query_regex": "200%"})["changed"] is False
            assert idle_web(server, **options)["sessions"]["ended"] == 1


class TestQueries:
    def test_cancels_and_leaves_the_session(self, server: PostgresServer) -> None:
        with faults.long_query(server) as work, faults.long_query(server, name="other") as other:
            time.sleep(AGE)
            done = end(server, application="report", min_query_age="1s", grace=3.0)
            assert work.wait()
            assert isinstance(work.error, psycopg2.errors.QueryCanceled)
            assert work.session.alive()
            assert (done["sessions"]["cancelled"], done["sessions"]["ended"]) == (1, 0)
            assert other.running
            assert end(server, application="report", min_query_age="1s")["changed"] is False

    def test_ends_what_does_not_listen_to_a_cancel(self, server: PostgresServer) -> None:
        deaf = """DO $$ BEGIN FOR turn IN 1..400 LOOP
            BEGIN PERFORM pg_sleep(0.1); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$"""
        with faults.running(server, deaf, name="deaf") as work:
            time.sleep(AGE)
            cancelled = end(server, application="deaf", min_query_age="1s", action="cancel")
            assert (cancelled["error"]["kind"], cancelled["changed"]) == ("verify_failed", True)
            assert work.running
            done = end(server, application="deaf", min_query_age="1s", grace=0.3)
            assert (done["sessions"]["cancelled"], done["sessions"]["ended"]) == (0, 1)
            assert not work.session.alive()

    def test_cancel_has_nothing_to_do_with_idle_ones(self, server: PostgresServer) -> None:
        with faults.session(server) as idle:
            time.sleep(AGE)
            done = idle_web(server, action="cancel")
            assert (done["changed"], reasons(done)["web"]) == (False, "is idle: there is nothing to cancel")
            assert idle.alive()

    def test_a_long_query_just_over_is_not_an_old_idle_session(self, server: PostgresServer) -> None:
        with faults.session(server, "app", "web", "SELECT pg_sleep(1.2)") as fresh:
            assert idle_web(server)["changed"] is False
            assert fresh.alive()


class TestLocks:
    def test_cancels_the_queued_ddl(self, server: PostgresServer) -> None:
        faults.small_table(server, "orders")
        with faults.idle_in_transaction(server, name="bystander", table="elsewhere") as bystander:
            before = fingerprint(server)
            with faults.lock_queue(server, 5) as queue:
                time.sleep(AGE)
                options = {"queued_ddl": True, "min_query_age": "1s", "action": "cancel"}
                checked = end(server, check_mode=True, **options)
                done = end(server, **options)
                assert (done["sessions"]["cancelled"], done["diff"]) == (1, checked["diff"])
                assert all(reader.wait() and reader.error is None for reader in queue.readers)
                assert (queue.holder.alive(), queue.ddl.session.alive()) == (True, True)
                assert end(server, **options)["changed"] is False
            assert fingerprint(server) == before
            assert bystander.alive()

    def test_ends_the_root(self, server: PostgresServer) -> None:
        with (
            faults.idle_in_transaction(server, name="bystander", table="elsewhere") as bystander,
            faults.lock_queue(server, 5, ddl="VACUUM FULL {table}") as queue,
        ):
            time.sleep(AGE)
            blockers = end(server, role="app", blocking=True, min_xact_age="1s", check_mode=True)
            assert blockers["plan"]["count"] == 2
            done = end(server, root_blockers_only=True, min_xact_age="1s")
            assert done["sessions"]["by"][0]["application"] == "forgotten"
            assert (done["sessions"]["ended"], done["sessions"]["list"][0]["blocks"]) == (1, 1)
            assert not queue.holder.alive()
            assert queue.ddl.wait()
            assert all(reader.wait() and reader.error is None for reader in queue.readers)
            assert bystander.alive()
            assert end(server, root_blockers_only=True, min_xact_age="1s")["changed"] is False

    def test_names_a_prepared_transaction_and_wants_it_confirmed(self, server: PostgresServer) -> None:
        gid = "it's 100% ours"
        with (
            faults.prepared_transaction(server, gid),
            faults.running(server, "UPDATE held SET note = 'waits'", name="writer") as writer,
        ):
            wait_until(lambda: (writer.session.activity() or {}).get("wait_event_type") == "Lock", 5, "a waiter")
            seen = end(server, root_blockers_only=True, min_xact_age="1s")
            assert [finding["id"] for finding in seen["findings"]] == ["postgres.prepared_blocks"]
            assert (seen["prepared"][0]["gid"], seen["prepared"][0]["blocks"]) == (gid, 1)
            assert seen["spared"][0]["subject"].startswith(f"gid={gid}")
            assert kind_and_code(end(server, prepared=[gid])) == ("guard_refused", "confirm")
            assert kind_and_code(end(server, prepared=[gid], confirm="yes")) == ("guard_refused", "confirm")
            assert kind_and_code(end(server, "signaller", prepared=[gid], confirm=gid)) == ("forbidden", "privilege")
            elsewhere = end(server, prepared=[gid], confirm=gid, dbname="postgres")
            assert kind_and_code(elsewhere) == ("precondition", "wrong_database")
            assert end(server, prepared=[gid], confirm=gid, check_mode=True)["changed"] is True
            done = end(server, prepared=[gid], confirm=gid)
            assert (done["changed"], done["verify"]["ok"]) == (True, True)
            assert writer.wait()
            assert writer.error is None
            assert end(server, prepared=[gid])["changed"] is False


class TestPlaces:
    def test_through_a_pooler_leaves_no_setting_behind(self, server: PostgresServer, postgres_lab: Lab) -> None:
        try:
            pgbouncer_program()
        except LabError as error:
            pytest.skip(str(error))
        pool = postgres_lab.start(start_pgbouncer, server, "transaction")
        with faults.idle_sessions(server, 2, name="direct"):
            time.sleep(AGE)
            done = end(pool, application="direct", min_state_age="1s")
        assert done["sessions"]["ended"] == 2
        assert "postgres.pooled" in {finding["id"] for finding in done["findings"]}
        with contextlib.closing(pool.connect()) as other, other.cursor() as cursor:
            for setting in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
                cursor.execute(f"SHOW {setting}")
                assert cursor.fetchone() == ("0",)

    def test_on_a_standby(self, postgres_pair: Any) -> None:
        standby = postgres_pair.standby
        with contextlib.closing(standby.connect("app", application_name="web")) as reader:
            time.sleep(AGE)
            done = idle_web(standby)
            assert (done["sessions"]["ended"], done["server"]["role"]) == (1, "standby")
            with pytest.raises(psycopg2.OperationalError):
                reader.cursor().execute("SELECT 1")
        assert postgres_pair.primary.query("SELECT count(*) FROM pg_stat_replication") == [(1,)]

    def test_shipped_and_in_process_alike(self, server: PostgresServer) -> None:
        options = {"application": "web", "min_state_age": "1s", "max_fraction": 1.0, "settle": 0}
        task = {"sre.runbooks.postgres_session": {**options, **server.connection()}, "check_mode": True}
        with faults.idle_sessions(server, 3):
            time.sleep(AGE)
            ran = play([{"name": "here", **task}, {"name": "shipped", "environment": {"X": "y"}, **task}])
        here, shipped = ran.result("here"), ran.result("shipped")
        assert ran.rc == 0, ran.stdout
        assert "invocation" in shipped
        for name in ("changed", "actions", "diff", "plan", "spared", "findings"):
            assert here[name] == shipped[name], name
