# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks a runbook's parameters, in the controller."""

from __future__ import annotations

import os
import socket
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars

from ansible_collections.sre.runbooks.plugins.plugin_utils._inprocess import plain
from ansible_collections.sre.runbooks.plugins.plugin_utils._parameters import (
    argument_spec,
    read_specification,
    unknown,
)


class ActionModule(ActionBase):
    """The one place where variables become parameters."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        runbook = str(self._task.args.get("runbook") or variables.get("runbook", ""))
        try:
            folder = str(variables.get("playbook_dir", "."))
            options = plain(read_specification(runbook, folder, self._loader.load_from_file)["options"])
        except LookupError as error:
            raise AnsibleActionFail(str(error)) from None
        complaints = unknown(load_extra_vars(self._loader), options)
        found = {name: self._templar.template(variables[name]) for name in options if name in variables}
        checked = ArgumentSpecValidator(argument_spec(options)).validate(plain(found))
        complaints += checked.error_messages
        if complaints:
            raise AnsibleActionFail(f"{runbook}: {'; '.join(complaints)}. Nothing was changed.")
        job = variables.get("awx_job_id") or variables.get("tower_job_id")
        result |= {
            "changed": False,
            # Left out, not null: before ansible-core 2.19 a template makes an empty string of null.
            "parameters": {name: value for name, value in checked.validated_parameters.items() if value is not None},
            "run_id": os.environ.get("SRE_RUNBOOKS_RUN_ID") or str(job or f"{socket.gethostname()}-{os.getppid()}"),
        }
        return result
