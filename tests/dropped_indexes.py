"""Schemas without River's search indexes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from millhand.db.driver.protocol import Executor
from millhand.db.index import SEARCH_INDEXES

DROP = "".join(f"DROP INDEX IF EXISTS /* schema */{name};" for name in SEARCH_INDEXES)
CREATE = "".join(
    f"CREATE INDEX {name} ON /* schema */river_job USING gin ({column});"
    for name, column in SEARCH_INDEXES.items()
)


@contextlib.asynccontextmanager
async def dropped_indexes(executor: Executor) -> AsyncIterator[None]:
    """Drop the search indexes, and build them again at the end, whatever is left of them."""
    await executor.execute_script(DROP)
    try:
        yield
    finally:
        await executor.execute_script(DROP + CREATE)
