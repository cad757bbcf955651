# SPDX-License-Identifier: GPL-3.0-or-later
"""The PostgreSQL lab on real servers: what starts is ours, what is seen is complete, what ends is gone."""

from __future__ import annotations

import contextlib
import json
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")

from tests.lab import postgres_faults as faults  # noqa: E402
from tests.lab.cli import main  # noqa: E402
from tests.lab.postgres_servers import (  # noqa: E402
    ROLES,
    PostgresPair,
    PostgresServer,
    pgbouncer_program,
    start_pgbouncer,
    start_postgres,
)
from tests.lab.postgres_witness import Statement, fingerprint, statements  # noqa: E402
from tests.lab.process import LabError, ProcessId, children, free_port, wait_until  # noqa: E402
from tests.lab.world import Lab  # noqa: E402

ROOT = Path(__file__).parents[2]


class TestSingle:
    def test_has_its_configuration_and_a_private_folder(self, postgres_lab: Lab) -> None:
        server = postgres_lab.start(start_postgres, config={"max_connections": "23"}, databases=("app", "other"))
        assert server.query("SHOW max_connections") == [("23",)]
        assert server.query("SHOW wal_segment_size") == [("1MB",)]
        owned = "SELECT datname FROM pg_database WHERE datdba = 'app'::regrole ORDER BY 1"
        assert server.query(owned) == [("app",), ("other",)]
        assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
        assert "ready to accept connections" in server.log_tail()

    def test_roles_have_what_they_are_named_for_and_nothing_is_trusted(self, postgres_single: PostgresServer) -> None:
        member = "SELECT rolsuper, pg_has_role('pg_monitor', 'member'), pg_has_role('pg_signal_backend', 'member')"
        rights = {
            role: postgres_single.query(member + " FROM pg_roles WHERE rolname = current_user", role=role)[0]
            for role in ROLES
        }
        assert rights["operator"][0]
        assert rights["monitor"] == (False, True, False)
        assert rights["signaller"] == (False, True, True)
        assert rights["app"] == rights["nobody_special"] == (False, False, False)
        for login in ({"password": "wrong"}, {"host": postgres_single.socket_folder, "password": "wrong"}):
            with pytest.raises(psycopg2.OperationalError, match="password"):
                postgres_single.connect("operator", **login)

    def test_no_secret_is_in_the_log_or_in_the_statistics(self, postgres_single: PostgresServer) -> None:
        texts = postgres_single.log.read_text()
        if postgres_single.installation.has_statistics:
            texts += repr(postgres_single.query("SELECT query FROM pg_stat_statements"))
        assert not [role for role, password in postgres_single.passwords.items() if password in texts]

    def test_answers_to_its_url(self, postgres_single: PostgresServer) -> None:
        with contextlib.closing(psycopg2.connect(postgres_single.dsn("app"))) as connection:
            assert connection.info.dbname == "app"

    def test_stops_and_stops_again(self, postgres_single: PostgresServer) -> None:
        family = children(postgres_single.pid)
        postgres_single.stop()
        postgres_single.stop()
        assert not any(member.alive() for member in family)
        with pytest.raises(psycopg2.OperationalError):
            postgres_single.connect()

    def test_keeps_its_data_when_killed_and_started(self, postgres_single: PostgresServer) -> None:
        postgres_single.query("CREATE TABLE kept AS SELECT 1 AS a")
        family = children(postgres_single.pid)
        postgres_single.kill()
        assert len(family) > 3
        assert not any(member.alive() for member in family)
        postgres_single.start().prove_own()
        assert postgres_single.query("TABLE kept") == [(1,)]
        postgres_single.restart().prove_own()

    def test_freezes_and_thaws_and_stops_when_frozen(self, postgres_single: PostgresServer) -> None:
        with contextlib.closing(postgres_single.connect(options="-c statement_timeout=100")) as connection:
            postgres_single.freeze()
            with pytest.raises(psycopg2.OperationalError, match="timeout"):
                postgres_single.connect(connect_timeout=2)
            postgres_single.thaw()
            connection.cursor().execute("SELECT 1")
        postgres_single.freeze()
        postgres_single.stop()
        assert not postgres_single.alive()

    def test_ends_with_its_starter(self, postgres_lab: Lab) -> None:
        script = """if True:
            import os, pathlib, sys
            from tests.lab.postgres_servers import children, start_postgres
            server = start_postgres(pathlib.Path(sys.argv[1]))
            print(server.pid, *(member.pid for member in children(server.pid)), flush=True)
            sys.stdin.readline()
            os._exit(9)"""
        command = [sys.executable, "-c", script, str(postgres_lab.root / "orphan")]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
            assert starter.stdout is not None
            family = [ProcessId.of(int(pid)) for pid in starter.stdout.readline().split()]
            starter.communicate("end\n")
        assert len(family) > 3
        wait_until(lambda: not any(member.alive() for member in family), 5, "end of the orphans")

    def test_says_what_the_server_said_when_it_cannot_start(self, postgres_lab: Lab, tmp_path: Path) -> None:
        with pytest.raises(LabError, match="no_such_setting"):
            start_postgres(tmp_path / "bad", config={"no_such_setting": "1"})

    def test_tries_another_port_when_the_first_is_taken(
        self, postgres_single: PostgresServer, postgres_lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ports = iter([postgres_single.port, free_port()])
        monkeypatch.setattr("tests.lab.postgres_servers.free_port", lambda: next(ports))
        assert postgres_lab.start(start_postgres).port != postgres_single.port

    def test_a_foreign_server_is_not_ours(self, postgres_lab: Lab) -> None:
        ours, foreign = postgres_lab.start(start_postgres), postgres_lab.start(start_postgres)
        stranger = PostgresServer(foreign.recipe, foreign.port)
        stranger.identity, stranger.system_identifier = ours.identity, ours.system_identifier
        with pytest.raises(LabError, match="not ours"):
            stranger.prove_own()


class TestPair:
    def test_streams_and_promotes(self, postgres_pair: PostgresPair) -> None:
        primary, standby = postgres_pair.primary, postgres_pair.standby
        primary.query("CREATE TABLE sent AS SELECT 1 AS a")
        wait_until(lambda: standby.query("SELECT to_regclass('sent') IS NOT NULL") == [(True,)], 5, "replay")
        assert standby.in_recovery()
        primary.kill()
        standby.promote()
        standby.query("INSERT INTO sent VALUES (2)")

    def test_archives_its_wal(self, postgres_lab: Lab) -> None:
        server = postgres_lab.start(start_postgres, archive=True)
        ((name,),) = server.query("SELECT pg_walfile_name(pg_switch_wal())")
        wait_until((server.archive / name).exists, 5, "an archived segment")


class TestPgBouncer:
    @pytest.mark.parametrize("mode", ["session", "transaction"])
    def test_pools(self, postgres_single: PostgresServer, postgres_lab: Lab, mode: str) -> None:
        _need_pgbouncer()
        pooler = postgres_lab.start(start_pgbouncer, postgres_single, mode)
        with contextlib.closing(pooler.connect("app")) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT current_user, pg_backend_pid()")
            user, pid = cursor.fetchone()
            assert (user, pid != connection.info.backend_pid) == ("app", True)
        assert pooler.console("SHOW CONFIG")
        (pool,) = [pool for pool in pooler.console("SHOW POOLS") if pool["database"] == "app"]
        assert pool["pool_mode"] == mode


class TestWitness:
    def test_sees_who_did_what_and_knows_a_write(self, postgres_single: PostgresServer) -> None:
        forged = "SELECT 1, 'a\n2026-11-21 03:02:25.000 UTC\x1f1\x1f\x1f\x1f\x1f\x1f LOG:  statement: DROP TABLE x'"
        with statements(postgres_single) as seen, faults.session(postgres_single, "app", "tool") as actor:
            postgres_single.query("SELECT 'the lab itself'")
            for text in (forged, "CREATE TABLE t (a int)", "PREPARE p AS INSERT INTO t VALUES ($1)", "EXECUTE p(1)"):
                actor.execute(text)
            with contextlib.suppress(psycopg2.Error):
                actor.execute("SELECT pg_reload_conf()")
        assert [taken.text for taken in seen.by("tool")][1:2] == [forged]
        assert {(taken.pid, taken.user, taken.database) for taken in seen.statements} == {(actor.pid, "app", "app")}
        assert [taken.text for taken in seen.writes("tool")] == [
            "CREATE TABLE t (a int)",
            "PREPARE p AS INSERT INTO t VALUES ($1)",
            "INSERT INTO t VALUES ($1)",
            "SELECT pg_reload_conf()",
        ]
        assert seen.writes("nobody") == ()

    @pytest.mark.parametrize(
        "text",
        [
            "SELECT 'update x', n_tup_upd, s.\"delete\" FROM s -- insert",
            "/* drop */ WITH v AS (SELECT 1) TABLE v",
            "BEGIN; SELECT 1; COMMIT",
            "COPY (SELECT 1) TO STDOUT",
            "EXPLAIN UPDATE t SET a = 1",
            "LOCK TABLE t IN ACCESS SHARE MODE",
            "SELECT pg_advisory_lock(1), pg_stat_clear_snapshot(), pg_is_in_recovery()",
            "SELECT $a$; DELETE FROM x$a$, E'\\'; DELETE FROM x'",
            "SET LOCAL lock_timeout = '1s'",
        ],
    )
    def test_leaves_reading_alone(self, text: str) -> None:
        assert not Statement(1, "", "", "", "statement", text).writes

    @pytest.mark.parametrize(
        "text",
        [
            "SELECT 1; UPDATE t SET a = 1",
            "WITH d AS (DELETE FROM t RETURNING 1) SELECT * FROM d",
            'SELECT pid, "pg_terminate_backend" (pid) FROM v',
            "SELECT * INTO y FROM t",
            "SELECT 1 FROM t FOR NO KEY UPDATE",
            "DO $$BEGIN END$$",
            "VACUUM",
            "COPY t FROM STDIN",
            "COPY t TO '/tmp/x'",
            "EXPLAIN (ANALYZE) DELETE FROM t",
            "LOCK TABLE t",
            "ROLLBACK PREPARED 'a'",
            "SELECT pg_drop_replication_slot('a')",
            "SET log_statement = none",
            "SELECT set_config('log_statement', 'none', false)",
        ],
    )
    def test_knows_a_write(self, text: str) -> None:
        assert Statement(1, "", "", "", "statement", text).writes

    def test_misses_nothing_at_the_end(self, postgres_single: PostgresServer) -> None:
        with faults.session(postgres_single, "app", "tool", "CREATE TABLE t (a int)") as actor:
            with statements(postgres_single) as seen:
                for number in range(2000):
                    actor.execute(f"INSERT INTO t VALUES ({number})")
            assert len(seen.writes()) == 2000

    def test_says_when_the_server_is_lost_or_silenced(self, postgres_lab: Lab) -> None:
        silent = postgres_lab.start(start_postgres, config={"log_statement": "ddl"})
        with pytest.raises(LabError, match="log_statement"), statements(silent):
            pass
        lost = postgres_lab.start(start_postgres)
        with pytest.raises(LabError, match="lost the server"), statements(lost):
            lost.kill()


class TestFingerprint:
    def test_is_stable_and_finds_each_change(self, postgres_single: PostgresServer) -> None:
        faults.small_table(postgres_single, "orders")
        known = fingerprint(postgres_single)
        assert known == fingerprint(postgres_single)
        assert known.tables["public.orders"][0] == 10
        for change in (
            "UPDATE orders SET note = 'x' WHERE id = 3",
            "CREATE INDEX ON orders (note)",
            "ALTER ROLE app SET work_mem = '5MB'",
            "ALTER SYSTEM SET work_mem = '5MB'",
        ):
            postgres_single.query(change)
            now = fingerprint(postgres_single)
            assert now != known, change
            known = now


class TestSessions:
    def test_idle_ones_look_idle_and_are_gone_when_ended(self, postgres_single: PostgresServer) -> None:
        with faults.idle_sessions(postgres_single, 4) as web, faults.listener(postgres_single) as worker:
            assert len(web.alive()) == 4
            postgres_single.query("SELECT pg_terminate_backend(%s, 2000)", web.pids[0])
            assert web.alive() == web.pids[1:]
            assert (worker.activity() or {})["state"] == "idle"
        assert web.alive() == ()

    def test_fills_to_the_last_slot(self, postgres_lab: Lab) -> None:
        server = postgres_lab.start(start_postgres, config={"max_connections": "20"})
        with faults.fill_connections(server) as web:
            assert "remaining connection slots" in web.refusal
            assert len(web.members) == 17
            assert server.query("SELECT 1") == [(1,)]
        with pytest.raises(LabError, match="only 17 of 30"), faults.idle_sessions(server, 30):
            pass

    def test_transactions_and_queries_are_what_they_claim(self, postgres_single: PostgresServer) -> None:
        with (
            faults.idle_in_transaction(postgres_single) as holding,
            faults.idle_in_transaction(postgres_single, table=None) as empty,
            faults.old_snapshot(postgres_single) as looking,
            faults.advisory_lock_holder(postgres_single) as leader,
            faults.long_query(postgres_single) as asleep,
            faults.long_query(postgres_single, busy=True) as busy,
        ):
            held = {member.pid: member.activity() or {} for member in (holding, empty, looking, leader)}
            assert [told["state"] for told in held.values()] == ["idle in transaction"] * 3 + ["idle"]
            xmin = "SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = %s"
            assert postgres_single.query(xmin, looking.pid) == [(True,)]
            locks = "SELECT count(*) FROM pg_locks WHERE pid = %s AND mode = 'RowExclusiveLock'"
            assert postgres_single.query(locks, holding.pid)[0][0] > 0
            postgres_single.query("SELECT pg_cancel_backend(%s)", asleep.pid)
            assert asleep.wait()
            assert isinstance(asleep.error, psycopg2.errors.QueryCanceled)
            assert busy.running
        assert not busy.running

    def test_lock_queue_ends_with_its_root_or_its_ddl(self, postgres_single: PostgresServer) -> None:
        with faults.lock_queue(postgres_single, 4) as queue:
            root = "SELECT pg_blocking_pids(%s)"
            assert postgres_single.query(root, queue.ddl.pid) == [([queue.holder.pid],)]
            postgres_single.query("SELECT pg_cancel_backend(%s)", queue.ddl.pid)
            assert all(reader.wait() and reader.error is None for reader in queue.readers)
            assert queue.holder.alive()
        with faults.lock_queue(postgres_single, 2, ddl="VACUUM FULL {table}") as queue:
            postgres_single.query("SELECT pg_terminate_backend(%s, 2000)", queue.holder.pid)
            assert queue.ddl.wait()
            assert queue.ddl.error is None
        before = fingerprint(postgres_single)
        with faults.lock_queue(postgres_single, 2):
            pass
        assert fingerprint(postgres_single) == before

    def test_prepared_transaction_outlives_its_session(self, postgres_single: PostgresServer) -> None:
        left = "SELECT gid FROM pg_prepared_xacts"
        with faults.prepared_transaction(postgres_single) as gid:
            assert postgres_single.query(left) == [(gid,)]
            postgres_single.query("ROLLBACK PREPARED %s", gid)
        with faults.prepared_transaction(postgres_single):
            pass
        assert postgres_single.query(left) == []


class TestTables:
    def test_bloat_goes_with_vacuum_full_unless_a_snapshot_is_held(self, postgres_single: PostgresServer) -> None:
        with faults.bloat(postgres_single, rows=5000) as swollen:
            assert swollen.bytes_full > 2 * swollen.bytes_needed
            postgres_single.query("VACUUM FULL bloated")
            size = postgres_single.query("SELECT pg_total_relation_size('bloated')")[0][0]
            assert size < 1.2 * swollen.bytes_needed
        assert postgres_single.query("SELECT to_regclass('bloated')") == [(None,)]

    def test_stale_statistics(self, postgres_single: PostgresServer) -> None:
        with faults.stale_statistics(postgres_single) as table:
            told = postgres_single.query("SELECT reltuples FROM pg_class WHERE relname = %s", table)
            assert told[0][0] == 10

    @pytest.mark.parametrize("how", ["create", "reindex"])
    def test_invalid_index_can_be_dropped(self, postgres_single: PostgresServer, how: str) -> None:
        with faults.invalid_index(postgres_single, how=how) as left:
            assert left.endswith("_unique_idx" if how == "create" else "_ccnew")
            assert not fingerprint(postgres_single).indexes[f"public.{left}"][0]
            postgres_single.query(f"DROP INDEX CONCURRENTLY {left}")

    def test_leftovers_of_two_reindexes_beside_an_index_in_the_making(self, postgres_single: PostgresServer) -> None:
        with (
            faults.invalid_index(postgres_single, how="reindex") as first,
            faults.invalid_index(postgres_single, how="reindex") as second,
            faults.index_under_construction(postgres_single) as build,
        ):
            assert (first, second) == ("orders_note_idx_ccnew", "orders_note_idx_ccnew1")
            progress = postgres_single.query("SELECT pid FROM pg_stat_progress_create_index")
            assert progress == [(build.pid,)]
        assert all(valid for valid, _definition in fingerprint(postgres_single).indexes.values())

    def test_slow_statements(self, postgres_single: PostgresServer) -> None:
        if not postgres_single.installation.has_statistics:
            pytest.skip("this PostgreSQL came without pg_stat_statements")
        texts = faults.slow_statements(postgres_single, 2, 0.05)
        slow = "SELECT query FROM pg_stat_statements WHERE query LIKE '%pg_sleep%' AND max_exec_time >= 50 ORDER BY 1"
        assert [query for (query,) in postgres_single.query(slow)] == list(texts)


class TestReplication:
    def test_slot_keeps_wal_and_may_be_dropped(self, postgres_single: PostgresServer) -> None:
        kept = "SELECT pg_current_wal_lsn() - restart_lsn FROM pg_replication_slots WHERE slot_name = %s"
        with faults.inactive_slot(postgres_single, segments=4) as slot:
            assert postgres_single.query(kept, slot)[0][0] >= 4 * 1024 * 1024
            postgres_single.query("SELECT pg_drop_replication_slot(%s)", slot)

    def test_replay_pauses_and_goes_on(self, postgres_pair: PostgresPair) -> None:
        primary, standby = postgres_pair.primary, postgres_pair.standby
        with faults.pause_replay(standby):
            primary.query("CREATE TABLE late (a int)")
            there = "SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()"
            wait_until(lambda: standby.query(there) == [(True,)], 5, "received and not replayed")
            assert standby.query("SELECT to_regclass('late')") == [(None,)]
        wait_until(lambda: standby.query("SELECT to_regclass('late')") != [(None,)], 5, "replay")


class TestTools:
    def test_dump_is_held_half_way_and_ends_well(self, postgres_single: PostgresServer) -> None:
        with faults.dump_running(postgres_single) as dump:
            leader, *workers = dump.pids()
            state = postgres_single.query("SELECT state FROM pg_stat_activity WHERE pid = %s", leader)
            assert (state, len(workers)) == ([("idle in transaction",)], 2)
            assert dump.running
            assert dump.finish() == 0

    def test_dump_that_lost_its_workers_says_so(self, postgres_single: PostgresServer) -> None:
        with faults.dump_running(postgres_single) as dump:
            for worker in dump.pids()[1:]:
                postgres_single.query("SELECT pg_terminate_backend(%s, 2000)", worker)
            assert dump.finish() != 0

    def test_receives_wal(self, postgres_single: PostgresServer) -> None:
        with faults.receivewal(postgres_single) as tool:
            kind = postgres_single.query("SELECT backend_type FROM pg_stat_activity WHERE pid = %s", tool.pids()[0])
            assert kind == [("walsender",)]
        wait_until(lambda: not tool.pids(), 5, "end of the walsender")

    def test_load_measures_a_pause(self, postgres_single: PostgresServer) -> None:
        with faults.load(postgres_single, seconds=2) as bench:
            postgres_single.freeze()
            time.sleep(0.5)
            postgres_single.thaw()
            assert bench.finish() == 0
        assert len(bench.latencies()) > 200
        assert bench.percentile(0.2) < 100
        assert bench.p99 > 300


@pytest.mark.usefixtures("postgres_lab")
class TestCommandLine:
    def test_up_twice_then_status_and_down(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        here = ["--root", str(tmp_path)]
        # In a process of its own, so that the servers must outlive it.
        start = [sys.executable, "-m", "tests.lab", *here, "up", "postgres", "--topology", "pair"]
        subprocess.run(start, cwd=ROOT, check=True, capture_output=True)
        try:
            assert main([*here, "up", "postgres", "--topology", "pair"]) == 0
            assert "already up" in capsys.readouterr().out
            assert main([*here, "up", "postgres"]) == 0
            assert main([*here, "status"]) == 0
            groups = yaml.safe_load((tmp_path / "inventories/lab/hosts.yml").read_text())
            hosts = groups["postgres"]["hosts"]
            assert set(hosts) == {"postgres-primary", "postgres-standby", "postgres-single"}
            for host in (*hosts.values(), *groups["postgres_roles"]["hosts"].values()):
                psycopg2.connect(**host["postgres_connection"]).close()
            state = json.loads((tmp_path / ".lab/state.json").read_text())
            residents = [ProcessId.of(pid) for pid in {entry["pid"] for entry in state}]
            folders = [path.resolve() for path in (tmp_path / ".lab").glob("postgres-*")]
        finally:
            assert main([*here, "down"]) == 0
        assert not any(resident.alive() for resident in residents)
        assert folders
        assert not any(folder.exists() for folder in folders)

    def test_up_with_a_pooler(self, tmp_path: Path) -> None:
        _need_pgbouncer()
        here = ["--root", str(tmp_path)]
        try:
            assert main([*here, "up", "postgres", "--topology", "pgbouncer"]) == 0
            groups = yaml.safe_load((tmp_path / "inventories/lab/hosts.yml").read_text())
            (pool,) = groups["postgres_pools"]["hosts"].values()
            psycopg2.connect(**pool["postgres_connection"]).close()
        finally:
            assert main([*here, "down", "--topology", "postgres-pgbouncer"]) == 0


def _need_pgbouncer() -> None:
    try:
        pgbouncer_program()
    except LabError as error:
        pytest.skip(str(error))
