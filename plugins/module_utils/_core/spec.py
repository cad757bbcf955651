# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A module's argument specification as a value that can be joined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

Params = Mapping[str, Any]
Rules = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Spec:
    """Options with the rules between them. C(a | b) joins two; a name may stand in only one."""

    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    mutually_exclusive: Rules = ()
    required_together: Rules = ()
    required_one_of: Rules = ()
    required_if: Rules = ()
    required_by: Mapping[str, Any] = field(default_factory=dict)

    def __or__(self, other: Spec) -> Spec:
        twice = set(self.options) & set(other.options)
        if twice:
            raise ValueError(f"options declared twice: {sorted(twice)}")
        return Spec(
            {**self.options, **other.options},
            self.mutually_exclusive + other.mutually_exclusive,
            self.required_together + other.required_together,
            self.required_one_of + other.required_one_of,
            self.required_if + other.required_if,
            {**self.required_by, **other.required_by},
        )

    def rules(self) -> dict[str, Any]:
        """The rules, under the names that Ansible's validators give them."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "options"}
        return {name: value if name == "required_by" else list(value) for name, value in named.items() if value}

    def arguments(self) -> dict[str, Any]:
        """The options as plain dictionaries, as Ansible's validators want them."""
        return {name: dict(option) for name, option in self.options.items()}

    def secrets(self, params: Params) -> Iterator[str]:
        """The values given for options marked C(no_log), also those within a dictionary or a list."""
        for name, option in self.options.items():
            if option.get("no_log"):
                yield from _texts(params.get(name))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value:
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)
