# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""postgres_connections_exhausted: idle sessions of a named client go, nobody else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.lab import postgres_faults as faults
from tests.lab.postgres_servers import PostgresServer, start_postgres
from tests.lab.postgres_witness import statements
from tests.lab.world import Lab
from tests.runbooks.harness import Runbook, actions, aimed_at_postgres, changes, findings, message


@pytest.fixture
def server(postgres_lab: Lab) -> PostgresServer:
    return postgres_lab.start(start_postgres, config={"max_connections": "30"})


@pytest.fixture
def patient(server: PostgresServer) -> Iterator[PostgresServer]:
    """A web pool until nobody else gets in, among a cron job, a listener, a dump and a WAL receiver."""
    with ExitStack() as held:
        held.enter_context(faults.idle_sessions(server, 3, name="cron"))
        held.enter_context(faults.listener(server))
        held.enter_context(faults.advisory_lock_holder(server))
        held.enter_context(faults.receivewal(server))
        held.enter_context(faults.fill_connections(server, name="web"))
        time.sleep(1.2)  # they have to be idle for a second
        yield server


def free(server: PostgresServer, **declared: Any) -> Runbook:
    defaults = {"postgres_client_application": "web*", "postgres_client_min_idle": "1s", "postgres_settle": 5}
    return aimed_at_postgres("postgres_connections_exhausted", server, **{**defaults, **declared})


def names(server: PostgresServer) -> dict[str, int]:
    """How many sessions each application holds."""
    asked = "SELECT application_name, count(*) FROM pg_stat_activity WHERE backend_type <> 'checkpointer' GROUP BY 1"
    kept = ("", "sre.runbooks", "psql", "lab")
    return {name: number for name, number in server.query(asked, database="postgres") if name not in kept}


def test_break_and_mend_when_no_slot_is_free(patient: PostgresServer) -> None:
    before = names(patient)
    result = free(patient).run()
    assert result.rc == 0, result.stdout
    assert "postgres.connections_high" in findings(result)
    after = names(patient)
    assert "web" in before
    assert {name: number for name, number in before.items() if name != "web"} == after
    patient.connect("app", "app").close()


def test_again(patient: PostgresServer) -> None:
    assert free(patient).run().rc == 0
    second = free(patient).run()
    assert (second.rc, changes(second), second.changed) == (0, [], False)


def test_check_tells_the_truth(patient: PostgresServer) -> None:
    with statements(patient) as seen:
        checked = free(patient).run(check=True)
        assert checked.rc == 0, checked.stdout
        assert not seen.writes("sre.runbooks")
    assert sorted(actions(checked)) == sorted(actions(free(patient).run()))


def test_killed_half_way(patient: PostgresServer) -> None:
    full = names(patient)["web"]
    free(patient).run_and_kill(lambda: names(patient).get("web", 0) < full)
    result = free(patient, postgres_connections_ratio=0.01).run()
    assert "web" not in names(patient), result.stdout
    assert names(patient)["cron"] == 3


def test_wrong_cause_nobody_is_named(patient: PostgresServer) -> None:
    before = names(patient)
    result = free(patient, postgres_client_application=None).run()
    assert result.rc != 0
    assert '"web"' in message(result)
    assert (changes(result), names(patient)) == ([], before)


def test_wrong_cause_sessions_that_work(server: PostgresServer) -> None:
    """A surge is no leak: who works is not ended."""
    with ExitStack() as held:
        for _number in range(22):
            held.enter_context(faults.long_query(server, 30))
        result = free(server).run()
        assert result.rc != 0
        assert "postgres.connections_high" in message(result)
        assert changes(result) == []


def test_a_pool_budget_that_does_not_fit_is_named(patient: PostgresServer) -> None:
    pools = [{"name": "web", "size": 10, "overflow": 5, "replicas": 4, "surge": 1}]
    result = free(patient, postgres_pools=pools).run()
    assert "postgres.pools_above_limit" in findings(result)
