# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Statements without what people wrote into them: literals may be payload, or a password."""

from __future__ import annotations

import re

#: What is shown of one statement.
LONGEST = 1000

#: A cut statement may end within a literal, so that the end of the text ends each of them, too.
_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))
    |(?P<name>"(?:[^"]|"")*(?:"|\Z))
    |(?P<literal>
        \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)
        |\b[eE]'(?:[^'\\]|\\.|'')*(?:'|\\?\Z)
        |(?:\b[bBxXnN]|\b[uU]&)?'(?:[^']|'')*(?:'|\Z)
        |(?<![\w$.])(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\w*)
    |(?P<word>\$\d+|[^\W\d][\w$]*)""",
    re.DOTALL | re.VERBOSE,
)


def normalized(query: str) -> str:
    """The statement with C($n) for each literal, without comments, on one line, in time linear to its length."""
    taken = [int(number) for number in re.findall(r"\$(\d{1,6})\b", query)]
    count = max(taken, default=0)
    parts: list[str] = []
    end = 0
    for found in _TOKEN.finditer(query):
        parts.append(query[end : found.start()])
        end = found.end()
        if found["literal"] is not None:
            count += 1
            parts.append(f"${count}")
        else:
            parts.append(" " if found["comment"] is not None else found[0])
    parts.append(query[end:])
    return shortened("".join(parts))


def shortened(query: str) -> str:
    """One line of at most P(LONGEST) characters."""
    line = " ".join(query.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def shown(query: str | None, how: str) -> str:
    """A statement as C(show_queries) wants it: C(none), C(normalized) or C(raw)."""
    if how == "none" or not query:
        return ""
    return shortened(query) if how == "raw" else normalized(query)
