"""Deadlines, and the translation of errors by exception type and by SQLSTATE, for all database libraries."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Awaitable
from typing import ClassVar, NoReturn, TypeVar

from millhand.core.errors import READ_ONLY, ConnectionLost, DriverError, MillhandError, OperationTimeout
from millhand.db.driver.tls import with_remedy
from millhand.db.query import TIMEOUT_SECONDS

T = TypeVar("T")

CONNECT_SECONDS = 10.0

# 25006: a read-only server is a standby, or was the primary until a moment ago; a new connection may reach the new one.
_LOST_STATES = frozenset({"25006", "25P03", "53300", "57P01", "57P02", "57P03", "57P05"})
# Deadlock, serialization failure, lock and statement timeouts, a plan made for an older schema.
_RETRYABLE_STATES = frozenset({"0A000", "40001", "40P01", "55P03", "57014"})
_PRIMARY = "name the primary in the database URL, or all servers with target_session_attrs=read-write"
STANDBY = f"a standby, which cannot read unlogged tables such as this; {_PRIMARY}"
READ_ONLY_SERVER = f"the server is a standby, or its transactions are read-only: {_PRIMARY}"
ONLY_STANDBY = f"no server that accepts writes, only a standby; {_PRIMARY}"
# asyncpg names the attribute that no server has; libpq says what is wrong with the last server.
_WANTS_WRITES = ("'read-write'", "'primary'", "session is read-only", "server is in hot standby mode")
_INVALID_AUTHORIZATION = "28000"
_NO_DATABASE = "3D000"
_MISSING = re.compile(r'database "(.+)" does not exist')
_RETRYABLE_CLASSES = ("53", "58")  # the server is short of memory or disk, or had an I/O error


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
        if isinstance(error, self.wire_errors):
            self.reraise(error)

    def reraise(self, error: BaseException) -> NoReturn:
        """Raise one of `wire_errors` as Millhand's."""
        if isinstance(error, MillhandError):
            raise error
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


def is_lost_state(state: str | None, reason: str = "") -> bool:
    """Return whether a state means a lost connection, no free connection, or a read-only server."""
    if state is None:
        return False
    return _is_unlogged(state, reason) or state in _LOST_STATES or state.startswith("08")


def _is_unlogged(state: str | None, reason: str) -> bool:
    # A standby reports unlogged tables this way, and river_leader and millhand_client are unlogged.
    return state == "0A000" and "during recovery" in reason


def server_error(operation: str, reason: str, state: str | None, constraint: str | None) -> DriverError:
    """Return the error for what the server refused; `reason` is its message alone, as the detail may show a job's args."""
    if state == _INVALID_AUTHORIZATION:
        reason = with_remedy(reason)
    if state == _NO_DATABASE:
        reason = with_createdb(reason)
    if state == READ_ONLY:
        reason = f"{reason}; {READ_ONLY_SERVER}"
    if is_lost_state(state, reason):
        reason = STANDBY if _is_unlogged(state, reason) else reason
        return ConnectionLost(operation, reason, sqlstate=state)
    return DriverError(
        operation,
        reason,
        retryable=state is not None and (state in _RETRYABLE_STATES or state[:2] in _RETRYABLE_CLASSES),
        sqlstate=state,
        constraint=constraint,
    )


def with_primary(reason: str) -> str:
    """Return a connection error's reason; if target_session_attrs wants writes, and only standbys answer, the remedy."""
    return ONLY_STANDBY if any(text in reason for text in _WANTS_WRITES) else reason


def with_createdb(reason: str) -> str:
    """Return a connection error's reason, with the command that creates the database if there is none."""
    missing = _MISSING.search(reason)
    return f"{reason.strip()}; create it: createdb {shlex.quote(missing[1])}" if missing else reason
