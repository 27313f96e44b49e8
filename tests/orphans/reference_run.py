"""One run of the cleanup by its public interface: in this process, or in one that kills itself in the middle."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from typing import Any

from adversary import ChaosExecutor, ChaosStore, Hook

from millhand.core.errors import MillhandError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.orphans import OrphansConfig, reconcile
from millhand.storage import ObjectInfo, ObjectPage, ObjectStore, open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a run ended. `reason` says why it aborted or failed."""

    state: str
    reason: str = ""
    num_moved: int = 0
    num_purged: int = 0
    num_restored: int = 0
    is_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A run in a process of its own, which kills itself at the n-th call of the database or the store."""

    config: OrphansConfig
    database_url: str
    kill_at: int
    now: datetime
    seed: int
    store_url: str


class WatchedStore(ChaosStore):
    """
    A store that also reports the end of each listing of the whole bucket.

    It answers one request at a time, so that a seed gives the same play again.
    """

    def __init__(self, store: ObjectStore, hook: Hook) -> None:
        super().__init__(store, hook)
        self._turn = asyncio.Lock()

    async def head(self, key: str) -> ObjectInfo:
        async with self._turn:
            return await super().head(key)

    async def delete(self, key: str, **condition: Any) -> bool:
        async with self._turn:
            return await super().delete(key, **condition)

    async def move(self, source: str, target: str, **conditions: Any) -> ObjectInfo:
        async with self._turn:
            return await super().move(source, target, **conditions)

    async def list_pages(self, *, prefix: str = "", **question: Any) -> AsyncIterator[ObjectPage]:
        async for page in super().list_pages(prefix=prefix, **question):
            yield page
        if not prefix:
            await self._hook("listed")


async def run_once(
    driver: AsyncpgDriver, store: ObjectStore, config: OrphansConfig, *, hook: Hook, now: datetime, seed: int
) -> Ran:
    """Run the cleanup once. An error is a result too."""
    random.seed(seed)  # the cleanup may draw samples
    try:
        report = await reconcile(ChaosExecutor(driver.pool, hook), WatchedStore(store, hook), config, now=now)
    except (MillhandError, ExceptionGroup) as error:
        return Ran(state="failed", reason=f"{type(error).__name__}: {error}")
    return Ran(
        state=report.state,
        reason="; ".join(report.abort_reasons),
        num_moved=report.deleted + report.quarantined,
        num_purged=report.purged,
        num_restored=report.restored,
        is_first=report.is_first,
    )


def run_until_killed(connection: Connection, task: Task) -> None:
    """Run in this process, and send the result if the run ends before the call at which it is killed."""
    logging.disable(logging.CRITICAL)
    connection.send(asyncio.run(_run_until_killed(task)))


async def _run_until_killed(task: Task) -> Ran:
    num_calls = 0

    async def count(operation: str) -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls >= task.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    driver = AsyncpgDriver(task.database_url)
    try:
        await driver.open()
    except MillhandError as error:  # the machine is busy
        return Ran(state="failed", reason=str(error))
    store = open_store(task.store_url)
    return await run_once(driver, store, task.config, hook=count, now=task.now, seed=task.seed)
