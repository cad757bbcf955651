# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_connect_failure names the stage that fails, and writes nothing."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from tests.lab import postgres_faults as faults
from tests.lab.postgres_servers import PostgresPair, PostgresServer, start_postgres
from tests.lab.postgres_witness import fingerprint, statements
from tests.lab.world import Lab
from tests.runbooks.harness import Runbook, aimed_at_postgres, changes, findings

NAME = "postgres_connect_failure"


def reach(connection: dict[str, Any]) -> list[str]:
    """Ids of the findings; the run itself must not fail."""
    result = Runbook(NAME, {"connect_timeout": 2, **connection}, product="postgres").run()
    assert result.rc == 0, result.stdout
    assert changes(result) == []
    return findings(result)


def test_break_and_mend_the_network(postgres_single: PostgresServer) -> None:
    connection = postgres_single.connection()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert "postgres.unreachable.timeout" in reach({**connection, "port": silent.getsockname()[1]})
    assert "postgres.unreachable.dns" in reach({**connection, "host": "no-such-host.invalid"})
    postgres_single.stop()
    assert "postgres.unreachable.refused" in reach(connection)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"password": "canary-wrong"}, "password"),
        ({"dbname": "no_such"}, "no_such_database"),
        ({"sslmode": "require"}, "tls"),
    ],
)
def test_break_and_mend_login(postgres_single: PostgresServer, wrong: dict[str, Any], code: str) -> None:
    assert f"postgres.unreachable.{code}" in reach({**postgres_single.connection(), **wrong})


def test_break_and_mend_no_slot(postgres_lab: Lab) -> None:
    server = postgres_lab.start(start_postgres, config={"max_connections": "12"})
    with faults.fill_connections(server):
        assert "postgres.unreachable.too_many_clients" in reach(server.connection("app"))


def test_again(postgres_single: PostgresServer) -> None:
    connection = {**postgres_single.connection(), "password": "canary-wrong"}
    assert reach(connection) == reach(connection)


def test_check_tells_the_truth(postgres_single: PostgresServer) -> None:
    before = fingerprint(postgres_single)
    with statements(postgres_single) as seen:
        result = aimed_at_postgres(NAME, postgres_single).run(check=True)
        assert not seen.writes("sre.runbooks")
    assert (result.rc, findings(result), fingerprint(postgres_single)) == (0, [], before)


def test_killed_half_way(postgres_single: PostgresServer) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begun = time.monotonic()
        Runbook(
            NAME, {**postgres_single.connection(), "port": silent.getsockname()[1]}, product="postgres"
        ).run_and_kill(lambda: time.monotonic() - begun > 1.5)
    assert reach(postgres_single.connection()) == []


def test_wrong_cause_a_standby_is_well(postgres_pair: PostgresPair) -> None:
    """It can be reached, and takes no writes by nature."""
    assert reach(postgres_pair.primary.connection()) == []
    assert reach(postgres_pair.standby.connection()) == ["postgres.unwritable.standby"]
