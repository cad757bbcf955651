# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs every Redis module; C(meta/runtime.yml) sends the others here.

It bears the name of one of them because an action plugin has to be documented by a module.
"""

from __future__ import annotations

from ansible_collections.sre.runbooks.plugins.module_utils._redis.client import preload
from ansible_collections.sre.runbooks.plugins.plugin_utils._inprocess import InProcess

# The controller loads this file once, before it forks a worker for each task: what is imported
# here is paid once a run.
preload()


class ActionModule(InProcess):
    """Redis, in the worker."""
