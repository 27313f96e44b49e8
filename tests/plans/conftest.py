"""Fixtures of the tests of plans."""

from __future__ import annotations

import sys
from pathlib import Path

import asyncpg
import pytest

from millhand.db.driver.asyncpg import AsyncpgDriver

NUM_ROWS = 100_000


@pytest.fixture(scope="module")
async def filled(module_driver: AsyncpgDriver, postgres_url: str) -> AsyncpgDriver:
    """A schema of `NUM_ROWS` jobs of many kinds, queues and states, as the benchmarks of the web page have them."""
    sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
    from web_fill import fill  # noqa: PLC0415 - most tests here do without

    connection = await asyncpg.connect(postgres_url)
    await fill(module_driver.executor(connection), module_driver.schema, NUM_ROWS)
    await connection.close()
    return module_driver
