# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Quantities as manifests write them: C(250m) of a core, C(1.5Gi) of memory, C(1e3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

from .._core.errors import Kind, OpsError

#: C(1E) is an exa, C(1E3) a thousand: an exponent has digits.
_FORM = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d{1,2})|([numkMGTPE]|[KMGTPE]i)?)", re.ASCII)
_FACTORS: Mapping[str, Decimal] = {
    "": Decimal(1),
    **{letter: Decimal(1000) ** -power for power, letter in enumerate("mun", start=1)},
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", start=1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)},
}


def quantity(text: str | float) -> Decimal:
    """The number that a quantity stands for, exactly."""
    match = _FORM.fullmatch(str(text))
    if match is None:
        hint = "The object that holds it was not written by an API server; look at it."
        raise OpsError(Kind.UNSUPPORTED, f"{str(text)!r} is not a quantity", hint, code="quantity")
    return Decimal(match[1]).scaleb(int(match[2] or 0)) * _FACTORS[match[3] or ""]


def plain(number: Decimal) -> str:
    """A number for people, in the largest unit that keeps it whole."""
    for suffix in ("Ti", "Gi", "Mi", "Ki"):
        whole = number / _FACTORS[suffix]
        if abs(whole) >= 1 and whole == whole.to_integral_value():
            return f"{whole.to_integral_value():f}{suffix}"
    if number != number.to_integral_value():
        return f"{(number * 1000).to_integral_value():f}m"
    return f"{number.to_integral_value():f}"
