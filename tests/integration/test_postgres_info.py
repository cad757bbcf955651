# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_info against incidents made for real: what it sees, what it may not see, and that it only looks."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import pytest

pytest.importorskip("psycopg2", reason="psycopg2 is not installed")

from ansible_collections.sre.runbooks.plugins.module_utils._postgres import facts
from tests.lab import postgres_faults as faults
from tests.lab.postgres_servers import (
    PostgresPair,
    PostgresServer,
    pgbouncer_program,
    start_pgbouncer,
    start_postgres,
)
from tests.lab.postgres_witness import statements
from tests.lab.process import LabError, wait_until
from tests.lab.world import Lab
from tests.support import call, play

#: Findings of a lab's server that has no other trouble.
CALM = {"postgres.no_timeout", "postgres.unsafe_setting"}
FORBIDDEN = {"connections", "activity", "locks", "replication", "holders", "statements"}


def look(server: Any, role: str = "monitor", **options: Any) -> dict[str, Any]:
    result = call("postgres_info", **{**server.connection(role), **options})
    assert "failed" not in result, result["msg"]
    return result


def found(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The first finding of each id, without those of every lab."""
    return {finding["id"]: finding for finding in reversed(result["findings"]) if finding["id"] not in CALM}


class TestLooking:
    def test_at_a_healthy_server(self, postgres_single: PostgresServer) -> None:
        look(postgres_single)
        with statements(postgres_single) as seen:
            start = time.monotonic()
            result = look(postgres_single)
            took = time.monotonic() - start
        assert (result["changed"], result["unseen"], found(result)) == (False, {}, {})
        assert (seen.writes(), took < 1) == ((), True)
        assert len(seen.by("sre.runbooks")) <= 12 + 3
        assert result["connections"]["limit"] == 47

    def test_without_the_right_nothing_is_called_healthy(self, postgres_single: PostgresServer) -> None:
        with faults.idle_in_transaction(postgres_single):
            result = look(postgres_single, "nobody_special", idle_xact_seconds=0)
            waiting = call(
                "postgres_info",
                **postgres_single.connection("nobody_special"),
                clear_of=["postgres.idle_in_transaction"],
                timeout=0.1,
            )
        assert set(result["unseen"]) == FORBIDDEN
        finding = found(result)["postgres.unseen.activity"]
        assert (finding["evidence"]["kind"], "pg_monitor" in finding["suggest"]) == ("forbidden", True)
        assert "activity" not in result
        assert (waiting["error"]["kind"], "unseen.activity" in waiting["msg"]) == ("verify_failed", True)

    @pytest.mark.parametrize("mode", ["session", "transaction"])
    def test_through_a_pooler(self, postgres_single: PostgresServer, postgres_lab: Lab, mode: str) -> None:
        try:
            pgbouncer_program()
        except LabError as error:
            pytest.skip(str(error))
        pooler = postgres_lab.start(start_pgbouncer, postgres_single, mode)
        result = look(pooler)
        assert (result["unseen"], found(result)) == ({}, {})
        with closing(pooler.connect("monitor")) as neighbour, neighbour.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            assert cursor.fetchone() == ("0",)

    def test_one_section_that_fails_spares_the_others(self, postgres_single: PostgresServer) -> None:
        postgres_single.query("DROP EXTENSION IF EXISTS pg_stat_statements")
        postgres_single.query("REVOKE EXECUTE ON FUNCTION pg_stat_get_archiver() FROM PUBLIC")
        result = look(postgres_single)
        assert set(result["unseen"]) == {"statements", "archiver"}
        codes = {name: finding["evidence"]["code"] for name, finding in found(result).items()}
        assert codes == {"postgres.unseen.statements": "no_extension", "postgres.unseen.archiver": "privilege"}
        assert result["settings"]["values"]["max_connections"] == 50

    def test_a_lock_of_a_table_is_not_waited_for(self, postgres_single: PostgresServer) -> None:
        faults.small_table(postgres_single, "locked")
        with faults.session(postgres_single, "app", "web", "LOCK TABLE locked", autocommit=False):
            start = time.monotonic()
            result = look(postgres_single)
        assert (result["unseen"], time.monotonic() - start < 2.5) == ({}, True)

    def test_a_server_that_freezes_meanwhile_is_not_waited_for(
        self, postgres_single: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def frozen(reading: Any) -> Any:
            postgres_single.freeze()
            return facts._prepared(reading)

        monkeypatch.setattr(facts, "_READERS", {**facts._READERS, "prepared": frozen})
        start = time.monotonic()
        result = look(postgres_single, section_timeout=0.5)
        assert time.monotonic() - start < 5
        postgres_single.thaw()
        assert {"connections", "activity", "locks"} <= set(result)
        assert {"prepared", "replication", "statements"} <= set(result["unseen"])
        assert found(result)["postgres.unseen.prepared"]["evidence"]["kind"] == "unreachable"

    def test_shipped_and_in_process_alike(self, postgres_single: PostgresServer) -> None:
        sections = ["connections", "locks", "prepared", "archiver", "indexes"]
        task = {"sre.runbooks.postgres_info": {**postgres_single.connection("monitor"), "sections": sections}}
        ran = play([{"name": "here", **task}, {"name": "shipped", "environment": {"X": "y"}, **task}])
        here, shipped = ran.result("here"), ran.result("shipped")
        assert ran.rc == 0, ran.stdout
        for name in ("changed", "findings", "unseen", "server", *sections):
            assert here[name] == shipped[name], name


class TestConnections:
    def test_none_is_left(self, postgres_lab: Lab) -> None:
        server = postgres_lab.start(start_postgres, config={"max_connections": "20"})
        with faults.fill_connections(server, name="web"):
            result = look(server, "operator")
            refused = call("postgres_info", connect_timeout=0.5, **server.connection("monitor"))
        finding = found(result)["postgres.connections_high"]
        assert (finding["severity"], finding["evidence"]["most_application"]) == ("critical", "web")
        most = result["connections"]["by"][0]
        assert (most["role"], most["application"], most["total"], most["idle"]) == ("app", "web", 17, 17)
        assert (result["connections"]["used"], result["connections"]["limit"]) == (17, 17)
        assert (refused["error"]["kind"], refused["error"]["code"]) == ("exhausted", "too_many_clients")

    def test_limits_of_their_own_and_pools(self, postgres_single: PostgresServer) -> None:
        postgres_single.query("ALTER ROLE app CONNECTION LIMIT 5")
        postgres_single.query("ALTER DATABASE app CONNECTION LIMIT 6")
        pools = [{"name": "web", "size": 10, "overflow": 5, "replicas": 3, "surge": 1}]
        with faults.idle_sessions(postgres_single, 5):
            result = look(postgres_single, pools=pools)
        seen = found(result)
        assert seen["postgres.role_limit_near"]["evidence"] == {"name": "app", "used": 5, "limit": 5, "ratio": 1.0}
        assert seen["postgres.database_limit_near"]["severity"] == "warning"
        assert seen["postgres.pools_above_limit"]["evidence"] == {"pools": 60, "limit": 47}
        assert "postgres.connections_high" not in seen

    def test_background_processes_are_no_clients(self, postgres_single: PostgresServer) -> None:
        with faults.receivewal(postgres_single):
            seen = look(postgres_single, sections=["connections"])["connections"]
        assert (seen["used"], seen["walsenders"]) == (0, 1)


class TestSessions:
    def test_a_forgotten_transaction(self, postgres_single: PostgresServer) -> None:
        secret = "UPDATE {table} SET note = 'a secret of somebody' WHERE id = 4711"
        with faults.idle_in_transaction(postgres_single, name="forgotten", statement=secret) as held:
            time.sleep(1.1)
            result = look(postgres_single, idle_xact_seconds=1)
            none = look(postgres_single, show_queries="none", sections=["activity"])
            raw = look(postgres_single, show_queries="raw", sections=["activity"])
            calm = found(look(postgres_single))
        finding = found(result)["postgres.idle_in_transaction"]
        assert (finding["evidence"]["pid"], finding["evidence"]["sessions"]) == (held.pid, 1)
        (seen,) = result["activity"]["transactions"]
        assert seen["query"] == 'UPDATE "held" SET note = $1 WHERE id = $2'
        assert seen["state_seconds"] >= 1
        assert "secret of" not in str(result)
        assert none["activity"]["transactions"][0]["query"] == ""
        assert "secret of" in raw["activity"]["transactions"][0]["query"]
        assert calm == {}

    def test_a_dump_is_meant_to_be_idle(self, postgres_single: PostgresServer) -> None:
        with faults.dump_running(postgres_single):
            seen = found(look(postgres_single, idle_xact_seconds=0, xact_seconds=0))
        assert "postgres.idle_in_transaction" not in seen
        assert seen["postgres.long_transaction"]["severity"] == "info"

    def test_a_queue_behind_ddl(self, postgres_single: PostgresServer) -> None:
        with faults.lock_queue(postgres_single, 5) as queue:
            result = look(postgres_single, lock_wait="0s")
            (root,) = result["locks"]["roots"]
            (ddl,) = result["locks"]["queued_ddl"]
            assert (root["pid"], root["kind"], root["blocks"], root["state"]) == (
                *(queue.holder.pid, "transaction"),
                *(6, "idle in transaction"),
            )
            assert (ddl["pid"], ddl["mode"], ddl["relation"], ddl["blocks"]) == (
                *(queue.ddl.pid, "AccessExclusiveLock"),
                *("orders", 5),
            )
            assert result["locks"]["waiting"] == 6
            seen = found(result)
            assert {seen[name]["severity"] for name in ("postgres.lock_root", "postgres.ddl_queued")} == {"critical"}
            assert "postgres.lock_root" not in found(look(postgres_single, lock_wait="1h"))

    def test_a_prepared_transaction(self, postgres_single: PostgresServer) -> None:
        update = "UPDATE held SET note = 'x'"
        with (
            faults.prepared_transaction(postgres_single, "lost-one"),
            faults.running(postgres_single, update) as waiter,
        ):
            wait_until(lambda: (waiter.session.activity() or {}).get("wait_event_type") == "Lock", 5, "a lock wait")
            result = look(postgres_single, xact_seconds=0, lock_wait="0s")
            (root,) = result["locks"]["roots"]
            assert (root["kind"], root["gid"], root["blocks"], root["pid"]) == ("prepared", "lost-one", 1, 0)
            assert result["prepared"][0]["gid"] == "lost-one"
            assert "postgres.prepared_transaction" in found(result)
            assert [one["kind"] for one in result["holders"] if one["name"] == "lost-one"] == ["prepared"]
            assert found(look(postgres_single, "nobody_special", sections=["prepared"], xact_seconds=0))

    def test_waits_until_it_is_clear(self, postgres_single: PostgresServer) -> None:
        options: dict[str, Any] = {"sections": ["activity"], "clear_of": ["postgres.idle_in_transaction"]}
        options |= {"idle_xact_seconds": 0, "interval": 0.05, "timeout": 0.3}
        with faults.idle_in_transaction(postgres_single):
            failed = call("postgres_info", **postgres_single.connection("monitor"), **options)
            assert failed["error"]["kind"] == "verify_failed"
            assert look(postgres_single, strict=False, **options)["verify"]["ok"] is False
        wait_until(lambda: not look(postgres_single, sections=["activity"])["activity"]["transactions"], 5, "the end")
        assert look(postgres_single, **options)["verify"]["consecutive"] == 3
        for wrong in ("postgres.no_such_finding", "postgres.lock_root"):
            result = call("postgres_info", **postgres_single.connection("monitor"), **{**options, "clear_of": [wrong]})
            assert result["error"]["code"] == "bad_parameter"


class TestStorage:
    def test_bloat_and_who_keeps_it(self, postgres_single: PostgresServer) -> None:
        with faults.old_snapshot(postgres_single, name="report"), faults.bloat(postgres_single):
            time.sleep(0.6)
            result = look(postgres_single, "operator", xact_seconds=0.5)
            seen = found(result)
            assert seen["postgres.bloat"]["evidence"]["names"] == ["public.bloated"]
            (table,) = [one for one in result["bloat"]["tables"] if one["table"] == "public.bloated"]
            # The server counts the rows of the first fill twice when ANALYZE meets it half-way.
            assert table["dead_ratio"] > 0.5
            assert 0.3 < table["bloat_ratio"] < 0.85
            held = seen["postgres.xmin_held"]["evidence"]
            assert (held["kind"], held["name"]) == ("transaction", "report")

    def test_bloat_that_nobody_keeps(self, postgres_single: PostgresServer) -> None:
        with faults.bloat(postgres_single):
            result = look(postgres_single, xact_seconds=0.5)
            assert "postgres.bloat" in found(result)
            assert "postgres.xmin_held" not in found(result)

    def test_statistics_that_are_stale(self, postgres_single: PostgresServer) -> None:
        with faults.stale_statistics(postgres_single):
            seen = found(look(postgres_single, sections=["bloat"]))
            assert seen["postgres.statistics_stale"]["evidence"]["names"] == ["public.stale"]

    def test_an_invalid_index_and_one_that_is_being_built(self, postgres_single: PostgresServer) -> None:
        with faults.index_under_construction(postgres_single):
            result = look(postgres_single, sections=["indexes"])
            assert [one["building"] for one in result["indexes"]["invalid"]] == [True]
            assert found(result) == {}
        with faults.invalid_index(postgres_single, how="reindex") as name:
            evidence = found(look(postgres_single, sections=["indexes"]))["postgres.index_invalid"]["evidence"]
            assert (evidence["names"], evidence["leftovers"]) == ([f"public.{name}"], 1)

    def test_indexes_that_are_unused_or_missing(self, postgres_single: PostgresServer) -> None:
        make = "CREATE TABLE events AS SELECT g AS id, md5(g::text) AS note FROM generate_series(1, 40000) g"
        read = "SELECT count(*) FROM events WHERE id = 4711"
        index = "CREATE INDEX events_note ON events (note)"
        with faults.session(postgres_single, "app", "web", make, index, "ANALYZE events", *[read] * 25):
            pass
        wait_until(
            lambda: look(postgres_single, sections=["indexes"])["indexes"]["missing"] != [],
            5,
            "scans in the statistics",
        )
        seen = found(look(postgres_single, sections=["indexes"]))
        assert seen["postgres.index_missing"]["evidence"]["table"] == "public.events"
        assert seen["postgres.index_unused"]["evidence"]["names"] == ["public.events_note"]

    def test_statements_and_settings(self, postgres_single: PostgresServer) -> None:
        if not postgres_single.installation.has_statistics:
            pytest.skip("this PostgreSQL came without pg_stat_statements")
        _quick, slow = faults.slow_statements(postgres_single, 2, 0.1)
        postgres_single.query("ALTER SYSTEM SET max_connections = 60")
        postgres_single.query("SELECT pg_reload_conf()")
        time.sleep(0.3)
        result = look(postgres_single, "signaller", slow_seconds=0.1, top=2)
        first = result["statements"]["mean"][0]
        assert (first["role"], first["calls"], first["query"]) == ("app", 1, slow)
        assert 0.2 <= first["mean_seconds"] < 1
        assert len(result["statements"]["total"]) == 2
        seen = found(result)
        assert seen["postgres.statement_slow"]["evidence"]["statements"] == 2
        assert seen["postgres.pending_restart"]["evidence"]["settings"] == ["max_connections"]


class TestReplication:
    def test_a_standby_that_is_well_and_one_that_is_paused(self, postgres_pair: PostgresPair) -> None:
        primary, standby = postgres_pair.primary, postgres_pair.standby
        wait_until(lambda: found(look(primary)) == {}, 5, "a standby in step")
        result = look(standby)
        assert (result["unseen"], found(result), result["server"]["role"]) == ({}, {}, "standby")
        with faults.pause_replay(standby):
            faults.write_wal(primary, 3)
            wait_until(
                lambda: "postgres.replica_lagging" in found(look(primary, lag_bytes="1mb")), 10, "lag at the primary"
            )
            seen = found(look(standby, lag_bytes="1mb"))
        assert {"postgres.replay_paused", "postgres.replica_lagging"} <= set(seen)

    def test_a_slot_that_nobody_reads(self, postgres_single: PostgresServer) -> None:
        postgres_single.query("SELECT pg_create_physical_replication_slot('left_behind', true)")
        faults.write_wal(postgres_single, 2)
        finding = found(look(postgres_single))["postgres.slot_inactive"]
        assert finding["evidence"]["name"] == "left_behind"
        assert finding["evidence"]["retained_bytes"] >= 1 << 20

    def test_an_archive_that_fails(self, postgres_lab: Lab) -> None:
        server = postgres_lab.start(start_postgres, config={"archive_mode": "on", "archive_command": "/bin/false"})
        server.query("SELECT pg_switch_wal()")
        wait_until(lambda: "postgres.archiver_failing" in found(look(server, sections=["archiver"])), 10, "a failure")
