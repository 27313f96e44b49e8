"""psycopg's errors and those of its pool, translated into Millhand's; for blocking and asynchronous connections."""

from __future__ import annotations

import psycopg
import psycopg_pool

from millhand.core.errors import ConnectionLost, DriverError, MillhandError, PoolClosed
from millhand.db.driver.tls import with_remedy
from millhand.db.driver.translation import (
    ErrorTranslation,
    is_lost_state,
    server_error,
    with_createdb,
    with_primary,
)

# TimeoutError and socket errors are OSErrors.
WIRE_ERRORS = (OSError, psycopg.Error)


class translated(ErrorTranslation):  # noqa: N801 - reads as a phrase
    """Raise psycopg's errors as Millhand's."""

    __slots__ = ()

    wire_errors = WIRE_ERRORS

    def _translated(self, error: BaseException) -> MillhandError:
        if isinstance(error, psycopg_pool.PoolTimeout):
            return self._timed_out()
        if isinstance(error, psycopg_pool.PoolClosed):
            return PoolClosed(self._operation, str(error))
        if isinstance(error, psycopg_pool.TooManyRequests):
            return DriverError(self._operation, str(error), retryable=True)
        if isinstance(error, psycopg.Error) and error.sqlstate is not None:
            # Not str(error): the detail that it adds may show a job's args.
            reason = error.diag.message_primary or type(error).__name__
            return server_error(self._operation, reason, error.sqlstate, error.diag.constraint_name)
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, OSError | psycopg.OperationalError):
            return ConnectionLost(self._operation, with_primary(with_createdb(with_remedy(reason))))
        return DriverError(self._operation, reason)


within = translated.within


def is_lost(error: BaseException | None) -> bool:
    """Return whether the connection that raised `error` must be closed, even if it still answers."""
    if isinstance(error, ConnectionLost):
        return True
    return isinstance(error, psycopg.Error) and is_lost_state(error.sqlstate, str(error))
