"""
Which claims of the documentation name no test, and which tests may only repeat another.

Run it to read the lists: `.venv/bin/python tests/project_rules/claims.py`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from source_files import PROJECT, read, sources

CELL = re.compile(r"(?<!\\)\|")
# A test, or a model that a tool checks.
EVIDENCE = re.compile(r"`test_\w+\.py(::test_\w+)?`|models\.md")
HEADER = "verified by"
TEST = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)
DOCSTRING = re.compile(r'^ {4}""".*?"""\n', re.DOTALL | re.MULTILINE)
VALUE = re.compile(r'"[^"\n]*"|\b\d[\d_.]*\b')
# Shorter tests look alike by chance.
MIN_LINES = 4


def claims_without_a_test(page: str) -> Iterator[str]:
    """Yield the claim of each row that names no test, of the tables whose last column is "verified by"."""
    is_table = False
    for line in page.splitlines():
        cells = [cell.strip() for cell in CELL.split(line)[1:-1]]
        if not cells:
            is_table = False
        elif cells[-1].lower() == HEADER:
            is_table = True
        elif is_table and not set(cells[-1]) <= {"-", ":"} and not EVIDENCE.search(cells[-1]):
            yield cells[0]


def repeated_tests(files: Iterable[tuple[str, str]], *, with_values: bool) -> list[list[str]]:
    """Return the groups of tests whose parameters and bodies are the same; without values, those of one shape."""
    groups: dict[str, list[str]] = defaultdict(list)
    for path, text in files:
        for chunk in text.split("\n\n\n"):
            if test := TEST.search(chunk):
                same = DOCSTRING.sub("", chunk.replace(test[1], "", 1).strip(), count=1)
                if len(same.splitlines()) >= MIN_LINES:
                    groups[same if with_values else VALUE.sub("", same)].append(f"{path}::{test[1]}")
    return [group for group in groups.values() if len(group) > 1]


def main() -> None:
    for page in sorted((PROJECT / "docs").rglob("*.md")):
        for claim in claims_without_a_test(read(page)):
            print(f"no test: {page.relative_to(PROJECT)}: {claim}")
    files = list(sources("tests"))
    for what, with_values in (("same test", True), ("same shape", False)):
        for group in repeated_tests(files, with_values=with_values):
            print(f"{what}: {', '.join(group)}")


if __name__ == "__main__":
    main()
