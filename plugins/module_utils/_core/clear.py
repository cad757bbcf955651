# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Waiting until findings are gone: the same options for every product's diagnosis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from .plan import Finding, Verify
from .spec import Params, Spec

CLEAR_OPTIONS = Spec(
    {
        "clear_of": {"type": "list", "elements": "str", "default": []},
        "consecutive": {"type": "int", "default": 3},
        "interval": {"type": "float", "default": 0.5},
        "timeout": {"type": "float", "default": 30},
        "strict": {"type": "bool", "default": True},
    }
)


def clear(wanted: Params, look: Callable[[], Iterable[Finding]], blind: Sequence[str] = ()) -> Verify | None:
    """The condition of C(clear_of), None where it is empty. C(look) looks anew.

    C(blind) are findings that say that something in question could not be seen: what nobody saw is not clear.
    """
    names = [*wanted["clear_of"], *blind]
    if not wanted["clear_of"]:
        return None

    def check() -> str:
        bad = [finding for finding in look() if matches(finding.id, names)]
        return ", ".join(f"{finding.id} on {finding.subject} {dict(finding.evidence)}" for finding in bad)

    words = f"clear of {', '.join(wanted['clear_of'])}"
    return Verify(words, check, wanted["consecutive"], wanted["interval"], wanted["timeout"], wanted["strict"])


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether an id is one of the patterns, or below one that ends in C(.*)."""
    return any(name == p or (p.endswith(".*") and name.startswith(p[:-1])) for p in patterns)
