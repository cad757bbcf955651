# SPDX-License-Identifier: GPL-3.0-or-later
"""Readings of repeated runs, and what is said of them: the median, and the whole spread beside it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

#: What one run showed: the name of a quantity, and its value in seconds or bytes.
Reading = dict[str, float]


@dataclass(frozen=True)
class Summary:
    """The median of some runs, with the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        return cls(statistics.median(values), min(values), max(values))

    def shown(self, form: Callable[[float], str]) -> str:
        """`2.4 (2.3-2.6)`, or the median alone where the spread would show nothing."""
        middle, low, high = form(self.median), form(self.low), form(self.high)
        return middle if low == high else f"{middle} ({low}\N{EN DASH}{high})"


@dataclass(frozen=True)
class Target:
    """A promise and what came of it. `met` is None where it could not be measured."""

    words: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        return {True: "met", False: "**missed**", None: "not measured"}[self.met]


def summarize(readings: Sequence[Reading]) -> dict[str, Summary]:
    """A summary of each quantity that every run has."""
    names = set.intersection(*(set(reading) for reading in readings))
    return {name: Summary.of([reading[name] for reading in readings]) for name in sorted(names)}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def ratio(slower: Summary, faster: Summary) -> float:
    return slower.median / faster.median


def milliseconds(value: float) -> str:
    return f"{value * 1000:.0f}" if value >= 0.01 else f"{value * 1000:.1f}"


def seconds(value: float) -> str:
    return f"{value:.2f}"


def mebibytes(value: float) -> str:
    return f"{value / 2**20:.0f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left, the others to the right."""
    marks = ["---", *("---:" for _word in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, marks, *rows))


def verdicts(targets: Sequence[Target]) -> str:
    """The promises as a table."""
    rows = [[target.words, target.measured, target.verdict] for target in targets]
    return table(["target", "measured", ""], rows)


def between_markers(page: str, name: str, content: str) -> str:
    """`page` with `content` between the two markers called `name`; ValueError where they are missing."""
    start, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    head, found, rest = page.partition(start)
    _old, closed, tail = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"no markers for {name}: {start} ... {end}")
    return f"{head}{start}\n\n{content.strip()}\n\n{end}{tail}"


Results = Mapping[str, Sequence[Reading]]
