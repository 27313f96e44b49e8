"""List objects in the order of keys, from ordered and unordered stores."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from millhand.orphans.scan.listing import (
    HEARTBEAT_PAGES,
    OutOfOrder,
    cut_at,
    is_utf8,
    ordered_pages,
    sorted_pages,
    without_unstorable,
)
from millhand.storage import ObjectInfo, ObjectPage

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def page_of(*keys: str, num_skipped: int = 0) -> ObjectPage:
    infos = [ObjectInfo(key=key, size=len(key), etag=f"of {key}", modified_at=WHEN) for key in keys]
    return ObjectPage(
        describe=infos.__getitem__,
        keys=list(keys),
        num_skipped=num_skipped,
        sizes=[one.size for one in infos],
    )


class Listing:
    """A store that lists these pages, whatever it is asked for."""

    def __init__(self, *pages: ObjectPage) -> None:
        self._pages = pages

    async def list_pages(
        self, *, prefix: str = "", start_after: str = "", up_to: str | None = None, page_size: int = 1_000
    ) -> AsyncGenerator[ObjectPage, None]:
        for page in self._pages:
            yield page


async def ordered(*pages: ObjectPage, start_after: str = "") -> list[list[str]]:
    listed = ordered_pages(Listing(*pages), prefix="", start_after=start_after, up_to=None, page_size=10)
    return [list(page.keys) async for page in listed]


async def test_pages_in_order_are_passed_on() -> None:
    """Empty pages are allowed between the others."""
    assert await ordered(page_of("a", "b"), page_of(), page_of("c")) == [["a", "b"], [], ["c"]]


@pytest.mark.parametrize(
    "pages",
    [(page_of("b", "a"),), (page_of("a", "a"),), (page_of("a"), page_of("a")), (page_of("b"), page_of("a"))],
    ids=["within a page", "twice in a page", "twice", "between pages"],
)
async def test_pages_out_of_order_raise(pages: tuple[ObjectPage, ...]) -> None:
    """A key that does not come after the one before raises OutOfOrder."""
    with pytest.raises(OutOfOrder):
        await ordered(*pages)


async def test_a_key_up_to_the_start_raises() -> None:
    """A listing that returns the key that it must start after is not exact."""
    with pytest.raises(OutOfOrder):
        await ordered(page_of("a"), start_after="a")


async def test_an_unordered_listing_is_sorted_and_has_each_key_once() -> None:
    """Pages come back in the order of keys, with size, etag and time, and without keys up to the start."""
    texts = lambda: [("e", "2026-01-01T00:00:00Z")] * 3  # noqa: E731
    listing = Listing(
        page_of("c", "a", "é"),
        replace(page_of("b", "c", "0", num_skipped=3), texts=texts),
        page_of("a\0b", "\udcff"),
    )

    pages = [
        page async for page in sorted_pages(listing, prefix="", start_after="0", page_size=2, beat=beaten([]))
    ]

    assert [(list(page.keys), page.num_skipped) for page in pages] == [
        ([], 5),
        (["a", "b"], 0),
        (["c"], 0),
        (["é"], 0),
    ]
    assert pages[3].describe(0) == ObjectInfo(key="é", size=1, etag="of é", modified_at=WHEN)
    assert pages[1].describe(1) == ObjectInfo(key="b", size=1, etag="e", modified_at=WHEN)


async def test_an_unordered_listing_beats_while_it_is_collected() -> None:
    """The heartbeat is written every HEARTBEAT_PAGES pages, so the run keeps its lease."""
    beats: list[None] = []
    listing = Listing(*(page_of(f"{number:03}") for number in range(2 * HEARTBEAT_PAGES)))

    async for _ in sorted_pages(listing, prefix="", start_after="", page_size=1_000, beat=beaten(beats)):
        pass

    assert len(beats) == 2


def beaten(beats: list[None]) -> Callable[[], Awaitable[None]]:
    async def beat() -> None:
        beats.append(None)

    return beat


def test_cut_at_keeps_keys_up_to_high() -> None:
    """A page that ends before `high` is returned as it is."""
    page = page_of("a", "b", "c")

    assert [list(cut_at(page, high).keys) for high in ("0", "b", "bb", "c", None)] == [
        [],
        ["a", "b"],
        ["a", "b"],
        ["a", "b", "c"],
        ["a", "b", "c"],
    ]


def test_keys_that_postgresql_cannot_store_are_skipped() -> None:
    """NUL characters and bytes that are not UTF-8 cannot be in a row; such keys count as skipped."""
    page = without_unstorable(page_of("a", "b\0", "c\udcff", "d", num_skipped=1))

    assert (list(page.keys), page.num_skipped, page.describe(1).key) == (["a", "d"], 3, "d")
    assert (is_utf8("é"), is_utf8("\udcff")) == (True, False)
