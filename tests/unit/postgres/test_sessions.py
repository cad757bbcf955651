# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which sessions a selection means, why others stay, and how those that go are signalled, without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._core.plan import Target
from ansible_collections.sre.runbooks.plugins.module_utils._postgres import prepared
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.census import Census, take_census
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.client import Postgres, Row
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.hazards import reason_to_spare
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.sessions import (
    CLIENT,
    Backend,
    Wanted,
    by_kind,
    spared_classes,
)
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.signals import SLICE, Campaign

NAMES = ("database", "role", "application", "client_addr", "query_regex", "min_state_age", "min_xact_age")
OPTIONS: dict[str, Any] = {
    **dict.fromkeys((*NAMES, "min_query_age", "blocking", "root_blockers_only", "queued_ddl")),
    **{"state": "any", "superusers": False, "action": "cancel_then_terminate", "protect": []},
}
START = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
WEB = Backend(412, START, CLIENT, "app", "app", "web-1", "10.0.0.7", "idle", 700.0, None, None)
BUSY = replace(WEB, state="active", xact_age=90.0, query_age=60.0)


def wanted(**options: Any) -> Wanted:
    return Wanted.of({**OPTIONS, "application": "web*", "min_state_age": "10m", **options})


class FakeSession:
    """Answers each statement with the rows of the first part that stands in it."""

    pooled = False
    notices: Sequence[str] = ()

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    def rows(self, sql: str, values: Mapping[str, Any] | None = None) -> list[Row]:
        self.asked.append((sql, values or {}))
        answer = next((answer for part, answer in self.answers.items() if part in sql), [])
        found: list[Row] = answer(values) if callable(answer) else answer
        return found

    def command(self, template: str, *names: str, values: Mapping[str, Any] | None = None) -> list[Row]:
        return self.rows(template, values)

    def isolated(self, template: str, *names: str, settings: Mapping[str, str] | None = None) -> None:
        self.asked.append((template, dict(enumerate(map(str, names)))))  # type: ignore[arg-type]

    def hang_up(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def server(session: FakeSession, *, superuser: bool = True, memberships: frozenset[str] = frozenset()) -> Postgres:
    target = Target("postgres", "db:5432/app", "7")
    return Postgres(target, session, 150004, False, "operator", superuser, memberships, "app")


@pytest.mark.parametrize(
    ("options", "fields", "meant"),
    [
        ({}, {}, True),
        ({}, {"state_age": 599.0}, False),
        ({}, {"state_age": None}, False),
        ({}, {"application": "worker"}, False),
        ({}, {"hidden": True}, False),
        ({"state": "idle"}, {}, True),
        ({"state": "idle"}, {"state": "idle in transaction"}, False),
        ({"application": None, "role": "a?p"}, {}, True),
        ({"role": "other"}, {}, False),
        ({"database": "[ab]pp"}, {}, True),
        ({"application": ""}, {}, False),
        ({"application": "", "role": "app"}, {"application": ""}, True),
        ({"client_addr": "10.0.0.0/8"}, {}, True),
        ({"client_addr": "10.0.0.8"}, {}, False),
        ({"client_addr": "::/0"}, {}, False),
        ({"client_addr": "10.0.0.0/8"}, {"address": ""}, False),
        ({"query_regex": "x"}, {"query_matches": False}, False),
        ({"min_xact_age": "1m"}, {"xact_age": 61.0}, True),
        ({"min_xact_age": "1m"}, {}, False),
        ({"blocking": True}, {}, False),
        ({"blocking": True}, {"blocks": 1, "waits": True}, True),
        ({"root_blockers_only": True}, {"blocks": 1, "waits": True}, False),
        ({"root_blockers_only": True}, {"blocks": 1}, True),
        ({"queued_ddl": True}, {"waits": True}, False),
        ({"queued_ddl": True}, {"waits": True, "queued_ddl": True}, True),
    ],
)
def test_a_selection_means_those_that_fit_all_of_it(
    options: dict[str, Any], fields: dict[str, Any], meant: bool
) -> None:
    if options == {"application": ""}:
        options["client_addr"] = "10.0.0.0/8"
    assert wanted(**options).matches(replace(WEB, **fields)) is meant


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, ""),
        ({"own": True}, "a session of this collection"),
        ({"application": "sre.runbooks"}, "a session of this collection"),
        ({"kind": "walsender"}, "a walsender"),
        ({"kind": "parallel worker", "leader": 7}, "a parallel worker"),
        ({"kind": "autovacuum worker"}, "autovacuum"),
        ({"kind": "autovacuum worker", "speech": "wraparound"}, "vacuums to prevent wraparound"),
        ({"kind": "logical replication worker"}, "not a client: logical replication worker"),
        ({"kind": ""}, "not a client: process of an unknown kind"),
        ({"application": "pg_dump"}, "protected by pg_dump"),
        ({"application": "pgBackRest [backup]"}, "protected by pgbackrest*"),
        ({"application": "barman_receive_wal"}, "protected by barman*"),
        ({"application": "Patroni heartbeat"}, "protected by patroni*"),
        ({"user": "rdsadmin"}, "protected by rdsadmin"),
        ({"application": "billing-3"}, "protected by billing*"),
        ({"user": "billing"}, "protected by billing*"),
        ({"superuser": True}, "a superuser"),
        ({"replication": True}, "its role is for replication"),
        ({"advisory": True}, "holds an advisory lock"),
        ({"exports_snapshot": True}, "has exported its snapshot"),
        ({"speech": "snapshot"}, "has exported its snapshot"),
        ({"slot": True}, "reads a replication slot"),
        ({"work": "CREATE INDEX or REINDEX"}, "runs CREATE INDEX or REINDEX"),
        ({"work": "COPY"}, "runs COPY"),
        ({"speech": "copy"}, "copies rows"),
        ({"speech": "listen"}, "listens"),
        ({"speech": "backup"}, "a base backup"),
        ({"wait_event": "SyncRep"}, "has committed"),
    ],
)
def test_why_a_session_stays(fields: dict[str, Any], reason: str) -> None:
    found = reason_to_spare(replace(WEB, **fields), wanted(protect=["billing*"]))
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


