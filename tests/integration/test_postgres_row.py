# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_row on a real server: the row that is meant, in its own type, and never another."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("psycopg2", reason="psycopg2 is not installed")

from tests.lab import fixtures
from tests.lab.postgres_servers import PostgresPair, PostgresServer, start_pgbouncer
from tests.lab.postgres_witness import fingerprint, statements
from tests.lab.process import LabError, wait_until
from tests.lab.world import Lab
from tests.support import call, play

postgres_module_lab = pytest.fixture(scope="module")(fixtures.postgres_lab.__wrapped__)


@pytest.fixture(scope="module")
def shared(postgres_module_lab: Lab) -> PostgresServer:
    from tests.lab.postgres_servers import start_postgres

    return postgres_module_lab.start(start_postgres)


@pytest.fixture
def server(shared: PostgresServer) -> PostgresServer:
    """One for the file, with new tables for each test."""
    for statement in ("DROP SCHEMA public CASCADE", "CREATE SCHEMA public", "GRANT USAGE ON SCHEMA public TO PUBLIC"):
        shared.query(statement)
    shared.query("""CREATE TABLE "Odd ""table"" 100%" (id int PRIMARY KEY, "the note" varchar(8), at date)""")
    shared.query("""INSERT INTO "Odd ""table"" 100%" VALUES (1, 'one', NULL), (2, 'two', '2020-01-01')""")
    shared.query("CREATE TABLE keys (id int PRIMARY KEY, owner text, revoked boolean, data jsonb)")
    shared.query("INSERT INTO keys VALUES (1, 'a', false, '{}'), (2, 'a', false, NULL), (3, 'b', NULL, NULL)")
    return shared


def row(server: PostgresServer, check: bool = False, role: str = "operator", **given: Any) -> dict[str, Any]:
    return call("postgres_row", check, **{"table": "keys", **given}, **server.connection(role))


def test_one_row_is_set_and_read_back(server: PostgresServer) -> None:
    result = row(server, match={"id": 1}, set={"revoked": True, "data": {"why": ["it's 100%"]}})
    assert result["changed"] is True
    assert result["verify"]["ok"] is True
    assert server.query("SELECT revoked, data FROM keys WHERE id = 1") == [(True, {"why": ["it's 100%"]})]
    assert result["diff"]["before"]["rows"] == [{"id": "1", "revoked": "false", "data": "{}"}]
    assert row(server, match={"id": 1}, set={"revoked": True})["changed"] is False


def test_the_undo_is_a_call_that_works(server: PostgresServer) -> None:
    before = fingerprint(server)
    (undo,) = row(server, match={"id": 1}, set={"revoked": True})["undo"]
    assert undo["module"] == "sre.runbooks.postgres_row"
    assert call("postgres_row", **undo["args"], **server.connection())["changed"] is True
    assert fingerprint(server) == before


def test_check_mode_writes_nothing_and_says_the_same(server: PostgresServer) -> None:
    with statements(server) as seen:
        checked = row(server, check=True, match={"id": 2}, set={"owner": "c"})
        assert not seen.writes("sre.runbooks")
    done = row(server, match={"id": 2}, set={"owner": "c"})
    assert (checked["actions"], checked["diff"], checked["plan"]) == (done["actions"], done["diff"], done["plan"])


def test_null_is_a_value(server: PostgresServer) -> None:
    assert row(server, match={"revoked": None}, set={"revoked": False})["changed"] is True
    assert row(server, match={"id": 3}, set={"revoked": None})["changed"] is True
    assert server.query("SELECT revoked FROM keys WHERE id = 3") == [(None,)]


def test_hostile_names_and_values_are_names_and_values(server: PostgresServer) -> None:
    table = '"Odd ""table"" 100%"'
    value = "';--%s"
    assert row(server, table=table, match={"id": 1}, set={"the note": value, "at": "2024-02-29"})["changed"] is True
    asked = """SELECT "the note", at::text FROM "Odd ""table"" 100%" ORDER BY id"""
    assert server.query(asked) == [(value, "2024-02-29"), ("two", "2020-01-01")]


