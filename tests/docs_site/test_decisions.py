"""Decisions are short, and readers find each by its number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

DECISIONS = Path(__file__).parents[2] / "docs" / "decisions"
PAGES = sorted(set(DECISIONS.glob("*.md")) - {DECISIONS / "index.md"})
HEADING = re.compile(r"(\d+)\. .+ \{ #decision-(\d+) \}")
MAX_WORDS = 150  # those of the heading are not counted


def sections(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the heading and the text of each decision of a page."""
    for section in re.split(r"^## ", page.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        yield heading, text


def number_of_words(text: str) -> int:
    """Return how many words a text has; marks of lists and tables are no words."""
    return sum(1 for word in text.split() if re.search(r"\w", word))


def test_each_decision_is_short() -> None:
    """A decision has at most 150 words: context, decision, and rejected alternatives with their reasons."""
    lengths = {heading: number_of_words(text) for page in PAGES for heading, text in sections(page)}

    assert {heading: length for heading, length in lengths.items() if length > MAX_WORDS} == {}


def test_each_decision_has_a_number_and_an_anchor() -> None:
    """Numbers count from 1 without a gap or a duplicate, and the anchor of a decision has its number."""
    found = [HEADING.fullmatch(heading) for page in PAGES for heading, _ in sections(page)]
    numbers = [tuple(map(int, match.groups())) for match in found if match is not None]

    assert sorted(numbers) == [(number, number) for number in range(1, len(found) + 1)]


def test_decisions_are_indexed() -> None:
    """The index links to each decision by its number."""
    index = (DECISIONS / "index.md").read_text()
    expected = [
        f"[{number}]({page.name}#decision-{number})"
        for page in PAGES
        for heading, _ in sections(page)
        for number in [heading.partition(".")[0]]
    ]

    assert [entry for entry in expected if entry not in index] == []


def test_words_are_counted() -> None:
    """Marks of lists and tables do not count, and a link and a name in code count as one word."""
    assert number_of_words("**Rejected:**\n\n- `job.complete(tx=…)`: [slow](x.md#a).\n\n| - | 2 |\n") == 4
