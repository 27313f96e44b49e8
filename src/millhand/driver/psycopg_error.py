"""What psycopg and its pool raise, translated once into what the engine knows; for both of its colours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import psycopg
import psycopg_pool

from millhand.driver.sqlstate import is_lost_state, refusal
from millhand.driver.tls import with_remedy
from millhand.errors import ConnectionLost, DriverError, MillhandError, OperationTimeout, PoolClosed
from millhand.store.query import TIMEOUT_SECONDS

T = TypeVar("T")

CONNECT_SECONDS = 10.0

# A TimeoutError and whatever a socket raises is an OSError.
WIRE_ERRORS = (OSError, psycopg.Error)


class translated:  # noqa: N801 - reads as a phrase
    """
    Translate what psycopg raises inside; what is ours already goes through as it is.

    Raises: OperationTimeout, ConnectionLost, PoolClosed, DriverError.
    """

    __slots__ = ("_operation", "_timeout_seconds")

    def __init__(self, operation: str, timeout_seconds: float | None) -> None:
        self._operation = operation
        self._timeout_seconds = timeout_seconds

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, WIRE_ERRORS) and not isinstance(error, MillhandError):
            raise _translation(self._operation, self._timeout_seconds, error) from error


async def within(
    operation: str, awaitable: Awaitable[T], timeout_seconds: float | None = TIMEOUT_SECONDS
) -> T:
    """Await what psycopg does, with a deadline and with its errors translated; None waits without end."""
    with translated(operation, timeout_seconds):
        async with asyncio.timeout(timeout_seconds):
            return await awaitable


def is_lost(error: BaseException | None) -> bool:
    """Say whether what was raised on a connection makes it one to be thrown away, although it may not be broken."""
    if isinstance(error, ConnectionLost):
        return True
    return isinstance(error, psycopg.Error) and is_lost_state(error.sqlstate, str(error))


def _translation(operation: str, timeout_seconds: float | None, error: Exception) -> MillhandError:
    seconds = CONNECT_SECONDS if timeout_seconds is None else timeout_seconds
    if isinstance(error, TimeoutError) and error.errno is None:  # with a number it is the network's own
        return OperationTimeout(operation, seconds)
    if isinstance(error, psycopg_pool.PoolTimeout):
        return OperationTimeout(operation, seconds)
    if isinstance(error, psycopg_pool.PoolClosed):
        return PoolClosed(operation, str(error))
    if isinstance(error, psycopg_pool.TooManyRequests):
        return DriverError(operation, str(error), retryable=True)
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        # Not str(error): the detail that it adds may show a job's args.
        reason = error.diag.message_primary or type(error).__name__
        return refusal(operation, reason, error.sqlstate, error.diag.constraint_name)
    if isinstance(error, OSError | psycopg.OperationalError):
        return ConnectionLost(operation, with_remedy(f"{type(error).__name__}: {error}"))
    return DriverError(operation, f"{type(error).__name__}: {error}")
