# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The artifact as a user installs it: into a folder of its own, away from any clone and its settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import faults
from tests.lab.redis_servers import start_single
from tests.lab.world import Lab
from tests.support import ROOT

pytestmark = [pytest.mark.compat, pytest.mark.redis]

MODULES = sorted(f"sre.runbooks.{path.stem}" for path in (ROOT / "plugins/modules").glob("*.py"))


def ansible(where: Path, tool: str, *words: str | Path, **env: str) -> str:
    """What a tool of this interpreter's ansible-core prints, without the settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "SRE_", "REDIS"))}
    ended = subprocess.run(
        [sys.executable, "-m", "ansible", tool, *words],
        cwd=where,
        env={**kept, "ANSIBLE_NOCOLOR": "1", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder but for `collections`, where the artifact is."""
    packed, folder = tmp_path_factory.mktemp("packed"), tmp_path_factory.mktemp("installed")
    ansible(ROOT, "galaxy", "collection", "build", "--output-path", packed)
    (artifact,) = packed.glob("*.tar.gz")
    ansible(folder, "galaxy", "collection", "install", "--offline", artifact, "-p", folder / "collections")
    return folder


def test_every_module_is_documented(installed: Path) -> None:
    told = ansible(installed, "doc", "--json", *MODULES, ANSIBLE_COLLECTIONS_PATH="collections")
    assert sorted(json.loads(told)) == MODULES


def test_its_runbook_mends_and_leaves_a_record(installed: Path, redis_lab: Lab) -> None:
    """As the README says: by its full name, with the callback enabled and the server in REDIS_URL."""
    patient = redis_lab.start(start_single, config={"maxmemory": "16mb", "maxmemory-policy": "noeviction"})
    faults.fill_cache(patient)
    told = ansible(
        installed,
        "playbook",
        "sre.runbooks.redis_memory_full",
        *("-e", "target=localhost", "-e", '{"redis_disposable": ["cache:*"]}'),
        ANSIBLE_COLLECTIONS_PATH="collections",
        ANSIBLE_CALLBACKS_ENABLED="sre.runbooks.record",
        REDIS_URL=f"redis://{patient.host}:{patient.port}/0",
        SRE_RUNBOOKS_REPORTS=str(installed / "reports"),
    )
    memory = patient.info("memory")
    assert memory["used_memory"] / memory["maxmemory"] < 0.8, told
    (report,) = (installed / "reports").glob("*/report.html")
    assert str(report) in told
