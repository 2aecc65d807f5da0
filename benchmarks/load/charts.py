"""Charts for a report that people look at: SVG made of text, for light and dark, without
anything from elsewhere.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 880
HEIGHT: Final = 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 34
#: Gridlines that an axis has about.
_TICKS: Final = 5


@dataclass(frozen=True, slots=True)
class Line:
    """One series: ``points`` are (x, y); ``style`` is a class of the page's style sheet (``a``, ``b`` …)."""

    name: str
    style: str
    points: Sequence[tuple[float, float]]


def chart(title: str, lines: Sequence[Line], *, x_unit: str, y_unit: str, log_x: bool = False) -> str:
    """A chart with axes from zero (``log_x``: a logarithmic x axis from the smallest value)."""
    points = [point for line in lines for point in line.points]
    if not points:
        return f"<figure><figcaption>{html.escape(title)}</figcaption><p>nothing was measured</p></figure>"
    rise = nice(max(y for _, y in points) / _TICKS)
    top = math.ceil(max(y for _, y in points) / rise - 1e-3) * rise or 1.0
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    if log_x:
        low, high = math.log10(max(low, 1e-3)), math.log10(max(high, 1e-3))
    else:
        low = min(low, 0.0)
    span = (high - low) or 1.0

    def at(x: float, y: float) -> str:
        scaled = math.log10(max(x, 1e-3)) if log_x else x
        across = _LEFT + (scaled - low) / span * (WIDTH - _LEFT - _RIGHT)
        down = HEIGHT - _BOTTOM - y / top * (HEIGHT - _TOP - _BOTTOM)
        return f"{across:.1f},{down:.1f}"

    made = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">']
    for step in range(round(top / rise) + 1):
        value = rise * step
        down = HEIGHT - _BOTTOM - value / top * (HEIGHT - _TOP - _BOTTOM)
        made.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>'
        )
        made.append(
            f'<text class="tick" x="{_LEFT - 8}" y="{down + 4:.1f}" text-anchor="end">{shown(value)}</text>'
        )
    run = nice(high / _TICKS)
    for x in log_ticks(low, high) if log_x else [run * step for step in range(int(high / run + 1e-6) + 1)]:
        across = at(x, 0).split(",")[0]
        made.append(
            f'<text class="tick" x="{across}" y="{HEIGHT - 12}" text-anchor="middle">{shown(x)}</text>'
        )
    for line in lines:
        path = " ".join(at(x, y) for x, y in line.points)
        made.append(f'<polyline class="line {line.style}" points="{path}"/>')
    made.append("</svg>")
    legend = "".join(
        f'<span class="key"><i class="{line.style}"></i>{html.escape(line.name)}</span>' for line in lines
    )
    caption = (
        f"<figcaption><b>{html.escape(title)}</b> <small>{y_unit} over {x_unit}</small>{legend}</figcaption>"
    )
    return f"<figure>{caption}{''.join(made)}</figure>"


def bars(
    title: str, rows: Sequence[tuple[str, Sequence[tuple[str, str, float]]]], *, unit: str, left: int = 96
) -> str:
    """A stacked bar for each of ``rows``, which are a name and its parts: (name, style, value in ``unit``).

    ``left`` is the room for names.
    """
    totals = [sum(value for _, _, value in parts) for _, parts in rows]
    longest = max(totals, default=0.0) or 1.0
    room = WIDTH - left - 96
    made = [f'<svg viewBox="0 0 {WIDTH} {len(rows) * 40 + 4}" role="img" aria-label="{html.escape(title)}">']
    keys: dict[str, str] = {}
    for number, ((name, parts), total) in enumerate(zip(rows, totals, strict=True)):
        top, across = number * 40 + 4, float(left)
        made.append(
            f'<text class="tick" x="{left - 12}" y="{top + 20}" text-anchor="end">{html.escape(name)}</text>'
        )
        for part, style, value in parts:
            width = value / longest * room
            if width <= 0:
                continue
            keys[part] = style
            made.append(
                f'<rect class="bar {style}" x="{across:.1f}" y="{top}" width="{width:.1f}" height="30"/>'
            )
            if width > 40 and len(parts) > 1:  # of a single part the total says it
                made.append(
                    f'<text class="on" x="{across + width / 2:.1f}" y="{top + 20}" text-anchor="middle">'
                    f"{shown(value)}</text>"
                )
            across += width
        made.append(
            f'<text class="tick" x="{across + 8:.1f}" y="{top + 20}">{shown(total)} '
            f"{html.escape(unit)}</text>"
        )
    made.append("</svg>")
    legend = "".join(
        f'<span class="key"><i class="{style}"></i>{html.escape(part)}</span>'
        for part, style in reversed(keys.items())
    )
    return f"<figure><figcaption><b>{html.escape(title)}</b>{legend}</figcaption>{''.join(made)}</figure>"


def nice(number: float) -> float:
    """The next number of the form 1, 2, 2.5, 5 or 10 times a power of ten that is not below."""
    if number <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(number))
    return next(step * scale for step in (1, 2, 2.5, 5, 10) if step * scale >= number * 0.999)


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, times 1, 2 and 5, within logarithmic bounds."""
    found = [
        step * 10.0**power
        for power in range(math.floor(low), math.ceil(high) + 1)
        for step in (1, 2, 5)
        if low - 0.01 <= math.log10(step * 10.0**power) <= high + 0.01
    ]
    return found if len(found) <= 12 else [value for value in found if math.log10(value) % 1 < 0.01]


def shown(value: float) -> str:
    """A tick's number in few characters."""
    if value >= 1_000_000:
        return f"{value / 1e6:g}M"
    if value >= 1_000:
        return f"{value / 1e3:g}k"
    return f"{value:.3g}"
