from __future__ import annotations

import httpx
import pytest

from millhand.db.driver.asyncpg import AsyncpgDriver
from odd_rows import ODD

INSERT = """
INSERT INTO /* schema */river_job (kind, args, max_attempts) VALUES ('odd', '{"what": "odd"}', 25) RETURNING id
"""


async def _odd_job(driver: AsyncpgDriver, update: str) -> int:
    prefix = f'"{driver.schema}".'
    [row] = await driver.pool.fetch(INSERT.replace("/* schema */", prefix))
    await driver.pool.fetch(f"UPDATE {prefix}river_job SET {update}", timeout_seconds=60)
    return int(row["id"])


@pytest.mark.slow
async def test_job_of_every_unusual_shape_is_shown(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A row that another program left in any shape has its page and its JSON, with its own id and kind."""
    wrong = {}
    for name, update in ODD.items():
        id = await _odd_job(schema_driver, update)
        html = await browser.get(f"/jobs/{id}")
        json = await browser.get(f"/api/v1/jobs/{id}")
        if (html.status_code, json.status_code) != (200, 200) or json.json()["job"]["id"] != id:
            wrong[name] = (html.text, json.text)
        await schema_driver.pool.fetch(f'DELETE FROM "{schema_driver.schema}".river_job')

    assert wrong == {}


async def test_job_says_what_it_waits_for_and_what_can_be_done(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A due job in a queue that no client works says so, and can be cancelled, put off and deleted."""
    id = await _odd_job(schema_driver, "priority = 2")

    page = (await browser.get(f"/api/v1/jobs/{id}")).json()

    assert page["wait"] == {"reason": "no_client", "until": None, "num_slots": None}
    assert page["can"] == ["snooze", "cancel", "delete"]
