"""Write the table of checks into docs/reference/doctor.md: `python docs/.writers/checks_page.py`."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

from millhand.doctor.catalog import CHECKS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "doctor.md"
TABLE = re.compile(r"(?<=<!-- checks: begin -->\n).*?(?=<!-- checks: end -->)", re.DOTALL)


def draw_table() -> str:
    """Return a table for each area."""
    parts = []
    for area, checks in groupby(CHECKS, key=lambda check: check.area):
        parts += [f"\n### `{area}`\n", "| check | looks at | finds |", "|---|---|---|"]
        for check in checks:
            finds = "; ".join(f"**{level}**: {what}" for level, what in parts_of(check.finds))
            parts.append(f"| `{check.name}` | {check.asks} | {finds} |")
    return "\n".join(parts) + "\n\n"


def parts_of(finds: str) -> list[tuple[str, str]]:
    """Return the levels of a text such as `broken: a; notable: b`, each with its condition."""
    return [(level, what) for level, _, what in (part.partition(": ") for part in finds.split("; "))]


def draw_page() -> str:
    """Return the whole page with the tables of today."""
    return TABLE.sub(lambda _: draw_table(), PAGE.read_text(encoding="utf-8"), count=1)


if __name__ == "__main__":
    PAGE.write_text(draw_page(), encoding="utf-8")
