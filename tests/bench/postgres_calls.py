# SPDX-License-Identifier: GPL-3.0-or-later
"""Milliseconds of one look at a PostgreSQL within a process that has loaded all: `postgres_calls ours|peer|loop ...`.

The peer's module runs as it is, on arguments of its own; only what it would print is thrown away.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any


def main(who: str, given: str, calls: str = "0") -> None:
    """Prints the median of so many calls in seconds; `loop` calls until somebody ends this process."""
    look = (_peer if who == "peer" else _ours)(json.loads(given))
    look()  # loads the driver, and the server's catalogs into its caches
    took: list[float] = []
    while who == "loop" or len(took) < int(calls):
        begun = time.monotonic()
        look()
        took.append(time.monotonic() - begun)
    print(json.dumps({"call": statistics.median(took)}))


def _ours(connection: dict[str, Any]) -> Callable[[], None]:
    from tests.support import call

    def look() -> None:
        result = call("postgres_info", **connection)
        if result.get("failed") or result["unseen"]:
            raise SystemExit(f"not all was seen: {result.get('msg')} {result.get('unseen')}")

    return look


def _peer(connection: dict[str, Any]) -> Callable[[], None]:
    from ansible.module_utils import basic

    module = import_module("ansible_collections.community.postgresql.plugins.modules.postgresql_info")
    basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": connection}).encode()
    basic._ANSIBLE_PROFILE = "legacy"

    def look() -> None:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            try:
                module.main()
            except SystemExit as ended:
                if ended.args not in ((), (0,), (None,)):
                    raise SystemExit(said.getvalue()) from ended

    return look


if __name__ == "__main__":
    main(*sys.argv[1:])
