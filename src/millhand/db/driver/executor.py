"""What the executors of all libraries have in common."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from millhand.core.errors import DriverError, InvalidText
from millhand.core.json_value import UNSTORABLE
from millhand.db.driver.protocol import Executor
from millhand.db.driver.translation import label_of
from millhand.db.query import TIMEOUT_SECONDS, Copy, CopyOut, Query
from millhand.db.sql import compile_script, compile_statement

T = TypeVar("T")
Connection = TypeVar("Connection")

Args = Sequence[Any]
Rows = Sequence[Any]
NamedRows = list[dict[str, Any]]


class QueryRunner:
    """Run queries by `_fetch`, without a context manager for each: this is the hot path."""

    __slots__ = ("_schema",)

    _schema: str

    async def run(self, query: Query[T]) -> T:
        """Run `query`; on a pool the deadline includes the wait for a connection."""
        sql, names = compile_statement(query.name, self._schema, fragments=query.fragments)
        params = query.params
        args = [params[name] for name in names]
        try:
            rows = await self._fetch(query.name, sql, args, query.timeout_seconds)
        except (DriverError, UnicodeEncodeError) as error:
            # Only now: a search of each text would cost every statement.
            _require_storable(query.name, params, error)
            raise
        return query.parse(rows)

    async def _fetch(self, operation: str, sql: str, args: Args, timeout_seconds: float) -> Rows:
        raise NotImplementedError


def _require_storable(operation: str, params: Mapping[str, Any], cause: Exception) -> None:
    """Raise InvalidText for the first text that no library and no server takes, each with an error of its own."""
    for name, value in params.items():
        for text in [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else ():
            if isinstance(text, str) and (found := UNSTORABLE.search(text)):
                raise InvalidText(operation, name, text, found.start()) from cause


class StatementExecutor(QueryRunner, Generic[Connection]):
    """
    Run all statements on one connection, one at a time, in the transaction that is open on it, if any.

    A library's subclass defines `copy`, `copy_out`, `_fetch`, `_fetch_by_name`, `_execute` and `begin`.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    def begin(self) -> AbstractAsyncContextManager[Executor]:
        raise NotImplementedError

    async def fetch(
        self, sql: str, params: Sequence[Any] = (), *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        return await self._fetch_by_name(label_of(sql), sql, params, timeout_seconds)

    async def execute_script(self, sql: str, *, timeout_seconds: float | None = None) -> None:
        await self._execute(label_of(sql), compile_script(sql, self._schema), timeout_seconds)

    async def _fetch_by_name(self, operation: str, sql: str, args: Args, timeout_seconds: float) -> NamedRows:
        raise NotImplementedError

    async def _execute(self, operation: str, sql: str, timeout_seconds: float | None) -> None:
        raise NotImplementedError


class _OwnError:
    """Keeps what our own code raised during a COPY apart from the database's errors."""

    error: Exception | None = None

    @contextlib.contextmanager
    def raising_own_error(self) -> Iterator[None]:
        """Raise that error as it was: a file that cannot be read and a full disk are no database errors."""
        try:
            yield
        except Exception:
            if self.error is not None:
                raise self.error from None
            raise


class CopySource(_OwnError):
    """The rows of a COPY, read once; what reading them raised is kept apart from the database's errors."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._copy.chunks:
                yield chunk
        except Exception as error:
            self.error = error
            raise


class CopyTarget(_OwnError):
    """The function that takes the rows of a COPY; what it raised is kept apart from the database's errors."""

    def __init__(self, copy: CopyOut) -> None:
        self._copy = copy

    async def write(self, piece: bytes) -> None:
        try:
            await self._copy.write(piece)
        except Exception as error:
            self.error = error
            raise


class DelegatingExecutor:
    """Run each operation on the executor that `_enter` provides for it; subclasses define `_enter`."""

    __slots__ = ()

    def _enter(self, operation: str, timeout_seconds: float | None) -> AbstractAsyncContextManager[Executor]:
        raise NotImplementedError

    async def run(self, query: Query[T]) -> T:
        async with self._enter(query.name, query.timeout_seconds) as executor:
            return await executor.run(query)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Executor]:
        async with self._enter("begin", TIMEOUT_SECONDS) as executor, executor.begin() as tx:
            yield tx

    async def copy(self, copy: Copy) -> int:
        """Copy rows into a table, in a transaction or savepoint."""
        async with self.begin() as executor:
            return await executor.copy(copy)

    async def copy_out(self, copy: CopyOut) -> int:
        """Copy rows to a function, in a transaction or savepoint."""
        async with self.begin() as executor:
            return await executor.copy_out(copy)

    async def fetch(
        self, sql: str, params: Sequence[Any] = (), *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        async with self._enter(label_of(sql), timeout_seconds) as executor:
            return await executor.fetch(sql, params, timeout_seconds=timeout_seconds)

    async def execute_script(self, sql: str, *, timeout_seconds: float | None = None) -> None:
        async with self._enter(label_of(sql), timeout_seconds) as executor:
            await executor.execute_script(sql, timeout_seconds=timeout_seconds)
