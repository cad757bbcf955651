# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A plain clone under ansible-runner, in the way AWX runs it: directly, and through transmit | worker | process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lab import faults
from tests.lab.redis_servers import RedisServer, start_single
from tests.lab.world import Lab
from tests.support import ROOT

RUNNER = [sys.executable, "-m", "ansible_runner"]
#: The runner looks for ansible-playbook on PATH; it stands beside this interpreter.
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def patient(redis_lab: Lab) -> RedisServer:
    server = redis_lab.start(start_single, config={"maxmemory": "16mb", "maxmemory-policy": "noeviction"})
    faults.fill_cache(server)
    return server


@pytest.fixture
def job(patient: RedisServer, tmp_path: Path) -> Path:
    """A private data folder as AWX lays it out: a copy of the project with its links, inventory, env."""
    folder = tmp_path / "job"
    project = folder / "project"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        source = ROOT / name
        if name and (source.is_symlink() or source.is_file()):
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, project / name, follow_symlinks=False)
    connection = patient.connection()
    hosts = {"patient": {"redis_connection": connection, "redis_disposable": ["cache:*"]}}
    _write(folder / "inventory/hosts.yml", {"redis": {"hosts": hosts}})
    _write(folder / "env/extravars", {"awx_job_id": 4711, "tower_job_id": 4711, "awx_user_name": "operator"})
    _write(
        folder / "env/envvars",
        {
            "ANSIBLE_COLLECTIONS_PATH": f"/runner/requirements_collections:{project}/collections",
            "ANSIBLE_FORCE_COLOR": "True",
            "ANSIBLE_HOST_KEY_CHECKING": "False",
            "AWX_HOST": "https://awx.invalid",
            "JOB_ID": "4711",
            "MAX_EVENT_RES": "700000",
            "SRE_RUNBOOKS_REPORTS": str(tmp_path / "reports"),
        },
    )
    return folder


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _check(artifact: Path, patient: RedisServer, reports: Path) -> None:
    """The runbook has mended it, AWX would see the outcome, and the record bears the job's id."""
    assert (artifact / "rc").read_text() == "0", (artifact / "stdout").read_text()
    assert (artifact / "status").read_text() == "successful"
    memory = patient.info("memory")
    assert memory["used_memory"] / memory["maxmemory"] < 0.8
    events = [json.loads(path.read_text()) for path in (artifact / "job_events").glob("*.json")]
    stats = next(event for event in events if event["event"] == "playbook_on_stats")
    assert stats["event_data"]["artifact_data"]["redis_memory_full"]["patient"]["run"] == "4711"
    assert (reports / "4711" / "report.html").exists()


@pytest.mark.compat
def test_run(job: Path, patient: RedisServer, tmp_path: Path) -> None:
    command = [*RUNNER, "run", str(job), "-p", "playbooks/redis_memory_full.yml", "--quiet"]
    subprocess.run(command, check=False, stdin=subprocess.DEVNULL, timeout=120, env=ENVIRONMENT)
    (artifact,) = (job / "artifacts").iterdir()
    _check(artifact, patient, tmp_path / "reports")


def test_transmit_worker_process(job: Path, patient: RedisServer, tmp_path: Path) -> None:
    """What AWX sends over the mesh."""
    worker, controller = tmp_path / "worker", tmp_path / "controller"
    controller.mkdir()
    steps = [
        [*RUNNER, "transmit", str(job), "-p", "playbooks/redis_memory_full.yml"],
        [*RUNNER, "worker", "--private-data-dir", str(worker)],
        [*RUNNER, "process", str(controller)],
    ]
    stream = b""
    for step in steps:
        ended = subprocess.run(step, input=stream, capture_output=True, check=False, timeout=120, env=ENVIRONMENT)
        assert ended.returncode == 0, ended.stderr.decode()
        stream = ended.stdout
    _check(controller / "artifacts", patient, tmp_path / "reports")
