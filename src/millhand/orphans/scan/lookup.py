"""Look up single objects by name, many at a time, and read the ledger in batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.orphans.ledger import Action, Finding
from millhand.storage import InvalidKey, ObjectInfo, ObjectNotFound, ObjectStore, StoreError

T = TypeVar("T")
Record = TypeVar("Record", Action, Finding)


async def find_object(store: ObjectStore, key: str) -> ObjectInfo | None:
    """Return an object's size, etag and time, or None if there is no such object. Raises: StoreError."""
    try:
        return await store.head(key)
    except (ObjectNotFound, InvalidKey):
        return None


async def find_listed(store: ObjectStore, key: str) -> ObjectInfo | None:
    """Return an object as `find_object`, or as a listing shows it if the store declines to describe it."""
    try:
        return await find_object(store, key)
    except StoreError as error:
        if not error.is_refusal:
            raise
    async for page in store.list_pages(prefix=key):
        if key in page.keys:
            return page.describe(page.keys.index(key))
    return None


async def is_there(store: ObjectStore, key: str) -> bool:
    """Return whether there is an object that the store describes. It declines that for a client's own encryption key."""
    try:
        return await find_object(store, key) is not None
    except StoreError as error:
        if error.is_refusal:
            return False
        raise


async def is_alias(store: ObjectStore, key: str) -> bool:
    """
    Return whether the store keeps the object of a key under another name, and lists that one.

    SeaweedFS drops empty parts (`a//b`, `/a`), and takes a backslash for a slash.
    """
    parts = key.replace("\\", "/").split("/")
    name = "/".join([part for part in parts[:-1] if part] + parts[-1:])
    if name == key:
        return False
    found, listed = await find_object(store, key), await find_object(store, name)
    return found is not None and listed is not None and listed.is_same_as(found)


async def existing_keys(store: ObjectStore, keys: Sequence[str], *, at_once: int) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(keys), at_once):
        batch = keys[start : start + at_once]
        exist = await gather_all([is_there(store, key) for key in batch])
        found.update(key for key, exists in zip(batch, exist, strict=True) if exists)
    return found


async def gather_all(coroutines: Sequence[Awaitable[T]]) -> list[T]:
    """Return the results of all. Waits until every one has ended, then raises the first error, if there was one."""
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


async def batches(
    executor: Executor, query: Callable[[int], Query[list[Record]]]
) -> AsyncIterator[list[Record]]:
    """Yield the results of `query` until there are none. It takes the last id of the batch before; 0 begins."""
    after = 0
    while batch := await executor.run(query(after)):
        yield batch
        after = batch[-1].id
