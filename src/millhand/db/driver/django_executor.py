"""
Statements on a thread's Django connection by psycopg 3, inside whatever `transaction.atomic` is open on it.

A transaction that Millhand begins is one of Django's, so `transaction.atomic` nests in it and `on_commit` waits for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import django.db
import psycopg
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionProxy
from psycopg.pq import TransactionStatus

from millhand.core.errors import ConnectionLost
from millhand.db.driver.executor import DelegatingExecutor
from millhand.db.driver.protocol import Executor
from millhand.db.driver.psycopg_error import translated
from millhand.db.driver.psycopg_sync_executor import ConnectionExecutor
from millhand.db.query import TIMEOUT_SECONDS, Copy, CopyOut

if TYPE_CHECKING:
    FindConnection = Callable[[], BaseDatabaseWrapper]

DJANGO_CONNECTION = (ConnectionProxy, BaseDatabaseWrapper)
_KEPT_OPEN = "_millhand_kept_open"


class DjangoExecutor(DelegatingExecutor):
    """Run all statements on one Django connection, one at a time, in whatever `transaction.atomic` is open on it."""

    __slots__ = ("_find_connection", "_schema")

    def __init__(self, find_connection: FindConnection, schema: str) -> None:
        self._find_connection = find_connection
        self._schema = schema

    async def copy(self, copy: Copy) -> int:
        async with self._enter(copy.name, None) as executor:
            return await executor.copy(copy)

    async def copy_out(self, copy: CopyOut) -> int:
        async with self._enter(copy.name, None) as executor:
            return await executor.copy_out(copy)

    @contextlib.asynccontextmanager
    async def _enter(self, operation: str, timeout_seconds: float | None) -> AsyncIterator[Executor]:
        wrapper = self._find_connection()
        connection = _connected(wrapper, operation)
        try:
            yield ConnectionExecutor(connection, self._schema)
        except BaseException as error:
            _mark(wrapper, connection, error)
            raise

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Executor]:
        wrapper = self._find_connection()
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
    """Return an executor on a Django connection; None for anything else."""
    if isinstance(tx, DJANGO_CONNECTION):
        wrapper: Any = tx
        return DjangoExecutor(lambda: wrapper, schema)
    return tx if isinstance(tx, DjangoExecutor) else None


@contextlib.contextmanager
def keep_open(tx: Any) -> Iterator[None]:
    """Mark a connection so that a worker does not close it between two jobs: a test's transaction is on it."""
    setattr(tx, _KEPT_OPEN, True)
    try:
        yield
    finally:
        delattr(tx, _KEPT_OPEN)


def is_kept_open(wrapper: BaseDatabaseWrapper) -> bool:
    """Return whether `keep_open` holds for a connection."""
    return hasattr(wrapper, _KEPT_OPEN)


def _connected(wrapper: BaseDatabaseWrapper, operation: str) -> psycopg.Connection[Any]:
    wrapper.validate_thread_sharing()
    wrapper.validate_no_broken_transaction()
    with _unwrapped(operation):
        wrapper.ensure_connection()
    if not isinstance(wrapper.connection, psycopg.Connection):
        kind = type(wrapper.connection)
        raise TypeError(
            "Django's connection must be one of psycopg 3, got "
            f"{kind.__module__}.{kind.__qualname__} of database {wrapper.alias!r}; install psycopg, and use "
            "the engine 'django.db.backends.postgresql'"
        )
    return wrapper.connection


def _mark(wrapper: BaseDatabaseWrapper, connection: psycopg.Connection[Any], error: BaseException) -> None:
    """Mark Django's connection as after an error of its own."""
    if isinstance(error, ConnectionLost):
        wrapper.errors_occurred = True  # Django checks the connection at the end of the request
    if wrapper.in_atomic_block and connection.info.transaction_status == TransactionStatus.INERROR:
        # PostgreSQL rolls back at a commit, without an error, and Django would call the functions of `on_commit`.
        wrapper.needs_rollback = True
        wrapper.rollback_exc = error


@contextlib.contextmanager
def _unwrapped(operation: str) -> Iterator[None]:
    """Translate psycopg's own error where Django has wrapped it."""
    with translated(operation, TIMEOUT_SECONDS):
        try:
            yield
        except django.db.Error as error:
            if isinstance(error.__cause__, psycopg.Error):
                raise error.__cause__ from error
            raise
