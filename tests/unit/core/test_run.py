# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The runner: check mode stops before the first write, failures say what was done, nothing leaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.door import Door, Product
from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import Kind, OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._core.guard import guard_options
from ansible_collections.sre.runbooks.plugins.module_utils._core.plan import (
    Done,
    Finding,
    Forecast,
    Plan,
    Progress,
    Severity,
    Step,
    Target,
    Undo,
    Verify,
)
from ansible_collections.sre.runbooks.plugins.module_utils._core.run import execute
from ansible_collections.sre.runbooks.plugins.module_utils._core.spec import Params, Spec

TARGET = Target("lamp", "hall", "serial-7", version="1", role="main")


@dataclass
class Lamp:
    """A server with one switch for each name; `broken` ones raise when touched."""

    on: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    closed: bool = False

    def switch(self, name: str, on: bool) -> Done:
        if name in self.broken:
            raise OSError(f"short circuit at {name}, password=hunter22")
        (self.on.add if on else self.on.discard)(name)
        return Done()


def door(lamp: Lamp, plan: Callable[[Lamp, Params], Plan]) -> Door:
    @contextmanager
    def connect(_params: Params) -> Iterator[Lamp]:
        yield lamp
        lamp.closed = True

    def translate(error: Exception) -> OpsError | None:
        return OpsError(Kind.UNREACHABLE, str(error), "Change the bulb.") if isinstance(error, OSError) else None

    spec = Spec({"names": {"type": "list"}, "key": {"type": "str", "no_log": True}}) | guard_options(max_count=10)
    return Product("lamp", "lamplib", Spec(), connect, translate).door(spec, plan)


def light(lamp: Lamp, wanted: Params) -> Plan:
    """The condition "every named lamp is on"."""
    dark = [name for name in wanted["names"] if name not in lamp.on]

    def step(name: str) -> Step:
        undo = Undo(f"switch {name} off", lambda: lamp.on.discard(name), "lamp", {"name": name, "on": False})
        return Step(name, f"switch {name} on", lambda _say: lamp.switch(name, True), undo)

    count = len(lamp.on)
    return Plan(
        target=TARGET,
        before={"on": sorted(lamp.on)},
        after={"on": sorted({*lamp.on, *dark})},
        steps=tuple(map(step, dark)),
        findings=(Finding("lamp.dim", Severity.INFO, "hall"), Finding("lamp.dark", Severity.CRITICAL, "hall")),
        forecast=Forecast("lamps on", "lamps", count, count + len(dark), lambda: float(len(lamp.on))),
        verify=Verify("all on", lambda: "" if set(wanted["names"]) <= lamp.on else "still dark", timeout=0),
    )


def run(lamp: Lamp, *names: str, check_mode: bool = False, **params: Any) -> dict[str, Any]:
    defaults = {"max_count": 10, "max_fraction": 1.0, "protect": [], "key": None}
    return execute(door(lamp, light), {**defaults, "names": list(names), **params}, check_mode=check_mode)


def test_a_run_acts_verifies_and_measures() -> None:
    lamp = Lamp()
    result = run(lamp, "a", "b")
    assert lamp.on == {"a", "b"}
    assert result["changed"] is True
    assert result["actions"] == ["switch a on", "switch b on"]
    assert result["verify"]["ok"] is True
    assert (result["measured"]["before"], result["measured"]["forecast"], result["measured"]["after"]) == (0, 2, 2)
    assert result["undo"][0] == {
        "subject": "a",
        "words": "switch a off",
        "possible": True,
        "module": "lamp",
        "args": {"name": "a", "on": False},
    }
    assert result["server"] == {"name": "hall", "version": "1", "role": "main", "managed": ""}
    assert lamp.closed


def test_check_mode_says_the_same_and_does_nothing() -> None:
    lamp = Lamp()
    checked = run(lamp, "a", "b", check_mode=True)
    assert lamp.on == set()
    done = run(lamp, "a", "b")
    same = ("changed", "actions", "diff", "plan", "spared", "forecast", "undo", "findings")
    assert {key: checked[key] for key in same} == {key: done[key] for key in same}


