# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Environments by name: what the patch makes of a list is what was wanted, in the order of before."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.client import Patch
from ansible_collections.sre.runbooks.plugins.module_utils._k8s.env import edit_env, unresolved, wanted_env
from tests.fakes.kubernetes_patch import patched

REF = {"secretKeyRef": {"name": "db", "key": "password"}}
NOW = [
    {"name": "HOST", "value": "db"},
    {"name": "PASSWORD", "valueFrom": REF},
    {"name": "DSN", "value": "pg://$(HOST)"},
    {"name": "EMPTY"},
]


def applied(now: list[dict[str, Any]], **params: Any) -> list[dict[str, Any]]:
    """By the patch, as the API server would."""
    edit = edit_env(now, wanted_env(params))
    assert edit.patch
    found = patched({"env": now}, edit.fields, Patch.STRATEGIC)["env"]
    assert found == list(edit.after), "the prediction is another than what the patch does"
    return list(found)


@pytest.mark.parametrize(
    "params",
    [
        {"env": {"HOST": "db"}},
        {"env": {"EMPTY": ""}},
        {"env_from_secret": {"PASSWORD": {"name": "db", "key": "password", "optional": False}}},
        {"env_absent": ["NOBODY"]},
        {},
    ],
)
def test_what_is_so_already_needs_no_patch(params: dict[str, Any]) -> None:
    edit = edit_env(NOW, wanted_env(params))
    assert (edit.patch, edit.after, edit.touched) == ((), tuple(NOW), ())


def test_a_value_changes_in_its_place_and_a_new_one_comes_last() -> None:
    found = applied(NOW, env={"NEW": "1", "HOST": "db2"})
    assert [one["name"] for one in found] == ["HOST", "PASSWORD", "DSN", "EMPTY", "NEW"]
    assert found[0] == {"name": "HOST", "value": "db2"}
    assert found[1] == NOW[1]
    assert [one["name"] for one in applied(NOW, env={"Z": "1", "A": "2"})][-2:] == ["Z", "A"]


def test_a_patch_names_only_what_changes() -> None:
    edit = edit_env(NOW, wanted_env({"env": {"HOST": "db2", "EMPTY": ""}}))
    assert edit.patch == ({"name": "HOST", "value": "db2"},)


def test_a_value_takes_the_place_of_a_source_and_a_source_that_of_a_value() -> None:
    assert applied(NOW, env={"PASSWORD": "plain"})[1] == {"name": "PASSWORD", "value": "plain"}
    found = applied(NOW, env_from_config={"HOST": {"name": "cfg", "key": "host"}})
    assert found[0] == {"name": "HOST", "valueFrom": {"configMapKeyRef": {"name": "cfg", "key": "host"}}}


def test_another_source_takes_the_place_of_the_whole_source() -> None:
    found = applied(NOW, env_from_config={"PASSWORD": {"name": "cfg", "key": "p"}})
    assert found[1]["valueFrom"] == {"configMapKeyRef": {"name": "cfg", "key": "p"}}


def test_unset_takes_away_only_that() -> None:
    assert applied(NOW, env_absent=["DSN", "NOBODY"]) == [NOW[0], NOW[1], NOW[3]]
    assert applied([{"name": "A", "value": "1"}], env_absent=["A"]) == []


def test_names_that_stand_twice_become_one_with_the_value_in_force() -> None:
    twice = [{"name": "FLAG", "value": "off"}, *NOW, {"name": "FLAG", "value": "on"}]
    edit = edit_env(twice, wanted_env({"env": {"FLAG": "on"}}))
    assert edit.duplicates == ("FLAG",)
    found = applied(twice, env={"FLAG": "on"})
    assert found == [{"name": "FLAG", "value": "on"}, *NOW]
    assert edit_env(found, wanted_env({"env": {"FLAG": "on"}})).patch == ()
    assert applied(twice, env_absent=["FLAG"]) == NOW


def test_others_that_stand_twice_are_left_alone_while_nothing_changes() -> None:
    twice = [*NOW, NOW[0]]
    edit = edit_env(twice, wanted_env({"env": {"EMPTY": ""}}))
    assert (edit.patch, edit.duplicates) == ((), ("HOST",))


@pytest.mark.parametrize(
    "params",
    [
        {"env": {"A": True}},
        {"env": {"A": 1}},
        {"env": {"A": None}},
        {"env": {"A": "1"}, "env_absent": ["A"]},
        {"env": {"A": "1"}, "env_from_secret": {"A": {"name": "s", "key": "k"}}},
        {"env_from_secret": {"A": {"name": "s"}}},
        {"env_from_secret": {"A": "s/k"}},
        {"env_from_secret": {"A": {"name": "s", "key": "k", "kye": "k"}}},
    ],
)
def test_what_makes_no_sense_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(OpsError, match="A ") as caught:
        wanted_env(params)
    assert caught.value.code == "bad_parameter"


def test_an_entry_may_quote_only_those_before_it() -> None:
    entries = [{"name": "A", "value": "$(B) $$(C)"}, {"name": "B", "value": "x"}, {"name": "D", "value": "$(A)"}]
    assert unresolved(entries) == {("A", "B")}
