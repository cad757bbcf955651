# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_row on a real server: the row that is meant, in its own type, and never another."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.postgres_servers import PostgresPair, PostgresServer
from tests.lab.postgres_witness import fingerprint, statements
from tests.support import call, play


@pytest.fixture
def server(postgres_single: PostgresServer) -> PostgresServer:
    postgres_single.query("""CREATE TABLE "Odd ""table"" 100%" (id int PRIMARY KEY, "the note" varchar(8), at date)""")
    postgres_single.query("""INSERT INTO "Odd ""table"" 100%" VALUES (1, 'one', NULL), (2, 'two', '2020-01-01')""")
    postgres_single.query("CREATE TABLE keys (id int PRIMARY KEY, owner text, revoked boolean, data jsonb)")
    postgres_single.query("INSERT INTO keys VALUES (1, 'a', false, '{}'), (2, 'a', false, NULL), (3, 'b', NULL, NULL)")
    return postgres_single


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
