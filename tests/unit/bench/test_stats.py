# SPDX-License-Identifier: GPL-3.0-or-later
"""What the bench says of its readings: nothing is measured here."""

from __future__ import annotations

import pytest

from tests.bench import keyspace, purge, tasks
from tests.bench.stats import (
    Reading,
    Summary,
    Target,
    between_markers,
    milliseconds,
    percentile,
    seconds,
    summarize,
    table,
    verdicts,
)

RUN: Reading = {"wall": 1.0, "cpu": 0.5, "peak": 2.0**25, "server_cpu": 0.4, "p99": 0.002, "worst": 0.008}


def times(factor: float) -> list[Reading]:
    return [{**RUN, "wall": RUN["wall"] * factor}] * 3


def test_a_summary_is_the_median_and_the_whole_spread() -> None:
    told = summarize([{"wall": 3.0, "cpu": 1.0}, {"wall": 1.0, "cpu": 1.0}, {"wall": 2.0, "cpu": 1.0, "p99": 9.0}])
    assert told == {"cpu": Summary(1.0, 1.0, 1.0), "wall": Summary(2.0, 1.0, 3.0)}
    assert told["wall"].shown(seconds) == "2.00 (1.00\u20133.00)"
    assert told["cpu"].shown(seconds) == "1.00"


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)])
def test_a_percentile_is_one_of_the_values(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], share) == expected


def test_small_times_keep_a_digit() -> None:
    assert (milliseconds(0.0042), milliseconds(0.0215)) == ("4.2", "22")


def test_a_table_is_markdown() -> None:
    assert table(["what", "s"], [["x", "1"]]) == "| what | s |\n| --- | ---: |\n| x | 1 |"
    assert "**missed**" in verdicts([Target("fast", "0.9x", False)])
    assert "not measured" in verdicts([Target("fast", "", None)])


def test_only_what_is_between_the_markers_is_replaced() -> None:
    page = "before\n<!-- bench:x -->\nold\n<!-- /bench:x -->\nafter\n"
    fresh = between_markers(page, "x", "new")
    assert fresh == "before\n<!-- bench:x -->\n\nnew\n\n<!-- /bench:x -->\nafter\n"
    assert between_markers(fresh, "x", "new") == fresh
    with pytest.raises(ValueError, match="no markers for y"):
        between_markers(page, "y", "new")


def test_the_cost_of_a_task_is_what_it_adds_to_an_empty_play() -> None:
    kinds = {tasks.EMPTY: 1.0, tasks.RUNBOOK: 1.4, tasks.IN_PROCESS: 1.4, tasks.SHIPPED: 7.0, tasks.NOOP: 6.0}
    results = {name: times(wall) for name, wall in kinds.items()}
    assert [(target.measured, target.met) for target in tasks.targets(results)] == [
        ("20 ms, where a module that does nothing takes 250 ms", True),
        ("1.40", True),
    ]
    assert "| `sre.runbooks.redis_info`, in-process | 20 | 0.0 |" in tasks.tell(results)


def test_a_missed_target_is_said() -> None:
    names = (purge.MODULE, purge.PLAYBOOK, *purge.PEERS, purge.NOBODY)
    results = {f"{regime} {name}": times(1.0) for regime in purge.REGIMES for name in names}
    grown = {"keys": 10.0, "report_wall": 1.0, "deletion_wall": 1.0, "report_peak": 2.0**25, "deletion_peak": 2.0**25}
    results[purge.GROWTH] = [grown, grown]
    verdict = {target.words: target.met for target in purge.targets(results)}
    assert verdict["idle: at least 4x as fast as `xargs DEL`"] is False
    assert verdict["client memory is flat, and at most 150 MiB"] is True
    assert purge.tell(results).count("**missed**") == 3


def test_the_report_is_compared_in_each_regime() -> None:
    results = {f"{regime} {name}": times(1.0) for regime in keyspace.REGIMES for name in keyspace.CONTENDERS}
    results |= {f"{regime} {keyspace.MEMKEYS}": times(9.0) for regime in keyspace.REGIMES}
    assert all(target.met for target in keyspace.targets(results))
