# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One suite over both ways to a PostgreSQL: its own address, and a pooler that shares its connections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import Kind, OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.client import Postgres, connect
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.errors import translate
from tests.lab import fixtures
from tests.lab.process import LabError
from tests.lab.world import Lab

postgres_lab = fixtures.postgres_lab


@pytest.fixture(params=["direct", "pooled"])
def way(request: pytest.FixtureRequest, postgres_lab: Lab) -> Iterator[Postgres]:
    from tests.lab.postgres_servers import start_pgbouncer, start_postgres

    server: Any = postgres_lab.start(start_postgres)
    if request.param == "pooled":
        try:
            server = postgres_lab.start(start_pgbouncer, server, mode="transaction")
        except LabError as error:
            pytest.skip(str(error))
    with connect(server.connection()) as postgres:
        yield postgres


def test_it_knows_what_stands_in_between(way: Postgres, request: pytest.FixtureRequest) -> None:
    assert way.session.pooled is ("pooled" in request.node.name)
    assert way.target.role == "primary"
    assert way.superuser


@pytest.mark.parametrize("value", ["x", "it's", '"', "100%", "%s", "\\", "ü\n", "'; DROP TABLE x; --"])
def test_values_are_bound_and_quoted(way: Postgres, value: str) -> None:
    assert way.session.rows("SELECT %(value)s::text AS back", {"value": value}) == [{"back": value}]
    assert way.session.command("SELECT %L::text AS %I", value, value) == [{value: value}]


def test_null_stays_null(way: Postgres) -> None:
    assert way.session.command("SELECT %L::text AS back", None) == [{"back": None}]


@pytest.mark.parametrize(
    ("statement", "kind", "code"),
    [
        ("SELECT * FROM nothing", Kind.NOT_FOUND, "no_such_table"),
        ("SELECT 1 / 0", Kind.PRECONDITION, "bad_value"),
    ],
)
def test_a_failure_has_its_kind_and_leaves_the_session_usable(
    way: Postgres, statement: str, kind: Kind, code: str
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011  (the driver's own, translated below)
        way.session.rows(statement)
    found = translate(caught.value)
    assert found is not None
    assert (found.kind, found.code) == (kind, code)
    assert way.session.rows("SELECT 1 AS one") == [{"one": 1}]


def test_what_must_not_stand_in_a_transaction(way: Postgres) -> None:
    way.session.rows("CREATE TABLE IF NOT EXISTS spare (id int)")
    if way.session.pooled:
        with pytest.raises(OpsError) as caught:
            way.session.isolated("VACUUM %I", "spare")
        assert caught.value.code == "pooled"
    else:
        way.session.isolated("VACUUM %I", "spare", settings={"lock_timeout": "123ms"})
    (row,) = way.session.rows("SELECT current_setting('lock_timeout') AS wait")
    assert row["wait"] == "3s"
