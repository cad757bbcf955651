# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What prose runbooks for PostgreSQL get wrong, each shown not to happen here. The ids are those of the catalogue.

P4 (more workers against exhaustion) and P6 (an environment change that rolls all pods) wait for Kubernetes, which can
scale and roll; of P5 the budget is here, which both will ask.
"""

from __future__ import annotations

import re
import socket
import time
from contextlib import ExitStack
from typing import Any

import pytest

pytest.importorskip("psycopg2", reason="psycopg2 is not installed")

from tests.lab import postgres_faults as faults
from tests.lab.postgres_servers import PostgresPair, PostgresServer
from tests.lab.postgres_witness import Statement, fingerprint, statements
from tests.lab.process import wait_until
from tests.support import call

OURS = "sre.runbooks"


def look(server: PostgresServer, *sections: str, role: str = "monitor", **options: Any) -> dict[str, Any]:
    result = call("postgres_info", sections=list(sections), **options, **server.connection(role))
    assert not result.get("failed"), result["msg"]
    return result


def end(server: PostgresServer, **options: Any) -> dict[str, Any]:
    return call("postgres_session", **{"settle": 0.0, "max_fraction": 1.0, **options}, **server.connection())


def maintain(server: PostgresServer, *tasks: str, **options: Any) -> dict[str, Any]:
    return call("postgres_maintenance", tasks=list(tasks), bloat_min="1mb", **options, **server.connection())


def found(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The evidence by id of the finding."""
    return {finding["id"]: finding["evidence"] for finding in result["findings"]}


def beginning(said: tuple[Statement, ...], *words: str) -> list[str]:
    """The statements of this collection that begin like this."""
    return [one.text for one in said if one.text.lstrip().upper().startswith(words)]


def test_p1_only_the_idle_sessions_that_are_named_are_ended(postgres_single: PostgresServer) -> None:
    """`state = 'idle'` alone ends listeners, leaders and operators of every database."""
    with ExitStack() as held:
        stay = [
            held.enter_context(faults.session(postgres_single, "operator", "web-admin")),
            held.enter_context(faults.session(postgres_single, "app", "web-elsewhere", database="postgres")),
            held.enter_context(faults.listener(postgres_single, name="web-news")),
            held.enter_context(faults.advisory_lock_holder(postgres_single, name="web-leader")),
            held.enter_context(faults.idle_in_transaction(postgres_single, name="web-busy")),
        ]
        wal = held.enter_context(faults.receivewal(postgres_single, name="web-wal"))
        pool = held.enter_context(faults.idle_sessions(postgres_single, 12, name="web"))
        time.sleep(1.05)
        stay.append(held.enter_context(faults.session(postgres_single, "app", "web-fresh")))
        anybody = end(postgres_single, state="idle")
        named = {"application": "web*", "database": "app", "state": "idle", "min_state_age": "1s"}
        too_many = end(postgres_single, max_count=5, **named)
        assert [anybody["error"]["kind"], too_many["error"]["kind"]] == ["precondition", "guard_refused"]
        assert len(pool.alive()) == 12
        done = end(postgres_single, **named)
        assert (done["sessions"]["ended"], pool.alive()) == (12, ())
        assert all("start=" in subject for subject in done["plan"]["sample"])  # a pid alone may be another's by now
        assert all(member.alive() for member in stay)
        assert wal.running


def test_p1_those_that_block_are_found_though_they_are_not_idle(postgres_single: PostgresServer) -> None:
    """Whoever holds locks and old rows is idle in a transaction, which `idle` does not match."""
    with (
        faults.idle_in_transaction(postgres_single, name="forgotten") as root,
        faults.running(postgres_single, "UPDATE held SET note = 'mine'") as victim,
        faults.idle_sessions(postgres_single, 3),
    ):
        time.sleep(1.05)
        done = end(postgres_single, root_blockers_only=True, min_xact_age="1s")
        assert (done["sessions"]["ended"], root.alive()) == (1, False)
        assert victim.wait(5)


def test_p2_a_long_statement_is_cancelled_and_work_for_the_server_is_left(postgres_single: PostgresServer) -> None:
    """Whoever terminates every statement of five minutes breaks the dump and leaves an invalid index."""
    with ExitStack() as held:
        dump = held.enter_context(faults.dump_running(postgres_single, role="app", name="nightly"))
        build = held.enter_context(faults.index_under_construction(postgres_single))
        report = held.enter_context(faults.long_query(postgres_single))
        time.sleep(1.05)
        done = end(postgres_single, database="app", state="active", min_query_age="1s", grace=2.0)
        assert (done["sessions"]["cancelled"], done["sessions"]["ended"]) == (1, 0)
        assert report.wait(5)
        assert report.session.alive()
        assert build.running
        assert {entry["subject"].rpartition("=")[2] for entry in done["spared"]} >= {"builder", "nightly"}
        assert dump.finish() == 0


