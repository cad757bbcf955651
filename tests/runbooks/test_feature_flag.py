# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""feature_flag: one row, only if it is there and different, and read back."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.postgres_servers import PostgresServer
from tests.lab.postgres_witness import fingerprint, statements
from tests.runbooks.harness import Runbook, actions, aimed_at_postgres, changes


@pytest.fixture
def patient(postgres_single: PostgresServer) -> PostgresServer:
    postgres_single.query("CREATE TABLE feature_flags (flag text PRIMARY KEY, enabled boolean NOT NULL)")
    postgres_single.query("INSERT INTO feature_flags VALUES ('replays', true), ('it''s 100%', true)")
    return postgres_single


def switch(server: PostgresServer, flag: str = "replays", enabled: Any = False) -> Runbook:
    return aimed_at_postgres(
        "feature_flag",
        server,
        flag_table="public.feature_flags",
        flag_match={"flag": flag},
        flag_set={"enabled": enabled},
    )


def rows(server: PostgresServer) -> dict[str, bool]:
    return dict(server.query("SELECT flag, enabled FROM feature_flags"))


@pytest.mark.compat
def test_break_and_mend(patient: PostgresServer) -> None:
    result = switch(patient).run()
    assert result.rc == 0, result.stdout
    assert rows(patient) == {"replays": False, "it's 100%": True}


def test_again(patient: PostgresServer) -> None:
    assert switch(patient).run().rc == 0
    second = switch(patient).run()
    assert (second.rc, changes(second), second.changed) == (0, [], False)


def test_check_tells_the_truth(patient: PostgresServer) -> None:
    before = fingerprint(patient)
    with statements(patient) as seen:
        checked = switch(patient).run("--diff", check=True)
        assert checked.rc == 0, checked.stdout
        assert not seen.writes("sre.runbooks")
    assert fingerprint(patient) == before
    assert actions(checked) == actions(switch(patient).run())


def test_killed_half_way(patient: PostgresServer) -> None:
    switch(patient).run_and_kill(
        lambda: bool(patient.query("SELECT 1 FROM pg_stat_activity WHERE application_name = 'sre.runbooks'"))
    )
    assert switch(patient).run().rc == 0
    assert rows(patient)["replays"] is False


@pytest.mark.parametrize("flag", ["repalys", "", "replays' OR '1'='1"])
def test_wrong_cause_no_such_flag(patient: PostgresServer, flag: str) -> None:
    before = rows(patient)
    result = switch(patient, flag).run()
    assert result.rc != 0
    assert (changes(result), rows(patient)) == ([], before)


def test_a_hostile_name_is_a_name(patient: PostgresServer) -> None:
    assert switch(patient, "it's 100%").run().rc == 0
    assert rows(patient) == {"replays": True, "it's 100%": False}
