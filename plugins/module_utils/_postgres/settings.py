# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Settings as values that can be compared: what people write, and what pg_settings and the files hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._core.errors import Kind, OpsError, bad_parameter
from .client import Row

#: Bytes, and microseconds, of the units that the server knows. Its units are case-sensitive.
_BYTES = {"B": 1.0, "kB": 2.0**10, "MB": 2.0**20, "GB": 2.0**30, "TB": 2.0**40}
_MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6, "min": 6e7, "h": 3.6e9, "d": 8.64e10}

_NUMBER = re.compile(
    r"\s*(?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?))\s*(?P<unit>[A-Za-z]*)\s*"
)

#: Words that a boolean may be shortened to; C(o) alone could be either.
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")

#: Values of enumerations that the server takes and does not list.
_ALIASES = {"debug": "debug2", "archive": "replica", "hot_standby": "replica", "info": "info"}

#: Settings that are lists of names, each quoted by itself. An extension cannot have one of this kind.
NAME_LISTS = frozenset(
    {
        *("search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"),
        *("shared_preload_libraries", "unix_socket_directories"),
    }
)

#: Settings whose text the server compares without regard to case or spaces.
_LOOSE = frozenset({"datestyle", "timezone", "log_timezone", "client_encoding", "log_destination", "intervalstyle"})

#: Settings that the server shows in other words than those that were written.
_REWRITTEN = _LOOSE | {
    *("default_text_search_config", "wal_buffers", "commit_timestamp_buffers", "subtransaction_buffers"),
    *("transaction_buffers", "multixact_offset_buffers", "multixact_member_buffers"),
}

#: Of numbers, that the server computes its own.
_COMPUTED = frozenset({"-1", "0"})


@dataclass(frozen=True, slots=True)
class Known:
    """What the server knows of a setting. C(reset_val) is in C(unit), as are C(smallest) and C(largest)."""

    name: str
    kind: str
    context: str
    unit: str = ""
    choices: tuple[str, ...] = ()
    smallest: str = ""
    largest: str = ""
    boot_val: str = ""
    reset_val: str = ""
    source: str = ""
    place: str = ""
    pending_restart: bool = False

    @classmethod
    def of(cls, row: Row) -> Known:
        """From a row of pg_settings; C(place) is file and line."""
        texts = {name: row[name] or "" for name in _TEXTS}
        place = f"{row['sourcefile']}:{row['sourceline']}" if row["sourcefile"] else ""
        choices = tuple(row["enumvals"] or ())
        return cls(**texts, place=place, choices=choices, pending_restart=row["pending_restart"])

    @classmethod
    def custom(cls, name: str) -> Known:
        """A setting of an application, such as C(app.tenant), of which the server knows nothing."""
        return cls(name, "string", "user")

    @property
    def lower(self) -> str:
        return self.name.lower()

    @property
    def is_rewritten(self) -> bool:
        """Whether the server shows it in other words than those that were written."""
        return self.lower in _REWRITTEN

    def is_computed(self, text: str) -> bool:
        """Whether the server puts a number of its own in the place of this one."""
        return self.is_rewritten and text in _COMPUTED

    @property
    def needs_restart(self) -> bool:
        return self.context == "postmaster"


_TEXTS = ("name", "kind", "context", "unit", "smallest", "largest", "boot_val", "reset_val", "source")


def written(known: Known, value: Any) -> tuple[str, ...]:
    """What stands behind C(SET name =): one text, or several for a list of names. The value is what a task gives.

    Raises a bad-parameter error for a value that is no value.
    """
    if isinstance(value, Mapping):
        raise bad_parameter("value", "a mapping is no value of a setting", "Give a text, number, boolean or list.")
    if known.lower in NAME_LISTS:
        return tuple(str(item) for item in value) or ("",) if _is_list(value) else names_of(str(value))
    if isinstance(value, bool):
        return ("on" if value else "off",)
    text = ", ".join(map(str, value)) if _is_list(value) else str(value)
    if "\0" in text or "\n" in text:
        raise bad_parameter("value", "it holds a line break or a zero byte", "A setting is one line of text.")
    return (text if known.kind == "string" else text.strip(),)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def stored_form(known: Known, texts: Sequence[str]) -> str:
    """The same as one text, as the server would store it."""
    if known.lower not in NAME_LISTS:
        return texts[0]
    return ", ".join(name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else _quoted(name) for name in texts)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def names_of(text: str) -> tuple[str, ...]:
    """The elements of C(a, "B c") without their quotes; where there are none, in lower case as the server has it."""
    found = re.findall(r'\s*(?:"((?:[^"]|"")*)"|([^",]*))\s*(?:,|$)', text)
    names = [quoted.replace('""', '"') if quoted else plain.strip().lower() for quoted, plain in found]
    # The pattern also matches the empty rest after the last element.
    return tuple(names[:-1] if len(names) > 1 and not names[-1] else names) or ("",)


