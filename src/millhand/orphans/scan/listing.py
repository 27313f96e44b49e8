"""
List objects in the order of keys, from any store.

The pages of an ordered store are checked one by one, and the first that is not in order raises `OutOfOrder`. The listing
of an unordered store is first sorted in a temporary file, some 150 bytes per object.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from itertools import chain
from typing import Any, Protocol, TypeVar

from millhand.storage import ObjectInfo, ObjectPage
from millhand.storage.spool import SortedSpool
from millhand.storage.threaded_store import read_ahead

HEARTBEAT_PAGES = 50
NUM_COLUMNS = 4
SEPARATOR = "\0"  # of key, size, etag and time; sorts before any character of a key

Record = TypeVar("Record", bound=Sequence[Any])  # the key comes first


class Lists(Protocol):
    """What lists objects: a store."""

    def list_pages(
        self, *, prefix: str = "", start_after: str = "", up_to: str | None = None, page_size: int = 1_000
    ) -> AsyncGenerator[ObjectPage, None]:
        """List as `ObjectStore.list_pages` does."""
        ...


class OutOfOrder(Exception):
    """A listing that was expected to be ordered is not."""


async def ordered_pages(
    store: Lists, *, prefix: str, start_after: str, up_to: str | None, page_size: int
) -> AsyncGenerator[ObjectPage, None]:
    """Yield the pages of a store that lists in order, at least up to `up_to`. Raises: OutOfOrder."""
    last = start_after
    listing = store.list_pages(prefix=prefix, start_after=start_after, up_to=up_to, page_size=page_size)
    async with aclosing(listing) as pages:
        async for page in pages:
            if not page.keys:
                yield page
                continue
            if page.keys[0] <= last or not _is_ascending(page):
                raise OutOfOrder
            last = page.keys[-1]
            yield page


async def sorted_pages(
    store: Lists, *, prefix: str, start_after: str, page_size: int, beat: Callable[[], Awaitable[None]]
) -> AsyncGenerator[ObjectPage, None]:
    """Yield the pages of a store that lists in any order, sorted, each key once. `beat` is called while it lists."""
    spool = SortedSpool()
    num_pages = num_skipped = 0

    def collect(page: ObjectPage) -> None:
        texts = _texts(page) if page.texts is None else page.texts()
        spool.add(
            f"{key}{SEPARATOR}{size}{SEPARATOR}{etag}{SEPARATOR}{time}"
            for key, size, (etag, time) in zip(page.keys, page.sizes, texts, strict=True)
            if key > start_after
        )

    try:
        async for listed in store.list_pages(prefix=prefix, page_size=page_size):
            page = without_unstorable(listed)  # so that no key has the separator
            num_pages += 1
            num_skipped += page.num_skipped
            await asyncio.to_thread(collect, page)
            if num_pages % HEARTBEAT_PAGES == 0:
                await beat()
        if num_skipped:
            yield ObjectPage(describe=().__getitem__, keys=(), num_skipped=num_skipped, sizes=())
        pages = _pages(spool.read(), page_size)
        loop = asyncio.get_running_loop()
        async with aclosing(read_ahead(lambda: loop.run_in_executor(None, next, pages, None))) as sorted_:
            async for page in sorted_:
                yield page
    finally:
        spool.close()


def cut_at(page: ObjectPage, high: str | None) -> ObjectPage:
    """Return the part of an ordered page up to `high`, or all of it if `high` is None."""
    if high is None or not page.keys or page.keys[-1] <= high:
        return page
    end = bisect_right(page.keys, high)
    return replace(page, keys=page.keys[:end], sizes=page.sizes[:end])


def without_unstorable(page: ObjectPage) -> ObjectPage:
    """Leave out keys that PostgreSQL cannot store, so that no row can name them. They count as skipped."""
    text = "".join(page.keys)
    if "\0" not in text and is_utf8(text):
        return page
    kept = [index for index, key in enumerate(page.keys) if "\0" not in key and is_utf8(key)]
    return ObjectPage(
        describe=lambda index: page.describe(kept[index]),
        keys=[page.keys[index] for index in kept],
        num_skipped=page.num_skipped + len(page.keys) - len(kept),
        sizes=[page.sizes[index] for index in kept],
    )


def is_utf8(text: str) -> bool:
    """Return whether a text has no lone surrogates, which stand for bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_ascending(page: ObjectPage) -> bool:
    # Python compares texts by code point, which is the order of their UTF-8 bytes.
    keys = list(page.keys)
    return keys == sorted(keys) and len(set(keys)) == len(keys)


def _texts(page: ObjectPage) -> list[tuple[str, str]]:
    infos = map(page.describe, range(len(page.keys)))
    return [(info.etag, info.modified_at.isoformat()) for info in infos]


def _pages(batches: Iterable[list[str]], page_size: int) -> Iterator[ObjectPage]:
    records: list[str] = []
    last = None
    for batch in batches:
        records += batch
        while len(records) >= page_size:
            page = _page(records[:page_size], last)
            del records[:page_size]
            last = page.keys[-1] if page.keys else last
            yield page
    if records:
        yield _page(records, last)


def _page(records: list[str], last: str | None) -> ObjectPage:
    """Return a page of sorted records, without keys that repeat the key before."""
    columns = SEPARATOR.join(records).split(SEPARATOR)
    keys = columns[::NUM_COLUMNS]
    if keys[0] == last or len(set(keys)) < len(keys):
        once = each_key_once((record.split(SEPARATOR) for record in records), last)
        columns = list(chain.from_iterable(once))
        keys = columns[::NUM_COLUMNS]
    return ObjectPage(
        describe=lambda index: _info(columns[index * NUM_COLUMNS : (index + 1) * NUM_COLUMNS]),
        keys=keys,
        sizes=list(map(int, columns[1::NUM_COLUMNS])),
    )


def each_key_once(records: Iterable[Record], last: object = None) -> Iterator[Record]:
    """Leave out records that repeat the key before; `last` is the key before the first record."""
    for record in records:
        if record[0] != last:
            last = record[0]
            yield record


def page_of(records: Sequence[Record], describe: Callable[[Record], ObjectInfo]) -> ObjectPage:
    """Return a page of records, which begin with key and size."""
    return ObjectPage(
        describe=lambda index: describe(records[index]),
        keys=[record[0] for record in records],
        sizes=[record[1] for record in records],
    )


def _info(record: list[str]) -> ObjectInfo:
    key, size, etag, modified_at = record
    return ObjectInfo(key=key, size=int(size), etag=etag, modified_at=datetime.fromisoformat(modified_at))
