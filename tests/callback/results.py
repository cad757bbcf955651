# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes one line of JSON for each task result to the file that SRE_TEST_RESULTS names; see `tests.support.play`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: results
type: aggregate
short_description: Task results as lines of JSON
description: For the tests only.
"""


class CallbackModule(CallbackBase):
    """Ok, failed, skipped and unreachable alike; loops give one line for the whole."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "results"
    CALLBACK_NEEDS_ENABLED = True

    def _write(self, status: str, outcome: Any) -> None:
        result = outcome.result if hasattr(outcome, "result") else outcome._result
        host = outcome.host if hasattr(outcome, "host") else outcome._host
        task = outcome.task if hasattr(outcome, "task") else outcome._task
        line = {"status": status, "host": host.get_name(), "task": task.get_name(), "result": dict(result)}
        with Path(os.environ["SRE_TEST_RESULTS"]).open("a") as lines:
            lines.write(json.dumps(line, default=str) + "\n")

    def v2_runner_on_ok(self, result: Any) -> None:
        self._write("ok", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._write("failed", result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._write("skipped", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._write("unreachable", result)
