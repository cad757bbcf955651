# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sections fail each for itself, and what several need is asked once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import Kind, OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._core.plan import Target
from ansible_collections.sre.runbooks.plugins.module_utils._postgres import queries
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.client import Postgres
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.facts import Look, _plain, read_facts
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.scope import thresholds_of

BASICS = {
    "settings": [
        {"name": "max_connections", "value": "100", "unit": None, "type": "integer", "pending": False},
        {"name": "superuser_reserved_connections", "value": "3", "unit": None, "type": "integer", "pending": False},
        {"name": "reserved_connections", "value": "5", "unit": None, "type": "integer", "pending": False},
        {"name": "archive_mode", "value": "on", "unit": None, "type": "enum", "pending": False},
        {"name": "archive_command", "value": "cp", "unit": None, "type": "string", "pending": False},
    ],
    "overrides": None,
    "statements": None,
    "counted_seconds": None,
    "uptime_seconds": 5.0,
}
SESSIONS: dict[str, Any] = {"used": 92, "walsenders": 0, "waiting": 0, "states": {"idle in transaction (aborted)": 92}}
SESSIONS |= {"groups": None, "limits": None, "sessions": None}
ARCHIVER = {
    "archived": 1,
    "failed": 1,
    "last_failed_wal": "x",
    "last_archived_seconds": 9.0,
    "last_failed_seconds": 5.0,
}


class FakeSession:
    """Answers by question; what it was not told fails, as on a server that is too sick."""

    pooled = False
    notices = ()

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def rows(self, sql: str, values: Mapping[str, Any] | None = None) -> list[Any]:
        self.asked.append(sql)
        if sql not in self.answers:
            raise OpsError(Kind.TIMEOUT, "too slow", "Wait.", "statement_timeout")
        return [self.answers[sql]]

    def hang_up(self) -> None:
        raise AssertionError("nobody waited")


def patient(session: FakeSession, *memberships: str, standby: bool = False) -> Postgres:
    target = Target("postgres", "h:1/app", "1")
    return Postgres(target, session, 160003, standby, "monitor", False, frozenset(memberships), "app")  # type: ignore[arg-type]


ANSWERS = {queries.BASICS: BASICS, queries.SESSIONS: SESSIONS, queries.ARCHIVER: ARCHIVER}


def test_each_section_fails_for_itself_and_each_question_is_asked_once() -> None:
    session = FakeSession(ANSWERS)
    look = Look(frozenset({"connections", "activity", "indexes", "bloat", "archiver"}))
    facts = read_facts(patient(session, "pg_read_all_stats"), look)
    assert facts.connections
    assert (facts.connections.limit, facts.connections.reserved) == (92, 8)
    assert facts.connections.states == {"idle_in_transaction_aborted": 92}
    assert (facts.indexes, facts.bloat) == (None, None)
    assert facts.unseen
    assert set(facts.unseen) == {"indexes", "bloat", "holders"}
    assert facts.unseen["bloat"]["kind"] == "timeout"
    assert len(session.asked) == len(set(session.asked))


def test_without_the_right_nothing_is_even_asked() -> None:
    session = FakeSession(ANSWERS)
    facts = read_facts(patient(session), Look(frozenset({"connections", "activity", "locks"})))
    assert facts.unseen
    assert {why["kind"] for why in facts.unseen.values()} == {"forbidden"}
    assert session.asked == []


@pytest.mark.parametrize(("standby", "failing"), [(False, True), (True, False)])
def test_only_a_primary_archives(standby: bool, failing: bool) -> None:
    facts = read_facts(patient(FakeSession(ANSWERS), standby=standby), Look(frozenset({"archiver"})))
    assert facts.archiver
    assert facts.archiver.failing is failing


def test_a_bug_is_not_taken_for_a_sick_server() -> None:
    with pytest.raises(KeyError):
        read_facts(patient(FakeSession({queries.ARCHIVER: {}, queries.BASICS: BASICS})), Look(frozenset({"archiver"})))


@pytest.mark.parametrize(
    ("value", "unit", "kind", "expected"),
    [
        ("5000", "ms", "integer", 5.0),
        ("2", "min", "integer", 120.0),
        ("16384", "8kB", "integer", 128 << 20),
        ("-1", "ms", "integer", -1),
        ("0.5", None, "real", 0.5),
        ("on", None, "bool", "on"),
        (None, None, "string", None),
    ],
)
def test_settings_are_seconds_and_bytes(value: str | None, unit: str | None, kind: str, expected: Any) -> None:
    assert _plain(value, unit, kind) == expected


def test_pools_are_added_up_at_their_worst() -> None:
    plain = dict.fromkeys(
        [
            *("connections_ratio", "xact_seconds", "idle_xact_seconds", "lag_seconds", "wraparound_ratio"),
            *("dead_ratio", "bloat_ratio", "stale_ratio", "slow_seconds", "heavy_share"),
        ],
        0.5,
    )
    pool = {"name": "web", "size": 10, "overflow": 5, "replicas": 3, "surge": 1}
    limits = thresholds_of({**plain, "lock_wait": "2m", "lag_bytes": "1mb", "pools": [pool, {**pool, "surge": 0}]})
    assert (limits.pool_connections, limits.lock_wait, limits.lag_bytes) == (105, 120, 1 << 20)
    with pytest.raises(OpsError, match="xact_seconds"):
        thresholds_of({**plain, "xact_seconds": -1, "lock_wait": "2m", "lag_bytes": "1mb", "pools": []})
