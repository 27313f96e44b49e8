"""Draw the drains as bars on a background of their own, for light and dark pages."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from plan import VARIANTS
from report import titled
from results import Line, Results

LEFT, WIDTH, STEP = 190, 540, 22
COLOURS = {"millhand": "#b5532a", "baseline": "#d9c9a8", "river": "#3f7d8c", "river_rust": "#3f7d8c"}
OTHERS = "#98a4b0"
INK, PALE = "#222", "#ddd"


def write_plot(lines: Sequence[Line], path: Path) -> None:
    """Draw each drain as a bar to its median and a line from minimum to maximum."""
    results = Results(lines)
    found = [
        (variant.system, titled(variant.name), list(values))
        for variant in VARIANTS
        if (values := results.values(variant.name, "drain", "jobs_per_second").values())
    ]
    if found:
        path.write_text(drawn(sorted(found, key=lambda one: -statistics.median(one[2]))))


def drawn(bars: Sequence[tuple[str, str, Sequence[float]]]) -> str:
    """Return the picture of the bars; each has a system, a title and values."""
    most = max(max(values) for _, _, values in bars)
    width, height = LEFT + WIDTH + 80, STEP * len(bars) + 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="12" viewBox="0 0 {width} {height}">',
        "<title>Jobs drained per second by one process</title>",
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="6" fill="#fff" stroke="{PALE}"/>',
        f'<text x="{LEFT}" y="18" fill="{INK}">no-op jobs a second, one process; bar: median, line: range</text>',
    ]
    for index, (system, title, values) in enumerate(bars):
        parts += _bar(28 + index * STEP, WIDTH / most, system, title, values)
    return "\n".join([*parts, "</svg>", ""])


def _bar(top: int, scale: float, system: str, title: str, values: Sequence[float]) -> list[str]:
    middle = statistics.median(values)
    end, least, greatest = (LEFT + scale * one for one in (middle, min(values), max(values)))
    weight = ' font-weight="bold"' if system == "millhand" else ""
    return [
        f'<text x="{LEFT - 6}" y="{top + 12}" text-anchor="end" fill="{INK}"{weight}>{title}</text>',
        f'<rect x="{LEFT}" y="{top}" width="{end - LEFT:.1f}" height="{STEP - 7}" fill="{COLOURS.get(system, OTHERS)}"/>',
        f'<path d="M{least:.1f} {top + 7.5}H{greatest:.1f}" stroke="{INK}" stroke-width="1.5"/>',
        f'<text x="{max(end, greatest) + 5:.1f}" y="{top + 12}" fill="{INK}"{weight}>{middle:,.0f}</text>',
    ]
