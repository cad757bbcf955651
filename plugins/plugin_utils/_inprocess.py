# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Running a module's plan inside the controller's worker, where that is the same thing.

Shipping a module to the machine that one is already on costs about a quarter of a second before it
does anything. Nothing else differs: the same door, the same checks of the arguments, the same result.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from time import monotonic
from typing import Any, ClassVar

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ..module_utils._core.door import Door
from ..module_utils._core.plan import Progress
from ..module_utils._core.run import execute

try:
    from ansible.module_utils.secrets import register_secrets
except ImportError:  # before ansible-core 2.22

    def register_secrets(*_args: Any, **_kwargs: Any) -> None:
        """Older cores mask nothing on their own; the runner's redaction does."""


#: Seconds between two lines of progress, so that a log stays readable.
_QUIET = 2.0


class InProcess(ActionBase):
    """An action plugin that takes a module through this worker, or ships it."""

    door: ClassVar[Door]

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        if self._must_ship(variables):
            result.update(
                self._execute_module(
                    module_name=self._task.action,
                    module_args=self._task.args,
                    task_vars=self._here(variables),
                    wrap_async=self._task.async_val,
                )
            )
            return result
        params = _validated(self.door, plain(self._task.args))
        register_secrets(list(self.door.spec.secrets(params)))
        host = variables.get("inventory_hostname", "")
        result.update(execute(self.door, params, check_mode=bool(self._task.check_mode), progress=_progress(host)))
        return result

    def _must_ship(self, variables: Mapping[str, Any]) -> bool:
        """True where "here" is not certainly the place and the circumstances that the task asked for."""
        return bool(
            self._connection.transport != "local"
            or self._connection.become
            or self._task.async_val
            or any(self._task.environment or ())
            or not self._is_own_interpreter(variables.get("ansible_python_interpreter"))
        )

    def _here(self, variables: dict[str, Any]) -> dict[str, Any]:
        """On this machine our own interpreter has the driver; discovery may find one that does not even start."""
        if self._connection.transport == "local" and self._is_own_interpreter(
            variables.get("ansible_python_interpreter")
        ):
            return {**variables, "ansible_python_interpreter": sys.executable}
        return variables

    def _is_own_interpreter(self, wanted: Any) -> bool:
        """Unset and C(auto*) leave the choice to us; anything else must be this very interpreter."""
        chosen = str(self._templar.template(wanted)) if wanted else "auto"
        return chosen.startswith("auto") or chosen == sys.executable


def plain(value: Any) -> Any:
    """Arguments without the tags that ansible-core 2.19 and later put on values: drivers want exact types."""
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    for exact in (str, float, int):
        if isinstance(value, exact) and not isinstance(value, bool):
            return exact(value)
    return value


def in_process(name: str) -> type[InProcess]:
    """The action plugin of one of our modules.

    The controller loads it once, before it forks a worker for each task: the module and its driver are
    imported once a run, and only those that the run uses.
    """
    door: Door = import_module(f"ansible_collections.sre.runbooks.plugins.modules.{name}").DOOR
    with suppress(ImportError):  # whoever needs the driver gets the proper error
        import_module(door.product.driver)
    return type("ActionModule", (InProcess,), {"door": door})


def _validated(door: Door, args: dict[str, Any]) -> dict[str, Any]:
    """The arguments as a shipped module would see them: checked, converted, defaults and env filled in."""
    checked = ArgumentSpecValidator(door.spec.arguments(), **door.spec.rules()).validate(args)
    if checked.error_messages:
        raise AnsibleActionFail("; ".join(checked.error_messages))
    validated: dict[str, Any] = checked.validated_parameters
    return validated


def _progress(host: str) -> Progress:
    display, last = Display(), monotonic()

    def say(line: str) -> None:
        nonlocal last
        if monotonic() - last >= _QUIET:
            last = monotonic()
            display.display(f"  {host}: {line}")

    return say
