"""asyncpg's errors, translated into Millhand's."""

from __future__ import annotations

from typing import Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from millhand.core.errors import ConfigError, ConnectionLost, DriverError, MillhandError, PoolClosed
from millhand.db.driver.tls import is_about_tls, with_remedy
from millhand.db.driver.translation import ErrorTranslation, is_lost_state, server_error, with_primary
from millhand.db.driver.url import fault_of_pgport, unreadable_url

# As a text: asyncpg's class takes no parameter when the program runs.
AnyConnection: TypeAlias = "asyncpg.Connection[Any] | PoolConnectionProxy[Any]"
# TimeoutError and socket errors are OSErrors.
WIRE_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
LOST_TRACK = "asyncpg lost track of the connection, as when the server closes it during a send"
# asyncpg prepares statements by name on what it takes for a session of the server.
_STATEMENT_NAME = "__asyncpg_"
_MIXED_UP = frozenset({"26000", "42P05"})  # a name that is missing, or is taken
_POOLER = (
    ", as behind PgBouncer in transaction mode; connect to PostgreSQL itself, set max_prepared_statements in PgBouncer 1.21 "
    "or newer, or begin the URL with postgresql+psycopg:// (your own asyncpg connections: statement_cache_size=0)"
)
_CLOSED_POOL = ("pool is closed", "pool is closing", "pool is not initialized")
_CLOSED_CONNECTION = ("connection is closed", "connection was closed", "connection has been released")


class translated(ErrorTranslation):  # noqa: N801 - reads as a phrase
    """Raise asyncpg's errors as Millhand's."""

    __slots__ = ()

    wire_errors = WIRE_ERRORS

    def _translated(self, error: BaseException) -> MillhandError:
        if isinstance(error, asyncpg.PostgresError):
            # Not str(error): the detail that it adds may show a job's args.
            reason = str(error.args[0] if error.args else error)
            if error.sqlstate in _MIXED_UP and _STATEMENT_NAME in reason:
                reason += _POOLER
            constraint = getattr(error, "constraint_name", None)
            return server_error(self._operation, reason, error.sqlstate, constraint)
        if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
            return ConnectionLost(self._operation, with_primary(str(error)))
        if isinstance(error, asyncpg.InternalClientError):
            return ConnectionLost(self._operation, LOST_TRACK)
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, OSError) or is_broken(error):
            return ConnectionLost(self._operation, with_remedy(reason))
        if any(text in str(error) for text in _CLOSED_POOL):
            return PoolClosed(self._operation, str(error))
        if any(text in str(error) for text in _CLOSED_CONNECTION):
            return ConnectionLost(self._operation, str(error))
        return DriverError(self._operation, reason)


within = translated.within


def is_broken(error: BaseException | None) -> bool:
    """Return whether the connection that raised `error` is unusable."""
    # InternalClientError: asyncpg's state no longer matches the server's, as when the server closes during a send.
    if isinstance(error, asyncpg.InternalClientError | ConnectionLost):
        return True
    return isinstance(error, asyncpg.PostgresError) and is_lost_state(error.sqlstate, str(error))


def url_error(error: Exception) -> ConfigError:
    """Return the error for a URL that asyncpg cannot read, without anything that may be a part of the password."""
    if not isinstance(error, asyncpg.InterfaceError):
        return fault_of_pgport() or unreadable_url(type(error).__name__)
    reason = str(error.args[0] if error.args else error)  # without its hint
    if is_about_tls(reason):
        return ConfigError(f"options of TLS must be usable, got {with_remedy(reason)}")
    return unreadable_url(reason)
