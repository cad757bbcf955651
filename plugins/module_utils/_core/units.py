# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sizes, durations and moments as people write them."""

from __future__ import annotations

import re
from datetime import datetime

from .errors import bad_parameter

#: Redis' own rule, which most servers share: C(k) is 1000, C(kb) is 1024.
_FACTORS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _FACTORS |= {_letter: 1000**_power, f"{_letter}b": 1024**_power, f"{_letter}ib": 1024**_power}

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_size(text: str | int, option: str) -> int:
    """Bytes of C(512), C(64mb), C(1.5GiB). Raises a bad-parameter error that names the option."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(text).lower(), re.ASCII)
    if match is None or match[2] not in _FACTORS:
        raise bad_parameter(option, f"{str(text)!r} is not a size", "Write a number with b, kb, mb, gb or tb: 512mb.")
    return int(float(match[1]) * _FACTORS[match[2]])


def parse_seconds(text: str | int, option: str) -> int:
    """Seconds of C(90), C(15m), C(2h), C(1d). Raises a bad-parameter error that names the option."""
    match = re.fullmatch(r"\s*(\d+)\s*([a-z]*)\s*", str(text).lower(), re.ASCII)
    if match is None or match[2] not in _SECONDS:
        raise bad_parameter(option, f"{str(text)!r} is not a duration", "Write a number with s, m, h or d: 15m.")
    return int(match[1]) * _SECONDS[match[2]]


def parse_moment(text: str, option: str) -> datetime:
    """The moment of C(2030-01-31T18:00:00Z). Raises a bad-parameter error that names the option, also without zone."""
    hint = "Write it with its zone: 2030-01-31T18:00:00Z."
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise bad_parameter(option, f"{text!r} is not a moment", hint) from None
    if moment.tzinfo is None:
        raise bad_parameter(option, f"{text!r} has no time zone", hint)
    return moment


def human(size: float) -> str:
    """A size in the largest binary unit that leaves at least one: C(1.5 MiB)."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
