# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Errors of many logs as a short list: lines that differ only in numbers, ids, times and addresses are one message."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .._core.redact import redact_text

#: More different messages than this tell nothing; the rest is only counted.
_MOST = 5000
_LONGEST = 400

_BAD = {"error", "err", "fatal", "critical", "crit", "panic", "severe", "emergency", "alert", "dpanic"}
_WORDS = re.compile(
    r"\b(?:ERROR|ERR|FATAL|CRITICAL|PANIC|SEVERE|EMERG)\b|\b[Ff]atal(?: error)?:|\b[Ee]rror:|\bpanic:|"
    r"\b\w{0,80}(?:Exception|Error)\b|^E\d{4} |OOMKilled|OutOfMemory|[Oo]ut of memory|heap limit"
)
_LEVEL = re.compile(r"\b(?:level|lvl|severity)=\"?(\w+)", re.IGNORECASE)
_MESSAGE = re.compile(r"\bmsg=(?:\"((?:[^\"\\]|\\.){0,400})\"?|(\S{0,400}))")

#: What differs from line to line. Order counts: a time is also numbers.
_PARTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"\b[EWIF]\d{4} \d\d:\d\d:\d\d\.\d+"), "<time>"),
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE), "<uuid>"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "<address>"),
    (re.compile(r"\b\d\d:\d\d:\d\d(?:[.,]\d+)?"), "<time>"),
    (
        re.compile(r"\[?(?<![\w:])[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}(?![\w:])(?:\](?::\d+)?)?", re.IGNORECASE),
        "<address>",
    ),
    (re.compile(r"-[0-9a-f]{8,10}-[0-9a-z]{5}\b"), "-<pod>"),
    (re.compile(r"\b0x[0-9a-f]+\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{8,}\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\d+(?:\.\d+)?"), "<n>"),
    (re.compile(r"\s+"), " "),
)


@dataclass(slots=True)
class Group:
    """One message: how often it came, in how many containers, and a line of it."""

    level: str
    count: int = 0
    sources: set[str] = field(default_factory=set)
    example: str = ""


@dataclass(slots=True)
class Histogram:
    """Lines in all, errors among them, and their messages."""

    lines: int = 0
    errors: int = 0
    beyond: int = 0
    groups: dict[str, Group] = field(default_factory=dict)

    def read(self, source: str, lines: Iterable[str]) -> None:
        """Counts the lines of one container."""
        for line in lines:
            if not line.strip():
                continue
            self.lines += 1
            level, message = judge(line)
            if level:
                self._add(source, level, message, 1, line)

    def join(self, other: Histogram) -> None:
        """Takes over what was counted apart."""
        self.lines += other.lines
        self.beyond += other.beyond
        self.errors += other.beyond
        for message, group in other.groups.items():
            for source in group.sources:
                self._add(source, group.level, message, 0, group.example, known=True)
            self._add("", group.level, message, group.count, group.example, known=True)

    def _add(self, source: str, level: str, message: str, count: int, line: str, *, known: bool = False) -> None:
        name = message if known else normal(message)
        self.errors += count
        if name not in self.groups and len(self.groups) >= _MOST:
            self.beyond += count
            return
        group = self.groups.setdefault(name, Group(level))
        group.count += count
        group.sources |= {source} - {""}
        group.example = group.example or redact_text(line[:_LONGEST])

    def top(self, number: int = 20) -> list[dict[str, Any]]:
        """The messages that came most."""
        ranked = sorted(self.groups.items(), key=lambda pair: (-pair[1].count, pair[0]))
        return [
            {
                "message": redact_text(name),
                "level": group.level,
                "count": group.count,
                "containers": len(group.sources),
                "example": group.example,
            }
            for name, group in ranked[:number]
        ]

    def as_dict(self, number: int = 20) -> dict[str, Any]:
        return {
            "lines": self.lines,
            "errors": self.errors,
            "messages": len(self.groups),
            "beyond": self.beyond,
            "top": self.top(number),
        }


def judge(line: str) -> tuple[str, str]:
    """Level and message of a line; an empty level for one that is no error. JSON and logfmt say it themselves."""
    text = line.strip()
    if text.startswith("{"):
        found = _structured(text)
        if found is not None:
            return found
    level = _LEVEL.search(text[:_LONGEST])
    if level:
        name = level[1].lower()
        message = _MESSAGE.search(text)
        return (name if name in _BAD else "", (message[1] or message[2]) if message else text)
    return ("error" if _WORDS.search(text[:_LONGEST]) else "", text)


def _structured(text: str) -> tuple[str, str] | None:
    try:
        entry = json.loads(text)
    except ValueError:
        return None
    if not isinstance(entry, dict):
        return None
    said: Any = next((entry[key] for key in ("level", "severity", "lvl", "levelname", "log.level") if key in entry), "")
    message = next((entry[key] for key in ("message", "msg", "error", "err", "event") if entry.get(key)), text)
    if isinstance(said, int):  # pino and bunyan: 50 is error, 60 fatal
        return ("fatal" if said >= 60 else "error" if said >= 50 else "", str(message))
    level = str(said).lower()
    if not level:
        return ("error" if _WORDS.search(str(message)[:_LONGEST]) else "", str(message))
    return (level if level in _BAD else "", str(message))


def normal(message: str) -> str:
    """A message without what differs from line to line."""
    text = message[: 2 * _LONGEST]
    for pattern, word in _PARTS:
        text = pattern.sub(word, text)
    return text.strip()[:_LONGEST]
