# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_maintenance on real servers: what is beyond a threshold is mended, and nobody has to wait for it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("psycopg2", reason="psycopg2 is not installed")

from tests.lab import postgres_faults as faults
from tests.lab.postgres_servers import PostgresPair, PostgresServer, pgbouncer_program, start_pgbouncer
from tests.lab.postgres_witness import fingerprint, statements
from tests.lab.process import LabError, wait_until
from tests.support import ROOT, call, prepare

if TYPE_CHECKING:
    from tests.lab.world import Lab

ALL = ["drop_leftovers", "vacuum", "analyze", "reindex"]
NASTY = 'We"ird %s é.[x]*'


def maintain(server: PostgresServer, *tasks: str, role: str = "operator", **options: Any) -> dict[str, Any]:
    return call("postgres_maintenance", tasks=list(tasks), **{**server.connection(role), "bloat_min": "1mb", **options})


def ids(result: dict[str, Any]) -> set[str]:
    return {finding["id"] for finding in result["findings"]}


def reasons(result: dict[str, Any]) -> str:
    return "; ".join(entry["reason"] for entry in result["spared"])


def invalid(server: PostgresServer) -> set[str]:
    rows = server.query("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")
    return {name for (name,) in rows}


def dead_rows(server: PostgresServer, table: str) -> int:
    ((count,),) = server.query("SELECT pg_stat_get_dead_tuples(%s::regclass)", table)
    return int(count)


def test_mends_bloat_and_the_second_run_finds_nothing(postgres_single: PostgresServer) -> None:
    with faults.bloat(postgres_single) as bloat:
        before = fingerprint(postgres_single)
        with statements(postgres_single) as seen:
            checked = maintain(postgres_single, *ALL, check_mode=True)
            assert seen.writes("sre.runbooks") == ()
        done = maintain(postgres_single, *ALL)
        assert (checked["changed"], checked["actions"], checked["plan"]) == (True, done["actions"], done["plan"])
        tasks = {entry["task"]: entry for entry in done["maintenance"]["done"]}
        assert (tasks["vacuum"]["dead_before"] >= 60_000, tasks["vacuum"]["dead_after"]) == (True, 0)
        assert tasks["reindex"]["bytes_after"] < tasks["reindex"]["bytes_before"] / 2
        assert done["measured"]["after"] == 0
        assert done["measured"]["bytes"] > 1 << 20
        assert (dead_rows(postgres_single, bloat.table), done["verify"]["ok"]) == (0, True)
        again = maintain(postgres_single, *ALL)
        assert (again["changed"], again["plan"]["count"]) == (False, 0)
        assert fingerprint(postgres_single) == before


def test_reads_the_index_where_it_can(postgres_single: PostgresServer) -> None:
    postgres_single.query("CREATE SCHEMA tools")
    try:
        postgres_single.query("CREATE EXTENSION pgstattuple SCHEMA tools")
    except Exception:
        pytest.skip("this PostgreSQL came without pgstattuple")
    with faults.bloat(postgres_single):
        postgres_single.query("CREATE INDEX partial ON bloated (note) WHERE n > 0", role="app")
        assert "(estimated)" in maintain(postgres_single, "reindex", check_mode=True)["actions"][0]
        assert maintain(postgres_single, "vacuum")["changed"] is True
        done = maintain(postgres_single, "reindex")
        assert any("public.bloated_n_note_idx" in words for words in done["actions"])
        assert all("(measured)" in words for words in done["actions"])
        assert maintain(postgres_single, "reindex")["changed"] is False


