"""Draw two charts of a run as plain SVG: jobs/s against CPU a job, and how each system's rate changes under load."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from plan import COST_CHART, GROWTH_CHART, IN_SCENES, SCENES, VARIANTS
from plot import COLOURS, INK, OTHERS, PALE
from results import Line, Results, by_minute, ratios

GREY = "#666"
LINES = ("#b5532a", "#e0956b", "#3f7d8c", "#7fb3bd", "#5b6b2f", "#7a4b8f", "#98a4b0", "#c79a1b")
DASHES = ("", "6 3", "2 2", "8 3 2 3")
# A higher ratio is drawn as this one.
RATIO_MAX = 2.0


@dataclass(frozen=True)
class Point:
    """A system at its fastest: CPU in microseconds a job, client and server together, and jobs a second."""

    system: str
    title: str
    cpu: float
    rate: float


def write_charts(lines: Sequence[Line], directory: Path) -> None:
    """Write each chart that has figures."""
    results = Results(lines)
    if found := points(results):
        (directory / COST_CHART).write_text(cost_drawn(found))
    drawn = panels(results)
    if any(series for _, _, series in drawn):
        (directory / GROWTH_CHART).write_text(growth_drawn(drawn))


def points(results: Results) -> list[Point]:
    """Return the fastest settings of each system, and each of ours, the fastest first."""
    found: dict[str, Point] = {}
    for variant in VARIANTS:
        rates, client, server = (
            list(results.values(variant.name, "drain", figure).values())
            for figure in ("jobs_per_second", "cpu_us_per_job", "server_us_per_job")
        )
        if rates and server:
            cpu = statistics.median(map(sum, zip(client, server, strict=True)))
            point = Point(variant.system, variant.name, max(cpu, 1.0), statistics.median(rates))
            key = variant.name if variant.system == "millhand" else variant.system
            found[key] = max(found.get(key, point), point, key=lambda one: one.rate)
    return sorted(found.values(), key=lambda one: -one.rate)


def panels(results: Results) -> list[tuple[str, list[str], dict[str, list[float | None]]]]:
    """Return the title, the ticks and the series of each panel: rates divided by the system's own in the plain case."""
    rows, processes = SCENES[:2], SCENES[2:]
    names = [f"{system}, {kind}" for system, kind in IN_SCENES]
    return [
        ("rows beside", ["none", "1 M finished", "1 M waiting"], _by_scene(results, names, rows)),
        ("minutes of an open transaction, ÷ the fastest", *_by_minute(results, names)),
        ("processes", ["1", "2", "4"], _by_scene(results, names, processes)),
    ]


def _by_scene(
    results: Results, names: Iterable[str], scenes: Iterable[tuple[str, object]]
) -> dict[str, list[float | None]]:
    series: dict[str, list[float | None]] = {}
    for name in names:
        plain = results.values(name, "drain", "jobs_per_second")
        beside = [ratios(results.values(name, title, "jobs_per_second"), plain) for title, _ in scenes]
        if any(beside):
            series[name] = [1.0, *(statistics.median(one) if one else None for one in beside)]
    return series


def _by_minute(results: Results, names: Iterable[str]) -> tuple[list[str], dict[str, list[float | None]]]:
    series: dict[str, list[float | None]] = {}
    for name in names:
        if rates := by_minute(results, name):
            series[name] = [rates[minute] / max(rates.values()) if minute in rates else None for minute in
                            range(1, max(rates) + 1)]  # fmt: skip
    most = max(map(len, series.values()), default=0)
    return [str(minute) for minute in range(1, most + 1)], series


