# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Numbers and evidence in the words that people use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..module_utils._core.units import human

_SIZES = frozenset({"bytes", "bearable", "counted", "dataset", "freed", "host_total", "lag", "overhead", "peak", "rss"})
_SIZE_ENDINGS = ("_bytes", "_buffers", "_size")
#: Sizes only beside another size: alone they may count anything.
_MAYBE_SIZES = frozenset({"limit", "total", "used", "size", "free", "memory"})
_SHARES = ("ratio", "share", "fraction")
_TIMES = {"_ms": 1e-3, "_us": 1e-6, "_seconds": 1.0, "_s": 1.0}


def duration(seconds: float) -> str:
    """C(340 ms), C(3.2 s), C(4 min 05 s), C(2 h 10 min)."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.0095 or not seconds else f"{seconds * 1000:.1f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def number(value: float) -> str:
    """With thousands apart, and no more digits than help."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def amount(value: float, unit: str) -> str:
    """A number of a forecast, in its unit."""
    if unit in ("bytes", "B"):
        return human(value)
    if unit in ("s", "seconds"):
        return duration(value)
    if unit in ("ratio", "fraction", "share"):
        return percent(value)
    return f"{number(value)} {unit}".rstrip()


def percent(share: float) -> str:
    return f"{share:.0%}" if abs(share) >= 0.1 or not share else f"{share:.1%}"


def count(how_many: int, noun: str) -> str:
    """C(1 finding), C(3 findings)."""
    return f"{how_many:,} {noun}" if how_many == 1 else f"{how_many:,} {noun}s"


def visible(value: str) -> str:
    """Control characters, line breaks and marks that turn the writing direction become escapes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in value)


#: As html.escape does, without the table of 2,000 entities that comes with importing it.
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})


def markup(value: str) -> str:
    """Text for HTML, SVG and their attributes."""
    return visible(value).translate(_ENTITIES)


def evidence(facts: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Each fact as a label and a value, in the order in which the module gave them."""
    sizes = any(_is_size(name) for name in facts)
    return tuple(
        (_label(name), _value(name, value, sizes)) for name, value in facts.items() if value not in (None, "", [], {})
    )


def _is_size(name: str) -> bool:
    return name in _SIZES or name.endswith(_SIZE_ENDINGS)


def _label(name: str) -> str:
    for ending in _TIMES:
        name = name.removesuffix(ending)
    return name.replace("_", " ")


def _value(name: str, value: Any, sizes: bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return _measure(name, value, sizes)
    if isinstance(value, Mapping):
        return ", ".join(f"{label} {text}" for label, text in evidence(value))
    if isinstance(value, list):
        shown = [_value(name, item, sizes) for item in value[:5]]
        return ", ".join(shown) + (f" and {len(value) - 5} more" if len(value) > 5 else "")
    return str(value)


def _measure(name: str, value: float, sizes: bool) -> str:
    if any(word in name for word in _SHARES) and 0 <= value <= 1:
        return percent(value)
    for ending, factor in _TIMES.items():
        if name.endswith(ending):
            return duration(value * factor)
    if _is_size(name) or (sizes and name in _MAYBE_SIZES):
        return human(value)
    return number(value)