def test_p3_a_session_is_as_old_as_its_state(postgres_single: PostgresServer) -> None:
    """By query_start one that is just back from a long query looks old."""
    with faults.session(postgres_single, "app", "web", "SELECT pg_sleep(1.5)") as busy:
        done = end(postgres_single, application="web", state="idle", min_state_age="1s")
        assert (done["changed"], busy.alive()) == (False, True)


def test_p5_the_pools_must_fit_into_the_server(postgres_single: PostgresServer) -> None:
    """A larger pool is a larger incident where the server has no room: replicas, overflow and a rollout count."""
    pool = {"name": "web", "size": 8, "overflow": 2, "replicas": 4}
    assert "postgres.pools_above_limit" not in found(look(postgres_single, "connections", pools=[pool]))
    rollout = look(postgres_single, "connections", pools=[{**pool, "surge": 1}])
    assert found(rollout)["postgres.pools_above_limit"] == {"pools": 50, "limit": 47}


def test_p7_statements_are_ranked_by_total_and_by_mean(postgres_single: PostgresServer) -> None:
    """`mean_time` has gone with PostgreSQL 13, and the mean hides what is cheap and frequent."""
    if not postgres_single.installation.has_statistics:
        pytest.skip("this PostgreSQL came without pg_stat_statements")
    slow = faults.slow_statements(postgres_single, 1, 0.2)[0]
    with faults.session(postgres_single, "app", "web", *["SELECT pg_sleep(0.01), 1, 2, 3"] * 40):
        seen = look(postgres_single, "statements")["statements"]
    frequent = "SELECT pg_sleep($1), $2, $3, $4"
    assert (seen["mean"][0]["query"], seen["total"][0]["query"]) == (slow, frequent)
    assert "statements" in look(postgres_single, "statements", role="nobody_special")["unseen"]
    postgres_single.query("DROP EXTENSION pg_stat_statements")
    unseen = found(look(postgres_single, "statements"))["postgres.unseen.statements"]
    assert unseen["code"] == "no_extension"


def test_p8_the_root_is_named_and_not_the_victims(postgres_single: PostgresServer) -> None:
    """Rows that are not granted show who waits."""
    with faults.lock_queue(postgres_single, 4) as queue:
        seen = look(postgres_single, "locks", lock_wait="0s")["locks"]
        assert [(root["pid"], root["blocks"]) for root in seen["roots"]] == [(queue.holder.pid, 5)]
        assert [ddl["pid"] for ddl in seen["queued_ddl"]] == [queue.ddl.pid]


def test_p9_a_setting_stands_alone_and_is_taken_back(postgres_single: PostgresServer) -> None:
    """ALTER SYSTEM beside another statement in one string is refused, and nobody comes back to reset it."""
    wanted: dict[str, Any] = {"name": "log_min_duration_statement", "value": "1s", **postgres_single.connection()}
    show = "SELECT setting FROM pg_settings WHERE name = 'log_min_duration_statement'"
    before = postgres_single.query(show)
    with statements(postgres_single) as seen:
        assert call("postgres_setting", until="2099-01-01T00:00:00Z", **wanted)["changed"] is True
        (written,) = beginning(seen.by(OURS), "ALTER SYSTEM")
    assert ";" not in written
    assert postgres_single.query(show) == [("1000",)]
    assert call("postgres_setting", until="2020-01-01T00:00:00Z", **wanted)["changed"] is True
    assert postgres_single.query(show) == before


def test_p9_a_managed_service_is_known(postgres_single: PostgresServer) -> None:
    """RDS and its like forbid ALTER SYSTEM, and have another place for it."""
    for statement in (
        "CREATE ROLE rds_superuser",
        "GRANT SELECT ON pg_file_settings TO app",
        "GRANT EXECUTE ON FUNCTION pg_show_all_file_settings() TO app",
    ):
        postgres_single.query(statement)
    refused = call("postgres_setting", name="work_mem", value="5MB", **postgres_single.connection("app"))
    assert (refused["error"]["kind"], refused["error"]["code"]) == ("unsupported", "managed")


