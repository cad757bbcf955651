# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Records of real runs against a real server: written, bounded, private, and never in the way."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab.redis_servers import RedisServer
from tests.support import ROOT

pytestmark = pytest.mark.redis
CANARY = "canary-Zx81-secret"


@dataclass(frozen=True)
class Ended:
    rc: int
    output: str
    reports: Path

    @property
    def folder(self) -> Path:
        (found,) = [path for path in self.reports.iterdir() if path.is_dir()]
        return found

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "journal.jsonl").read_text().splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == name]

    @property
    def outcome(self) -> str:
        return str(next(line["outcome"] for line in self.lines if line["event"] == "finished" and line["host"]))

    def everything(self) -> str:
        return self.output + "".join(path.read_text() for path in self.reports.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Bench:
    """Runs a play of the given tasks as the runbook `demo`."""

    scratch: Path

    @property
    def reports(self) -> Path:
        return self.scratch / "reports"

    def command(self, tasks: list[dict[str, Any]], *options: str, **play: Any) -> list[str]:
        whole = {"hosts": "localhost", "gather_facts": False, "vars": {"runbook": "demo"}, "tasks": tasks, **play}
        playbook = self.scratch / "demo.yml"
        playbook.write_text(json.dumps([whole]))
        return [sys.executable, "-m", "ansible", "playbook", str(playbook), *options]

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        ours = {"SRE_RUNBOOKS_REPORTS": str(self.reports), "ANSIBLE_NOCOLOR": "1"}
        return {**os.environ, **ours, "ANSIBLE_LOCAL_TEMP": str(self.scratch / "tmp"), **(env or {})}

    def run(
        self,
        tasks: list[dict[str, Any]],
        *options: str,
        env: Mapping[str, str] | None = None,
        limit: int = 0,
        **play: Any,
    ) -> Ended:
        def shrink() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        command = self.command(tasks, *options, **play)
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment(env),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            preexec_fn=shrink if limit else None,
        )
        return Ended(ended.returncode, ended.stdout + ended.stderr, self.reports)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def look(server: RedisServer, **options: Any) -> dict[str, Any]:
    return {"name": "Diagnose | Look", "sre.runbooks.redis_info": {**server.connection(), **options}}


def say(name: str, message: str, **extra: Any) -> dict[str, Any]:
    return {"name": name, "ansible.builtin.fail": {"msg": message}, **extra}


CHANGE = {"name": "Mitigate | Change", "ansible.builtin.command": "true"}
CHECK = {"name": "Verify | Holds", "ansible.builtin.assert": {"that": ["true"]}}


@pytest.mark.compat
def test_a_healthy_run(bench: Bench, redis_single: RedisServer) -> None:
    ended = bench.run([look(redis_single)])
    assert ended.rc == 0
    assert ended.outcome == "nothing_to_do"
    assert f"Report: {ended.folder}/report.html" in ended.output
    assert "localhost: nothing to do." in ended.output
    assert ended.lines[0]["event"] == "started"
    assert ended.lines[-1] == {**ended.lines[-1], "event": "finished", "host": ""}
    assert ended.events("diagnosed")[0]["target"]["name"] == f"127.0.0.1:{redis_single.port}"
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in ended.folder.iterdir()}
    assert files == {"journal.jsonl": 0o600, "report.md": 0o600, "report.html": 0o600}
    assert stat.S_IMODE(ended.folder.stat().st_mode) == 0o700


def test_other_plays_leave_nothing(bench: Bench, redis_single: RedisServer) -> None:
    ended = bench.run([look(redis_single)], vars={})
    assert ended.rc == 0
    assert not bench.reports.exists()
    assert "Report:" not in ended.output


def test_a_change_is_mended_only_when_proved(bench: Bench, redis_single: RedisServer) -> None:
    assert bench.run([look(redis_single), CHANGE, CHECK]).outcome == "mended"
    shutil.rmtree(bench.reports)
    assert bench.run([look(redis_single), CHANGE]).outcome == "unverified"


@pytest.mark.compat
def test_rescue_ignore_loop_and_skip(bench: Bench, redis_single: RedisServer) -> None:
    tasks = [
        look(redis_single),
        {"block": [say("Mitigate | First rung", "too weak")], "rescue": [CHANGE]},
        say("Mitigate | Not so bad", "never mind", ignore_errors=True),
        {"name": "Mitigate | Each", "ansible.builtin.command": "true", "loop": ["a", "b"]},
        {"name": "Mitigate | Last rung", "ansible.builtin.command": "true", "when": False},
        CHECK,
    ]
    ended = bench.run(tasks)
    assert (ended.rc, ended.outcome) == (0, "mended")
    assert [(line["task"], line["ignored"]) for line in ended.events("failed")] == [
        ("First rung", False),
        ("Not so bad", True),
    ]
    assert [line["item"] for line in ended.events("acted") if line["task"] == "Each"] == ["a", "b"]
    assert [line["task"] for line in ended.events("skipped")] == ["Last rung"]
    assert "Not needed: Last rung" in (ended.folder / "report.md").read_text()


