"""Claims about migrations of tables that other transactions use."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from millhand.core.errors import ConfigError, MigrationError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.lock_limit import LockLimit, LockRetry
from millhand.db.schema.migrator import Migrator

SHORT = timedelta(milliseconds=5)
GENEROUS_SECONDS = 30.0
# Version 7 changes a default of river_job, so it needs the table for itself.
BEFORE, AFTER = 6, 7


@pytest.mark.slow
async def test_version_is_tried_again_until_it_gets_its_lock(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver
) -> None:
    """A try that waits too long is rolled back and reported with the oldest transaction; a later one succeeds."""
    retries: list[LockRetry] = []
    may_end = asyncio.Event()

    def on_retry(retry: LockRetry) -> None:
        retries.append(retry)
        may_end.set()

    await Migrator(bare_driver).up(target=BEFORE)
    transaction = bare.transaction()
    await transaction.start()
    await bare.fetch("SELECT FROM river_job")
    limit = LockLimit(timeout=SHORT, tries=1_000, on_retry=on_retry)
    migrating = asyncio.create_task(Migrator(bare_driver, lock_limit=limit).up(target=AFTER))
    await may_end.wait()
    await transaction.rollback()
    steps = await migrating

    assert [step.version for step in steps] == [AFTER]
    first = retries[0]
    assert (first.line, first.version, first.num_tries, first.tries) == ("main", AFTER, 1, 1_000)
    assert first.oldest is not None
    assert (first.oldest.pid, first.oldest.state) == (bare.get_server_pid(), "idle in transaction")


@pytest.fixture
async def driver_that_ends_deadlocks(bare: asyncpg.Connection, bare_url: str) -> AsyncIterator[AsyncpgDriver]:
    """A driver whose sessions end in each deadlock with `bare`, however late `bare` begins to wait."""
    await bare.execute("SET deadlock_timeout = '1h'")
    driver = AsyncpgDriver(f"{bare_url}{'&' if '?' in bare_url else '?'}deadlock_timeout=1s")
    await driver.open()
    yield driver
    await driver.close()


@pytest.mark.slow
async def test_version_is_tried_again_after_a_deadlock(
    bare: asyncpg.Connection, driver_that_ends_deadlocks: AsyncpgDriver
) -> None:
    """A try that PostgreSQL ends, because it and another transaction wait for each other, is followed by another."""
    retries: list[LockRetry] = []
    limit = LockLimit(timeout=timedelta(seconds=4), on_retry=retries.append)  # longer than `deadlock_timeout`
    await Migrator(driver_that_ends_deadlocks).up()
    await Migrator(driver_that_ends_deadlocks, "millhand").up(target=10)
    transaction = bare.transaction()
    await transaction.start()
    await bare.fetch("SELECT FROM millhand_limit_partition")
    migrator = Migrator(driver_that_ends_deadlocks, "millhand", lock_limit=limit)
    migrating = asyncio.create_task(migrator.down(target=9))
    waits = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'millhand_limit_partition'::regclass"
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not await bare.fetch(waits):  # noqa: ASYNC110 - a lock sends no event
            await asyncio.sleep(0)
    await bare.fetch("SELECT FROM millhand_limited_job")  # which the migration has locked
    await transaction.rollback()
    steps = await migrating

    assert [step.version for step in steps] == [10]
    assert [one.version for one in retries] == [10]


@pytest.mark.slow
async def test_version_without_its_lock_fails_after_the_last_try(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """The error says how long it waited, and nothing was changed; each retry is a line in the log."""
    await Migrator(bare_driver).up(target=BEFORE)
    async with bare.transaction():
        await bare.fetch("SELECT FROM river_job")
        limit = LockLimit(timeout=SHORT, tries=2)
        with pytest.raises(MigrationError) as raised:
            await Migrator(bare_driver, lock_limit=limit).up()

    assert str(raised.value).partition("; ")[2] == (
        "it was rolled back; it waited 0.005 s in each of 2 tries; end the transactions that are open for long, or give it "
        "more with --lock-timeout and --lock-tries, and run it again"
    )
    waits = [vars(record) for record in caplog.records if record.msg == "migration waits for a lock"]
    assert [(one["version"], one["num_attempts"], one["pid"]) for one in waits] == [
        (AFTER, 1, bare.get_server_pid())
    ]
    assert await Migrator(bare_driver).validate() == (7, 8)


async def test_caller_s_lock_timeout_is_kept(bare: asyncpg.Connection, bare_driver: AsyncpgDriver) -> None:
    """In a caller's transaction, its own `lock_timeout` is in force again after each version."""
    async with bare.transaction():
        await bare.execute("SET LOCAL lock_timeout = '7s'")
        await Migrator(bare_driver.executor(bare)).up(target=1)

        assert await bare.fetchval("SHOW lock_timeout") == "7s"