def cost_drawn(found: Sequence[Point]) -> str:
    """Return the picture of the points on logarithmic axes, and the most that this machine's cores allow."""
    left, top, width, height = 70, 34, 440, max(320, 19 * len(found))
    cpus, rates = _decades(one.cpu for one in found), _decades(one.rate for one in found)

    def x(value: float) -> float:
        return left + width * math.log(value / cpus[0], cpus[-1] / cpus[0])

    def y(value: float) -> float:
        return top + height * (1 - math.log(value / rates[0], rates[-1] / rates[0]))

    parts = [
        _text(left, 18, "no-op jobs a second, one process (up) against CPU a job, client and server (right)")
    ]
    for value in cpus:
        parts += [
            _line(x(value), top, x(value), top + height),
            _text(x(value), top + height + 16, f"{value:,.0f} µs", "middle"),
        ]
    for value in rates:
        parts += [
            _line(left, y(value), left + width, y(value)),
            _text(left - 6, y(value) + 4, f"{value:,.0f}", "end"),
        ]
    cores = os.cpu_count() or 1
    ends = [max(cpus[0], cores * 1e6 / rates[-1]), min(cpus[-1], cores * 1e6 / rates[0])]
    limit = [(x(cpu), y(cores * 1e6 / cpu)) for cpu in ends]
    parts.append(f'<path d="M{_joined(limit)}" stroke="{GREY}" stroke-dasharray="5 4" fill="none"/>')
    parts.append(_text(left + width, top + height + 32, f"dashed: all CPU of {cores} cores", "end", GREY))
    for index, one in enumerate(found):
        at = top + 8 + index * (height - 8) / max(1, len(found) - 1)
        colour = COLOURS.get(one.system, OTHERS)
        parts.append(
            f'<path d="M{x(one.cpu):.1f} {y(one.rate):.1f}L{left + width + 14} {at:.1f}" stroke="{PALE}" fill="none"/>'
        )
        parts.append(f'<circle cx="{x(one.cpu):.1f}" cy="{y(one.rate):.1f}" r="5" fill="{colour}"/>')
        parts.append(_text(left + width + 18, at + 4, f"{one.title}: {one.rate:,.0f}/s, {one.cpu:,.0f} µs"))
    return _picture("Jobs a second against CPU a job", left + width + 400, top + height + 44, parts)


def growth_drawn(drawn: Sequence[tuple[str, Sequence[str], Mapping[str, Sequence[float | None]]]]) -> str:
    """Return the picture of the panels; 1 is a system's own rate in the plain case."""
    left, top, width, height, gap = 44, 44, 250, 220, 44
    names = list(dict.fromkeys(name for _, _, series in drawn for name in series))
    highest = max(1.2, *(value or 0.0 for _, _, series in drawn for one in series.values() for value in one))
    most = min(highest, RATIO_MAX)
    parts = [
        _text(
            left, 18, "jobs a second, divided by the system's own in the plain case, or in its fastest minute"
        )
    ]
    for index, (title, ticks, series) in enumerate(drawn):
        start = left + index * (width + gap)
        step = width / max(1, len(ticks) - 1)
        parts.append(_text(start, top - 8, title, colour=GREY))
        for number in range(int(most * 4) + 1):
            at = top + height * (1 - number / 4 / most)
            parts += [
                _line(start, at, start + width, at),
                _text(start - 5, at + 4, f"{number / 4:g}", "end", GREY),
            ]
        parts += [
            _text(start + step * place, top + height + 16, tick, _anchor(place, len(ticks)), GREY)
            for place, tick in enumerate(ticks)
        ]
        for name, values in series.items():
            spots = [
                (start + step * place, top + height * (1 - min(value, most) / most))
                for place, value in enumerate(values)
                if value is not None
            ]
            parts.append(f'<path d="M{_joined(spots)}" {_stroke(names.index(name))}/>')
    for place, name in enumerate(names):
        across, down = left + (place % 3) * (width + gap), top + height + 38 + place // 3 * 18
        parts.append(f'<path d="M{across} {down - 4}h24" {_stroke(place)}/>')
        parts.append(_text(across + 30, down, name))
    rows = -(-len(names) // 3)
    return _picture("How the rate changes", left + 3 * (width + gap), top + height + 32 + rows * 18, parts)


def _decades(values: Iterable[float]) -> list[float]:
    found = list(values)
    first, last = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def _anchor(place: int, num_ticks: int) -> str:
    return "start" if place == 0 else "end" if place == num_ticks - 1 else "middle"


def _stroke(index: int) -> str:
    dash = DASHES[index // len(LINES) % len(DASHES)]
    return f'stroke="{LINES[index % len(LINES)]}" stroke-width="2" stroke-dasharray="{dash}" fill="none"'


def _joined(spots: Iterable[tuple[float, float]]) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{PALE}"/>'


def _text(x: float, y: float, words: str, anchor: str = "start", colour: str = INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def _picture(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {width:.0f} {height:.0f}"'
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="12" {box}>',
        f"<title>{escape(title)}</title>",
        f'<rect x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1:.0f}" rx="6" fill="#fff" stroke="{PALE}"/>',
    ]
    return "\n".join([*head, *parts, "</svg>", ""])