def test_a_second_run_changes_nothing() -> None:
    lamp = Lamp()
    run(lamp, "a")
    again = run(lamp, "a")
    assert (again["changed"], again["actions"], again["measured"]) == (False, [], {})


def test_the_worst_finding_comes_first() -> None:
    assert [finding["id"] for finding in run(Lamp(), "a")["findings"]] == ["lamp.dark", "lamp.dim"]


def test_a_failed_step_undoes_those_before_it() -> None:
    lamp = Lamp(broken={"b"})
    result = run(lamp, "a", "b")
    assert lamp.on == set()
    assert (result["failed"], result["changed"], result["undone"]) == (True, False, ["switch a off"])
    assert result["error"]["kind"] == "unreachable"
    assert "Change the bulb." in result["msg"]


def test_an_exceptions_text_is_redacted() -> None:
    assert "hunter22" not in str(run(Lamp(broken={"a"}), "a"))


def test_secrets_known_by_value_are_masked_everywhere() -> None:
    result = run(Lamp(), "s3cr3t-name", key="s3cr3t-name")
    assert "s3cr3t" not in str(result)


def test_the_guard_refuses_before_the_first_write() -> None:
    lamp = Lamp()
    result = run(lamp, "a", "b", max_count=1)
    assert lamp.on == set()
    assert (result["error"]["kind"], result["changed"], result["plan"]["count"]) == ("guard_refused", False, 2)


def test_a_condition_that_does_not_come_true_is_an_error() -> None:
    def dead(lamp: Lamp, _wanted: Params) -> Plan:
        step = Step("a", "switch a on", lambda _say: Done(), Undo("cannot"))
        return Plan(target=TARGET, steps=(step,), verify=Verify("a is on", lambda: "a is off", timeout=0))

    result = execute(door(Lamp(), dead), {}, check_mode=False)
    assert (result["error"]["kind"], result["changed"]) == ("verify_failed", True)
    assert result["verify"] == {
        "ok": False,
        "condition": "a is on",
        "wrong": "a is off",
        "consecutive": 0,
        "seconds": 0.0,
    }


def test_a_subject_that_has_gone_is_spared_with_its_reason() -> None:
    def gone(lamp: Lamp, _wanted: Params) -> Plan:
        return Plan(
            target=TARGET, steps=(Step("a", "switch a on", lambda _say: Done(0, note="unscrewed"), Undo("cannot")),)
        )

    result = execute(door(Lamp(), gone), {}, check_mode=False)
    assert (result["changed"], result["actions"]) == (False, [])
    assert result["spared"] == [{"subject": "a", "reason": "unscrewed", "count": 1}]


def test_bulk_work_that_stops_early_is_partial() -> None:
    def half(lamp: Lamp, _wanted: Params) -> Plan:
        def act(_say: Progress) -> Done:
            return Done(3, finished=False, note="deadline of 1 s")

        return Plan(target=TARGET, steps=(Step("a*", "switch all on", act, Undo("cannot"), count=9),))

    result = execute(door(Lamp(), half), {}, check_mode=False)
    assert (result["error"]["kind"], result["error"]["retryable"], result["changed"]) == ("partial", True, True)
    assert result["actions"] == ["switch all on (done: 3)"]


def test_a_missing_driver_says_what_to_install() -> None:
    def missing(_lamp: Lamp, _wanted: Params) -> Plan:
        raise ModuleNotFoundError("No module named 'lamplib'", name="lamplib")

    result = execute(door(Lamp(), missing), {}, check_mode=False)
    assert result["error"]["code"] == "missing_library"
    assert "lamplib" in result["msg"]


def test_a_bug_keeps_its_traceback() -> None:
    def bug(_lamp: Lamp, _wanted: Params) -> Plan:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        execute(door(Lamp(), bug), {}, check_mode=False)
