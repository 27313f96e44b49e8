"""`millhand job` shows every row that the table can hold."""

from __future__ import annotations

import re

import pytest

from cli_runner import millhand
from factory import insert_job, qualified
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from odd_rows import HUGE, ODD, WORKABLE_ALONE
from repeats import first_of

pytestmark = pytest.mark.usefixtures("project")
IDS = re.compile(r'"id": ?(\d+),\s*"state"')


ALL = ODD | WORKABLE_ALONE
SOME = dict(list(ALL.items())[::10])


@pytest.mark.slow
@pytest.mark.parametrize("unusual", first_of(SOME, ALL, {"huge": HUGE}))
async def test_unusual_rows_are_listed_shown_and_changed(
    schema_driver: AsyncpgDriver, unusual: dict[str, str]
) -> None:
    """`list` and `show` print unusual rows as lines and as JSON, and commands change them; they hide no other job."""
    pool = schema_driver.pool
    good = await insert_job(pool, JobState.AVAILABLE)
    ids = {}
    for name, changes in unusual.items():
        ids[name] = (await insert_job(pool, JobState.AVAILABLE)).id
        await pool.fetch(
            qualified(f"UPDATE /* schema */river_job SET {changes} WHERE id = {ids[name]}", pool)
        )
    newest_first = [*reversed(ids.values()), good.id]

    listed = await millhand("job", "list")
    listed_json = await millhand("job", "list", "--json")
    shown = {name: await millhand("job", "show", id) for name, id in ids.items()}
    shown_json = {name: await millhand("job", "show", id, "--json") for name, id in ids.items()}
    commands = [await millhand("job", verb, *ids.values(), "--yes") for verb in ("cancel", "retry", "delete")]

    assert [(result.code, result.err) for result in (listed, listed_json)] == [(0, "")] * 2
    assert [int(line[0]) for line in listed.lines] == newest_first
    # Not parsed as JSON: Python refuses numbers with thousands of digits.
    assert IDS.findall(listed_json.out) == [str(id) for id in newest_first]
    assert {name: result.err for name, result in shown.items() if result.code or result.err} == {}
    assert {name: IDS.findall(result.out) for name, result in shown_json.items()} == {
        name: [str(id)] for name, id in ids.items()
    }
    assert [result.code for result in commands] == [0, 0, 0], [result.err for result in commands]
    assert (await millhand("job", "list")).lines[0][0] == str(good.id)
