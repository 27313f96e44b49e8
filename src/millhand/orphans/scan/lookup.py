"""Look up single objects by name, many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from millhand.storage import InvalidKey, ObjectInfo, ObjectNotFound, ObjectStore

T = TypeVar("T")


async def find_object(store: ObjectStore, key: str) -> ObjectInfo | None:
    """Return an object's size, etag and time, or None if there is no such object. Raises: StoreError."""
    try:
        return await store.head(key)
    except (ObjectNotFound, InvalidKey):
        return None


async def is_there(store: ObjectStore, key: str) -> bool:
    """Return whether an object exists. Raises: StoreError."""
    return await find_object(store, key) is not None


async def existing_keys(store: ObjectStore, keys: Sequence[str], *, at_once: int) -> set[str]:
    """Return which of `keys` have an object. Raises: StoreError."""
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
