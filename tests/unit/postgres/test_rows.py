# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A switch names columns that are there, and refuses whatever is not exactly what was meant."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._postgres.rows import (
    Switch,
    Table,
    as_text,
    beside,
    refuse,
)

TABLE = Table("public", "flags", {"flag": "text", "enabled": "boolean"}, ("flag",), ())
KEYLESS = Table("public", "log", {"id": "integer"}, (), ("audit",))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, None), ("x", "x"), (True, "true"), (False, "false"), (1, "1"), (0.5, "0.5"), ({"a": [1]}, '{"a": [1]}')],
)
def test_values_are_texts_as_the_server_reads_them(value: Any, text: str | None) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("match", "wanted", "code"),
    [
        ({}, {"enabled": True}, "bad_parameter"),
        ({"flag": "x"}, {}, "bad_parameter"),
        ({"falg": "x"}, {"enabled": True}, "no_such_column"),
        ({"flag": "x"}, {"enabled; DROP": True}, "no_such_column"),
    ],
)
def test_a_switch_that_makes_no_sense(match: dict[str, Any], wanted: dict[str, Any], code: str) -> None:
    with pytest.raises(OpsError) as caught:
        Switch.of(TABLE, match, wanted, 1)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("table", "found", "most", "expected", "code"),
    [
        (TABLE, 0, 1, None, "no_row"),
        (TABLE, 2, 1, None, "max_rows"),
        (TABLE, 2, 5, 3, "expect_rows"),
        (KEYLESS, 2, 5, None, "no_key"),
    ],
)
def test_other_rows_than_meant_are_refused(
    table: Table, found: int, most: int, expected: int | None, code: str
) -> None:
    column = next(iter(table.types))
    switch = Switch.of(table, {column: "1"}, {column: "2"}, most)
    with pytest.raises(OpsError) as caught:
        refuse(switch, [{column: "1"}] * found, expected)
    assert caught.value.code == code


def test_the_key_and_what_is_set_is_shown_and_nothing_else() -> None:
    assert Switch.of(TABLE, {"flag": "x"}, {"enabled": True}, 1).shown == ("flag", "enabled")


def test_triggers_are_told() -> None:
    assert beside(TABLE, "s") == ()
    assert beside(KEYLESS, "s")[0].evidence == {"triggers": ["audit"]}
