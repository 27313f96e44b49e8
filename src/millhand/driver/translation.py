"""Deadlines and error translation, shared by the database libraries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import ClassVar, TypeVar

from millhand.errors import MillhandError, OperationTimeout
from millhand.store.query import TIMEOUT_SECONDS

T = TypeVar("T")

CONNECT_SECONDS = 10.0


class ErrorTranslation:
    """
    Raise a library's errors as Millhand's; each library has a subclass. Millhand's own errors pass unchanged.

    Raises: OperationTimeout, ConnectionLost, PoolClosed, DriverError.
    """

    # A class and not a generator, which costs three times as much on the hot path.
    __slots__ = ("_operation", "_timeout_seconds")

    wire_errors: ClassVar[tuple[type[BaseException], ...]] = ()

    def __init__(self, operation: str, timeout_seconds: float | None) -> None:
        self._operation = operation
        self._timeout_seconds = timeout_seconds

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, self.wire_errors) and not isinstance(error, MillhandError):
            # A TimeoutError with an errno is the network's own, not our deadline.
            is_late = isinstance(error, TimeoutError) and error.errno is None
            raise (self._timed_out() if is_late else self._translated(error)) from error

    @classmethod
    async def within(
        cls, operation: str, awaitable: Awaitable[T], timeout_seconds: float | None = TIMEOUT_SECONDS
    ) -> T:
        """Await a library call with a deadline, its errors translated; None waits without limit."""
        with cls(operation, timeout_seconds):
            async with asyncio.timeout(timeout_seconds):
                return await awaitable

    def _timed_out(self) -> OperationTimeout:
        seconds = CONNECT_SECONDS if self._timeout_seconds is None else self._timeout_seconds
        return OperationTimeout(self._operation, seconds)

    def _translated(self, error: BaseException) -> MillhandError:
        raise NotImplementedError


def label_of(sql: str) -> str:
    """Return how errors name SQL that has no statement name."""
    return " ".join(sql.split())[:60]
