"""Write tables into a page of the documentation, between two marks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def put(path: Path, text: str, begin_mark: str, end_mark: str) -> None:
    """Put a text between two marks of a document."""
    document = path.read_text()
    before, begin, rest = document.partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if not begin or not end:
        sys.exit(f"error: {path} must hold the marks {begin_mark!r} and {end_mark!r}, got one without")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, whose first column is text and the others are numbers."""
    lines = [heads, ["---", *["--:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
