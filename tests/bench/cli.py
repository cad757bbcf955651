# SPDX-License-Identifier: GPL-3.0-or-later
"""The command: which benchmarks, how many runs, and where the figures go."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

from tests.bench.bundle import community_general
from tests.bench.measure import CACHE, ROOT, stage
from tests.bench.stats import between_markers
from tests.lab.redis_servers import server_version

BENCHMARKS = ("tasks", "purge", "keyspace", "postgres", "kubernetes")
PAGE = ROOT / "docs/performance.md"


def main(arguments: list[str] | None = None) -> int:
    """0 when all was measured; a missed target is a figure in the page, not an error."""
    options = _parser().parse_args(arguments)
    for name in options.names or BENCHMARKS:
        benchmark = _load(name)
        if benchmark is None:
            continue
        _say(f"{name}: {options.runs} runs")
        conditions = _conditions(benchmark, options.runs, options.shared)
        with stage(options.runs, options.quick, _say) as scene:
            results = benchmark.measure(scene)
        told = f"{conditions}\n\n{benchmark.tell(results)}"
        _keep(name, conditions, results)
        print(f"\n## {name}\n\n{told}\n", flush=True)
        if not options.quick:
            PAGE.write_text(between_markers(PAGE.read_text(), name, told))
    return 0


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _load(name: str) -> ModuleType | None:
    """The benchmark; None, and a word on it, where what it needs is not installed."""
    try:
        benchmark = import_module(f"tests.bench.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "tests").startswith("tests"):
            raise
        reason = f"{error.name} is not installed"
    else:
        reason = benchmark.missing() if hasattr(benchmark, "missing") else ""
    if reason:
        print(f"SKIPPED {name}: {reason}", file=sys.stderr, flush=True)
    return None if reason else benchmark


def _keep(name: str, conditions: str, results: object) -> None:
    """The readings themselves."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / f"{name}-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.write_text(json.dumps({"conditions": conditions, "results": results}, indent=1))


def _conditions(benchmark: ModuleType, runs: int, shared: bool) -> str:
    """What a reader needs to judge the figures."""
    about: Callable[[], list[str]] = getattr(benchmark, "circumstances", _redis)
    words = [
        time.strftime("%Y-%m-%d"),
        f"{runs} runs",
        f"Python {platform.python_version()}",
        f"ansible-core {_version('ansible-core')}",
        *about(),
        f"{os.cpu_count()} cores ({_processor()})",
        f"Linux {platform.release().partition('-')[0]}",
        f"load average at the start {os.getloadavg()[0]:.1f}",
        *(["the machine was shared with other work"] if shared else []),
    ]
    return f"Measured: {', '.join(words)}. Each cell is the median, with the lowest and the highest in brackets."


def _redis() -> list[str]:
    return [
        f"Redis {'.'.join(map(str, server_version()))} on loopback",
        *(f"{package} {_version(package)}" for package in ("redis", "hiredis")),
        f"community.general {community_general() or 'missing'}",
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure; write docs/performance.md.")
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], metavar="name", help=", ".join(BENCHMARKS))
    parser.add_argument("--runs", type=int, default=5, help="runs of each contender (default 5)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the keys, to try the bench; writes no page")
    parser.add_argument("--shared", action="store_true", help="say in the page that the machine had other work, too")
    return parser