def test_does_not_vacuum_what_somebody_holds(postgres_single: PostgresServer) -> None:
    with ExitStack() as stack:
        held = stack.enter_context(faults.old_snapshot(postgres_single))
        stack.enter_context(faults.bloat(postgres_single))
        time.sleep(1.1)
        result = maintain(postgres_single, "vacuum", "reindex", holder_age="1s")
        assert (result["changed"], ids(result) >= {"postgres.xmin_held", "postgres.old_snapshot"}) == (False, True)
        found = next(f for f in result["findings"] if f["id"] == "postgres.xmin_held")
        assert (found["evidence"]["holder"]["id"], found["subject"]) == (str(held.pid), "public.bloated")
        # A young holder may have begun after the rows died: one try, and no second while it stands.
        tried = maintain(postgres_single, "vacuum")
        assert (tried["changed"], "postgres.xmin_held" in ids(tried)) == (True, True)
        again = maintain(postgres_single, "vacuum")
        assert (again["changed"], "postgres.xmin_held" in ids(again)) == (False, True)
        held.connection.close()
        assert maintain(postgres_single, "vacuum")["measured"]["after"] == 0


def test_names_a_prepared_transaction(postgres_single: PostgresServer) -> None:
    with faults.prepared_transaction(postgres_single) as gid, faults.bloat(postgres_single):
        time.sleep(1.1)
        result = maintain(postgres_single, "vacuum", holder_age="1s")
        assert (result["changed"], gid in reasons(result)) == (False, True)


def test_freezes_what_is_old(postgres_single: PostgresServer) -> None:
    faults.small_table(postgres_single, "ancient")
    for _turn in range(30):
        postgres_single.query("SELECT txid_current()")
    result = maintain(postgres_single, "vacuum", freeze_age=20)
    assert "not frozen for" in result["actions"][0]
    assert maintain(postgres_single, "vacuum", freeze_age=20)["changed"] is False


def test_renews_statistics(postgres_single: PostgresServer) -> None:
    with faults.stale_statistics(postgres_single) as table:
        assert [entry["task"] for entry in maintain(postgres_single, "analyze")["maintenance"]["done"]] == ["analyze"]
        assert maintain(postgres_single, "analyze", tables=[f"public.{table}"])["changed"] is False


def test_knows_partitions_from_their_parent(postgres_single: PostgresServer) -> None:
    for statement in (
        "CREATE TABLE log (at int, what text) PARTITION BY RANGE (at)",
        "CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (0) TO (100000)",
        "INSERT INTO log SELECT g, 'x' FROM generate_series(1, 5000) g",
    ):
        postgres_single.query(statement, role="app")
    result = maintain(postgres_single, *ALL, "drop_leftovers")
    assert [entry["subject"].split()[0] for entry in result["maintenance"]["done"]] == ["public.log_1"]
    assert maintain(postgres_single, *ALL)["changed"] is False
    index = {"table": "public.log", "name": "log_at", "columns": ["at"]}
    assert maintain(postgres_single, "create_index", index=index)["error"]["code"] == "partitioned"


def test_drops_leftovers_of_cancelled_rebuilds(postgres_single: PostgresServer) -> None:
    with faults.invalid_index(postgres_single, how="reindex"), faults.invalid_index(postgres_single, how="reindex"):
        assert invalid(postgres_single) == {"orders_note_idx_ccnew", "orders_note_idx_ccnew1"}
        result = maintain(postgres_single, "drop_leftovers")
        assert (len(result["actions"]), invalid(postgres_single)) == (2, set())
        valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'orders_note_idx'::regclass"
        assert postgres_single.query(valid) == [(True,)]
        assert maintain(postgres_single, "drop_leftovers")["changed"] is False


def test_reports_the_invalid_ones_that_are_no_leftovers(postgres_single: PostgresServer) -> None:
    with faults.invalid_index(postgres_single) as name:
        postgres_single.query(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'orders_pkey'::regclass", role="postgres"
        )
        result = maintain(postgres_single, "drop_leftovers")
        assert (result["changed"], invalid(postgres_single)) == (False, {name, "orders_pkey"})
        assert "constraint orders_pkey rests on it" in reasons(result)
        found = [f["subject"] for f in result["findings"] if f["id"] == "postgres.index_invalid"]
        assert sorted(found) == ["public.orders_pkey", f"public.{name}"]


