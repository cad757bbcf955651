# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A runbook's parameters: its specification, and what people pass that it does not know."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

#: Extra variables that are nobody's parameter: Ansible's own, AWX's, EDA's, and the target's connection.
_FOREIGN = re.compile(r"(ansible|awx|tower|sre_runbooks)_.*|[a-z0-9]+_connection|runbook")

#: The collection's own playbooks; a runbook that another playbook imports is not in that one's folder.
_PLAYBOOKS = Path(__file__).parents[2] / "playbooks"


def read_specification(runbook: str, folder: str, load: Callable[[str], Any]) -> dict[str, Any]:
    """The C(argument_specs) entry of C(<runbook>.meta.yml). Raises LookupError where there is none.

    C(load) reads a YAML file: the controller's own loader keeps what it has read.
    """
    if not runbook.isidentifier():
        raise LookupError(f"{runbook!r} is not the name of a runbook")
    for place in (Path(folder), _PLAYBOOKS):
        path = place / f"{runbook}.meta.yml"
        if path.is_file():
            found: dict[str, Any] = load(str(path))["argument_specs"][runbook]
            return found
    raise LookupError(f"no {runbook}.meta.yml beside the playbook or in the collection")


def unknown(extra: Iterable[str], options: Mapping[str, Any]) -> list[str]:
    """One complaint for each extra variable that the runbook does not know, with the nearest name it does."""
    strange = [name for name in extra if name not in options and not _FOREIGN.fullmatch(name)]
    return [_complaint(name, options) for name in sorted(strange)]


def argument_spec(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as Ansible's validator wants them: without what is only for readers."""
    kept = ("type", "elements", "required", "default", "choices", "options", "no_log")
    return {
        name: {key: argument_spec(value) if key == "options" else value for key, value in option.items() if key in kept}
        for name, option in options.items()
    }


def _complaint(name: str, options: Mapping[str, Any]) -> str:
    near = get_close_matches(name, options, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it knows {', '.join(sorted(options))}"
    return f"{name} is not a parameter of this runbook: {hint}"
