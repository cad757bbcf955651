# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The memory that a Redis on this very machine may really use: its container's, not the host's.

INFO's C(total_system_memory) is the whole machine, also inside a container. A remote server's
container cannot be seen from here: then the limit has to be declared.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_LOCAL = ("127.0.0.1", "::1", "localhost")


def memory_limit(host: str, pid: int, root: Path = Path("/")) -> int:
    """Bytes that the process's control groups (version 2) allow, 0 where none does or none is seen."""
    if host not in _LOCAL or not pid:
        return 0
    with suppress(OSError, ValueError):
        if (root / f"proc/{pid}/comm").read_text().strip() not in ("redis-server", "valkey-server"):
            return 0
        line = next(line for line in (root / f"proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::"))
        return _smallest(root / "sys/fs/cgroup", line.removeprefix("0::").strip("/"))
    return 0


def _smallest(top: Path, group: str) -> int:
    """A parent group's limit binds its children, so the smallest on the way up counts."""
    limits = []
    folder = top / group
    while folder != top.parent:
        with suppress(OSError, ValueError):
            limits.append(int((folder / "memory.max").read_text()))
        folder = folder.parent
    return min(limits, default=0)
