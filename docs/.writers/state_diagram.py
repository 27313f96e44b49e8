"""
Draw the states of a job as SVG: docs/assets/states.svg.

An arrow of a group stands for one arrow of each state in it. `drawn` returns them, so that a test compares with the code.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import NamedTuple

from diagrams import svg

WIDTH, HEIGHT = 800, 516
BOX_HEIGHT = 36
INSERT, DELETED = "[*]", "[*]"
GROUPS = {
    "waiting": ("pending", "available", "scheduled", "retryable"),
    "due later": ("scheduled", "retryable"),
    "finished": ("cancelled", "completed", "discarded"),
}


class Box(NamedTuple):
    """A state, by the left edge and the middle of its box."""

    name: str
    x: int
    y: int
    width: int = 122


class Arrow(NamedTuple):
    """A path from a state or group to another; `label` begins at `at`, with a line for each line of text."""

    source: str
    target: str
    path: str
    label: str
    at: tuple[int, int]


BOXES = (
    Box("pending", 118, 70),
    Box("available", 118, 180),
    Box("scheduled", 118, 290),
    Box("retryable", 118, 400),
    Box("running", 386, 180, 100),
    Box("cancelled", 658, 70),
    Box("completed", 658, 180),
    Box("discarded", 658, 400),
)
FRAMES = (("waiting", 92, 24, 168, 420), ("", 110, 258, 140, 176), ("finished", 640, 24, 158, 420))
ARROWS = (
    Arrow(INSERT, "pending", "M30 170V70H114", "pending", (35, 62)),
    Arrow(INSERT, "available", "M40 172H114", "insert", (46, 165)),
    Arrow(INSERT, "scheduled", "M30 190V290H114", "for later", (36, 283)),
    Arrow("pending", "available", "M179 88V158", "retry", (186, 128)),
    Arrow("due later", "available", "M179 258V202", "when due,\nretry", (184, 226)),
    Arrow("available", "running", "M240 172H382", "fetch", (296, 165)),
    Arrow(
        "running",
        "available",
        "M386 188H244",
        "due within 5 s,\ninterrupted, or\nits client died",
        (274, 206),
    ),
    Arrow("running", "scheduled", "M404 198V290H244", "snoozed", (268, 283)),
    Arrow("running", "retryable", "M424 198V400H244", "failed, rescued", (268, 393)),
    Arrow("running", "completed", "M486 180H654", "completed", (520, 173)),
    Arrow("running", "cancelled", "M436 162V86H654", "cancelled", (520, 103)),
    Arrow("running", "discarded", "M448 198V388H654", "last attempt failed", (466, 381)),
    Arrow("waiting", "cancelled", "M260 62H654", "cancel", (436, 55)),
    Arrow("due later", "discarded", "M250 414H654", "its unique key is taken", (452, 431)),
    Arrow("finished", "available", "M690 444V484H101V190H114", "retry", (360, 477)),
    Arrow("finished", DELETED, "M750 444V488", "retention ends", (630, 504)),
)


def drawn() -> set[tuple[str, str]]:
    """Return each pair of states that the drawing has an arrow for."""
    return {
        (source, arrow.target) for arrow in ARROWS for source in GROUPS.get(arrow.source, (arrow.source,))
    }


def state_svg() -> str:
    """Return the drawing."""
    return svg(
        "States of a job, and what leads from one to another",
        WIDTH,
        HEIGHT,
        [*_frames(), *_arrows(), *_boxes()],
    )


def _frames() -> Iterator[str]:
    for title, x, y, width, height in FRAMES:
        yield f'<rect class="lane" fill="none" x="{x}" y="{y}" width="{width}" height="{height}" rx="10"/>'
        yield f'<text class="small" x="{x + width // 2}" y="{y + 18}" text-anchor="middle">{title}</text>'


def _boxes() -> Iterator[str]:
    for name, x, y, width in BOXES:
        yield f'<rect class="box" x="{x}" y="{y - BOX_HEIGHT // 2}" width="{width}" height="{BOX_HEIGHT}" rx="6"/>'
        yield f'<text class="code" x="{x + width // 2}" y="{y + 5}" text-anchor="middle">{name}</text>'
    yield '<circle class="head" cx="30" cy="180" r="9"/>'
    yield '<circle class="head" cx="750" cy="499" r="7"/><circle class="line" cx="750" cy="499" r="11"/>'


def _arrows() -> Iterator[str]:
    for _, _, path, label, (x, y) in ARROWS:
        yield f'<path class="line" d="{path}" marker-end="url(#arrow)"/>'
        for number, line in enumerate(label.splitlines()):
            yield f'<text class="small" x="{x}" y="{y + 17 * number}">{escape(line)}</text>'
