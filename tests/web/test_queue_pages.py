"""Claims about the pages of queues, as a browser and a program see them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import httpx

from factory import insert_job
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.job import ClientId
from millhand.store.client import ClientHeartbeatParams, client_heartbeat
from millhand.store.queue import queue_create_or_set_updated_at, queue_pause


async def put_client(driver: AsyncpgDriver, id: str, kinds: Sequence[str], queues: dict[str, int]) -> None:
    heartbeat = ClientHeartbeatParams(
        id=ClientId(id), hostname="here", kinds=kinds, pid=42, queue_updates={}, queues=queues,
        heartbeat_interval=timedelta(seconds=5), version="1.2.3",
    )  # fmt: skip
    await driver.pool.run(client_heartbeat(heartbeat, started_at=None))


async def test_queues_page_says_what_limits_each_queue(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A queue with a client and a queue that only a job names are on the page, each with its jobs and its limit."""
    pool = schema_driver.pool
    await pool.run(queue_create_or_set_updated_at("mail"))
    await pool.run(queue_pause("mail"))
    await put_client(schema_driver, "a", ["act"], {"mail": 5})
    for queue in ("mail", "tpyo"):
        await insert_job(pool, queue=queue, kind="act")

    html = (await browser.get("/queues")).text
    queues = {queue["name"]: queue for queue in (await browser.get("/api/v1/queues")).json()["queues"]}

    assert {name: (one["limit"], one["slots"], one["clients"]) for name, one in queues.items()} == {
        "mail": ("paused", 5, ["a"]),
        "tpyo": ("no_client", 0, []),
    }
    assert "tpyo" in html
