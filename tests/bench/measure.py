# SPDX-License-Identifier: GPL-3.0-or-later
"""Running contenders in turns, and metering each."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.relay import distant
from tests.bench.stats import Reading
from tests.lab.process import HOST, wait_until
from tests.lab.redis_servers import RedisServer

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache/bench"
METER = Path(__file__).with_name("meter.py")
#: `distant` is idle, too, but the server seems to be on another machine.
REGIMES = ("idle", "loaded", "distant")


@dataclass(frozen=True)
class Contender:
    """Something to measure. `run` returns one reading; `prepare` comes before it and is not measured."""

    name: str
    run: Callable[[], Reading]
    prepare: Callable[[], None] = lambda: None


class Failed(Exception):
    """A contender did not do its work, so its time means nothing."""


@dataclass
class Stage:
    """What a benchmark needs to run: a scratch folder, how many runs, where to tell how far it is."""

    scratch: Path
    runs: int
    quick: bool
    say: Callable[[str], None]
    _count: Iterator[int] = field(default_factory=itertools.count)

    def in_turns(self, contenders: Sequence[Contender], regime: str = "idle") -> dict[str, list[Reading]]:
        """Readings by contender. The order changes from run to run, so that no one always follows the same."""
        readings: dict[str, list[Reading]] = {contender.name: [] for contender in contenders}
        for turn in range(self.runs):
            for contender in [*contenders[turn % len(contenders) :], *contenders[: turn % len(contenders)]]:
                contender.prepare()
                with load(regime):
                    reading = contender.run()
                readings[contender.name].append(reading)
                self.say(f"{regime} {turn + 1}/{self.runs} {contender.name}: {reading['wall']:.2f} s")
        return readings

    def metered(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[Reading, str]:
        """Wall, CPU and peak memory of a command, and what it printed; Failed when it did not end well."""
        result = self.scratch / f"meter-{next(self._count)}.json"
        ended = subprocess.run(
            [sys.executable, "-I", "-S", str(METER), str(result), *command],
            cwd=ROOT,
            env={**environment(self.scratch), **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise Failed(f"{command[:4]} ended with {ended.returncode}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}")
        return json.loads(result.read_text()), ended.stdout

    def write(self, name: str, content: Any) -> Path:
        """A file in the scratch folder; JSON is YAML."""
        path = self.scratch / f"{name}.yml"
        path.write_text(json.dumps(content))
        return path


@contextlib.contextmanager
def stage(runs: int, quick: bool, say: Callable[[str], None]) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield Stage(Path(folder), runs, quick, say)


def environment(scratch: Path) -> dict[str, str]:
    """As a user has it: with compiled Python kept (in a folder of our own), without settings of this shell."""
    ours = ("ANSIBLE_", "SRE_", "REDIS", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {
        **kept,
        "ANSIBLE_COLLECTIONS_PATH": f"{ROOT}/collections:{CACHE}/collections",
        "ANSIBLE_LIBRARY": str(Path(__file__).with_name("library")),
        "ANSIBLE_LOCAL_TEMP": str(scratch / "tmp"),
        "ANSIBLE_NOCOLOR": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT}/collections",
        "PYTHONPYCACHEPREFIX": str(CACHE / "pyc"),
        "SRE_RUNBOOKS_REPORTS": str(scratch / "reports"),
    }


def with_bundle(stage: Stage) -> dict[str, str]:
    """For a process of its own that imports a peer's module as a module of Python."""
    return {"PYTHONPATH": f"{environment(stage.scratch)['PYTHONPATH']}:{CACHE}/collections"}


@contextlib.contextmanager
def load(regime: str) -> Iterator[None]:
    """`loaded`: one busy loop for each core, at the priority of all others, from outside the measured work."""
    count = (os.cpu_count() or 1) if regime == "loaded" else 0
    loops = [subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"]) for _core in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextlib.contextmanager
def place(regime: str, server: RedisServer) -> Iterator[int]:
    """The port at which contenders find the server."""
    if regime != "distant":
        yield server.port
        return
    with distant(server.port) as port:
        yield port


@contextlib.contextmanager
def server_cpu(server: RedisServer) -> Iterator[Reading]:
    """Fills `server_cpu`: seconds that the server itself worked, until the last unlinked object was freed."""
    reading: Reading = {}
    before = _cpu(server)
    yield reading
    wait_until(lambda: not server.info("memory")["lazyfree_pending_objects"], 60, "the server to free memory")
    reading["server_cpu"] = _cpu(server) - before


def _cpu(server: RedisServer) -> float:
    told = server.info("cpu")
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


def populate(server: RedisServer, classes: Mapping[str, int], size: int = 100) -> None:
    """An empty server gets so many strings of `size` bytes for each prefix."""
    server.prove_own()
    with server.client(socket_timeout=300) as client:
        client.execute_command("FLUSHALL", "SYNC")
        for prefix, count in classes.items():
            client.execute_command("DEBUG", "POPULATE", count, prefix, size)
    time.sleep(0.5)  # let the server and its allocator come to rest


def ours(stage: Stage, module: str, port: int, **arguments: Any) -> tuple[Reading, dict[str, Any]]:
    """A module in a fresh process, imports and connection included, and what it returned."""
    given = json.dumps({"host": HOST, "port": port, **arguments})
    reading, said = stage.metered([sys.executable, "-m", "tests.bench.ours", module, given])
    return reading, json.loads(said)


def play(stage: Stage, playbook: Path, inventory: Path) -> Reading:
    command = [sys.executable, "-m", "ansible", "playbook", "-i", str(inventory), str(playbook)]
    reading, _said = stage.metered(command)
    return reading


def inventory(stage: Stage, server: RedisServer, **variables: Any) -> Path:
    """The server as the one host of the group that runbooks aim at."""
    host = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "redis_connection": server.connection(),
        **variables,
    }
    return stage.write("inventory", {"redis": {"hosts": {"bench": host}}})


def tasks(stage: Stage, name: str, tasks: Sequence[Mapping[str, Any]], group: str = "redis") -> Path:
    """A playbook of these tasks on that group."""
    return stage.write(name, [{"hosts": group, "gather_facts": False, "tasks": [dict(task) for task in tasks]}])
