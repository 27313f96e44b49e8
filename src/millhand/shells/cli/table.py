"""
Tables that fit into the terminal.

Rule 1: texts become shorter, then optional columns are left out, then names become shorter.
Rule 2: if even that does not fit, each row is a block with a line for each column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SHORTEST = 32  # a longer column may be shortened to this; ids of clients are shorter
SHORTEST_TEXT = 16
GAP = 2


@dataclass(frozen=True, slots=True)
class Columns:
    """
    The columns of a table.

    `texts` are sentences and lists, which may be cut; the end of an id would be missed. `optional` columns are left out
    where the terminal is narrow, the first ones first.
    """

    names: Sequence[str]
    texts: Sequence[str] = ()
    optional: Sequence[str] = ()


def fitting_widths(columns: Columns, natural: Sequence[int], width: int) -> dict[str, int] | None:
    """Return the columns that fit into a terminal, and their widths; None if even the fewest do not."""
    widths = dict(zip(columns.names, natural, strict=True))
    fitting = _shortened(widths, columns.texts, width)
    for name in columns.optional:
        if fitting is None:
            del widths[name]
            fitting = _shortened(widths, columns.texts, width)
    if fitting is None:
        cut = {
            name: min(long, SHORTEST_TEXT) if name in columns.texts else long for name, long in widths.items()
        }
        fitting = _shortened(cut, columns.names, width, SHORTEST)
    return fitting


def _shortened(
    natural: Mapping[str, int], names: Sequence[str], width: int, shortest: int = SHORTEST_TEXT
) -> dict[str, int] | None:
    """Return widths that fit, with the longest of `names` shortened first; None if they are too long at their shortest."""
    widths = dict(natural)
    excess = sum(widths.values()) + GAP * (len(widths) - 1) - width
    while excess > 0 and (long := [name for name in names if widths.get(name, 0) > shortest]):
        widths[max(long, key=lambda name: widths[name])] -= 1
        excess -= 1
    return widths if excess <= 0 else None
