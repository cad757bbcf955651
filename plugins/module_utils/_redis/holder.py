# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who holds a lease: the process that runs the playbook, named so that its death can be told for sure."""

from __future__ import annotations

import getpass
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: Programs whose process lives as long as the run does.
_CONTROLLERS = frozenset({"ansible-playbook", "ansible", "ansible-console"})


@dataclass(frozen=True, slots=True)
class Holder:
    """C(place) is the machine's boot and process namespace; C(started) the kernel's start time of C(pid).

    C(pid) 0 means that the process is not known (a remote host, no /proc): then only time ends a lease.
    """

    by: str
    place: str
    pid: int
    started: str


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of this machine, as /proc shows them."""

    root: Path = Path("/proc")

    @property
    def place(self) -> str:
        """Empty where it cannot be known. Containers share a machine's boot, but not its processes."""
        try:
            boot = (self.root / "sys/kernel/random/boot_id").read_text().strip()
            return f"{boot} {(self.root / 'self/ns/pid').readlink()} {socket.gethostname()}"
        except OSError:
            return ""

    def started(self, pid: int) -> str:
        """The process's start time in ticks since boot; empty when there is no such process."""
        try:
            # The name, in brackets, may hold spaces and brackets itself: count from the last one.
            fields = (self.root / f"{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] in "ZX" else fields[19]

    def parent(self, pid: int) -> int:
        with suppress(OSError, ValueError, IndexError):
            return int((self.root / f"{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        return 0

    def controller(self, pid: int) -> int:
        """The playbook's own process above C(pid), which is its worker, or a module that it started; else 0.

        Workers are forks under the same name, so the last of the first such run of ancestors counts.
        """
        found = 0
        while pid > 1:
            if self._is_controller(pid):
                found = pid
            elif found:
                return found
            pid = self.parent(pid)
        return found

    def _is_controller(self, pid: int) -> bool:
        with suppress(OSError):
            words = (self.root / f"{pid}/cmdline").read_bytes().split(b"\0")[:4]
            return is_controller([word.decode(errors="replace") for word in words])
        return False


def is_controller(words: list[str]) -> bool:
    """C(ansible-playbook ...), C(python [-option] .../ansible-playbook ...), or C(python -m ansible playbook ...)."""
    names = [Path(word).name for word in words]
    if names[0] in _CONTROLLERS:
        return True
    # The interpreter shows a module that it was given with -m by the path of its file.
    of_module = any(word.endswith("/ansible/__main__.py") for word in words[1:]) or words[1:3] == ["-m", "ansible"]
    return names[0].startswith("python") and (of_module or any(name in _CONTROLLERS for name in names[1:3]))


def holder(processes: Processes | None = None) -> Holder:
    """This run."""
    here = processes or Processes()
    pid = here.controller(os.getpid())
    return Holder(f"{_user()}@{socket.gethostname()}", here.place, pid, here.started(pid) if pid else "")


def is_gone(held_by: Holder, processes: Processes | None = None) -> bool:
    """True only where it is certain: the same machine and process namespace, and the process has ended."""
    here = processes or Processes()
    if not held_by.pid or not held_by.place or held_by.place != here.place:
        return False
    return here.started(held_by.pid) != held_by.started


def _user() -> str:
    with suppress(KeyError, OSError):
        return getpass.getuser()
    return str(os.getuid())