@pytest.mark.parametrize(
    ("given", "kind", "code"),
    [
        ({"match": {"id": 9}, "set": {"owner": "x"}}, "not_found", "no_row"),
        ({"match": {"owner": "a"}, "set": {"owner": "x"}}, "guard_refused", "max_rows"),
        (
            {"match": {"owner": "a"}, "set": {"owner": "x"}, "max_rows": 5, "expect_rows": 1},
            "guard_refused",
            "expect_rows",
        ),
        ({"match": {"id": 1}, "set": {"ownr": "x"}}, "not_found", "no_such_column"),
        ({"match": {"id": "one"}, "set": {"owner": "x"}}, "precondition", "bad_value"),
        ({"match": {"id": 1}, "set": {"revoked": "perhaps"}}, "precondition", "bad_value"),
        ({"table": "public.nothing", "match": {"id": 1}, "set": {"id": 2}}, "not_found", "no_such_table"),
        (
            {"table": "pg_catalog.pg_stat_activity", "match": {"pid": 1}, "set": {"pid": 2}},
            "unsupported",
            "not_a_table",
        ),
        (
            {"table": "pg_catalog.pg_language", "match": {"lanname": "c"}, "set": {"lanpltrusted": True}},
            "guard_refused",
            "protected",
        ),
        ({"match": {"id": 1}, "set": {"id": 2}}, "precondition", "bad_parameter"),
        ({"match": {"id": 1}, "set": {"owner": "a\0b"}}, "precondition", "bad_value"),
        ({"match": {}, "set": {"owner": "x"}}, "precondition", "bad_parameter"),
    ],
)
def test_what_is_not_meant_changes_nothing(server: PostgresServer, given: dict[str, Any], kind: str, code: str) -> None:
    before = fingerprint(server)
    result = row(server, **given)
    assert (result["error"]["kind"], result["error"]["code"]) == (kind, code)
    assert (result["changed"], fingerprint(server)) == (False, before)


def test_several_rows_when_they_are_meant(server: PostgresServer) -> None:
    result = row(server, match={"owner": "a"}, set={"revoked": True}, max_rows=5, expect_rows=2)
    assert result["plan"]["count"] == 2
    assert server.query("SELECT count(*) FROM keys WHERE revoked") == [(2,)]


def test_all_rows_or_none(server: PostgresServer) -> None:
    """The second row breaks a constraint: the first keeps its value too, and the error quotes nobody's row."""
    server.query("ALTER TABLE keys ADD CHECK (id <> 2 OR owner <> 'z')")
    server.query("""UPDATE keys SET data = '{"secret": "hunter2"}' WHERE id = 2""")
    before = fingerprint(server)
    result = row(server, match={"owner": "a"}, set={"owner": "z"}, max_rows=2)
    assert (result["error"]["kind"], result["error"]["code"], result["changed"]) == ("conflict", "constraint", False)
    assert "hunter2" not in str(result)
    assert fingerprint(server) == before


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("varchar(4)", "ab", "abcd"),
        ("char(4)", "ab", "abcd"),
        ("numeric(6,2)", 1.005, "2.5"),
        ("timestamp(0)", "2024-01-01 10:00:00.4", "2024-02-29"),
        ("timestamptz", "2024-01-01T10:00:00+02:00", "2024-01-01T10:00:00Z"),
        ("interval", "90 min", "1 day"),
        ("json", {"b": 1, "a": [True, None]}, [1, 2]),
        ("jsonb", {"b": 1, "a": [True, None]}, [1, 2]),
        ("int[]", [1, None, 3], []),
        ("text[]", ['a"b\\', "NULL", "x,y"], [["a", "b"], ["c", "d"]]),
        ("varchar(4)[]", ["abcd"], ["a"]),
        ("bit(3)", "101", "010"),
        ("bytea", "\\x00ff", "\\x"),
        ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc999c0b4ef8bb6d6bb9bd380a12"),
        ("inet", "10.0.0.1", "10.0.0.0/8"),
        ("point", "(1,2)", "(3,4)"),
        ("xml", "<a/>", "<b/>"),
        ("boolean", True, "off"),
        ("double precision", 0.1, "NaN"),
        ('"%mood"', "it's", "ok"),
        ("short", "abc", "abcd"),
    ],
)
def test_every_type_is_set_once_and_taken_back(server: PostgresServer, kind: str, first: Any, second: Any) -> None:
    server.query("""CREATE TYPE "%mood" AS ENUM ('it''s', 'ok')""")
    server.query("CREATE DOMAIN short AS varchar(4)")
    server.query(f'CREATE TABLE typed (id int PRIMARY KEY, "v %" {kind})')
    server.query("INSERT INTO typed VALUES (1, NULL), (2, NULL)")
    for value in (first, second, None):
        done = row(server, table="typed", match={"id": 1}, set={"v %": value}, returning=["v %"])
        assert (done["changed"], done.get("verify", {}).get("ok")) == (True, True), done.get("msg")
        assert row(server, table="typed", match={"id": 1}, set={"v %": value})["changed"] is False
        if value is not second:
            continue
        # PostgreSQL's own text of the old value is taken as it is.
        back = call("postgres_row", **done["undo"][0]["args"], **server.connection())
        assert back["changed"] is True
        assert back["undo"][0]["args"]["set"] == {"v %": done["rows"]["list"][0]["v %"]}
    assert server.query('SELECT count(*) FROM typed WHERE id = 2 AND "v %" IS NULL') == [(1,)]


