# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab of one block or one test: starts what is asked for, stops all of it, keeps the logs only of a failure."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from tests.lab.redis_servers import RedisServer


class Started(Protocol):
    """Whatever a lab has to stop again."""

    def stop(self) -> None:
        """Ends all of it."""


class Topology(Started, Protocol):
    """A Redis server, or several that belong together."""

    @property
    def servers(self) -> tuple[RedisServer, ...]:
        """What has to be stopped."""


P = ParamSpec("P")
T = TypeVar("T", bound=Started)


class Lab:
    """Owner of servers and of their scratch directories below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.keep_logs = False
        self._count = itertools.count(1)
        self._stops = contextlib.ExitStack()

    def start(self, starter: Callable[Concatenate[Path, P], T], *args: P.args, **options: P.kwargs) -> T:
        """`world.start(start_single, config={...})`: as the starter, in a scratch directory of this lab's own."""
        name = f"{next(self._count)}-{starter.__name__.removeprefix('start_')}"
        made = starter(self.root / name, *args, **options)
        self._stops.callback(made.stop)
        return made

    def stop(self) -> None:
        """Stop all, last first, even if one will not; harmless when repeated."""
        self._stops.close()

    def close(self) -> None:
        """Stop all and remove the scratch directories, or say where they are kept."""
        self.stop()
        if self.keep_logs:
            print(self.kept(), file=sys.stderr)
        else:
            shutil.rmtree(self.root, ignore_errors=True)

    def kept(self) -> str:
        return f"lab: logs kept in {self.root}"


@contextlib.contextmanager
def lab(root: Path | None = None) -> Iterator[Lab]:
    """A lab in `root` or in a new temporary directory (0700).

    All servers are stopped at the end. The directory is removed, unless an exception leaves the block or
    somebody set `keep_logs`: then it stays, and both the exception and stderr name it.
    """
    if root is not None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    world = Lab(root or Path(tempfile.mkdtemp(prefix="lab-")))
    try:
        yield world
    except BaseException as error:
        world.keep_logs = True
        error.add_note(world.kept())
        raise
    finally:
        world.close()
