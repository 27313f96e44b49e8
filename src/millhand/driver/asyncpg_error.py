"""What asyncpg raises, translated once into what the engine knows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import asyncpg

from millhand.driver.sqlstate import is_lost_state, refusal
from millhand.driver.tls import is_about_tls, with_remedy
from millhand.driver.url import fault_of_pgport, unreadable_url
from millhand.errors import (
    ConfigError,
    ConnectionLost,
    DriverError,
    MillhandError,
    OperationTimeout,
    PoolClosed,
)
from millhand.store.query import TIMEOUT_SECONDS

T = TypeVar("T")


CONNECT_SECONDS = 10.0

# A TimeoutError and whatever a socket raises is an OSError.
WIRE_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_CLOSED_POOL = ("pool is closed", "pool is closing", "pool is not initialized")
_CLOSED_CONNECTION = ("connection is closed", "connection was closed", "connection has been released")


class translated:  # noqa: N801 - reads as a phrase, and a class costs a third of a generator on the hot path
    """
    Translate what asyncpg raises inside; what is ours already goes through as it is.

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
    """Await what asyncpg does, with a deadline and with its errors translated; None waits without end."""
    with translated(operation, timeout_seconds):
        async with asyncio.timeout(timeout_seconds):
            return await awaitable


def is_broken(error: BaseException | None) -> bool:
    """Say whether nothing more can be said on the connection that raised this."""
    # asyncpg's own state is out of step, as when the server's farewell arrives while a statement is being sent.
    if isinstance(error, asyncpg.InternalClientError | ConnectionLost):
        return True
    return isinstance(error, asyncpg.PostgresError) and is_lost_state(error.sqlstate, str(error))


def unreadable(error: Exception) -> ConfigError:
    """Return the error for a URL that asyncpg cannot read; only its own words are sure to hold no password."""
    if not isinstance(error, asyncpg.InterfaceError):
        return fault_of_pgport() or unreadable_url(type(error).__name__)
    reason = str(error.args[0] if error.args else error)  # without its hint
    if is_about_tls(reason):
        return ConfigError(f"options of TLS must be such as can be used, got {with_remedy(reason)}")
    return unreadable_url(reason)


def _translation(operation: str, timeout_seconds: float | None, error: Exception) -> MillhandError:
    if isinstance(error, TimeoutError) and error.errno is None:  # with a number it is the network's own
        return OperationTimeout(operation, CONNECT_SECONDS if timeout_seconds is None else timeout_seconds)
    if isinstance(error, asyncpg.PostgresError):
        return _postgres_translation(operation, error)
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) or is_broken(error):
        return ConnectionLost(operation, with_remedy(reason))
    if any(words in str(error) for words in _CLOSED_POOL):
        return PoolClosed(operation, str(error))
    if any(words in str(error) for words in _CLOSED_CONNECTION):
        return ConnectionLost(operation, str(error))
    return DriverError(operation, reason)


def _postgres_translation(operation: str, error: asyncpg.PostgresError) -> DriverError:
    # Not str(error): the detail that it adds may show a job's args.
    reason = str(error.args[0] if error.args else error)
    return refusal(operation, reason, error.sqlstate, getattr(error, "constraint_name", None))
