"""Read a table of the ledger in batches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from millhand.driver.protocol import Executor
from millhand.orphans.ledger import Action, Finding
from millhand.store.query import Query

T = TypeVar("T", Action, Finding)


async def batches(executor: Executor, query: Callable[[int], Query[list[T]]]) -> AsyncIterator[list[T]]:
    """Yield the results of `query` in order of their id, until there are none. It takes the id to start after."""
    after = 0
    while batch := await executor.run(query(after)):
        yield batch
        after = batch[-1].id
