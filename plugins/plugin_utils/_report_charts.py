# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Two small charts as inline SVG. Colors come from the page, so that they follow light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ._report import Number, Phase
from ._report_words import duration, markup

_WIDTH, _LEFT, _RIGHT, _ROW, _BAR = 640, 96, 120, 30, 16
_SPAN = _WIDTH - _LEFT - _RIGHT


def before_after(number: Number) -> str:
    """Before, as forecast, and as measured, on one scale."""
    rows = [("Before", number.before, "before"), ("Forecast", number.forecast, "forecast")]
    if number.measured is not None:
        rows.append(("Measured", number.measured, "after"))
    top = max((abs(value) for _name, value, _kind in rows), default=0) or 1
    bars = (
        _row(row, name, 0, abs(value) / top, words=number.text(value), kind=kind)
        for row, (name, value, kind) in enumerate(rows)
    )
    return _svg(bars, len(rows), f"{number.name} before and after")


def timeline(phases: Sequence[Phase]) -> str:
    """When each phase ran, and how long."""
    whole = max((phase.start + phase.seconds for phase in phases), default=0) or 1
    bars = (
        _row(
            row,
            phase.name,
            phase.start / whole,
            phase.seconds / whole,
            words=duration(phase.seconds),
            kind=phase.name.lower(),
        )
        for row, phase in enumerate(phases)
    )
    return _svg(bars, len(phases), "Phases of the run")


def _row(row: int, name: str, start: float, share: float, *, words: str, kind: str) -> str:
    top = row * _ROW
    left, width = _LEFT + start * _SPAN, max(share * _SPAN, 3)
    base = top + _ROW / 2 + 4.5
    return (
        f'<text class="name" x="{_LEFT - 12}" y="{base}" text-anchor="end">{markup(name)}</text>'
        f'<rect class="track" x="{_LEFT}" y="{top + (_ROW - _BAR) / 2}" width="{_SPAN}" height="{_BAR}" rx="4"/>'
        f'<rect class="bar {markup(kind)}" x="{left:.1f}" y="{top + (_ROW - _BAR) / 2}" width="{width:.1f}" '
        f'height="{_BAR}" rx="4"/>'
        f'<text class="value" x="{_WIDTH - _RIGHT + 12}" y="{base}">{markup(words)}</text>'
    )


def _svg(rows: Iterable[str], count: int, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {count * _ROW}" role="img" aria-label="{markup(title)}">'
        f"<title>{markup(title)}</title>{''.join(rows)}</svg>"
    )
