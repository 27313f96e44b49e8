"""
Django on psycopg 3: the connection of the thread, inside whatever `transaction.atomic` is open on it.

A block that is begun here is one of Django's, so that its own nest in it, and on_commit waits for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

import django.db
import psycopg
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionProxy

from millhand.driver.blocking import no_listener
from millhand.driver.detect import sync_executor_of
from millhand.driver.protocol import Executor, Listener
from millhand.driver.psycopg_error import translated
from millhand.driver.psycopg_sync import ConnectionExecutor
from millhand.errors import ConnectionLost
from millhand.sql import checked_schema
from millhand.store.query import TIMEOUT_SECONDS, Copy, Query

if TYPE_CHECKING:
    Reach = Callable[[], BaseDatabaseWrapper]

T = TypeVar("T")

HELD = "_millhand_held"


class DjangoDriver:
    """
    One of Django's databases, by the connection that the calling thread has to it; Django opens and closes it.

    Its pool is that connection: what is said there is part of the `transaction.atomic` that is open, or committed at
    once where none is.

    Concurrency: any number of threads.
    Raises: ConfigError for a schema that cannot be.
    """

    def __init__(self, alias: str, schema: str = "") -> None:
        self.alias = alias
        self.schema = checked_schema(schema)
        self._executor = DjangoExecutor(lambda: django.db.connections[alias], self.schema)

    @property
    def pool(self) -> DjangoExecutor:
        """The thread's connection as an executor."""
        return self._executor

    def executor(self, tx: object) -> Executor:
        """
        Return an executor inside another connection of the caller's, with whatever transaction is open on it.

        Raises: TypeError for what is not accepted.
        """
        return sync_executor_of(tx, self.schema)

    def listener(self) -> Listener:
        """Refuse: nobody here could be rung. Raises: ConfigError."""
        return no_listener()

    async def open(self) -> None:
        """Do nothing: Django connects when something is said."""

    async def close(self) -> None:
        """Do nothing: Django closes its connections at the end of a request."""


class DjangoExecutor:
    """All words on one connection of Django's, one at a time, in whatever `transaction.atomic` is open on it."""

    __slots__ = ("_reach", "_schema")

    def __init__(self, reach: Reach, schema: str) -> None:
        self._reach = reach
        self._schema = schema

    async def run(self, query: Query[T]) -> T:
        """Run `query`; one at a time."""
        with self._reached(query.name) as executor:
            return await executor.run(query)

    def begin(self) -> AbstractAsyncContextManager[Executor]:
        """Begin a block of `transaction.atomic`."""
        return self._begin()

    async def copy(self, copy: Copy) -> int:
        """Copy rows into a table."""
        with self._reached(copy.name) as executor:
            return await executor.copy(copy)

    async def fetch(
        self, sql: str, params: Sequence[Any] = (), *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        """Run SQL that is not ours."""
        with self._reached("fetch") as executor:
            return await executor.fetch(sql, params, timeout_seconds=timeout_seconds)

    async def execute_script(self, sql: str, *, timeout_seconds: float | None = None) -> None:
        """Run several statements."""
        with self._reached("script") as executor:
            await executor.execute_script(sql, timeout_seconds=timeout_seconds)

    @contextlib.contextmanager
    def _reached(self, operation: str) -> Iterator[ConnectionExecutor]:
        wrapper = self._reach()
        beneath = _connected(wrapper, operation)
        try:
            yield ConnectionExecutor(beneath, self._schema)
        except ConnectionLost:
            wrapper.errors_occurred = (
                True  # so that Django looks at it at the end of the request, as for its own
            )
            raise

    @contextlib.asynccontextmanager
    async def _begin(self) -> AsyncIterator[Executor]:
        wrapper = self._reach()
        _connected(wrapper, "begin")
        block = transaction.atomic(using=wrapper.alias)
        with _unwrapped("begin"):
            block.__enter__()
        try:
            yield self
        except BaseException as error:
            with _unwrapped("rollback"):
                block.__exit__(type(error), error, error.__traceback__)
            raise
        with _unwrapped("commit"):
            block.__exit__(None, None, None)


def executor_inside(tx: object, schema: str) -> Executor | None:
    """Return an executor on a connection of Django's; None for anything else."""
    if isinstance(tx, ConnectionProxy | BaseDatabaseWrapper):
        wrapper: Any = tx
        return DjangoExecutor(lambda: wrapper, schema)
    return tx if isinstance(tx, DjangoExecutor) else None


def driver_on(database: object, schema: str) -> DjangoDriver | None:
    """Return a driver for the database of a connection of Django's, in any thread; None for anything else."""
    if isinstance(database, ConnectionProxy | BaseDatabaseWrapper):
        return DjangoDriver(database.alias, schema)
    return None


@contextlib.contextmanager
def held(tx: Any) -> Iterator[None]:
    """Have a connection kept by whoever would close it between two jobs: a test's, in whose transaction they are worked."""
    setattr(tx, HELD, True)
    try:
        yield
    finally:
        delattr(tx, HELD)


def is_held(wrapper: BaseDatabaseWrapper) -> bool:
    """Say whether a connection is to be kept."""
    return hasattr(wrapper, HELD)


def _connected(wrapper: BaseDatabaseWrapper, operation: str) -> psycopg.Connection[Any]:
    wrapper.validate_thread_sharing()
    wrapper.validate_no_broken_transaction()
    with _unwrapped(operation):
        wrapper.ensure_connection()
    if not isinstance(wrapper.connection, psycopg.Connection):
        beneath = type(wrapper.connection)
        raise TypeError(
            "Django's connection must be one of psycopg 3, got "
            f"{beneath.__module__}.{beneath.__qualname__} of database {wrapper.alias!r}; install psycopg, and use "
            "the engine 'django.db.backends.postgresql'"
        )
    return wrapper.connection


@contextlib.contextmanager
def _unwrapped(operation: str) -> Iterator[None]:
    """Translate what Django wraps as what the driver beneath raised."""
    with translated(operation, TIMEOUT_SECONDS):
        try:
            yield
        except django.db.Error as error:
            if isinstance(error.__cause__, psycopg.Error):
                raise error.__cause__ from error
            raise
