from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from conformance_values import GENEROUS_SECONDS

from millhand.core.errors import ConnectionLost
from millhand.db.driver.psycopg_sync import PsycopgSyncDriver
from millhand.db.driver.run_sync import run_sync


def test_missing_server_is_a_lost_connection_of_the_blocking_driver(tmp_path: Path) -> None:
    """Without a server `open` raises at once an error that can be retried."""
    driver = PsycopgSyncDriver(f"postgresql://x@/nothing?host={tmp_path}")

    with pytest.raises(ConnectionLost) as lost:
        run_sync(driver.open())

    assert (lost.value.operation, lost.value.retryable) == ("connect", True)


FORKING = """
import os, sys
from millhand.db.driver.run_sync import run_sync
from millhand.db.driver.psycopg_sync import PsycopgSyncDriver
from millhand.core.errors import PoolClosed

driver = PsycopgSyncDriver(sys.argv[1])
run_sync(driver.open())
if os.fork() == 0:
    try:
        run_sync(driver.pool.fetch("SELECT 1"))
    except PoolClosed as error:
        print(error, flush=True)
    run_sync(driver.open())
    print(run_sync(driver.pool.fetch("SELECT 2 AS number")), flush=True)
    run_sync(driver.close())
    sys.exit()
os.wait()
print(run_sync(driver.pool.fetch("SELECT 3 AS number")), flush=True)
run_sync(driver.close())
"""


@pytest.mark.slow
async def test_pool_is_not_used_by_two_processes(postgres_url: str) -> None:
    """After a fork the child's use of the pool is an error until it opens its own; the parent continues."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FORKING, postgres_url, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(GENEROUS_SECONDS):
        out, _ = await process.communicate()

    assert out.decode().splitlines() == [
        "connect must succeed, got a pool of the process that this one is a fork of; start the client anew here",
        "[{'number': 2}]",
        "[{'number': 3}]",
    ]
    assert process.returncode == 0
