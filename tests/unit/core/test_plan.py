# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A plan's id names what would be done to whom, and nothing that moves by itself."""

from __future__ import annotations

from dataclasses import replace

from ansible_collections.sre.runbooks.plugins.module_utils._core.plan import Done, Plan, Step, Target, Undo


def step(subject: str, count: int = 1, size: int = 0) -> Step:
    return Step(subject, f"kill {subject}", lambda _say: Done(), Undo("cannot"), count=count, bytes=size)


PLAN = Plan(
    target=Target("redis", "a:1", "run-1"), selector={"name": "app"}, steps=(step("id=1", 2, 10), step("id=2", 3, 20))
)


def test_counts_and_bytes_are_sums() -> None:
    assert (PLAN.count, PLAN.bytes) == (5, 30)


def test_the_id_ends_in_the_count_and_is_stable() -> None:
    assert PLAN.id.endswith(".5")
    assert PLAN.id == replace(PLAN, steps=PLAN.steps[::-1]).id


def test_the_id_changes_with_target_selector_and_subjects() -> None:
    others = (
        replace(PLAN, target=Target("redis", "a:1", "run-2")),
        replace(PLAN, selector={"name": "web"}),
        replace(PLAN, steps=(step("id=1", 2), step("id=3", 3))),
    )
    assert len({PLAN.id, *(other.id for other in others)}) == 4


def test_the_id_does_not_change_with_the_name_of_the_server() -> None:
    assert PLAN.id == replace(PLAN, target=Target("redis", "alias:1", "run-1")).id


def test_the_sample_is_bounded() -> None:
    many = replace(PLAN, steps=tuple(step(f"id={number}") for number in range(200)))
    assert len(many.as_dict()["sample"]) == 50
    assert many.as_dict()["count"] == 200