def test_what_is_asked_for_does_not_stay() -> None:
    assert reason_to_spare(replace(WEB, superuser=True, replication=True), wanted(superusers=True)) == ""
    assert reason_to_spare(WEB, wanted(action="cancel")) == "is idle: there is nothing to cancel"
    assert reason_to_spare(BUSY, wanted(action="cancel")) == ""


@pytest.mark.parametrize(
    "options",
    [
        {"application": "*"},
        {"application": ""},
        {"application": "?*", "role": "*"},
        {"application": None, "blocking": True},
        {"application": None, "client_addr": "0.0.0.0/0"},
        {"client_addr": "somewhere"},
        {"min_state_age": None},
        {"min_state_age": "0"},
        {"min_state_age": "soon"},
        {"query_regex": "a\0b"},
        {"query_regex": "a\ud800b"},
        {"min_query_age": "5m", "state": "idle in transaction"},
        {"min_xact_age": "5m", "state": "idle in transaction (aborted)"},
    ],
)
def test_a_selection_that_is_none_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OpsError) as refused:
        wanted(**options)
    assert refused.value.code == "bad_parameter"


def test_many_that_are_spared_alike_are_one_class() -> None:
    few = [(replace(WEB, pid=number), "listens") for number in range(50)]
    assert len(spared_classes(few)) == 50
    many = spared_classes([*few, (WEB, "listens"), (replace(WEB, application="b"), "listens")])
    assert [(one.subject, one.count) for one in many] == [
        ("user=app application=web-1", 51),
        (replace(WEB, application="b").subject, 1),
    ]


def test_who_they_are() -> None:
    kinds = by_kind([WEB, WEB, BUSY])
    assert [(kind["state"], kind["count"]) for kind in kinds] == [("idle", 2), ("active", 1)]
    assert "query" not in WEB.as_dict()


def row(backend: Backend) -> dict[str, Any]:
    return {name: getattr(backend, name) for name in Backend.__dataclass_fields__ if name != "exports_snapshot"}


def census_of(*members: Backend, **options: Any) -> Census:
    answers = {"has_function_privilege": [{"may": False}], "AS query_matches": [row(member) for member in members]}
    return take_census(server(FakeSession(**answers), superuser=False), wanted(**options))


class TestCensus:
    def test_sorts_everybody(self) -> None:
        news = replace(WEB, pid=2, speech="listen")
        mute = replace(WEB, pid=3, state="disabled", state_age=None)
        census = census_of(WEB, news, mute, replace(WEB, pid=4, application="cron"))
        assert census.selected == (WEB,)
        assert [(one.pid, why.partition(":")[0]) for one, why in census.spared] == [
            (2, "listens for notifications"),
            (3, "its state is unknown"),
        ]
        assert len(census.clients) == 4

    def test_what_is_hidden_is_an_error_only_where_it_may_matter(self) -> None:
        dark = replace(WEB, pid=9, started=None, kind="", state="", state_age=None, hidden=True)
        process = replace(dark, user="", application="")
        assert census_of(WEB, process, replace(dark, application="cron")).selected == (WEB,)
        with pytest.raises(OpsError, match="cannot see the state of 1 sessions") as refused:
            census_of(WEB, process, dark)
        assert (refused.value.kind, "pg_read_all_stats" in refused.value.hint) == ("forbidden", True)

    def test_who_cannot_be_signalled_stops_it_all(self) -> None:
        with pytest.raises(OpsError, match="may not signal 1 of 2") as refused:
            census_of(WEB, replace(WEB, pid=2, signallable=False))
        assert "pg_signal_backend" in refused.value.hint