def test_leaves_an_index_alone_that_is_being_built(postgres_single: PostgresServer) -> None:
    with faults.index_under_construction(postgres_single) as build:
        index = {"table": "public.orders", "name": "orders_being_built_idx", "columns": ["note"]}
        for result in (
            maintain(postgres_single, "drop_leftovers"),
            maintain(postgres_single, "create_index", index=index),
        ):
            assert (result["changed"], build.running) == (False, True)
            assert f"session {build.pid} works on it" in reasons(result)


def test_creates_an_index_once_and_rebuilds_an_invalid_one(postgres_single: PostgresServer) -> None:
    with faults.invalid_index(postgres_single) as name:
        index = {"table": "public.orders", "name": name, "columns": ["id"], "expressions": ["lower(note) || '%s'"]}
        made = maintain(postgres_single, "create_index", index={**index, "where": "note <> 'a;b'"})
        assert (made["changed"], invalid(postgres_single)) == (True, set())
        assert "DROP INDEX CONCURRENTLY" in made["undo"][0]["words"]
        again = maintain(postgres_single, "create_index", index={**index, "where": "note <> 'a;b'"})
        assert (again["changed"], ids(again)) == (False, set())
        other = maintain(postgres_single, "create_index", index={**index, "unique": True})
        assert other["error"]["kind"] == "conflict"
        alike = {"table": "orders", "name": "another", "columns": ["id"], "unique": True}
        assert "it already is what another would be" in reasons(maintain(postgres_single, "create_index", index=alike))


def test_refuses_more_than_an_expression(postgres_single: PostgresServer) -> None:
    faults.small_table(postgres_single, "orders")
    with statements(postgres_single) as seen:
        for text in ("note); DROP TABLE orders; --", "note) TABLESPACE x", "'open", "note; SELECT 1"):
            index = {"table": "public.orders", "name": "evil", "expressions": [text]}
            result = maintain(postgres_single, "create_index", index=index)
            assert (result["error"]["code"], result["changed"]) == ("bad_parameter", False)
    assert seen.writes("sre.runbooks") == ()


def test_cleans_up_after_its_own_failed_build(postgres_single: PostgresServer) -> None:
    faults.small_table(postgres_single, "orders")
    index = {"table": "public.orders", "name": "one", "expressions": ["1"], "unique": True}
    result = maintain(postgres_single, "create_index", index=index)
    assert (result["failed"], result["error"]["kind"], invalid(postgres_single)) == (True, "conflict", set())


def test_drops_its_own_leftover_when_somebody_cancels_it(postgres_single: PostgresServer) -> None:
    lock = "LOCK TABLE bloated IN ROW EXCLUSIVE MODE"
    with faults.bloat(postgres_single), faults.session(postgres_single, "app", "web", "BEGIN", lock) as writer:

        def cancel() -> None:
            wait_until(lambda: "bloated_n_note_idx_ccnew" in invalid(postgres_single), 10, "a rebuild at work")
            ours = "FROM pg_stat_activity WHERE application_name = 'sre.runbooks' AND query LIKE 'REINDEX%%'"
            postgres_single.query(f"SELECT pg_cancel_backend(pid) {ours}")
            wait_until(lambda: not postgres_single.query(f"SELECT 1 {ours}"), 10, "the end of the rebuild")
            writer.connection.close()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        result = maintain(postgres_single, "reindex", tables=["public.bloated_n_note_idx"])
        canceller.join()
        assert (result["error"]["kind"], result["changed"], invalid(postgres_single)) == ("verify_failed", False, set())
        assert maintain(postgres_single, "reindex")["changed"] is True


