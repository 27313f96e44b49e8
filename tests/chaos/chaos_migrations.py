"""
Migrations down and up beside the workers of a chaos run, and what their loss excuses.

A version that goes down loses the rows of its tables: docs/how_to/upgrade.md says which.
The clients' table stays. Without it, the jobs of a worker that was killed before would be rescued by age, after an hour.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from chaos_limits import LIMITS, Change, Hold

from millhand.core.errors import DriverError, MigrationError, OperationTimeout
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import LINE_MILLHAND, Migrator, migrations

# The versions that add limits, schedules, flows and dead letters. Below the first, no version is undone.
LIMITS_VERSION, SCHEDULES_VERSION, FLOWS_VERSION, DEAD_JOBS_VERSION = 10, 11, 12, 13
# How long flows are not inserted, so that no task waits and their tables may go.
QUIET_SECONDS = 8.0
AGAIN_SECONDS = 0.2
# How long workers may take until they have declared their limits again.
DECLARED_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class Reset:
    """A migration down to a version and up again, by the monotonic clock. At `down_at`, the rows were gone."""

    version: int
    began_at: float
    down_at: float
    ended_at: float


class Migrations:
    """Migrates on a connection without faults. While `is_quiet`, no flow is inserted."""

    def __init__(self, url: str) -> None:
        self.is_quiet = False
        self.resets: list[Reset] = []
        self._url = url

    async def down_and_up(self, seconds: float) -> Reset:
        """Undo versions until jobs wait for one, let `seconds` pass, and apply all again."""
        driver = AsyncpgDriver(self._url, pool_size=2)
        await driver.open()
        try:
            self.is_quiet = True
            await asyncio.sleep(QUIET_SECONDS)
            began_at = time.monotonic()
            version = await _down(Migrator(driver, LINE_MILLHAND))
            down_at, self.is_quiet = time.monotonic(), False
            await asyncio.sleep(seconds)
            await _up(Migrator(driver, LINE_MILLHAND))
        finally:
            self.is_quiet = False
            await driver.close()
        reset = Reset(version=version, began_at=began_at, down_at=down_at, ended_at=time.monotonic())
        self.resets.append(reset)
        return reset


async def _down(migrator: Migrator) -> int:
    """Undo one version after the other, and return the one that is left."""
    version = migrations(LINE_MILLHAND)[-1].version
    while version >= LIMITS_VERSION:
        try:
            await migrator.down(target=version - 1)
        except (DriverError, MigrationError, OperationTimeout):
            break
        version -= 1
    return version


async def _up(migrator: Migrator) -> None:
    """Apply all versions. A try that fails beside the workers is repeated."""
    while True:
        try:
            await migrator.up()
        except (DriverError, MigrationError, OperationTimeout):
            await asyncio.sleep(AGAIN_SECONDS)
        else:
            return


def lost(resets: Sequence[Reset], version: int) -> list[Reset]:
    """Return the migrations that undid a version."""
    return [one for one in resets if one.version < version]


def lost_until(resets: Sequence[Reset], version: int) -> float:
    """Return the end of the last migration that undid a version."""
    return max((one.ended_at for one in lost(resets, version)), default=-float("inf"))


def changes_after(resets: Sequence[Reset], changes: Sequence[Change]) -> list[Change]:
    """Return the changes of limits, with those that a migration made when it lost them: code declared them again."""
    again = [
        Change(queue=queue, limit=limit, sent_at=one.began_at, answered_at=one.ended_at + DECLARED_SECONDS)
        for one in lost(resets, LIMITS_VERSION)
        for queue, limit in LIMITS.items()
    ]
    return sorted([*changes, *again], key=lambda change: change.sent_at)


def holds_after(resets: Sequence[Reset], holds: Sequence[Hold]) -> list[Hold]:
    """Return the holds of partitions, which a migration ends."""
    kept = []
    for hold in holds:
        ends = [one.began_at for one in lost(resets, LIMITS_VERSION) if one.ended_at > hold.answered_at]
        kept.append(replace(hold, until=min([hold.until, *ends])))
    return kept
