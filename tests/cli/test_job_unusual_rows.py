"""`millhand job` shows every row that the table can hold."""

from __future__ import annotations

import re

import pytest
from cli_runner import millhand

from factory import insert_job, qualified
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.job import JobState
from odd_rows import HUGE, ODD, WORKABLE_ALONE

pytestmark = pytest.mark.usefixtures("project")
ROWS = [
    *(pytest.param(unusual, id=name) for name, unusual in (ODD | WORKABLE_ALONE).items()),
    pytest.param(HUGE, id="an output of 40 MiB", marks=pytest.mark.slow),
]

IDS = re.compile(r'"id": ?(\d+),\s*"state"')


@pytest.mark.parametrize("unusual", ROWS)
async def test_unusual_row_is_listed_shown_and_changed(schema_driver: AsyncpgDriver, unusual: str) -> None:
    """`list` and `show` print an unusual row as lines and as JSON, and commands change it."""
    pool = schema_driver.pool
    good = await insert_job(pool, JobState.AVAILABLE, args='{"what": "good"}')
    bad = await insert_job(pool, JobState.AVAILABLE, args='{"what": "unusual"}')
    await pool.fetch(
        qualified(f"UPDATE /* schema */river_job SET {unusual} WHERE args ->> 'what' = 'unusual'", pool)
    )

    listed = await millhand("job", "list")
    listed_json = await millhand("job", "list", "--json")
    shown = await millhand("job", "show", bad.id)
    shown_json = await millhand("job", "show", bad.id, "--json")
    commands = [await millhand("job", verb, bad.id, "--yes") for verb in ("cancel", "retry", "delete")]

    assert [(result.code, result.err) for result in (listed, listed_json, shown, shown_json)] == [(0, "")] * 4
    assert [int(line[0]) for line in listed.lines] == [bad.id, good.id]
    # Not parsed as JSON: Python refuses numbers with thousands of digits.
    assert IDS.findall(listed_json.out) == [str(bad.id), str(good.id)]
    assert IDS.findall(shown_json.out) == [str(bad.id)]
    assert [result.code for result in commands] == [0, 0, 0], [result.err for result in commands]
