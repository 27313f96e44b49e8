"""COPY by asyncpg."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg

from millhand.core.errors import ConnectionLost
from millhand.db.driver.asyncpg_error import WIRE_ERRORS, AnyConnection, translated
from millhand.db.driver.asyncpg_lease import RELEASE_SECONDS
from millhand.db.driver.executor import CopySource, CopyTarget
from millhand.db.query import Copy, CopyOut


async def copy_rows(connection: AnyConnection, schema: str, copy: Copy) -> int:
    """
    Copy rows into a table, and return how many there were.

    Raises: the error of the rows' source, unchanged; else as `Executor.run`.
    """
    feed = _Feed(copy)
    with (
        feed.raising_own_error(),
        translated(copy.name, copy.timeout_seconds),
        _on_termination(connection, feed),
    ):
        try:
            status = await _copied(connection, schema, copy, feed)
        except TimeoutError as error:
            if feed.is_lost:
                raise ConnectionLost(copy.name, "a connection that is closed") from error
            raise
    return int(status.split()[-1])


async def copy_out(connection: AnyConnection, copy: CopyOut) -> int:
    """
    Copy rows to a function, and return how many there were.

    Raises: the function's error, unchanged; else as `Executor.run`.
    """
    target = CopyTarget(copy)
    with target.raising_own_error(), translated(copy.name, copy.timeout_seconds):
        own = _own(connection)
        try:
            async with asyncio.timeout(copy.timeout_seconds):
                status = await connection.copy_from_query(
                    copy.select, output=target.write, format="csv", encoding="utf-8"
                )
        except asyncpg.InternalClientError:
            await _close(own)
            raise
    return int(status.split()[-1])


async def _copied(connection: AnyConnection, schema: str, copy: Copy, feed: _Feed) -> str:
    """Copy in a task of its own: the caller may cancel the COPY, but not the close of a lost connection."""
    copying = asyncio.ensure_future(_copy(connection, schema, copy, feed))
    try:
        return await asyncio.shield(copying)
    except asyncio.CancelledError:
        if not feed.is_closing:
            copying.cancel()
        copying.add_done_callback(_read_error)
        await asyncio.wait([copying])
        raise


def _read_error(future: asyncio.Future[Any]) -> None:
    """Read the error of a COPY: the event loop logs those that nothing reads."""
    if not future.cancelled():
        future.exception()


async def _copy(connection: AnyConnection, schema: str, copy: Copy, feed: _Feed) -> str:
    """
    Copy, and end what asyncpg leaves behind if the connection is lost.

    A COPY that is cancelled on a lost connection leaves a task that never ends.
    """
    own = _own(connection)
    try:
        async with asyncio.timeout(None) as feed.deadline:
            return await connection.copy_to_table(
                copy.table,
                columns=copy.columns,
                encoding="utf-8",
                schema_name=schema or None,
                source=feed.timed_chunks(),
            )
    except asyncpg.InternalClientError:
        feed.is_closing = True
        await _close(own)
        raise
    finally:
        if own is not None and own.is_closed():
            await own.close()  # ends its tasks, without waiting


def _own(connection: AnyConnection) -> Any:
    """Return the connection behind a pool's proxy, which forgets it when it is lost, perhaps already."""
    return getattr(connection, "_con", connection)


async def _close(own: Any) -> None:
    """
    Close a connection on which asyncpg refused a COPY, because the server has just ended the session.

    Such a COPY leaves the protocol a future, whose error nothing else reads.
    """
    for future in gc.get_referents(getattr(own, "_protocol", None)):
        if isinstance(future, asyncio.Future):
            future.add_done_callback(_read_error)
    with contextlib.suppress(*WIRE_ERRORS):
        async with asyncio.timeout(RELEASE_SECONDS):  # asyncpg before 0.32 may wait for ever
            await own.close()


class _SourceFailed(Exception):
    """The source of the rows raised an error."""


class _Feed(CopySource):
    """The rows of a COPY, with a deadline for the server alone: their source may take longer."""

    def __init__(self, copy: Copy) -> None:
        super().__init__(copy)
        self._timeout_seconds = copy.timeout_seconds
        self.deadline: asyncio.Timeout | None = None
        self.is_closing = False
        self.is_lost = False

    async def timed_chunks(self) -> AsyncIterator[bytes]:
        """Yield the chunks; the deadline runs while the server has one."""
        try:
            async for chunk in self.chunks():
                if self.is_lost:  # asyncpg raises at the end
                    break
                self._expect_answer()
                yield chunk
                self._reschedule(None)
        except Exception as error:
            raise _SourceFailed from error  # asyncpg would handle a TimeoutError as its own
        self._expect_answer()

    def record_lost(self, _connection: object) -> None:
        """End the wait: asyncpg waits for ever if the connection is lost while its buffer is full."""
        self.is_lost = True
        self._reschedule(asyncio.get_running_loop().time())

    def _expect_answer(self) -> None:
        self._reschedule(asyncio.get_running_loop().time() + self._timeout_seconds)

    def _reschedule(self, when: float | None) -> None:
        if self.deadline is not None:
            with contextlib.suppress(RuntimeError):  # it has expired
                self.deadline.reschedule(when)


@contextlib.contextmanager
def _on_termination(connection: AnyConnection, feed: _Feed) -> Iterator[None]:
    connection.add_termination_listener(feed.record_lost)
    try:
        yield
    finally:
        with contextlib.suppress(asyncpg.InterfaceError):  # the pool already has it back
            connection.remove_termination_listener(feed.record_lost)
