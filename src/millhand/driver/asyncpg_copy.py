"""COPY by asyncpg: rows stream into a table for as long as their source has any."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import asyncpg

from millhand.driver.asyncpg_error import translated
from millhand.errors import ConnectionLost
from millhand.store.query import Copy

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    AnyConnection = asyncpg.Connection[Any] | PoolConnectionProxy[Any]


async def copied(connection: AnyConnection, schema: str, copy: Copy) -> int:
    """
    Copy rows into a table, and return how many there were.

    Raises: whatever the source of the rows raised, as it was; else as `Executor.run`.
    """
    feed = _Feed(copy)
    status = ""
    with translated(copy.name, copy.timeout_seconds), _watched(connection, feed):
        try:
            async with asyncio.timeout(None) as feed.deadline:
                with contextlib.suppress(_SourceFailed):
                    status = await connection.copy_to_table(
                        copy.table,
                        columns=copy.columns,
                        encoding="utf-8",
                        schema_name=schema or None,
                        source=feed.chunks(),
                    )
        except TimeoutError as error:
            if feed.is_lost:
                raise ConnectionLost(copy.name, "a connection that is closed") from error
            raise
    if feed.error is not None:  # not translated: a file that the source reads is no wire of ours
        raise feed.error
    return int(status.split()[-1])


class _SourceFailed(Exception):
    """The source of the rows raised something."""


class _Feed:
    """The rows on their way, with a deadline for the server alone: the source may take its time."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self.deadline: asyncio.Timeout | None = None
        self.error: Exception | None = None
        self.is_lost = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the source's chunks, and keep what it raises."""
        try:
            async for chunk in self._copy.chunks:
                if self.is_lost:  # asyncpg says so in the end, whatever comes until then
                    break
                self._expect_answer()
                yield chunk
                self._reschedule(None)
        except Exception as error:
            self.error = error
            raise _SourceFailed from error  # asyncpg would take a TimeoutError for one of its own
        self._expect_answer()

    def record_lost(self, _connection: object) -> None:
        """Wait no longer: asyncpg would, if the connection is lost while it is full."""
        self.is_lost = True
        self._reschedule(asyncio.get_running_loop().time())

    def _expect_answer(self) -> None:
        self._reschedule(asyncio.get_running_loop().time() + self._copy.timeout_seconds)

    def _reschedule(self, when: float | None) -> None:
        if self.deadline is not None:
            with contextlib.suppress(RuntimeError):  # it has passed already
                self.deadline.reschedule(when)


@contextlib.contextmanager
def _watched(connection: AnyConnection, feed: _Feed) -> Iterator[None]:
    connection.add_termination_listener(feed.record_lost)
    try:
        yield
    finally:
        with contextlib.suppress(asyncpg.InterfaceError):  # its pool has taken it back
            connection.remove_termination_listener(feed.record_lost)