@pytest.mark.parametrize("kind", ["varchar(4)", "char(4)", "bit(3)", "varchar(4)[]"])
def test_what_is_too_long_is_not_cut(server: PostgresServer, kind: str) -> None:
    server.query(f"CREATE TABLE typed (id int PRIMARY KEY, v {kind})")
    server.query("INSERT INTO typed VALUES (1, NULL)")
    value = {"bit(3)": "10101", "varchar(4)[]": ["abcdefgh"]}.get(kind, "abcdefgh")
    result = row(server, table="typed", match={"id": 1}, set={"v": value})
    assert (result["error"]["kind"], result["error"]["code"]) == ("precondition", "bad_value")
    assert server.query("SELECT v FROM typed") == [(None,)]


def test_a_stuck_status_is_released_once(server: PostgresServer) -> None:
    """The column is in match and in set: a second run finds it done."""
    task = {"match": {"id": 1, "owner": "a"}, "set": {"owner": "z"}, "expect_rows": 1}
    assert [row(server, **task)["changed"] for _run in range(2)] == [True, False]
    server.query("UPDATE keys SET owner = 'c' WHERE id = 1")
    assert row(server, **task)["error"]["code"] == "no_row"


def test_returns_the_columns_asked_for_as_they_are_in_the_end(server: PostgresServer) -> None:
    task = {"match": {"id": 2}, "set": {"revoked": True}, "returning": ["revoked", "owner"]}
    checked = row(server, check=True, **task)
    done = row(server, **task)
    assert checked["rows"] == done["rows"]
    assert done["rows"]["list"] == [{"id": "2", "revoked": "true", "owner": "a"}]


def test_hidden_columns_are_never_shown(server: PostgresServer) -> None:
    server.query("ALTER TABLE keys ADD token text, ADD number int")
    server.query("UPDATE keys SET token = 'hunter1'")
    task = {"match": {"id": 1, "token": "hunter1"}, "returning": ["token"], "hide": ["token", "number"]}
    done = row(server, set={"token": "hunter2"}, **task)
    assert done["changed"] is True
    failed = row(server, match={"id": 1}, set={"number": "hunter3"}, hide=["number"])
    assert failed["error"]["code"] == "bad_value"
    assert "hunter" not in f"{done}{failed}"
    assert done["diff"]["before"] != done["diff"]["after"]
    assert "args" not in done["undo"][0]
    assert server.query("SELECT token FROM keys WHERE id = 1") == [("hunter2",)]


