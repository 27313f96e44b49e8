from __future__ import annotations

from page_views import VIEWS

from millhand.web.routes import PAGES


def test_every_page_has_a_view() -> None:
    """The tests in a browser visit each page in the list of pages. Add a new page to page_views.py."""
    assert set(VIEWS) == {page.name for page in PAGES if page.template is not None}
