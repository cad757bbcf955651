# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo` as a newcomer runs it: a process of its own, which checks its own claims."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import ROOT

pytestmark = [pytest.mark.redis, pytest.mark.slow]

COMMAND = [sys.executable, "-m", "tests.demo"]


def environment(reports: Path) -> dict[str, str]:
    return {**os.environ, "SRE_RUNBOOKS_REPORTS": str(reports)}


def test_it_ends_well_and_leaves_a_report(tmp_path: Path) -> None:
    ended = subprocess.run(
        COMMAND, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=120, check=False
    )
    told = ended.stdout
    assert ended.returncode == 0, told + ended.stderr
    assert "the application writes again" in told
    assert "sess:*: 20 keys, same values and same TTLs as before" in told
    report = re.search(r"report +(\S+report\.html)", told)
    assert report
    assert Path(report[1]).is_file()


def test_a_second_one_waits_and_both_end_well(tmp_path: Path) -> None:
    """They share the clone's one `.lab/demo`."""
    begun = [
        subprocess.Popen(COMMAND, cwd=ROOT, env=environment(tmp_path), stdout=subprocess.PIPE, text=True)
        for _number in range(2)
    ]
    told = [demo.communicate(timeout=120)[0] for demo in begun]
    assert [demo.returncode for demo in begun] == [0, 0], told
    assert any("Waiting for another demo" in text for text in told)
    assert not (ROOT / ".lab/demo/inventory.yml").exists()


def test_an_interrupt_leaves_no_server(tmp_path: Path) -> None:
    """As Ctrl-C does it, to the whole group, while the server is being filled."""
    # A shell's background jobs ignore it, and hand that down; a handler is not handed down.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as demo:
        assert demo.stdout
        port = next(found[1] for line in demo.stdout if (found := re.search(r"127\.0\.0\.1:(\d+)", line)))
        time.sleep(0.5)
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(timeout=30) == 130
    answer = subprocess.run(["redis-cli", "-p", port, "PING"], capture_output=True, text=True, check=False)
    assert "PONG" not in answer.stdout