@pytest.mark.compat
def test_a_failure_and_a_refusal(bench: Bench, redis_single: RedisServer) -> None:
    ended = bench.run([look(redis_single), CHANGE, say("Mitigate | Harder", "it broke")])
    assert (ended.rc, ended.outcome) == (2, "failed")
    assert "localhost: failed. it broke" in ended.output
    shutil.rmtree(bench.reports)
    gate = {"name": "Guard | Not on Fridays", "ansible.builtin.assert": {"that": ["false"], "fail_msg": "it is Friday"}}
    ended = bench.run([look(redis_single), gate])
    assert (ended.rc, ended.outcome) == (2, "refused")


def test_a_server_that_is_gone(bench: Bench, redis_single: RedisServer) -> None:
    port = redis_single.port
    redis_single.stop()
    ended = bench.run([{"name": "Diagnose | Look", "sre.runbooks.redis_info": {"host": "127.0.0.1", "port": port}}])
    assert ended.outcome == "failed"
    assert ended.events("failed")[0]["error"]["kind"] == "unreachable"


def test_an_end_in_the_middle_of_a_play(bench: Bench, redis_single: RedisServer) -> None:
    ended = bench.run([look(redis_single), {"meta": "end_host"}, CHANGE])
    assert ended.outcome == "nothing_to_do"


def test_check_mode_changes_nothing_and_says_so(bench: Bench, redis_single: RedisServer) -> None:
    file = bench.scratch / "made"
    make = {"name": "Mitigate | Make a file", "ansible.builtin.file": {"path": str(file), "state": "touch"}}
    ended = bench.run([look(redis_single), make], "--check")
    assert ended.outcome == "check_only"
    assert not file.exists()
    assert "localhost: check only." in ended.output


@pytest.mark.compat
def test_no_secret_anywhere(bench: Bench, redis_single: RedisServer) -> None:
    url = f"redis://app:{CANARY}@127.0.0.1:{redis_single.port}/0"
    tasks = [
        {"name": "Diagnose | Look", "sre.runbooks.redis_info": {"url": url}, "ignore_errors": True},
        {
            "name": "Mitigate | Hidden",
            "ansible.builtin.debug": {"msg": "{{ redis_connection.password }}"},
            "no_log": True,
        },
        say("Mitigate | Hidden failure", "{{ redis_connection.password }}", no_log=True, ignore_errors=True),
        {"name": "Mitigate | {{ redis_connection.password }}", "ansible.builtin.command": "true"},
    ]
    hidden = {"runbook": "demo", "redis_connection": {"password": CANARY}}
    ended = bench.run(tasks, vars=hidden, env={"REDIS_PASSWORD": CANARY})
    recorded = "".join(path.read_text() for path in ended.folder.iterdir())
    assert CANARY not in recorded
    assert CANARY not in ended.output.partition("Report:")[2]
    assert [line["task"] for line in ended.events("failed")][-1] == "Hidden failure"


def test_a_secret_in_the_text_of_an_error(bench: Bench, redis_single: RedisServer) -> None:
    ended = bench.run([say("Mitigate | Tell", f"cannot reach postgres://app:{CANARY}@db/x, password={CANARY}")])
    assert ended.outcome == "failed"
    assert CANARY not in "".join(path.read_text() for path in ended.folder.iterdir())
    assert CANARY not in ended.output.partition("Report:")[2]


def test_the_run_id(bench: Bench, redis_single: RedisServer) -> None:
    show = {"name": "Report | Say", "ansible.builtin.debug": {"msg": "id={{ lookup('env', 'SRE_RUNBOOKS_RUN_ID') }}"}}
    ended = bench.run([look(redis_single), show], env={"SRE_RUNBOOKS_RUN_ID": "incident-7"})
    assert ended.folder.name == "incident-7"
    assert "id=incident-7" in ended.output
    before = (ended.folder / "journal.jsonl").read_bytes()
    bench.run([look(redis_single), show], env={"SRE_RUNBOOKS_RUN_ID": "incident-7"})
    assert sorted(path.name for path in bench.reports.iterdir()) == ["incident-7", "incident-7-2"]
    assert (bench.reports / "incident-7" / "journal.jsonl").read_bytes() == before
    shutil.rmtree(bench.reports)
    ended = bench.run([look(redis_single)], "-e", '{"awx_job_id": 815, "awx_user_name": "mira"}')
    assert ended.folder.name == "815"
    assert ended.lines[0]["user"] == "mira"
    shutil.rmtree(bench.reports)
    ended = bench.run([look(redis_single), show], env={"SRE_RUNBOOKS_RUN_ID": "../../out"})
    assert "SRE_RUNBOOKS_RUN_ID was ignored" in ended.output.replace("\n", " ")
    assert f"id={ended.folder.name}" in ended.output


