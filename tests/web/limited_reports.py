"""A queue `reports` with a limit, and requests about it."""

from __future__ import annotations

from typing import Any

import httpx
from page_rows import put_client

from factory import insert_job
from millhand.core.job import ClientId, JobRow
from millhand.core.limit import Limit
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.store.queue import queue_create_or_set_updated_at
from millhand.limits.job_store import limited_job_admit, limited_job_collect
from millhand.limits.store import limit_declare, limit_list, limit_partition_list

LIMIT = Limit(at_once=2, by_args=["tenant"])
ACME = '["acme"]'


async def reports(
    driver: AsyncpgDriver, limit: Limit = LIMIT, *tenants: str, num_admitted: int = 0
) -> list[JobRow]:
    """Return the jobs of a queue with a limit, by id; the first ones have slots."""
    pool = driver.pool
    await pool.run(limit_declare({"reports": limit}))
    await pool.run(queue_create_or_set_updated_at("reports"))
    await put_client(driver, "a", ["build"], {"reports": 9})
    jobs = [
        await insert_job(pool, queue="reports", kind="build", args=f'{{"tenant": "{tenant}"}}')
        for tenant in tenants
    ]
    await pool.run(limited_job_collect("reports"))
    if num_admitted:
        await pool.run(limited_job_admit(queue="reports", limit=num_admitted, client_id=ClientId("a")))
    return jobs


async def get(http: httpx.AsyncClient, path: str, **params: str) -> Any:
    answer = await http.get(f"/api/v1{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def post(http: httpx.AsyncClient, path: str, **fields: object) -> tuple[int, str]:
    answer = await http.post(f"/api/v1/queues/reports/{path}", json=fields)
    return answer.status_code, answer.json().get("detail", "")


async def the_limit(executor: Executor) -> Limit | None:
    listed = await executor.run(limit_list(queue="reports"))
    return listed[0].row.limit if listed and listed[0].row else None


async def held(executor: Executor) -> dict[str, bool]:
    found = await executor.run(limit_partition_list("reports"))
    return {one.key: one.held_until is not None for one in found}