def canonical(known: Known, text: str) -> str:
    """The value in one form, so that equal values are equal text: numbers in the setting's unit.

    Raises precondition bad_value where the server would refuse it, as far as its own tables tell.
    """
    if known.lower in NAME_LISTS:
        return ", ".join(names_of(text))
    if known.kind == "bool":
        return _boolean(known, text)
    if known.kind in ("integer", "real"):
        return _number(known, text)
    if known.kind == "enum":
        return _choice(known, text)
    return _plain(known, text)


def same(known: Known, one: str, other: str) -> bool:
    """Whether both mean the same. A text that is no value, from a file written by hand, equals itself only."""
    try:
        return canonical(known, one) == canonical(known, other)
    except OpsError:
        return one == other


def _plain(known: Known, text: str) -> str:
    if known.lower in _LOOSE:
        return re.sub(r"\s+", "", text).casefold()
    if known.lower == "default_text_search_config":
        return text.removeprefix("pg_catalog.")
    return re.sub(r"\s*,\s*", ",", text) if known.lower == "synchronous_standby_names" else text


def _boolean(known: Known, text: str) -> str:
    word = text.strip().lower()
    for words, meaning in ((_TRUE, "on"), (_FALSE, "off")):
        if word and word != "o" and any(full.startswith(word) for full in words):
            return meaning
    raise bad_value(known, text, "Write on or off.")


def _choice(known: Known, text: str) -> str:
    word = text.strip().lower()
    for choice in known.choices:
        if choice.lower() == word:
            return choice
    meaning = "on" if word in _TRUE else "off" if word in _FALSE else _ALIASES.get(word, "")
    if meaning == "info" or meaning in known.choices:
        return meaning
    raise bad_value(known, text, f"Write one of {', '.join(choice or repr('') for choice in known.choices)}.")


def _number(known: Known, text: str) -> str:
    found = _NUMBER.fullmatch(text)
    if not found or (found["unit"] and not known.unit):
        hint = f"Write a number, in {known.unit} where no unit follows." if known.unit else "Write a number."
        raise bad_value(known, text, hint)
    digits = found["number"]
    hexadecimal = re.match(r"[+-]?0[xX]", digits)
    value = float(int(digits, 16)) if hexadecimal else float(digits)
    if not hexadecimal and known.kind == "integer" and re.fullmatch(r"[+-]?0[0-7]+", digits):
        value = float(int(digits, 8))
    if found["unit"]:
        value = _in_base(known, value, found["unit"], text)
    if known.kind == "integer":
        value = float(round(value))
    _refuse_outside(known, value, text)
    return str(int(value)) if value == int(value) else repr(value)


def _in_base(known: Known, value: float, unit: str, text: str) -> float:
    """The number in the setting's own unit. The server rounds C(30.1GB) to whole units of the next smaller kind."""
    base = re.fullmatch(r"(\d*)([A-Za-z]+)", known.unit)
    units = next((units for units in (_BYTES, _MICROSECONDS) if base and base[2] in units), {})
    if not base or unit not in units:
        raise bad_value(known, text, f"Write one of {', '.join(units)} behind the number, in this case.")
    own = units[base[2]] * int(base[1] or 1)
    smaller = max((factor for factor in units.values() if own <= factor < units[unit]), default=0.0)
    if value != int(value) and smaller:
        value = round(value * units[unit] / smaller) * smaller / units[unit]
    return value * units[unit] / own


def _refuse_outside(known: Known, value: float, text: str) -> None:
    low, high = known.smallest, known.largest
    if low and high and not float(low) <= value <= float(high):
        unit = f" {known.unit}" if known.unit else ""
        raise bad_value(known, text, f"It has to lie between {low} and {high}{unit}.")


def bad_value(known: Known, text: str, hint: str) -> OpsError:
    """That the setting cannot have this value. A secret is not repeated."""
    shown = "this" if is_secret(known.name) else repr(text)
    return OpsError(Kind.PRECONDITION, f"{known.name} cannot be {shown}", hint, code="bad_value")


_SECRET = re.compile(r"secret|passw|passphrase|token|api_?key|private_?key|conninfo|credential|_command$|jwt", re.I)
#: Secret by the look of their names only.
_OPEN = frozenset({"password_encryption", "track_commit_timestamp", "scram_iterations"})


def is_secret(name: str) -> bool:
    """Whether the value may hold a password, as far as the name tells; then it is never shown."""
    return bool(_SECRET.search(name)) and name.lower() not in _OPEN