def test_the_folder_may_be_an_extra_variable(bench: Bench, redis_single: RedisServer) -> None:
    bench.run([look(redis_single)], "-e", f"sre_runbooks_reports={bench.scratch}/elsewhere")
    assert list((bench.scratch / "elsewhere").glob("*/report.html"))
    assert not bench.reports.exists()


def test_key_names_can_be_hashed(bench: Bench, redis_single: RedisServer) -> None:
    ended = bench.run([look(redis_single), CHANGE, CHECK], env={"SRE_RUNBOOKS_KEY_NAMES": "hash"})
    assert ended.outcome == "mended"
    assert ended.events("diagnosed")[0]["server"]["name"] == f"127.0.0.1:{redis_single.port}"


def test_a_folder_that_cannot_be_made(bench: Bench, redis_single: RedisServer) -> None:
    bench.reports.write_text("a file is in the way")
    ended = bench.run([look(redis_single), CHANGE, CHECK])
    assert ended.rc == 0
    words = " ".join(ended.output.split())
    assert words.count("This run cannot be recorded in") == 1
    assert "set SRE_RUNBOOKS_REPORTS" in words
    assert "### What was done" in ended.output
    assert "localhost: mended." in ended.output


def test_a_file_that_cannot_grow(bench: Bench, redis_single: RedisServer) -> None:
    """A limit of the process stands for the full disk: the same error at the same call."""
    stay = [{**CHANGE, "name": f"Mitigate | Step {number}"} for number in range(3)]
    ended = bench.run([look(redis_single), *stay, CHECK], limit=1500, env={"ANSIBLE_PIPELINING": "1"})
    assert "This run cannot be recorded in" in " ".join(ended.output.split())
    assert "# demo" in ended.output


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(bench: Bench, small_disk: Path, redis_single: RedisServer) -> None:
    fill = {"msg": "x" * 200}
    stay = {"name": "Mitigate | Step", "ansible.builtin.debug": fill, "changed_when": True, "loop": list(range(60))}
    ended = bench.run([look(redis_single), stay, CHECK], env={"SRE_RUNBOOKS_REPORTS": str(small_disk / "reports")})
    assert ended.rc == 0
    words = " ".join(ended.output.split())
    assert "No space left on device" in words
    assert words.count("This run cannot be recorded in") == 1
    assert "localhost: mended." in ended.output
    assert "### What was done" in ended.output
    (journal,) = small_disk.glob("reports/*/journal.jsonl")
    assert all(json.loads(line) for line in journal.read_text().splitlines()[:-1])
    assert not list(small_disk.glob("reports/*/*.tmp"))


def test_a_killed_run_leaves_a_readable_journal(bench: Bench, redis_single: RedisServer) -> None:
    wait = {"name": "Mitigate | Take long", "ansible.builtin.command": "sleep 60"}
    process = subprocess.Popen(
        bench.command([look(redis_single), wait]),
        cwd=ROOT,
        env=bench.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while not [path for path in bench.reports.glob("*/journal.jsonl") if "diagnosed" in path.read_text()]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    ended = Ended(process.returncode, "", bench.reports)
    assert [line["event"] for line in ended.lines] == ["started", "started", "diagnosed"]
    assert not (ended.folder / "report.html").exists()
    before = (ended.folder / "journal.jsonl").read_bytes()
    bench.run([look(redis_single)])
    assert before in [path.read_bytes() for path in bench.reports.glob("*/journal.jsonl")]


RUNNER = shutil.which("ansible-runner", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


def runner_folder(bench: Bench, server: RedisServer) -> Path:
    folder = bench.scratch / "private"
    project = folder / "project"
    project.mkdir(parents=True)
    bench.command([look(server), CHANGE, CHECK])
    shutil.copy(bench.scratch / "demo.yml", project / "demo.yml")
    (project / "ansible.cfg").write_text("[defaults]\ncallbacks_enabled = sre.runbooks.record\n")
    (folder / "env").mkdir()
    variables = {"SRE_RUNBOOKS_REPORTS": str(bench.reports), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections")}
    (folder / "env" / "envvars").write_text(json.dumps(variables))
    return folder


@pytest.mark.slow
@pytest.mark.skipif(RUNNER is None, reason="needs ansible-runner")
def test_under_ansible_runner(bench: Bench, redis_single: RedisServer) -> None:
    assert RUNNER
    folder = runner_folder(bench, redis_single)
    path = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(
        [RUNNER, "run", str(folder), "-p", "demo.yml"], env=path, check=True, capture_output=True, timeout=120
    )
    assert Ended(0, "", bench.reports).outcome == "mended"
    shutil.rmtree(bench.reports)
    script = (
        f"{RUNNER} transmit {folder} -p demo.yml | {RUNNER} worker --private-data-dir {bench.scratch}/far"
        f" | {RUNNER} process {bench.scratch}/back"
    )
    subprocess.run(["bash", "-ceu", script], env=path, check=True, capture_output=True, timeout=120)
    ended = Ended(0, "", bench.reports)
    assert ended.outcome == "mended"
    assert (ended.folder / "report.html").exists()