def test_tries_again_while_a_lock_is_held(postgres_single: PostgresServer) -> None:
    with faults.bloat(postgres_single), ExitStack() as stack:
        lock = "LOCK TABLE bloated IN SHARE UPDATE EXCLUSIVE MODE"
        holder = stack.enter_context(faults.session(postgres_single, "app", "migration", "BEGIN", lock))
        short = {"lock_timeout": 0.2, "retries": 2}
        refused = maintain(postgres_single, "vacuum", **short)
        assert (refused["failed"], refused["changed"], ids(refused)) == (
            True,
            False,
            {"postgres.table_bloat", "postgres.not_maintained"},
        )
        assert "2 tries" in reasons(refused)
        told: list[str] = []
        timer = threading.Timer(0.5, holder.connection.close)
        timer.start()
        assert maintain(postgres_single, "vacuum", lock_timeout=0.2, progress=told.append)["changed"] is True
        assert any("somebody holds the lock" in line for line in told)


def test_goes_on_with_the_others_and_says_which_failed(postgres_single: PostgresServer) -> None:
    with faults.bloat(postgres_single), faults.bloat(postgres_single, "other"):
        lock = "LOCK TABLE bloated IN SHARE UPDATE EXCLUSIVE MODE"
        with faults.session(postgres_single, "app", "migration", "BEGIN", lock):
            result = maintain(postgres_single, "vacuum", lock_timeout=0.2, retries=1)
            assert result["error"]["kind"] == "verify_failed"
            assert list(result["maintenance"]["missed"]) == ["public.bloated"]
            assert dead_rows(postgres_single, "other") == 0


def test_a_table_locked_for_good_does_not_stop_the_look(postgres_single: PostgresServer) -> None:
    lock = "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"
    faults.small_table(postgres_single, "orders")
    with faults.session(postgres_single, "app", "migration", "BEGIN", lock):
        started = time.monotonic()
        assert maintain(postgres_single, *ALL, check_mode=True).get("msg") is None
        assert time.monotonic() - started < 2.5  # less than one lock_timeout


