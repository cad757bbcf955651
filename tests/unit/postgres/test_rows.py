# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A switch names columns that are there, and refuses whatever is not exactly what was meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._core.plan import Target
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.client import Postgres, Row
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.row_switch import beside, look, plan_of
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.rows import Found, Switch, refuse, shown, words
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.tables import Column, Table, as_text, read_table

FLAGS = Table(
    *("public", "flags", "public.flags"),
    {
        "flag": Column("flag", "flag", "text"),
        "enabled": Column("enabled", "enabled", "boolean"),
        "odd %s": Column("odd %s", '"odd %s"', "integer[]", array=True),
        "made": Column("made", "made", "text", generated=True),
        "closed": Column("closed", "closed", "text", readable=False, writable=False),
    },
    ("flag",),
)
KEYLESS = replace(FLAGS, key=(), triggers=("audit",))


def row(flag: str, old: str, new: str) -> Row:
    return {"c0": flag, "c1": old, "c2": new, "seen": f"{flag}{old}", "differs": old != new, "total": 1}


class Fake:
    """A session that answers from a list, the statements kept."""

    pooled = False
    notices = ()

    def __init__(self, *answers: list[Row]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    def rows(self, sql: str, values: Mapping[str, Any] | None = None) -> list[Row]:
        self.asked.append((sql, values or {}))
        return self.answers.pop(0)


def behind(session: Fake) -> Postgres:
    target = Target("postgres", "here", "1")
    return Postgres(target, session, 150000, False, "me", True, frozenset(), "app")  # type: ignore[arg-type]


def code(caught: pytest.ExceptionInfo[OpsError]) -> str:
    return caught.value.code


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("x", "x"),
        (True, "true"),
        (False, "false"),
        (1, "1"),
        (0.5, "0.5"),
        ({"a": [1, "ü"]}, '{"a": [1, "ü"]}'),
        ([1, None], "[1, null]"),
    ],
)
def test_values_are_texts_as_the_server_reads_them(value: Any, text: str | None) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "{}"),
        ([1, None, True], '{"1",NULL,"true"}'),
        (['a"b', "c\\d", "NULL", "x,y"], '{"a\\"b","c\\\\d","NULL","x,y"}'),
        ([[1], [2]], '{{"1"},{"2"}}'),
        ("{1}", "{1}"),
    ],
)
def test_lists_are_arrays_where_the_column_is_one(value: Any, text: str) -> None:
    assert as_text(value, array=True) == text


def test_a_zero_byte_is_no_text() -> None:
    with pytest.raises(OpsError) as caught:
        as_text("a\0b")
    assert code(caught) == "bad_value"


@pytest.mark.parametrize(
    ("match", "wanted", "more", "wrong"),
    [
        ({}, {"enabled": True}, (), "bad_parameter"),
        ({"flag": "x"}, {}, (), "bad_parameter"),
        ({"flag": "x"}, {"flag": "y"}, (), "bad_parameter"),
        ({"flag": "x"}, {"made": "y"}, (), "bad_parameter"),
        ({"falg": "x"}, {"enabled": True}, (), "no_such_column"),
        ({"flag": "x"}, {"enabled; DROP": True}, (), "no_such_column"),
        ({"flag": "x"}, {"enabled": True}, ("nothing",), "no_such_column"),
        ({"flag": "x"}, {"closed": True}, (), "privilege"),
        ({"closed": "x"}, {"enabled": True}, (), "privilege"),
        ({"flag": "x"}, {"enabled": True}, ("closed",), "privilege"),
    ],
)
def test_a_switch_that_makes_no_sense(
    match: dict[str, Any], wanted: dict[str, Any], more: tuple[str, ...], wrong: str
) -> None:
    with pytest.raises(OpsError) as caught:
        Switch.of(FLAGS, match, wanted, 1, more)
    assert code(caught) == wrong


def test_zero_is_never_unlimited() -> None:
    with pytest.raises(OpsError) as caught:
        Switch.of(FLAGS, {"flag": "x"}, {"enabled": True}, 0)
    assert code(caught) == "bad_parameter"


def test_a_column_in_both_needs_a_key() -> None:
    assert Switch.of(FLAGS, {"flag": "x", "enabled": True}, {"enabled": False}, 1).both == ("enabled",)
    with pytest.raises(OpsError) as caught:
        Switch.of(KEYLESS, {"enabled": True}, {"enabled": False}, 1)
    assert code(caught) == "no_key"


@pytest.mark.parametrize(
    ("table", "found", "most", "expected", "wrong"),
    [
        (FLAGS, 0, 1, None, "no_row"),
        (FLAGS, 2, 1, None, "max_rows"),
        (FLAGS, 2, 5, 3, "expect_rows"),
        (KEYLESS, 2, 5, None, "no_key"),
    ],
)
def test_other_rows_than_meant_are_refused(
    table: Table, found: int, most: int, expected: int | None, wrong: str
) -> None:
    switch = Switch.of(table, {"flag": "1"}, {"enabled": True}, most)
    with pytest.raises(OpsError) as caught:
        refuse(switch, found, expected)
    assert code(caught) == wrong


