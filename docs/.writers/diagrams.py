"""Draw diagrams as SVG that a browser shows in light and in dark mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

STYLE = """
text { font: 14px system-ui, sans-serif; fill: #1f2328 }
.small { font-size: 14px }
.code { font: 13px ui-monospace, SFMono-Regular, Menlo, monospace; fill: #0550ae }
.title { font-weight: 600 }
.box { fill: #f6f8fa; stroke: #8c959f }
.lane { stroke: #8c959f; stroke-dasharray: 3 4 }
.line { stroke: #57606a; fill: none; stroke-width: 1.2 }
.edge { stroke: #8c959f; fill: none }
.head { fill: #57606a }
.number { fill: #0969da }
.number-text { fill: #ffffff; font-size: 11px; font-weight: 600 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .code { fill: #79c0ff }
  .box { fill: #21262d; stroke: #6e7681 }
  .lane, .edge { stroke: #6e7681 }
  .line { stroke: #9ea7b3 }
  .head { fill: #9ea7b3 }
  .number { fill: #1f6feb }
}
"""
MARKER = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path class="head" d="M0 0 8 4 0 8z"/></marker></defs>'
)
LANE_WIDTH = 290
STEP_HEIGHT = 58
HEADER = 64
BOX_HEIGHT, BOX_GAP, LAYER_HEIGHT = 30, 18, 64
CHARACTER_WIDTH = 8.4
SHIFTS = (-0.22, 0.0, 0.22)


class Lane(NamedTuple):
    """One participant of a sequence diagram."""

    title: str
    id: str


class Step(NamedTuple):
    """One step: an arrow between two lanes, or a note where both are the same; `module` is a path below the package."""

    source: str
    target: str
    text: str
    module: str


def sequence_svg(title: str, lanes: Sequence[Lane], steps: Sequence[Step]) -> str:
    """Return a sequence diagram: lanes from left to right, steps from top to bottom."""
    width, height = LANE_WIDTH * len(lanes), HEADER + STEP_HEIGHT * len(steps) + 16
    center = {lane.id: LANE_WIDTH * index + LANE_WIDTH // 2 for index, lane in enumerate(lanes)}
    parts = []
    for lane in lanes:
        x = center[lane.id]
        parts += [
            f'<rect class="box" x="{x - 90}" y="12" width="180" height="32" rx="6"/>',
            f'<text class="title" x="{x}" y="33" text-anchor="middle">{escape(lane.title)}</text>',
            f'<path class="lane" d="M{x} 44V{height - 8}"/>',
        ]
    for index, step in enumerate(steps):
        parts += _step(index, step, center)
    return svg(title, width, height, parts)


def layers_svg(layers: Sequence[Sequence[str]], edges: Mapping[str, set[str]]) -> str:
    """Return one row of boxes for each layer, with an arrow for each import that no longer path of imports implies."""
    widths = [[round(len(name) * CHARACTER_WIDTH) + 24 for name in layer] for layer in layers]
    width = max(sum(row) + BOX_GAP * (len(row) - 1) for row in widths) + 48
    boxes: dict[str, tuple[float, int, int]] = {}
    for number, (layer, row) in enumerate(zip(layers, widths, strict=True)):
        x = (width - sum(row) - BOX_GAP * (len(row) - 1)) / 2
        if len(row) == 1:  # beside the box above it, so that arrows past it can be seen
            x += SHIFTS[number % len(SHIFTS)] * width
        for name, box_width in zip(layer, row, strict=True):
            boxes[name] = (x, 16 + LAYER_HEIGHT * number, box_width)
            x += box_width + BOX_GAP
    parts = [_edge(boxes[source], boxes[target]) for source, target in direct(edges)]
    for name, (x, y, box_width) in boxes.items():
        parts += [
            f'<rect class="box" x="{x:.0f}" y="{y}" width="{box_width}" height="{BOX_HEIGHT}" rx="6"/>',
            f'<text class="code" x="{x + box_width / 2:.0f}" y="{y + 19}" text-anchor="middle">{escape(name)}</text>',
        ]
    return svg("Packages and what they import", width, LAYER_HEIGHT * len(layers), parts)


def direct(edges: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """Return the edges that are left when an edge is dropped for which there is a longer path."""
    return sorted(
        (source, target)
        for source, targets in edges.items()
        for target in targets
        if not any(target in reachable(edges, other) for other in targets - {target})
    )


def reachable(edges: Mapping[str, set[str]], start: str) -> set[str]:
    """Return all nodes that a path leads to from `start`."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for target in edges.get(waiting.pop(), set()) - found:
            found.add(target)
            waiting.append(target)
    return found


def _step(index: int, step: Step, center: Mapping[str, int]) -> list[str]:
    y = HEADER + STEP_HEIGHT * index + 30
    start, end = center[step.source], center[step.target]
    middle = (start + end) // 2
    parts = []
    if start == end:
        parts.append(f'<rect class="box" x="{start - 136}" y="{y - 21}" width="272" height="42" rx="6"/>')
        text_y, code_y = y - 4, y + 13
    else:
        tip = end - 3 if end > start else end + 3
        parts.append(f'<path class="line" d="M{start} {y}H{tip}" marker-end="url(#arrow)"/>')
        text_y, code_y = y - 7, y + 17
    number_x = start - 136 if start == end else start
    return [
        *parts,
        f'<text class="small" x="{middle}" y="{text_y}" text-anchor="middle">{escape(step.text)}</text>',
        f'<text class="code" x="{middle}" y="{code_y}" text-anchor="middle">{escape(step.module)}</text>',
        f'<circle class="number" cx="{number_x}" cy="{y}" r="10"/>',
        f'<text class="number-text" x="{number_x}" y="{y + 4}" text-anchor="middle">{index + 1}</text>',
    ]


def _edge(source: tuple[float, int, int], target: tuple[float, int, int]) -> str:
    x1, y1 = source[0] + source[2] / 2, source[1] + BOX_HEIGHT
    x2, y2 = target[0] + target[2] / 2, target[1] - 1
    bend = (y2 - y1) / 2
    return (
        f'<path class="edge" d="M{x1:.0f} {y1}C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2}" '
        'marker-end="url(#arrow)"/>'
    )


def svg(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    """Return a drawing with our style, and a marker for the heads of arrows."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            MARKER,
            *parts,
            "</svg>\n",
        ]
    )
