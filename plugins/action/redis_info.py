# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the Redis module whose name this file bears; each of the others has a link to it.

The controller loads the file under that name once, before it forks a worker for each task: the module and its
driver are imported once a run, and only those that the run uses.
"""

from __future__ import annotations

from pathlib import Path

from ansible_collections.sre.runbooks.plugins.module_utils._redis.client import preload
from ansible_collections.sre.runbooks.plugins.plugin_utils._inprocess import InProcess, door_of

preload()


class ActionModule(InProcess):
    """Redis, in the worker."""

    door = door_of(Path(__file__).stem)
