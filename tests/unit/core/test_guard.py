# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The guard refuses by default, says the number, and never takes zero for "unlimited"."""

from __future__ import annotations

import pytest

from ansible_collections.sre.runbooks.plugins.module_utils._core.errors import Kind, OpsError
from ansible_collections.sre.runbooks.plugins.module_utils._core.guard import Guard
from ansible_collections.sre.runbooks.plugins.module_utils._core.plan import Done, Plan, Step, Target, Undo

TARGET = Target("redis", "127.0.0.1:6379", "run-1")


def plan_of(count: int, *, size: int = 0, population: int | None = None, exact: bool = True, confirm: str = "") -> Plan:
    """A plan with one bulk step."""
    step = Step("cache:*", "unlink", lambda _say: Done(), Undo("cannot"), count=count, bytes=size)
    return Plan(target=TARGET, steps=(step,), population=population, exact=exact, confirm=confirm)


@pytest.mark.parametrize(
    "params", [{"max_count": 0}, {"max_count": -1}, {"max_fraction": 0}, {"max_fraction": 1.2}, {"max_bytes": "0"}]
)
def test_a_limit_that_is_none_is_an_error(params: dict[str, object]) -> None:
    with pytest.raises(OpsError) as caught:
        Guard.of(params)
    assert caught.value.kind is Kind.PRECONDITION
    assert next(iter(params)) in caught.value.message


@pytest.mark.parametrize(
    ("guard", "plan", "code"),
    [
        (Guard(max_count=10), plan_of(11), "max_count"),
        (Guard(max_bytes=100), plan_of(1, size=101), "max_bytes"),
        (Guard(max_fraction=0.5), plan_of(6, population=10), "max_fraction"),
        (Guard(), plan_of(1, confirm="web-1"), "confirm"),
        (Guard(confirm="web-2"), plan_of(1, confirm="web-1"), "confirm"),
    ],
)
def test_a_broken_limit_refuses_and_is_named(guard: Guard, plan: Plan, code: str) -> None:
    with pytest.raises(OpsError) as caught:
        guard.judge(plan)
    assert (caught.value.kind, caught.value.code) == (Kind.GUARD_REFUSED, code)


@pytest.mark.parametrize(
    ("guard", "plan"),
    [
        (Guard(max_count=10), plan_of(10)),
        (Guard(max_bytes=100), plan_of(1, size=100)),
        (Guard(max_fraction=0.5), plan_of(5, population=10)),
        (Guard(confirm="web-1"), plan_of(1, confirm="web-1")),
        (Guard(max_count=1), Plan(target=TARGET)),
    ],
)
def test_within_limits_is_let_through(guard: Guard, plan: Plan) -> None:
    guard.judge(plan)


def test_the_refusal_says_both_numbers() -> None:
    with pytest.raises(OpsError, match="11 subjects, more than max_count 10"):
        Guard(max_count=10).judge(plan_of(11))


def test_an_approved_plan_covers_itself_and_what_has_shrunk() -> None:
    Guard(approved_plan=plan_of(10).id).judge(plan_of(10))
    Guard(approved_plan=plan_of(10).id).judge(plan_of(3))


@pytest.mark.parametrize(
    ("count", "exact", "stale"), [(11, True, True), (10, True, False), (104, False, False), (106, False, True)]
)
def test_growth_is_not_approved(count: int, exact: bool, stale: bool) -> None:
    approved = plan_of(10 if exact else 100, exact=exact).id
    guard = Guard(approved_plan=approved)
    if not stale:
        return guard.judge(plan_of(count, exact=exact))
    with pytest.raises(OpsError) as caught:
        guard.judge(plan_of(count, exact=exact))
    assert (caught.value.kind, caught.value.code) == (Kind.CONFLICT, "stale_plan")
    return None


@pytest.mark.parametrize("approved", ["", "nonsense", "0123456789abcdef.10", "0123456789abcdef"])
def test_another_plan_is_stale(approved: str) -> None:
    if not approved:
        return Guard(approved_plan=approved).judge(plan_of(10))
    with pytest.raises(OpsError, match="is not the plan of now"):
        Guard(approved_plan=approved).judge(plan_of(10))
    return None


def test_approval_binds_the_target() -> None:
    other = Plan(target=Target("redis", "127.0.0.1:6379", "run-2"), steps=plan_of(10).steps)
    with pytest.raises(OpsError):
        Guard(approved_plan=plan_of(10).id).judge(other)
