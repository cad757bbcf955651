# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a command and writes what it took as JSON: `python meter.py RESULT COMMAND...`; ends as the command ended.

A program of its own, and a small one: the kernel counts the memory of the process that starts another as the
other's own peak.
"""

import os
import sys
import time

result, command = sys.argv[1], sys.argv[2:]
begun = time.monotonic()
pid = os.fork()
if not pid:
    os.execvp(command[0], command)
_pid, status, usage = os.wait4(pid, 0)
wall = time.monotonic() - begun
# ru_maxrss: the largest of the command's processes, in KiB.
values = {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss * 1024}
with open(result, "w") as file:  # noqa: PTH123 - pathlib alone would double our own size
    file.write("{" + ", ".join(f'"{name}": {value}' for name, value in values.items()) + "}")
sys.exit(os.waitstatus_to_exitcode(status))
