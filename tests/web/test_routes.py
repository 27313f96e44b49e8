"""Claims about the lists of pages and changes."""

from __future__ import annotations

from collections import Counter

from millhand.web.routes import CHANGES, PAGES, TABS


def test_each_page_and_change_has_a_name_and_a_path_of_its_own() -> None:
    """The API's operations have the names, and a second route of a path would never answer."""
    names = Counter([*(f"get_{page.name}" for page in PAGES), *(change.name for change in CHANGES)])
    paths = Counter([*(("GET", page.path) for page in PAGES), *(("POST", change.path) for change in CHANGES)])

    assert [name for name, num in names.items() if num > 1] == []
    assert [path for path, num in paths.items() if num > 1] == []


def test_each_entry_of_the_navigation_leads_to_a_page_of_it() -> None:
    """Each page is in one entry, and the entry leads to one of its pages."""
    entries = {name: path for name, _, path in TABS}

    assert {page.tab for page in PAGES} == set(entries)
    assert {(page.tab, page.path) for page in PAGES} >= set(entries.items())
