from __future__ import annotations

import asyncpg
import pytest

from millhand.core.errors import NotFound
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job_details import ROWS_MAX, TEXT_MAX, job_get_details
from odd_rows import HUGE, ODD


async def _odd_job(connection: asyncpg.Connection, update: str) -> int:
    id = await connection.fetchval(
        "INSERT INTO river_job (kind, args, max_attempts) VALUES ('odd', '{\"what\": \"odd\"}', 25) RETURNING id"
    )
    await connection.execute(f"UPDATE river_job SET {update} WHERE id = {id}")
    return int(id)


@pytest.mark.parametrize("update", ODD.values(), ids=ODD)
async def test_row_of_any_shape_is_read(tx: Executor, connection: asyncpg.Connection, update: str) -> None:
    """A row that another program left in any shape is read, with a bounded number of short texts."""
    job = await tx.run(job_get_details(await _odd_job(connection, update)))

    texts = [job.args.text, job.metadata.text, *job.tags, *job.attempted_by, *job.logs.values()]
    assert max(len(text) for text in texts) <= TEXT_MAX
    assert max(len(job.tags), len(job.attempted_by), len(job.errors)) <= ROWS_MAX


@pytest.mark.slow
async def test_text_of_megabytes_is_cut(tx: Executor, connection: asyncpg.Connection) -> None:
    """Of an output of 40 MiB the size and the first characters are read, and the metadata is without it."""
    job = await tx.run(job_get_details(await _odd_job(connection, HUGE)))

    assert job.output is not None
    assert (job.output.num_bytes, job.output.is_cut, len(job.output.text)) == (
        40 * 1024 * 1024 + 2,
        True,
        TEXT_MAX,
    )
    assert job.metadata.text == "{}"


async def test_newest_attempts_come_first(tx: Executor, connection: asyncpg.Connection) -> None:
    """Of errors and fetches the newest comes first, and logs are by attempt; a log of another shape is left out."""
    update = """
        attempt = 2, attempted_by = ARRAY['a', 'b'],
        errors = ARRAY['{"attempt": 1, "error": "one"}', '{"attempt": 2, "error": "two"}']::jsonb [],
        metadata = '{"x": 1, "output": [7], "river:log": [{"attempt": 1, "log": "first"}, {"attempt": "?"}, 7]}'
    """

    job = await tx.run(job_get_details(await _odd_job(connection, update)))

    assert job.attempted_by == ("b", "a")
    assert [error.error for error in job.errors] == ["two", "one"]
    assert job.logs == {1: "first"}
    assert job.output is not None
    assert (job.metadata.text, job.output.text) == ('{"x": 1}', "[7]")


async def test_missing_job_is_not_found(tx: Executor) -> None:
    """A job that does not exist is reported by its id."""
    with pytest.raises(NotFound, match="job must exist, found none with id 7"):
        await tx.run(job_get_details(7))
