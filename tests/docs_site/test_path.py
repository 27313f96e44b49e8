"""The reader's path: a first job, then ten short pages that every team needs; and docs that one person can read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"
FIRST = "tutorial/quickstart.md"
TITLE = "Learn it in order"
NUM_WORDS, NUM_ALL_WORDS, NUM_PAGES, NUM_README_LINES = 500, 100_000, 110, 130
STEP = re.compile(r"^\d+\. \[([^\]]+)\]\((.+?)\)", re.MULTILINE)
CODE = re.compile(r"^( *)(```|~~~).*?^\1\2[^\n]*$", re.DOTALL | re.MULTILINE)


def path() -> list[tuple[str, str]]:
    """Return title and page of each step on the front page."""
    section = (DOCS / "index.md").read_text().split(f"## {TITLE}\n")[1].split("\n## ")[0]
    assert f"]({FIRST})" in section
    return STEP.findall(section)


def num_words_of_prose(text: str) -> int:
    """Return the number of words outside of code, output and tables."""
    lines = CODE.sub("", text).splitlines()
    return sum(len(line.split()) for line in lines if not line.lstrip().startswith("|"))


def test_prose_is_what_is_neither_code_nor_a_table() -> None:
    """Words of fenced blocks, of indented ones too, and of tables do not count."""
    text = "One two.\n\n```python\nx = 1\n```\n\n- three\n  ```sh\n  ls -l\n  ```\n| a | b |\n"

    assert num_words_of_prose(text) == len(["One", "two.", "-", "three"])


def test_front_page_and_navigation_have_the_same_ten_steps() -> None:
    """The front page and the navigation lead from the first job through the same ten pages."""
    nav = tomllib.loads((PROJECT / "zensical.toml").read_text())["project"]["nav"]
    groups = {title: pages for group in nav for title, pages in group.items()}
    titles = list(groups)

    assert groups[titles[titles.index(TITLE) - 1]] == FIRST
    assert [step for page in groups[TITLE] for step in page.items()] == path()
    assert len(path()) == 10


def test_pages_of_the_path_are_short() -> None:
    """Each page of the path has at most 500 words of prose."""
    words = {page: num_words_of_prose((DOCS / page).read_text()) for _, page in path()}

    assert {page: num for page, num in words.items() if num > NUM_WORDS} == {}


def test_one_person_can_read_the_docs() -> None:
    """The docs have at most 110 pages and 100,000 words, and the README at most 130 lines."""
    pages = [page.read_text() for page in DOCS.rglob("*.md")]

    assert len(pages) <= NUM_PAGES
    assert sum(len(page.split()) for page in pages) <= NUM_ALL_WORDS
    assert len((PROJECT / "README.md").read_text().splitlines()) <= NUM_README_LINES
