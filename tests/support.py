# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Two ways for a test to run what we ship: `call` for one module in this process, `play` for real playbooks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.sre.runbooks.plugins.module_utils._core.door import Door
from ansible_collections.sre.runbooks.plugins.module_utils._core.plan import Progress
from ansible_collections.sre.runbooks.plugins.module_utils._core.run import execute

ROOT = Path(__file__).parents[1]
Task = Mapping[str, Any]


def call(
    module: str, /, check_mode: bool = False, progress: Progress = lambda _line: None, **args: Any
) -> dict[str, Any]:
    """The result of a module, run in this process; ValueError when its arguments do not fit its options."""
    door: Door = import_module(f"ansible_collections.sre.runbooks.plugins.modules.{module}").DOOR
    checked = ArgumentSpecValidator(door.spec.arguments(), **door.spec.rules()).validate(args)
    if checked.error_messages:
        raise ValueError("; ".join(checked.error_messages))
    return execute(door, checked.validated_parameters, check_mode=check_mode, progress=progress)


@dataclass(frozen=True)
class PlayResult:
    """How ansible-playbook ended. `tasks` has one entry for each task result: status, host, task, result."""

    rc: int
    stdout: str
    stderr: str
    tasks: tuple[dict[str, Any], ...]

    def result(self, task: str = "", host: str = "") -> dict[str, Any]:
        """The last result of the task with this name (of all tasks without one); LookupError shows the output."""
        for entry in reversed(self.tasks):
            if task in ("", entry["task"]) and host in ("", entry["host"]):
                return dict(entry["result"])
        names = [entry["task"] for entry in self.tasks]
        raise LookupError(f"no result of {task!r} among {names}\n{self.stdout}\n{self.stderr}")

    @property
    def changed(self) -> bool:
        return any(entry["result"].get("changed") for entry in self.tasks)


def play(
    what: Path | Sequence[Task],
    *options: str,
    check: bool = False,
    inventory: Mapping[str, Any] | Path | None = None,
    extra_vars: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300.0,
) -> PlayResult:
    """Runs a playbook, or tasks on localhost, as a user would: a process of its own, from a clone's root.

    `inventory` is a tree as in YAML, or a file; `options` go to ansible-playbook as they are.
    """
    with tempfile.TemporaryDirectory(prefix="play-") as folder:
        scratch = Path(folder)
        command, environment = prepare(scratch, what, *options, check=check, inventory=inventory, extra_vars=extra_vars)
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env={**environment, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return PlayResult(ended.returncode, ended.stdout, ended.stderr, results(scratch))


def prepare(
    scratch: Path,
    what: Path | Sequence[Task],
    *options: str,
    check: bool = False,
    inventory: Mapping[str, Any] | Path | None = None,
    extra_vars: Mapping[str, Any] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of `play`, for a test that wants to kill it half-way; run it from ROOT."""
    playbook = what if isinstance(what, Path) else _write(scratch, "play", _localhost(what))
    command = [sys.executable, "-m", "ansible", "playbook", str(playbook), *options]
    if isinstance(inventory, Path):
        command += ["-i", str(inventory)]
    elif inventory is not None:
        command += ["-i", str(_write(scratch, "inventory", inventory))]
    if extra_vars:
        command += ["-e", f"@{_write(scratch, 'vars', extra_vars)}"]
    environment = {
        **os.environ,
        "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests" / "callback"),
        "ANSIBLE_CALLBACKS_ENABLED": "sre.runbooks.record,results",
        "ANSIBLE_LOCAL_TEMP": str(scratch / "tmp"),
        "ANSIBLE_NOCOLOR": "1",
        "SRE_RUNBOOKS_REPORTS": os.environ.get("SRE_RUNBOOKS_REPORTS", str(scratch / "reports")),
        "SRE_TEST_RESULTS": str(scratch / "results.jsonl"),
    }
    return [*command, "--check"] if check else command, environment


def results(scratch: Path) -> tuple[dict[str, Any], ...]:
    """What the tasks of a `prepare`d run returned so far."""
    lines = scratch / "results.jsonl"
    return tuple(json.loads(line) for line in lines.read_text().splitlines()) if lines.exists() else ()


def _localhost(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    return [{"hosts": "localhost", "gather_facts": False, "tasks": [dict(task) for task in tasks]}]


def _write(scratch: Path, name: str, content: Any) -> Path:
    """JSON is YAML."""
    file = scratch / f"{name}.yml"
    file.write_text(json.dumps(content))
    return file
