# SPDX-License-Identifier: GPL-3.0-or-later
"""The PostgreSQL lab on real servers: what starts is ours, what is seen is complete, what ends is gone."""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path

import pytest

psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")

from tests.lab.fixtures import *  # noqa: E402, F403
from tests.lab.postgres_servers import (  # noqa: E402
    ROLES,
    PostgresPair,
    PostgresServer,
    pgbouncer_program,
    start_pgbouncer,
    start_postgres,
)
from tests.lab.process import LabError, children, free_port, wait_until  # noqa: E402
from tests.lab.world import Lab  # noqa: E402


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
        for login in ({"password": "wrong"}, {"host": str(postgres_single.data), "password": "wrong"}):
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
        try:
            pgbouncer_program()
        except LabError as error:
            pytest.skip(str(error))
        pooler = postgres_lab.start(start_pgbouncer, postgres_single, mode)
        with contextlib.closing(pooler.connect("app")) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT current_user, pg_backend_pid()")
            user, pid = cursor.fetchone()
            assert (user, pid != connection.info.backend_pid) == ("app", True)
        assert pooler.console("SHOW CONFIG")
        (pool,) = [pool for pool in pooler.console("SHOW POOLS") if pool["database"] == "app"]
        assert pool["pool_mode"] == mode
