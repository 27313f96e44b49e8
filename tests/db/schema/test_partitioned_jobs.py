"""Claims about partitions of River's table of jobs, for docs/explanation/why.md: there can be none."""

from __future__ import annotations

import asyncpg
import pytest

from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.config import Config
from millhand.core.errors import DriverError
from millhand.core.insert_opts import InsertOpts
from millhand.core.unique import UniqueOpts
from millhand.db.driver.asyncpg import AsyncpgDriver
from new_schema import new_schema

# A table of jobs by queue, as if an operator replaced River's; the old one is kept for its sequence and types.
PARTITIONED = """
SET search_path TO {schema};
ALTER TABLE river_job RENAME TO river_job_whole;
CREATE TABLE river_job (LIKE river_job_whole INCLUDING DEFAULTS) PARTITION BY LIST ({column});
CREATE TABLE river_job_all PARTITION OF river_job DEFAULT
"""
KEY = "unique constraint on partitioned table must include all partitioning columns"


@pytest.mark.slow
@pytest.mark.parametrize("column", ["queue", "state"])
async def test_river_job_in_partitions_has_no_unique_id_and_no_unique_key(
    postgres_url: str, column: str
) -> None:
    """Neither the id nor the unique key can be unique over partitions by queue or by state; unique inserts then fail."""
    async with new_schema(postgres_url, "partitioned") as schema:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(PARTITIONED.format(schema=schema, column=column))
        for statement in (
            "ALTER TABLE river_job ADD PRIMARY KEY (id)",
            "CREATE UNIQUE INDEX ON river_job (unique_key) WHERE unique_key IS NOT NULL",
        ):
            with pytest.raises(asyncpg.FeatureNotSupportedError, match=f"^{KEY}"):
                await connection.execute(statement)
        await connection.close()

        driver = AsyncpgDriver(postgres_url, schema)
        async with Client(driver, Config(schema=schema, skip_unknown_job_check=True)) as client:
            with pytest.raises(DriverError, match="no unique or exclusion constraint matching"):
                await client.insert(RawArgs("noop", "{}"), InsertOpts(unique=UniqueOpts(by_args=True)))
