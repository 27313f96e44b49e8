"""COPY by asyncpg: rows stream into a table for as long as their source has any."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import asyncpg

from millhand.driver.asyncpg_error import translated
from millhand.store.query import Copy

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    AnyConnection = asyncpg.Connection[Any] | PoolConnectionProxy[Any]


async def copied(connection: AnyConnection, schema: str, copy: Copy) -> int:
    """
    Copy rows into a table, and return how many there were.

    Raises: whatever the source of the rows raised, as it was; else as `Executor.run`.
    """
    with translated(copy.name, copy.timeout_seconds):
        async with asyncio.timeout(None) as deadline:
            feed = _Feed(copy, connection, deadline)
            try:
                status = await connection.copy_to_table(
                    copy.table,
                    columns=copy.columns,
                    encoding="utf-8",
                    schema_name=schema or None,
                    source=feed.chunks(),
                )
            except _SourceFailed:
                pass
    if feed.error is not None:  # not translated: a file that the source reads is no wire of ours
        raise feed.error
    return int(status.split()[-1])


class _SourceFailed(Exception):
    """The source of the rows raised something."""


class _Feed:
    """The rows on their way, with a deadline for the server alone: the source may take its time."""

    def __init__(self, copy: Copy, connection: AnyConnection, deadline: asyncio.Timeout) -> None:
        self._connection = connection
        self._copy = copy
        self._deadline = deadline
        self.error: Exception | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the source's chunks, and keep what it raises."""
        try:
            async for chunk in self._copy.chunks:
                if _is_gone(self._connection):  # asyncpg says so in the end, whatever comes until then
                    break
                self._expect_answer()
                yield chunk
                self._deadline.reschedule(None)
        except Exception as error:
            self.error = error
            raise _SourceFailed from error  # asyncpg would take a TimeoutError for one of its own
        self._expect_answer()

    def _expect_answer(self) -> None:
        self._deadline.reschedule(asyncio.get_running_loop().time() + self._copy.timeout_seconds)


def _is_gone(connection: AnyConnection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # its pool has taken it back
        return True
