"""Which finished jobs a cleaner keeps for longer than their retention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.engine.maintenance.batch import STATEMENT_SECONDS
from millhand.engine.store.job import Kept


class Keeper(Protocol):
    """
    Says which finished jobs may not be deleted yet.

    Concurrency: belongs to one cleaner.
    """

    def begin_term(self) -> None:
        """Forget what was seen before this term of the cleaner."""
        ...

    def look_again(self) -> None:
        """Forget which tables are there: a deletion failed."""
        ...

    async def kept(self, pool: Executor) -> Kept | None:
        """Return the condition for one pass, or None if all jobs may be deleted."""
        ...


class TableKeeper(Keeper):
    """Keeps jobs by one condition, if a capability's tables are there. It looks for them once a term."""

    def __init__(self, kept: Kept, get_shape: Callable[[], Query[bool]]) -> None:
        self._get_shape = get_shape
        self._is_there: bool | None = None
        self._kept = kept

    def begin_term(self) -> None:
        self.look_again()

    def look_again(self) -> None:
        self._is_there = None

    async def kept(self, pool: Executor) -> Kept | None:
        if self._is_there is None:
            self._is_there = await pool.run(self._get_shape().within(STATEMENT_SECONDS))
        return self._kept if self._is_there else None