@pytest.mark.parametrize(
    ("timeout", "tries", "message"),
    [
        (timedelta(0), 60, "lock_timeout must be at least 1ms, got 0s"),
        (timedelta(seconds=1), 0, "lock_tries must be at least 1, got 0"),
    ],
)
def test_limit_out_of_its_range_is_an_error(timeout: timedelta, tries: int, message: str) -> None:
    """A timeout of zero would wait without limit, and no try would migrate nothing."""
    with pytest.raises(ConfigError) as raised:
        LockLimit(timeout=timeout, tries=tries)

    assert str(raised.value) == message


@pytest.mark.slow
async def test_unfinished_index_is_built_anew(bare: asyncpg.Connection, bare_driver: AsyncpgDriver) -> None:
    """An index that failed to be built beforehand is invalid; the version drops it, and builds a valid one."""
    await Migrator(bare_driver).up(target=4)
    await bare.execute(
        "ALTER TABLE river_job ADD COLUMN unique_key bytea; "
        "INSERT INTO river_job (kind, args, max_attempts, unique_key) SELECT 'k', '{}', 1, 'x' FROM generate_series(1, 2)"
    )
    with pytest.raises(asyncpg.UniqueViolationError):
        await bare.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY river_job_kind_unique_key_idx ON river_job (kind, unique_key)"
        )
    await bare.execute("DELETE FROM river_job")
    await Migrator(bare_driver).up(target=5)

    is_valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'river_job_kind_unique_key_idx'::regclass"
    assert await bare.fetchval(is_valid)


@pytest.mark.slow
async def test_open_transaction_holds_up_inserts_only_briefly(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver, bare_url: str
) -> None:
    """While a transaction keeps `millhand migrate up` waiting, each try ends by itself, and inserts go on between two."""
    await Migrator(bare_driver).up(target=BEFORE)
    is_over = asyncio.Event()
    num_inserted = 0

    async def insert() -> None:
        nonlocal num_inserted
        connection = await asyncpg.connect(bare_url)
        while not is_over.is_set():
            await connection.execute("INSERT INTO river_job (kind, args, max_attempts) VALUES ('k', '{}', 1)")
            num_inserted += 1
        await connection.close()

    async def go_on() -> None:
        """Return when an insert has ended that began after the call."""
        enough = num_inserted + 2
        while num_inserted < enough:  # noqa: ASYNC110 - the inserts go on without an event
            await asyncio.sleep(0)

    warnings = []
    async with asyncio.timeout(GENEROUS_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(insert())
        async with bare.transaction():
            await bare.fetch("SELECT count(*) FROM river_job")
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-m", "millhand", "migrate", "up"],
                env={**os.environ, "DATABASE_URL": bare_url},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            assert process.stderr is not None
            for _ in range(3):
                warnings.append((await process.stderr.readline()).decode())
                await go_on()
        out, _ = await process.communicate()
        is_over.set()

    assert (process.returncode, out.decode().splitlines()[0].partition(" (")[0]) == (
        0,
        "applied version 007 of line main: notification outbox sqlite jsonb and sql cleanup",
    )
    assert [text.partition(" has a")[0] for text in warnings] == [
        f"warning: version 007 of line main waits for a lock, try {number} of 60; pid {bare.get_server_pid()}"
        for number in (1, 2, 3)
    ]
    assert LockLimit().timeout == timedelta(seconds=1)
