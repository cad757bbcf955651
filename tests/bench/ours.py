# SPDX-License-Identifier: GPL-3.0-or-later
"""One of our modules in a process of its own: `python -m tests.bench.ours redis_info '{"host": ...}'`."""

from __future__ import annotations

import json
import sys

from tests.support import call


def main(name: str, arguments: str) -> int:
    """Prints what the module returned; 1 when it failed."""
    result = call(name, **json.loads(arguments))
    print(json.dumps(result, default=str))
    return int(bool(result.get("failed")))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
