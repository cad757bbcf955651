# SPDX-License-Identifier: GPL-3.0-or-later
"""Says at the end of every run what was not tested here, and why: a line a reason, also for the summary of nox."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

NOTES = Path(__file__).resolve().parents[1] / ".cache/notes.txt"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        counts[reason.removeprefix("Skipped: ")] += 1
    if not counts:
        return
    terminalreporter.section("not tested here")
    session = os.environ.get("NOX_CURRENT_SESSION")
    for reason, count in counts.most_common():
        terminalreporter.line(f"{count} skipped: {reason}")
        if session:
            _note(f"skipped: {count} tests of {session}: {reason}")


def _note(text: str) -> None:
    """For the last lines of `make test`."""
    told = NOTES.read_text() if NOTES.exists() else ""
    if text not in told.splitlines():
        NOTES.parent.mkdir(exist_ok=True)
        NOTES.write_text(f"{told}{text}\n")
