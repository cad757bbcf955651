# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Prometheus that scrapes what a test serves. Debian's is good enough; `make setup-all` fetches it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.lab.process import HOST, LabError, ProcessId, find_program, free_port, spawn, wait_until

#: In the virtual environment, where setup puts it, or on PATH.
_ADVICE = "run `make setup-all`, or name a binary with PROMETHEUS=..."


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    port: int
    process: ProcessId

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The instant vector of a query."""
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{urlencode({'query': query})}", timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def stop(self) -> None:
        self.process.end()


def program() -> str:
    """The binary; LabError where there is none."""
    return find_program(["prometheus", str(Path(__file__).parents[2] / ".venv/bin/prometheus")], "PROMETHEUS", _ADVICE)


def start_prometheus(folder: Path, targets: Sequence[str], interval: str = "200ms") -> Prometheus:
    """Scrapes `host:port`s as job `api`, and answers as soon as it has done so once."""
    binary = program()
    folder.mkdir(parents=True)
    jobs = [{"job_name": "api", "static_configs": [{"targets": list(targets)}]}]
    settings = {"global": {"scrape_interval": interval, "scrape_timeout": interval}, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(json.dumps(settings))
    port = free_port()
    command = [binary, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    running = spawn([*command, f"--web.listen-address={HOST}:{port}", "--log.level=warn"], folder)
    server = Prometheus(port, ProcessId.of(running.pid))
    try:
        wait_until(lambda: _scraped(server), 20, "first scrape of Prometheus", pause=0.1)
    except LabError:
        server.stop()
        raise
    return server


def _scraped(server: Prometheus) -> bool:
    try:
        return bool(server.ask("up"))
    except OSError:
        return False