def campaign_of(session: FakeSession, *members: Backend, grace: float = 0.0, **options: Any) -> Campaign:
    return Campaign(server(session), Census(members, members, ()), wanted(**options), grace)


def outcome(campaign: Campaign) -> list[tuple[int, str]]:
    return [(done.count, done.note) for done in (step.act(lambda _line: None) for step in campaign.steps())]


def sent_to(values: Mapping[str, Any]) -> list[Row]:
    pairs = zip(values["pids"], values["starts"], strict=True)
    return [{"pid": pid, "started": start, "query_start": START, "sent": True} for pid, start in pairs]


class TestSignals:
    def test_hundreds_are_a_few_statements(self) -> None:
        session = FakeSession(pg_terminate_backend=sent_to)
        crowd = [replace(WEB, pid=number, started=START + timedelta(seconds=number)) for number in range(3 * SLICE)]
        assert outcome(campaign_of(session, *crowd)) == [(1, "")] * len(crowd)
        assert [len(values["pids"]) for _sql, values in session.asked] == [SLICE] * 3

    def test_names_are_bound(self) -> None:
        session = FakeSession(pg_terminate_backend=sent_to)
        outcome(campaign_of(session, replace(WEB, application="web'; DROP")))
        (statement, values), *_rest = session.asked
        assert ("DROP" in statement, values["names"]) == (False, ["web'; DROP"])

    def test_who_is_not_signalled_has_gone_or_woken_up(self) -> None:
        woken = replace(WEB, pid=2)
        now = [{"pid": 2, "started": START, "state": "active", "age": 0}]
        found = outcome(campaign_of(FakeSession(**{"AS sent": [], "AS age": now}), WEB, woken))
        assert found == [(0, "it has gone by itself"), (0, "it is no longer as planned: active for 0 s")]

    def test_a_failure_half_way_keeps_what_was_done(self) -> None:
        crowd = [replace(WEB, pid=number) for number in range(SLICE + 1)]

        def break_down(values: Mapping[str, Any]) -> list[Row]:
            if SLICE in values["pids"]:
                raise OSError("gone")
            return sent_to(values)

        steps = campaign_of(FakeSession(pg_terminate_backend=break_down), *crowd).steps()
        assert sum(step.act(lambda _line: None).count for step in steps[:SLICE]) == SLICE
        with pytest.raises(OSError, match="gone"):
            steps[SLICE].act(lambda _line: None)

    def test_a_statement_is_cancelled_and_only_then_its_session_ended(self) -> None:
        session = FakeSession(pg_cancel_backend=sent_to, pg_terminate_backend=sent_to, true=sent_to)
        campaign = campaign_of(session, BUSY, min_state_age=None, min_query_age="1m")
        assert outcome(campaign) == [(1, "")]
        acts = [next(act for act in ("cancel", "terminate", "true") if act in sql) for sql, _values in session.asked]
        assert acts == ["cancel", "true", "terminate"]
        assert (campaign.ending(), campaign.terminated) == (0, {BUSY.key})

    def test_a_statement_that_stopped_costs_no_session(self) -> None:
        session = FakeSession(pg_cancel_backend=sent_to)
        campaign = campaign_of(session, BUSY, WEB)
        assert [step.subject for step in campaign.steps()] == [WEB.subject, BUSY.subject]
        campaign = campaign_of(session, BUSY)
        assert outcome(campaign) == [(1, "")]
        assert (campaign.terminated, set(campaign.cancelled)) == (set(), {BUSY.key})


PREPARED = {"gid": "it's", "prepared": START, "owner": "app", "database": "app", "age": 912.5, "blocks": 2}


class TestPrepared:
    def test_is_rolled_back_by_its_name(self) -> None:
        session = FakeSession(**{"AS blocks": [PREPARED], "gid = %(gid)s": [{"gid": "it's"}]})
        found = prepared.prepared_transactions(server(session))
        (step,) = prepared.steps(server(session), found, ["it's", "gone"])
        assert step.act(lambda _line: None).count == 1
        assert session.asked[-1] == ("ROLLBACK PREPARED %L", {0: "it's"})
        assert [finding.subject for finding in prepared.blocking(found)] == ["it's"]

    def test_another_of_that_name_is_left_alone(self) -> None:
        session = FakeSession(**{"AS blocks": [PREPARED]})
        (step,) = prepared.steps(server(session), prepared.prepared_transactions(server(session)), ["it's"])
        assert step.act(lambda _line: None).count == 0

    def test_takes_its_owner_its_database_and_a_primary(self) -> None:
        session = FakeSession(**{"AS blocks": [PREPARED]})
        found = prepared.prepared_transactions(server(session))
        for postgres, code in (
            (server(session, superuser=False), "privilege"),
            (replace(server(session), database="other"), "wrong_database"),
            (replace(server(session), standby=True), "read_only"),
        ):
            with pytest.raises(OpsError) as refused:
                prepared.steps(postgres, found, ["it's"])
            assert refused.value.code == code
