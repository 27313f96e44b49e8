"""
How a migration waits for locks: briefly, and again. While it waits for a table, all later statements on it wait too.

    behind a transaction that stays open for 8 s, without a limit   every insert waits until the transaction ends
    with a limit of 1 s                                             an insert waits 1 s, and then none for 1 s
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import msgspec

from millhand.core.errors import ConfigError, DriverError
from millhand.core.log.logger import logger_of
from millhand.core.sqlstate import DEADLOCK_DETECTED, LOCK_NOT_AVAILABLE
from millhand.db.driver.protocol import Executor
from millhand.db.migration import (
    OldestTransaction,
    migration_get_oldest_transaction,
    migration_pause,
    migration_set_lock_timeout,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

logger = logger_of(__name__)

T = TypeVar("T")

LOCK_TIMEOUT = timedelta(seconds=1)
LOCK_TRIES = 60
TIMEOUT_MIN = timedelta(milliseconds=1)


class LockRetry(msgspec.Struct, frozen=True, kw_only=True):
    """A try that did not get its lock and will be repeated. `oldest` is the likely reason, if the role may see it."""

    line: str
    version: int
    num_tries: int
    tries: int
    oldest: OldestTransaction | None


def log_retry(retry: LockRetry) -> None:
    oldest = {} if retry.oldest is None else {"pid": retry.oldest.pid, "seconds": retry.oldest.seconds}
    fields = {"line": retry.line, "version": retry.version, "num_attempts": retry.num_tries, **oldest}
    logger.warning("migration waits for a lock", extra=fields)


class LockLimit(msgspec.Struct, frozen=True, kw_only=True):
    """
    How long a version waits for each lock, and how often it is tried.

    Before the next try, other statements run for as long as it waited. Without a `timeout` it waits without limit.
    Raises: ConfigError.
    """

    timeout: timedelta | None = LOCK_TIMEOUT
    tries: int = LOCK_TRIES
    on_retry: Callable[[LockRetry], None] = log_retry

    def __post_init__(self) -> None:
        if self.timeout is not None and self.timeout < TIMEOUT_MIN:
            raise ConfigError(f"lock_timeout must be at least 1ms, got {self.timeout.total_seconds():g}s")
        if self.tries < 1:
            raise ConfigError(f"lock_tries must be at least 1, got {self.tries!r}")


@asynccontextmanager
async def limited(tx: Executor, limit: LockLimit) -> AsyncIterator[None]:
    """Limit how long the statements of the block wait for a lock; the transaction may be a caller's."""
    if limit.timeout is None:
        yield
        return
    before = await tx.run(migration_set_lock_timeout(f"{limit.timeout // TIMEOUT_MIN}ms"))
    yield
    await tx.run(migration_set_lock_timeout(before))


async def retried(
    executor: Executor, limit: LockLimit, line: str, version: int, attempt: Callable[[], Awaitable[T]]
) -> T:
    """Return the result of `attempt`, and repeat it while it does not get its lock. Raises: as the last try."""
    for num_tries in range(1, limit.tries):
        try:
            return await attempt()
        except DriverError as error:
            # Deadlocks are with running workers.
            if error.sqlstate not in (LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED) or limit.timeout is None:
                raise
        oldest = await executor.run(migration_get_oldest_transaction())
        limit.on_retry(
            LockRetry(line=line, version=version, num_tries=num_tries, tries=limit.tries, oldest=oldest)
        )
        await executor.run(migration_pause(limit.timeout))
    return await attempt()
