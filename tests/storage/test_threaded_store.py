"""A blocking store in threads: concurrent calls, and pages fetched one ahead of the reader."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest
from stores import Place

from millhand.storage.threaded_store import read_ahead


async def pages_of(results: Iterator[int | None], submitted: list[int]) -> list[tuple[int, int]]:
    """Return each page with the number of pages that were requested when it came."""

    def submit() -> asyncio.Future[int | None]:
        submitted.append(1)
        return asyncio.get_running_loop().run_in_executor(None, next, results, None)

    return [(page, len(submitted)) async for page in read_ahead(submit)]


async def test_the_next_page_is_requested_before_the_caller_has_this_one() -> None:
    """With each page that the caller reads, one more page than that is requested."""
    submitted: list[int] = []

    assert await pages_of(iter([7, 8, 9]), submitted) == [(7, 2), (8, 3), (9, 4)]
    assert len(submitted) == 4


async def test_an_error_of_a_page_ends_the_listing() -> None:
    """The caller gets the pages before the error, and then the error."""

    def results() -> Iterator[int]:
        yield 7
        raise ValueError("page 2")

    with pytest.raises(ValueError, match="page 2"):
        await pages_of(results(), [])


async def test_a_listing_may_be_closed_after_any_page(place: Place) -> None:
    """A caller that stops reading early leaves no thread, warning or error behind."""
    for number in range(50):
        await place.store.put(f"{number:03}", b"")

    pages = place.store.list_pages(page_size=3)
    first = await anext(pages)
    await pages.aclose()  # type: ignore[attr-defined]

    assert len(first.keys) == 3
    assert await anext(pages, None) is None


@pytest.mark.slow
async def test_store_serves_many_tasks_at_once(place: Place) -> None:
    """Puts, moves, reads and deletes of a hundred tasks do not disturb each other."""

    async def life(number: int) -> None:
        key = f"life/{number % 10}/{number}"
        seen = await place.store.put(key, str(number).encode())
        await place.store.move(key, f"after{key}", if_same=seen)
        assert await place.store.get(f"after{key}") == str(number).encode()
        assert await place.store.delete(f"after{key}") is True

    await asyncio.gather(*(life(number) for number in random.sample(range(100), 100)))

    assert [page async for page in place.store.list_pages()] == []
