"""The two clients of `riverqueue`. Each insert is its own transaction, or part of yours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from millhand.compat.riverqueue.driver.riversqlalchemy import AsyncDriver, Driver
from millhand.compat.riverqueue.insert_opts import (
    InsertManyParams,
    InsertOpts,
    JobArgs,
    insertable,
    insertable_of,
)
from millhand.compat.riverqueue.job import InsertResult, num_inserted, result_of
from millhand.core.errors import ConfigError

if TYPE_CHECKING:
    from millhand.core.tx_types import SyncTx, Tx

LOCK_PREFIX_BITS = 32


class Client:
    """
    Inserts jobs from synchronous code.

    `advisory_lock_prefix` is accepted and has no effect: a unique index makes jobs unique, without locks.

    Raises: ConfigError for an invalid prefix.
    """

    def __init__(self, driver: Driver, advisory_lock_prefix: int | None = None) -> None:
        self.driver = driver
        self.advisory_lock_prefix = _checked_prefix(advisory_lock_prefix)

    def insert(self, args: JobArgs, insert_opts: InsertOpts | None = None) -> InsertResult:
        """Insert one job. Raises: InvalidJob, before anything is sent; DriverError."""
        job = insertable(args, insert_opts)
        with self.driver.executor() as tx:
            return result_of(self.driver.client.insert(*job, tx=tx))

    def insert_tx(self, tx: SyncTx, args: JobArgs, insert_opts: InsertOpts | None = None) -> InsertResult:
        """Insert one job in `tx`, a Connection or Session of yours. Raises: as `insert`; TypeError."""
        return result_of(self.driver.client.insert(*insertable(args, insert_opts), tx=tx))

    def insert_many(self, args: Sequence[JobArgs | InsertManyParams]) -> int:
        """Insert jobs in one statement, all or none; return how many are new. Raises: as `insert`."""
        jobs = [insertable_of(one) for one in args]
        if not jobs:
            return 0
        with self.driver.executor() as tx:
            return num_inserted(self.driver.client.insert_many(jobs, tx=tx))

    def insert_many_tx(self, tx: SyncTx, args: Sequence[JobArgs | InsertManyParams]) -> int:
        """Insert jobs in `tx`, as `insert_many`. Raises: as `insert_tx`."""
        jobs = [insertable_of(one) for one in args]
        return num_inserted(self.driver.client.insert_many(jobs, tx=tx)) if jobs else 0


class AsyncClient:
    """Inserts jobs from asynchronous code; otherwise as `Client`."""

    def __init__(self, driver: AsyncDriver, advisory_lock_prefix: int | None = None) -> None:
        self.driver = driver
        self.advisory_lock_prefix = _checked_prefix(advisory_lock_prefix)

    async def insert(self, args: JobArgs, insert_opts: InsertOpts | None = None) -> InsertResult:
        job = insertable(args, insert_opts)
        async with self.driver.executor() as tx:
            return result_of(await self.driver.client.insert(*job, tx=tx))

    async def insert_tx(self, tx: Tx, args: JobArgs, insert_opts: InsertOpts | None = None) -> InsertResult:
        """Insert one job in `tx`, an AsyncConnection or AsyncSession of yours. Raises: as `insert`; TypeError."""
        return result_of(await self.driver.client.insert(*insertable(args, insert_opts), tx=tx))

    async def insert_many(self, args: Sequence[JobArgs | InsertManyParams]) -> int:
        jobs = [insertable_of(one) for one in args]
        if not jobs:
            return 0
        async with self.driver.executor() as tx:
            return num_inserted(await self.driver.client.insert_many(jobs, tx=tx))

    async def insert_many_tx(self, tx: Tx, args: Sequence[JobArgs | InsertManyParams]) -> int:
        jobs = [insertable_of(one) for one in args]
        return num_inserted(await self.driver.client.insert_many(jobs, tx=tx)) if jobs else 0


def _checked_prefix(prefix: int | None) -> int | None:
    if prefix is not None and not 0 <= prefix < 1 << LOCK_PREFIX_BITS:
        raise ConfigError(f"advisory_lock_prefix must be a number of {LOCK_PREFIX_BITS} bits, got {prefix!r}")
    return prefix