def test_says_how_the_work_goes(postgres_single: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.sre.runbooks.plugins.module_utils._postgres import progress

    monkeypatch.setattr(progress, "EVERY", 0.1)
    faults.small_table(postgres_single, "orders")
    told: list[str] = []
    with faults.session(postgres_single, "app", "web", "BEGIN", "UPDATE orders SET note = 'x'") as writer:
        timer = threading.Timer(0.5, writer.connection.close)
        timer.start()
        index = {"table": "public.orders", "name": "late", "columns": ["note"]}
        assert maintain(postgres_single, "create_index", index=index, progress=told.append)["changed"] is True
    assert any(f"waits for session {writer.pid}" in line and "create public.late: " in line for line in told), told


def test_stops_at_the_deadline_and_says_what_is_left(
    postgres_single: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ansible_collections.sre.runbooks.plugins.module_utils._postgres import upkeep

    monkeypatch.setattr(upkeep, "_CLEANING", 1.0)  # the writer that held up the build holds up the drop as well
    faults.small_table(postgres_single, "orders")
    index = {"table": "public.orders", "name": "late", "columns": ["note"]}
    with faults.idle_in_transaction(postgres_single, table="orders"):
        result = maintain(postgres_single, "create_index", index=index, max_duration="1s")
        assert (result["error"]["kind"], result["error"]["retryable"]) == ("partial", True)
        assert "left invalid, for the next run to drop: public.late" in result["msg"]
    assert invalid(postgres_single) == {"late"}
    assert maintain(postgres_single, "create_index", index=index)["changed"] is True
    assert invalid(postgres_single) == set()


def test_killed_half_way_the_next_run_ends_it(postgres_single: PostgresServer, tmp_path: Path) -> None:
    faults.small_table(postgres_single, "orders")
    index = {"table": "public.orders", "name": "late", "columns": ["note"]}
    task = {
        "sre.runbooks.postgres_maintenance": {**postgres_single.connection(), "tasks": ["create_index"], "index": index}
    }
    with faults.idle_in_transaction(postgres_single, table="orders"):
        command, environment = prepare(tmp_path, [task])
        run = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
        wait_until(lambda: invalid(postgres_single) == {"late"}, 20, "a build at work")
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        builders = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sre.runbooks'"
        postgres_single.query(builders)  # without this the server would end the build by itself
    wait_until(lambda: not postgres_single.query(builders.replace("pg_terminate_backend(pid)", "1")), 5, "its end")
    assert invalid(postgres_single) == {"late"}
    assert maintain(postgres_single, "create_index", index=index)["changed"] is True
    assert invalid(postgres_single) == set()


class TestMatviews:
    @pytest.fixture
    def views(self, postgres_single: PostgresServer) -> PostgresServer:
        for statement in (
            "CREATE TABLE sold AS SELECT g AS id, g AS n FROM generate_series(1, 100) g",
            "CREATE MATERIALIZED VIEW z_base AS SELECT id, n FROM sold",
            "CREATE UNIQUE INDEX ON z_base (id)",
            "COMMENT ON MATERIALIZED VIEW z_base IS 'of sales'",
            "CREATE VIEW between_ AS SELECT * FROM z_base",
            "CREATE MATERIALIZED VIEW a_sum AS SELECT 1 AS one, sum(n) AS n FROM between_",
            "CREATE UNIQUE INDEX ON a_sum (one)",
            "CREATE MATERIALIZED VIEW no_key AS SELECT n FROM sold",
            "CREATE UNIQUE INDEX ON no_key ((n + 1))",
            "CREATE MATERIALIZED VIEW empty_ AS SELECT n FROM sold WITH NO DATA",
            "INSERT INTO sold VALUES (101, 1000)",
        ):
            postgres_single.query(statement, role="app")
        return postgres_single

    def test_refreshes_in_order_and_only_when_too_old(self, views: PostgresServer) -> None:
        with views.connect("app") as reader, reader.cursor() as cursor:
            reader.autocommit = False
            cursor.execute("SELECT count(*) FROM a_sum")  # a reader does not mind
            result = maintain(views, "refresh", max_age="1h")
        assert [entry["subject"].split()[0] for entry in result["maintenance"]["done"]] == [
            "public.empty_",
            "public.z_base",
            "public.a_sum",
        ]
        assert views.query("SELECT n FROM a_sum") == [(6050,)]
        ((comment,),) = views.query("SELECT obj_description('z_base'::regclass)")
        assert comment.startswith("of sales [refreshed 2")
        assert ids(result) == {"postgres.matview_not_concurrent"}
        again = maintain(views, "refresh", max_age="1h")
        assert (again["changed"], "no unique index on plain columns" in reasons(again)) == (False, True)
        time.sleep(2.1)
        assert maintain(views, "refresh", max_age="1s", matviews=["*.z_base"])["plan"]["count"] == 1
        ((comment,),) = views.query("SELECT obj_description('z_base'::regclass)")
        assert comment.count("refreshed") == 1


def test_bears_any_name(postgres_single: PostgresServer) -> None:
    quoted = '"' + NASTY.replace('"', '""') + '"'
    postgres_single.query(f"CREATE SCHEMA {quoted} AUTHORIZATION app".replace("%", "%%"), None)
    with closing(postgres_single.connect("app")) as app, app.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {quoted}.{quoted} (id int, {quoted} text) WITH (autovacuum_enabled = off)")
        cursor.execute(f"INSERT INTO {quoted}.{quoted} SELECT g, md5(g::text) FROM generate_series(1, 20000) g")
        cursor.execute(f'CREATE INDEX {quoted[:-1]}i" ON {quoted}.{quoted} (id, {quoted})')
        cursor.execute(f"ANALYZE {quoted}.{quoted}")
        for _turn in range(3):
            cursor.execute(f"UPDATE {quoted}.{quoted} SET id = id + 1")
    named = f"{NASTY}.{NASTY}"
    time.sleep(0.5)
    index = {"table": named, "name": f"{NASTY}2", "columns": [NASTY], "where": "id > 10"}
    done = maintain(postgres_single, *ALL, "create_index", tables=[named], index=index)
    assert [entry["task"] for entry in done["maintenance"]["done"]] == ["vacuum", "reindex", "create"], done
    again = maintain(postgres_single, *ALL, "create_index", tables=[named], index=index)
    assert (again["changed"], ids(again) - {"postgres.table_bloat"}) == (False, set())
    assert maintain(postgres_single, "vacuum", tables=["public.no_such"])["error"]["kind"] == "not_found"


def test_keeps_to_its_window_guard_and_protection(postgres_single: PostgresServer) -> None:
    with faults.bloat(postgres_single), faults.bloat(postgres_single, "other"):
        now = time.gmtime(time.time() + 7200)
        window = f"{now.tm_hour:02}:00-{now.tm_hour:02}:01"
        closed = maintain(postgres_single, "vacuum", window=window)
        assert (closed["changed"], "postgres.outside_window" in ids(closed)) == (False, True)
        assert maintain(postgres_single, "vacuum", max_count=1)["error"]["kind"] == "guard_refused"
        assert maintain(postgres_single, "vacuum", max_bytes="1kb")["error"]["kind"] == "guard_refused"
        assert maintain(postgres_single, "vacuum", tables=["*.other"], protect=["public.*"])["changed"] is False


def test_others_may_only_look(postgres_single: PostgresServer) -> None:
    with faults.bloat(postgres_single):
        result = maintain(postgres_single, *ALL, role="nobody_special")
        assert (result["changed"], "only its owner may maintain it" in reasons(result)) == (False, True)
        assert "postgres.holders_unseen" in ids(result)
        assert maintain(postgres_single, "vacuum", role="app")["changed"] is True


def test_refuses_a_standby_and_waits_for_one_that_lags(postgres_pair: PostgresPair) -> None:
    primary, standby = postgres_pair.primary, postgres_pair.standby
    assert maintain(standby, "vacuum")["error"]["code"] == "read_only"
    with faults.bloat(primary), faults.pause_replay(standby):
        faults.write_wal(primary, 3)
        told: list[str] = []
        limits = {"replica_lag_max": "1mb", "max_duration": "3s"}
        result = maintain(primary, "vacuum", progress=told.append, **limits)
        assert (result["error"]["kind"], result["changed"]) == ("partial", False)
        assert any("behind" in line for line in told)


def test_refuses_a_pooler(postgres_single: PostgresServer, postgres_lab: Lab) -> None:
    try:
        pgbouncer_program()
    except LabError as error:
        pytest.skip(str(error))
    pooler = postgres_lab.start(start_pgbouncer, postgres_single, "transaction")
    result = call("postgres_maintenance", tasks=["vacuum"], **pooler.connection())
    assert (result["error"]["kind"], result["error"]["code"]) == ("unsupported", "pooled")


def test_writers_go_on_meanwhile(postgres_single: PostgresServer, record_property: Any) -> None:
    with faults.bloat(postgres_single, rows=50_000), faults.load(postgres_single, seconds=2) as load:
        assert maintain(postgres_single, *ALL, tables=["public.bloated"])["changed"] is True
        load.finish()
        record_property("p99_ms", load.p99)


def test_advises_and_creates_nothing(postgres_single: PostgresServer) -> None:
    faults.small_table(postgres_single, "wide", rows=60_000)
    postgres_single.query("CREATE INDEX one ON wide (note)", role="app")
    postgres_single.query("CREATE INDEX two ON wide (note)", role="app")
    for _turn in range(3):
        postgres_single.query("SELECT count(*) FROM wide WHERE note LIKE '%%9'", role="app")
    time.sleep(0.5)
    result = maintain(postgres_single, "drop_leftovers")
    advice = result["advice"]
    assert (result["changed"], advice["duplicates"][0]["indexes"]) == (False, ["public.one", "public.two"])
    assert {entry["index"] for entry in advice["unused"]} >= {"public.two"}
