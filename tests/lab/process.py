# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of the lab: started in a group of their own, known by pid and start time, ended by that id only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
# Below the kernel's ephemeral range, so that no outgoing connection sits on a port that we are about to take.
PORTS = range(20000, 32000)
BUS_OFFSET = 10000
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class LabError(Exception):
    """The lab could not do what was asked; the message says why and what to do."""


def wait_until(check: Callable[[], bool], timeout: float, what: str, pause: float = 0.02) -> None:
    """Poll `check` every `pause` seconds; LabError naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not check():
        if time.monotonic() > deadline:
            raise LabError(f"not within {timeout:g} s: {what}")
        time.sleep(pause)


def find_program(names: Sequence[str], env: str, advice: str) -> str:
    """The program that the variable `env` names, or the first of `names` on PATH; LabError with `advice` if none."""
    wanted = [os.environ[env]] if os.environ.get(env) else names
    found = next(filter(None, map(shutil.which, wanted)), None)
    if found is None:
        raise LabError(f"no {' or '.join(wanted)} on PATH: {advice}")
    return found


@dataclass(frozen=True)
class Account:
    """Whom a process runs as, when it must not be root."""

    uid: int
    gid: int

    def options(self) -> dict[str, Any]:
        """For subprocess: this user, this group, and none of root's other groups."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def ordinary_account(*preferred: str) -> Account | None:
    """For programs that refuse root: the first user that exists, or `nobody`; None when we are not root anyway."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    found = next((known[name] for name in (*preferred, "nobody") if name in known), None)
    if found is None:
        raise LabError("we are root, and there is neither " + " nor ".join((*preferred, "nobody")) + " to run as")
    return Account(found.pw_uid, found.pw_gid)


def free_port(bus: bool = False) -> int:
    """A loopback port that could be bound just now; with `bus` the cluster bus port above it is free too."""
    for port in random.sample(PORTS, 200):
        if _bindable(port) and (not bus or _bindable(port + BUS_OFFSET)):
            return port
    raise LabError(f"no free port on {HOST} between {PORTS.start} and {PORTS.stop}")


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return not _refused(probe, port)


def _refused(probe: socket.socket, port: int) -> bool:
    try:
        probe.bind((HOST, port))
    except OSError:
        return True
    return False


@dataclass(frozen=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """The identity of a living process; LabError when there is none."""
        status = _status(pid)
        if status is None:
            raise LabError(f"process {pid} is not there")
        return cls(pid, status[1])

    def state(self) -> str | None:
        """The kernel's letter for the state (T is frozen); None when the process ended, even if nobody reaped it."""
        status = _status(self.pid)
        return status[0] if status and status[1] == self.started and status[0] not in "ZX" else None

    def alive(self) -> bool:
        return self.state() is not None

    def send(self, number: signal.Signals) -> None:
        """Signal this very process; nothing happens when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            if not hasattr(os, "pidfd_open"):
                if self.alive():
                    os.kill(self.pid, number)
                return
            handle = os.pidfd_open(self.pid)  # pins the process, so the pid cannot be recycled between look and signal
            try:
                if self.alive():
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)

    def end(self, grace: float = 3.0, first: signal.Signals = signal.SIGTERM) -> None:
        """`first`, and SIGKILL after `grace` seconds; harmless when repeated. A frozen process is thawed first."""
        self.send(signal.SIGCONT)
        self.send(first)
        with contextlib.suppress(LabError):
            wait_until(lambda: not self.alive(), grace, f"end of process {self.pid}", pause=0.005)
        self.send(signal.SIGKILL)
        wait_until(lambda: not self.alive(), 5, f"end of killed process {self.pid}", pause=0.005)


def children(pid: int) -> tuple[ProcessId, ...]:
    """The living processes whose parent is `pid`: a PostgreSQL backend leaves the group of its postmaster."""
    told = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    found = [int(line.split()[0]) for line in told.splitlines() if int(line.split()[1]) == pid]
    statuses = {child: _status(child) for child in found}
    return tuple(ProcessId(child, status[1]) for child, status in statuses.items() if status)


def spawn(
    command: Sequence[str],
    scratch: Path,
    detached: bool = False,
    account: Account | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, output into `scratch`/output.log, as `account` if one is given.

    Unless `detached`, the kernel kills it when the thread that started it ends: start servers from the main thread.
    """
    with (scratch / "output.log").open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=env,
            **(account.options() if account else {}),
            preexec_fn=None if detached else _die_with_parent,  # noqa: PLW1509 - one system call, no lock
        )


def _die_with_parent() -> None:
    """Runs between fork and exec; only Linux has it, elsewhere the owner's clean-up must do."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _status(pid: int) -> tuple[str, str] | None:
    """(state letter, start time) of a process, or None."""
    if not Path("/proc/self/stat").exists():
        return _status_from_ps(pid)
    try:
        # The name, in brackets, may hold spaces and brackets itself: count from the last one.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], fields[19]


def _status_from_ps(pid: int) -> tuple[str, str] | None:
    answer = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _space, started = answer.stdout.strip().partition(" ")
    return (state[0], started.strip()) if state else None