def test_policies_may_hide_a_row_and_that_is_said() -> None:
    switch = Switch.of(replace(FLAGS, policies=True), {"flag": "1"}, {"enabled": True}, 1)
    with pytest.raises(OpsError) as caught:
        refuse(switch, 0, None)
    assert "Row-level security" in caught.value.hint


def test_values_are_bound_and_percent_signs_in_names_survive() -> None:
    session = Fake([row("x", "f", "t")])
    switch = Switch.of(FLAGS, {"flag": "100%"}, {"odd %s": [1]}, 1)
    switch.read(session)  # type: ignore[arg-type]
    sql, values = session.asked[0]
    assert values == {"m0": "100%", "s0": '{"1"}'}
    assert (sql % dict.fromkeys(values, "?")).count('"odd %s"') > 2
    assert "100" not in sql
    assert "t.flag = %(m0)s::text::text" in sql


def test_null_is_matched_as_null() -> None:
    session = Fake([])
    Switch.of(FLAGS, {"enabled": None}, {"odd %s": []}, 1).read(session)  # type: ignore[arg-type]
    assert "t.enabled IS NULL" in session.asked[0][0]


def test_one_statement_for_all_rows_with_a_step_each() -> None:
    rows = [{**row("a", "f", "t"), "total": 2}, {**row("b", "f", "t"), "total": 2}]
    session = Fake(rows, [{"sure": 1}])
    switch = Switch.of(FLAGS, {"enabled": False}, {"odd %s": None}, 2)
    plan = plan_of(look(behind(session), switch, None))
    assert [step.subject for step in plan.steps] == ["public.flags flag=a", "public.flags flag=b"]
    assert [step.act(lambda _line: None).count for step in plan.steps] == [1, 1]
    assert len(session.asked) == 2
    assert session.asked[1][1] == {"m0": "false", "s0": None, "seen": ["af", "bf"], "total": 2, "count": 2}


def test_a_row_that_has_arrived_is_no_change_and_no_error() -> None:
    switch = Switch.of(FLAGS, {"flag": "a", "enabled": True}, {"enabled": False}, 1)
    done = plan_of(look(behind(Fake([], [row("a", "false", "false")])), switch, 1))
    assert (done.steps, done.facts["rows"]["matched"]) == ((), 1)
    with pytest.raises(OpsError) as caught:
        look(behind(Fake([], [])), switch, None)
    assert code(caught) == "no_row"


def test_what_is_hidden_is_masked_and_told_apart() -> None:
    table = replace(FLAGS, hidden=frozenset({"flag", "enabled"}))
    assert shown(table, {"flag": "hunter2", "enabled": None, "made": "x"}) == {
        "flag": "***",
        "enabled": None,
        "made": "x",
    }
    assert "hunter2" not in words(table, {"flag": "hunter2"})
    assert words(table, {"flag": "hunter2"}) != words(table, {"flag": "hunter3"})
    switch = Switch.of(table, {"flag": "hunter2"}, {"enabled": "hunter3"}, 1)
    plan = plan_of(look(behind(Fake([row("hunter2", "hunter1", "hunter3")])), switch, None))
    (step,) = plan.steps
    assert "hunter" not in f"{plan.before}{plan.after}{step.subject}{step.words}{step.undo.as_dict(step.subject)}"
    assert plan.before != plan.after


def test_long_values_stay_different_subjects() -> None:
    switch = Switch.of(FLAGS, {"flag": "x"}, {"enabled": True}, 1)
    subjects = {switch.subject(Found({"flag": "x" * 100 + end}, {}, {}, {}, "", True)) for end in "ab"}
    assert len(subjects) == 2


def test_triggers_and_policies_are_told() -> None:
    options = ({"flag": "x"}, {"enabled": True}, 1)
    assert beside(Switch.of(FLAGS, *options)) == ()
    assert beside(Switch.of(KEYLESS, *options))[0].evidence == {"triggers": ["audit"]}
    assert [one.id for one in beside(Switch.of(replace(FLAGS, policies=True), *options))] == ["postgres.row_policies"]


@pytest.mark.parametrize(
    ("catalog", "views", "wrong"),
    [
        ({"kind": "f"}, False, "not_a_table"),
        ({"kind": "v"}, False, "not_a_table"),
        ({"kind": "v", "updatable": False}, True, "not_a_table"),
        ({"schema": "pg_catalog"}, False, "protected"),
        ({"rules": True}, False, "rules"),
    ],
)
def test_what_is_no_table(catalog: dict[str, Any], views: bool, wrong: str) -> None:
    plain = {"schema": "public", "name": "t", "kind": "r", "updatable": True, "rules": False}
    with pytest.raises(OpsError) as caught:
        read_table(Fake([{**plain, **catalog}]), "t", views=views)  # type: ignore[arg-type]
    assert code(caught) == wrong
