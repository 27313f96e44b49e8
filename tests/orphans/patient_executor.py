"""An executor for tests of one limit of time: a busy machine may need more for all other statements."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from millhand.db.driver.protocol import Executor


class PatientExecutor:
    """An executor with the caller's limit of time for the statements that contain a text, and the usual one for others."""

    def __init__(self, executor: Executor, limited: str) -> None:
        self._executor = executor
        self._limited = limited

    async def fetch(self, sql: str, params: Sequence[Any] = (), **options: Any) -> list[dict[str, Any]]:
        if self._limited not in sql:
            options.pop("timeout_seconds", None)
        return await self._executor.fetch(sql, params, **options)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Executor]:
        async with self._executor.begin() as tx:
            yield PatientExecutor(tx, self._limited)  # type: ignore[misc]  # it is one, by __getattr__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)