def test_p10_a_vacuum_is_for_a_table_that_needs_it(postgres_single: PostgresServer) -> None:
    """One of the whole database is a storm of I/O."""
    faults.small_table(postgres_single, "healthy", rows=5000)
    with faults.bloat(postgres_single), statements(postgres_single) as seen:
        assert maintain(postgres_single, "vacuum")["measured"]["after"] == 0
        vacuums = beginning(seen.by(OURS), "VACUUM")
    assert vacuums
    assert all("bloated" in text and "FULL" not in text for text in vacuums)


def test_p10_whoever_holds_old_rows_is_found_first(postgres_single: PostgresServer) -> None:
    """While an old snapshot stands a vacuum removes nothing."""
    with faults.old_snapshot(postgres_single) as holder, faults.bloat(postgres_single):
        time.sleep(1.05)
        with statements(postgres_single) as seen:
            result = maintain(postgres_single, "vacuum", holder_age="1s")
            assert beginning(seen.by(OURS), "VACUUM") == []
        assert found(result)["postgres.xmin_held"]["holder"]["id"] == str(holder.pid)


def test_p11_an_index_is_rebuilt_alone_and_concurrently(postgres_single: PostgresServer) -> None:
    """REINDEX DATABASE makes all writers wait."""
    with faults.bloat(postgres_single, rows=40_000), faults.invalid_index(postgres_single, how="reindex"):
        with statements(postgres_single) as seen:
            assert maintain(postgres_single, "drop_leftovers", "reindex")["changed"] is True
            builds = beginning(seen.by(OURS), "REINDEX")
            drops = beginning(seen.by(OURS), "DROP")
            settings = " ".join(beginning(seen.by(OURS), "SELECT SET_CONFIG", "SET "))
        assert builds
        assert drops
        assert all(re.match(r"\s*REINDEX .*INDEX CONCURRENTLY", text.replace("(", " (")) for text in builds), builds
        assert all("DROP INDEX CONCURRENTLY" in text for text in drops), drops
        assert "lock_timeout" in settings
        assert postgres_single.query("SELECT 1 FROM pg_index WHERE NOT indisvalid") == []


def test_p12_bloat_is_not_size(postgres_single: PostgresServer) -> None:
    """By size the largest table is the most bloated."""
    faults.small_table(postgres_single, "large", rows=150_000)
    postgres_single.query("ANALYZE large")
    with faults.bloat(postgres_single, rows=10_000) as bloated:
        result = look(postgres_single, "bloat")
        (size,) = postgres_single.query("SELECT pg_total_relation_size('large')")
        assert size[0] > bloated.bytes_full
    assert found(result)["postgres.bloat"]["names"] == ["public.bloated"]


def test_p13_a_missing_index_is_seen_by_scans(postgres_single: PostgresServer) -> None:
    """By `n_distinct > 100` a column whose values are all different, -1, is left out, and one never read is not."""
    make = "CREATE TABLE {} AS SELECT g AS id, md5(g::text) AS note FROM generate_series(1, 30000) g"
    read = ["SELECT count(*) FROM events WHERE id = 4711"] * 25
    made = [make.format("events"), make.format("never_read"), "ANALYZE"]
    with faults.session(postgres_single, "app", "web", *made, *read):
        pass
    ratio = "SELECT n_distinct FROM pg_stats WHERE tablename = 'events' AND attname = 'id'"
    assert postgres_single.query(ratio) == [(-1.0,)]
    wait_until(lambda: look(postgres_single, "indexes")["indexes"]["missing"] != [], 10, "scans in the statistics")
    missing = look(postgres_single, "indexes")["indexes"]["missing"]
    assert [one["table"] for one in missing] == ["public.events"]


def test_p14_a_view_is_refreshed_concurrently_where_it_can_be(postgres_single: PostgresServer) -> None:
    """CONCURRENTLY needs a unique index and rows; two views in one string fail together."""
    for statement in (
        "CREATE MATERIALIZED VIEW keyed AS SELECT g AS id FROM generate_series(1, 9) g",
        "CREATE UNIQUE INDEX ON keyed (id)",
        "CREATE MATERIALIZED VIEW unkeyed AS SELECT 1 AS id",
        "CREATE MATERIALIZED VIEW unfilled AS SELECT 2 AS id WITH NO DATA",
    ):
        postgres_single.query(statement, role="app")
    with statements(postgres_single) as seen:
        result = maintain(postgres_single, "refresh", max_age="1h")
        refreshed = beginning(seen.by(OURS), "REFRESH")
    assert sorted(("CONCURRENTLY" in text, "keyed" in text) for text in refreshed) == [(False, False), (True, True)]
    assert not any(";" in text for text in refreshed)
    assert "postgres.matview_not_concurrent" in found(result)
    assert postgres_single.query("SELECT id FROM unfilled") == [(2,)]