def meddling(monkeypatch: pytest.MonkeyPatch, server: PostgresServer, statement: str) -> None:
    """Somebody else comes between the plan and the write."""
    from ansible_collections.sre.runbooks.plugins.modules import postgres_row

    planned = postgres_row.plan_of

    def plan_of(*args: Any) -> Any:
        found = planned(*args)
        server.query(statement)
        return found

    monkeypatch.setattr(postgres_row, "plan_of", plan_of)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE keys SET owner = 'theirs' WHERE id = 1",
        "DELETE FROM keys WHERE id = 1",
        "INSERT INTO keys VALUES (7, 'a', false)",
        "UPDATE keys SET revoked = true WHERE id = 1",
    ],
)
def test_notices_that_somebody_else_was_there(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    meddling(monkeypatch, server, statement)
    result = row(server, match={"owner": "a", "revoked": False}, set={"owner": "x"}, max_rows=2)
    assert (result["error"]["kind"], result["error"]["code"]) == ("conflict", "changed_meanwhile")
    assert (result["changed"], server.query("SELECT count(*) FROM keys WHERE owner = 'x'")) == (False, [(0,)])


def test_a_write_that_waits_for_another_does_not_overwrite_it(server: PostgresServer) -> None:
    """The other transaction holds the row while we write, and then commits another value."""
    with contextlib.closing(server.connect(autocommit=False)) as other, ThreadPoolExecutor(1) as pool:
        other.cursor().execute("UPDATE keys SET revoked = NULL, owner = 'theirs' WHERE id = 1")
        waits = pool.submit(row, server, match={"id": 1}, set={"revoked": True})
        asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        wait_until(lambda: server.query(asked) == [(1,)], 3, "a waiting write")
        other.commit()
        result = waits.result()
    assert (result["error"]["kind"], result["error"]["code"]) == ("conflict", "changed_meanwhile")
    assert server.query("SELECT owner, revoked FROM keys WHERE id = 1") == [("theirs", None)]


def test_a_row_that_is_locked_is_not_waited_for_long(server: PostgresServer) -> None:
    with contextlib.closing(server.connect(autocommit=False)) as other:
        other.cursor().execute("UPDATE keys SET revoked = NULL WHERE id = 1")
        result = row(server, match={"id": 1}, set={"revoked": True}, lock_timeout=0.2)
        assert (result["error"]["code"], result["error"]["retryable"]) == ("lock_timeout", True)


def test_somebody_who_sets_the_same_is_no_error(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    meddling(monkeypatch, server, "UPDATE keys SET revoked = true WHERE id = 1")
    result = row(server, match={"id": 1}, set={"revoked": True})
    assert (result["changed"], result["spared"][0]["reason"]) == (False, "somebody else has set it meanwhile")


def test_triggers_are_told_and_what_they_hold_back_is_an_error(server: PostgresServer) -> None:
    server.query("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    server.query("CREATE TRIGGER nothing BEFORE UPDATE ON keys FOR EACH ROW EXECUTE FUNCTION no()")
    result = row(server, match={"id": 1}, set={"revoked": True})
    assert result["findings"][0]["evidence"] == {"triggers": ["nothing"]}
    assert (result["error"]["code"], "nothing" in result["msg"]) == ("changed_meanwhile", True)
    server.query(
        "CREATE OR REPLACE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.owner=0; RETURN NEW; END'"
    )
    assert row(server, match={"id": 1}, set={"revoked": True})["verify"]["ok"] is True
    assert row(server, match={"id": 1}, set={"owner": "x"})["error"]["kind"] == "verify_failed"


def test_row_level_security_is_a_hint(server: PostgresServer) -> None:
    for statement in (
        "ALTER TABLE keys ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY own ON keys USING (owner = 'b')",
        "GRANT SELECT, UPDATE ON keys TO app",
    ):
        server.query(statement)
    hidden = row(server, role="app", match={"id": 1}, set={"revoked": True})
    assert (hidden["error"]["code"], "Row-level security" in hidden["msg"]) == ("no_row", True)
    done = row(server, role="app", match={"id": 3}, set={"revoked": True})
    assert (done["changed"], [one["id"] for one in done["findings"]]) == (True, ["postgres.row_policies"])


def test_partitions_views_and_other_relations(server: PostgresServer) -> None:
    for statement in (
        "CREATE TABLE parted (id int, day int, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
        "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20)",
        "INSERT INTO parted VALUES (1, 5, 'a'), (1, 15, 'a')",
        "CREATE VIEW shown AS SELECT * FROM keys",
        "CREATE VIEW counted AS SELECT owner, count(*) FROM keys GROUP BY owner",
        "CREATE MATERIALIZED VIEW kept AS SELECT * FROM keys",
        "CREATE TABLE base (id int PRIMARY KEY, note text)",
        "CREATE TABLE child () INHERITS (base)",
        "INSERT INTO base VALUES (1, 'a')",
        "INSERT INTO child VALUES (1, 'a')",
    ):
        server.query(statement)
    both = row(server, table="parted", match={"note": "a"}, set={"note": "b"}, max_rows=2)
    assert (both["plan"]["count"], server.query("SELECT count(*) FROM parted WHERE note = 'b'")) == (2, [(2,)])
    for table in ("shown", "counted", "kept"):
        refused = row(server, table=table, match={"owner": "b"}, set={"owner": "x"})
        assert (refused["error"]["kind"], refused["error"]["code"]) == ("unsupported", "not_a_table")
    assert row(server, table="counted", match={"owner": "b"}, set={"owner": "x"}, views=True)["failed"]
    assert row(server, table="shown", match={"id": 3}, set={"owner": "x"}, views=True)["changed"] is True
    twice = row(server, table="base", match={"note": "a"}, set={"note": "b"}, max_rows=5)
    assert twice["error"]["code"] == "no_key"


def test_a_match_uses_the_index(server: PostgresServer) -> None:
    server.query("INSERT INTO keys SELECT g, 'z' FROM generate_series(10, 20000) g")
    server.query("ANALYZE keys")
    scans = "SELECT coalesce(seq_scan, 0) FROM pg_stat_user_tables WHERE relname = 'keys'"
    before = server.query(scans)
    assert row(server, match={"id": 15000}, set={"revoked": True})["changed"] is True
    wait_until(lambda: server.query("SELECT idx_scan > 2 FROM pg_stat_user_tables WHERE relname = 'keys'")[0][0], 5, "")
    assert server.query(scans) == before


def test_an_approved_plan_is_of_its_rows_and_values(server: PostgresServer) -> None:
    approved = row(server, check=True, match={"id": 1}, set={"owner": "x"})["plan"]["id"]
    assert row(server, match={"id": 1}, set={"owner": "y"}, approved_plan=approved)["error"]["code"] == "stale_plan"
    assert row(server, match={"id": 2}, set={"owner": "x"}, approved_plan=approved)["error"]["code"] == "stale_plan"
    assert row(server, match={"id": 1}, set={"owner": "x"}, approved_plan=approved)["changed"] is True


def test_through_a_pooler(server: PostgresServer, postgres_lab: Lab) -> None:
    try:
        pool = postgres_lab.start(start_pgbouncer, server, "transaction")
    except LabError as error:
        pytest.skip(str(error))
    task = {"table": "keys", "match": {"owner": "a"}, "set": {"revoked": True}, "max_rows": 2, **pool.connection()}
    assert [call("postgres_row", **task)["changed"] for _run in range(2)] == [True, False]


def test_a_role_without_the_right(server: PostgresServer) -> None:
    result = row(server, role="nobody_special", match={"id": 1}, set={"owner": "x"})
    assert (result["error"]["kind"], result["changed"]) == ("forbidden", False)


def test_a_standby_is_refused(postgres_pair: PostgresPair) -> None:
    result = row(postgres_pair.standby, match={"id": 1}, set={"owner": "x"})
    assert (result["error"]["kind"], result["error"]["code"]) == ("precondition", "read_only")


def test_shipped_and_in_process_are_the_same(server: PostgresServer) -> None:
    task = {
        "sre.runbooks.postgres_row": {"table": "keys", "match": {"id": 1}, "set": {"owner": "x"}, **server.connection()}
    }
    here = play([task], check=True).result()
    shipped = play([{**task, "environment": {"X": "y"}}], check=True).result()
    same = ("changed", "actions", "diff", "plan", "undo", "rows")
    assert {key: here[key] for key in same} == {key: shipped[key] for key in same}
