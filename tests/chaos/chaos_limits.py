"""
The limited queues of a chaos run, the jobs that go there, and the limits and holds that change meanwhile.

All follow from a seed. The instants of changes are recorded for the audit, `chaos_limit_audit.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import count
from typing import TypeVar

from chaos_plan import ChaosJob

from millhand.core.errors import DriverError, NotFound, OperationTimeout
from millhand.core.limit import Limit, Rate
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.query import Query
from millhand.limits.store import limit_partition_hold, limit_partition_release, limit_remove, limit_set

T = TypeVar("T")

BY_TENANT = "limited_tenant"
TOTAL = "limited_total"
RATE = "limited_rate"
IN_ORDER = "limited_order"
DELETED = "limited_deleted"  # its completed jobs are deleted
BY_CLIENT = "limited_client"
REMOVED = "limited_removed"  # its limit is removed at times, so only its jobs are audited
LIMITS: Mapping[str, Limit] = {
    BY_TENANT: Limit(at_once=3, by_args=["tenant"]),
    TOTAL: Limit(at_once=2, total=3, by_args=["tenant"]),
    RATE: Limit(rate=Rate(2, per=timedelta(seconds=1), burst=2), by_args=["tenant"]),
    IN_ORDER: Limit(in_order=True, by_args=["tenant"]),
    DELETED: Limit(at_once=2),
    BY_CLIENT: Limit(at_once=4, at_once_per_client=1, by_args=["tenant"]),
    REMOVED: Limit(at_once=1, by_args=["tenant"]),
}
TENANTS = ("ada", "bob", "cyd")
# Tenants get most of their jobs in turn, so that many wait at a time.
TURN_JOBS = 60
SHARE_LIMITED = 0.5
# Jobs take so long that limits are reached, and that one job too many is seen in the journals.
WORK_MS = (100, 300, 600, 1_500)
SHORT_MS = (20, 100, 300)
CHANGE_SECONDS = (0.5, 2.0)
HOLD_SECONDS = (0.5, 3.0)
AT_ONCE_MAX = 4
AGAIN_SECONDS = 0.2
# A statement may wait for the locks of others.
STATEMENT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Change:
    """
    A change of a limit at run time, by the monotonic clock.

    It took effect between `sent_at` and `answered_at`, which is infinite if no answer came before the run ended.
    """

    queue: str
    limit: Limit
    sent_at: float
    answered_at: float = float("inf")


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A hold of a partition, in force from its answer on for the seconds that it was sent with, or until `released_at`."""

    queue: str
    tenant: str
    answered_at: float
    until: float


def limited(job: ChaosJob, seed: int) -> ChaosJob:
    """Return a job of the plan as it is, or as a job of a limited queue."""
    chance = random.Random(f"{seed} {job.n} limited")  # noqa: S311 - a seed must give the same jobs again
    if chance.random() >= SHARE_LIMITED:
        return job
    queue = chance.choice(tuple(LIMITS))
    busy = TENANTS[job.n // TURN_JOBS % len(TENANTS)]
    tenant = busy if chance.random() < 0.7 else chance.choice(TENANTS)
    if queue == IN_ORDER:
        # One that is due later, or inserted twice, has no place in the order of its insert.
        return replace(
            job,
            delay_seconds=None,
            is_unique=False,
            queue=queue,
            tenant=tenant,
            work_ms=chance.choice(SHORT_MS),
        )
    return replace(job, queue=queue, tenant=tenant, work_ms=chance.choice(WORK_MS))


class LimitChanger:
    """Changes limits and holds partitions, on a connection without faults of the network. `changes` and `holds` record."""

    def __init__(self, url: str, seed: int) -> None:
        self.changes: list[Change] = []
        self.holds: list[Hold] = []
        self._chance = random.Random(f"{seed} changes")  # noqa: S311 - a seed must give the same changes again
        self._url = url

    async def change_all(self, seconds: float) -> None:
        """Change one after the other for a time."""
        until = time.monotonic() + seconds
        async with self._driver() as driver:
            for number in count():
                await asyncio.sleep(self._chance.uniform(*CHANGE_SECONDS))
                if time.monotonic() > until:
                    return
                await (self._change, self._hold, self._remove)[number % 3](driver)

    @contextlib.asynccontextmanager
    async def _driver(self) -> AsyncIterator[AsyncpgDriver]:
        driver = AsyncpgDriver(self._url, pool_size=2)
        await driver.open()
        try:
            yield driver
        finally:
            await driver.close()

    async def _change(self, driver: AsyncpgDriver) -> None:
        """Set another bound of a limit."""
        queue = self._chance.choice((BY_TENANT, TOTAL, DELETED))
        bound = "total" if queue == TOTAL else "at_once"
        limit = replace(LIMITS[queue], **{bound: self._chance.randint(1, AT_ONCE_MAX)})
        change = Change(queue=queue, limit=limit, sent_at=time.monotonic())
        self.changes.append(change)
        await _run(driver, limit_set(queue, limit))
        self.changes[-1] = replace(change, answered_at=time.monotonic())

    async def _hold(self, driver: AsyncpgDriver) -> None:
        """Hold a partition, and release every second hold early."""
        queue, tenant = self._chance.choice((BY_TENANT, RATE)), self._chance.choice(TENANTS)
        seconds, is_released = self._chance.uniform(*HOLD_SECONDS), self._chance.random() < 0.5
        sent_at = time.monotonic()
        try:
            await _run(driver, limit_partition_hold(queue, [tenant], timedelta(seconds=seconds)))
        except NotFound:
            return  # a migration has lost the limit, and no worker has declared it yet
        answered_at, until = time.monotonic(), sent_at + seconds
        # Another hold of the partition replaces this one, perhaps by an earlier end.
        for index, one in enumerate(self.holds):
            if (one.queue, one.tenant) == (queue, tenant):
                self.holds[index] = replace(one, until=min(one.until, sent_at))
        if is_released:
            await asyncio.sleep(seconds / 2)
            until = min(until, time.monotonic())
            with contextlib.suppress(NotFound):
                await _run(driver, limit_partition_release(queue, [tenant]))
        self.holds.append(Hold(queue=queue, tenant=tenant, answered_at=answered_at, until=until))

    async def _remove(self, driver: AsyncpgDriver) -> None:
        """Remove the limit of a queue, and set it again."""
        with contextlib.suppress(NotFound):
            await _run(driver, limit_remove(REMOVED))
        await asyncio.sleep(self._chance.uniform(*CHANGE_SECONDS))
        await _run(driver, limit_set(REMOVED, LIMITS[REMOVED]))


async def _run(driver: AsyncpgDriver, query: Query[T]) -> T:
    """Run a statement until it is answered. It may be sent again, which changes nothing more."""
    while True:
        try:
            return await driver.pool.run(query.within(STATEMENT_SECONDS))
        except (DriverError, OperationTimeout):
            await asyncio.sleep(AGAIN_SECONDS)