def test_p15_an_invalid_index_does_not_count_as_one(postgres_single: PostgresServer) -> None:
    """IF NOT EXISTS is content with what a failed build left."""
    with faults.invalid_index(postgres_single) as name:
        index = {"table": "public.orders", "name": name, "columns": ["note"]}
        assert maintain(postgres_single, "create_index", index=index)["changed"] is True
        assert fingerprint(postgres_single).indexes[f"public.{name}"][0] is True
        assert maintain(postgres_single, "create_index", index=index)["changed"] is False


def test_p16_lag_is_a_distance_and_not_an_age(postgres_pair: PostgresPair) -> None:
    """The age of the last replayed transaction is NULL on a primary, and grows on a standby with nothing to do."""
    time.sleep(1.2)
    for server in postgres_pair.servers:
        assert not {name for name in found(look(server, "replication", lag_seconds=1)) if "lag" in name}
    (standby,) = look(postgres_pair.primary, "replication")["replication"]["standbys"]
    assert standby["lag_bytes"] < 1 << 20
    with faults.inactive_slot(postgres_pair.primary) as slot:
        evidence = found(look(postgres_pair.primary, "replication"))["postgres.slot_inactive"]
    assert (evidence["name"], evidence["retained_bytes"] >= 1 << 20) == (slot, True)


def test_p17_clients_are_counted_against_what_they_may_have(postgres_single: PostgresServer) -> None:
    """Most rows of pg_stat_activity on an idle server are its own processes; some slots are reserved."""
    ((rows,),) = postgres_single.query("SELECT count(*) FROM pg_stat_activity")
    seen = look(postgres_single, "connections")["connections"]
    assert rows > 3
    assert (seen["used"], seen["limit"], seen["reserved"]) == (0, 47, 3)


def test_p18_a_row_is_counted_written_and_read_back(postgres_single: PostgresServer) -> None:
    """A raw UPDATE that meets no row, or all of them, ends well."""
    postgres_single.query("CREATE TABLE flags (flag text PRIMARY KEY, team text, enabled boolean)")
    postgres_single.query("INSERT INTO flags VALUES ('a', 'x', true), ('b', 'x', true)")
    wanted: dict[str, Any] = {"table": "public.flags", "set": {"enabled": False}, **postgres_single.connection()}
    before = fingerprint(postgres_single)
    for match in ({"flag": "typo"}, {"team": "x"}):
        refused = call("postgres_row", match=match, **wanted)
        assert (bool(refused["failed"]), fingerprint(postgres_single)) == (True, before)
    done = call("postgres_row", match={"flag": "a"}, **wanted)
    assert (done["rows"]["matched"], done["verify"]["ok"]) == (1, True)
    assert postgres_single.query("SELECT flag FROM flags WHERE enabled") == [("b",)]


def test_p19_an_open_port_is_no_database(postgres_pair: PostgresPair) -> None:
    """`nc` proves TCP only: a login, a statement and whether it takes writes are what an application needs."""
    connection = postgres_pair.primary.connection("monitor")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        answer = call("postgres_reach_info", **{**connection, "port": silent.getsockname()[1], "connect_timeout": 2})
    assert answer["reachable"] is False
    passed = {stage["stage"] for stage in answer["stages"] if stage["ok"]}
    assert ("tcp" in passed, "login" in passed) == (True, False)
    told = [call("postgres_reach_info", **server.connection("monitor")) for server in postgres_pair.servers]
    assert [(one["reachable"], one["writable"]) for one in told] == [(True, True), (True, False)]


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("postgres_info", {}),
        ("postgres_session", {"application": "nobody", "min_state_age": "1s"}),
        ("postgres_maintenance", {"tasks": ["vacuum"]}),
        ("postgres_setting", {"name": "work_mem", "value": "4MB"}),
        ("postgres_row", {"table": "pg_catalog.pg_class", "match": {"relname": "x"}, "set": {"relname": "y"}}),
    ],
)
def test_p20_no_session_can_hang_with_the_patient(
    postgres_single: PostgresServer, module: str, options: dict[str, Any]
) -> None:
    with statements(postgres_single) as seen:
        call(module, **options, **postgres_single.connection())
        said = " ".join(one.text for one in seen.by(OURS))
    for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
        assert name in said
    postgres_single.freeze()
    begun = time.monotonic()
    late = call(module, connect_timeout=2, **options, **postgres_single.connection())
    took = time.monotonic() - begun
    postgres_single.thaw()
    assert (late["error"]["kind"], took < 5) == ("timeout", True)
