"""
Orders over HTTP with FastAPI: each is stored with its job in one transaction, and the same process works the job.

    uvicorn --app-dir examples/fastapi_app app:app
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, ClassVar

import asyncpg
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel

from millhand import Client, Config, Job, NotFound, Workers
from millhand.contrib.starlette import get_client, millhand_lifespan

workers = Workers()


@dataclass(frozen=True)
class Confirm:
    kind: ClassVar[str] = "confirm_order"
    customer: str
    order_id: int


@workers.add(timeout=timedelta(seconds=30))
async def confirm(job: Job[Confirm]) -> None:
    """Write to the customer."""
    await asyncio.sleep(0.01)  # stands for slow work
    job.record_output(f"order {job.args.order_id} of {job.args.customer} is confirmed")


@contextlib.asynccontextmanager
async def database(app: FastAPI) -> AsyncIterator[None]:
    """Open the pool that the application and the client share."""
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1) as pool:
        await pool.execute(
            "CREATE TABLE IF NOT EXISTS fastapi_orders (id bigserial PRIMARY KEY, customer text)"
        )
        app.state.pool = pool
        yield


# Without `queues` the application only inserts, and `millhand worker app:config` works the jobs.
config = Config(workers=workers, queues={"default": 10}, soft_stop_timeout=timedelta(seconds=8))
app = FastAPI(lifespan=millhand_lifespan(lambda app: app.state.pool, config, around=database))

Millhand = Annotated[Client, Depends(get_client)]


class Order(BaseModel):
    customer: str
    card: str = "good"


@app.post("/orders", status_code=201)
async def take(order: Order, client: Millhand) -> dict[str, int]:
    """Store an order and its job in one transaction."""
    async with app.state.pool.acquire() as connection, connection.transaction():
        insert = "INSERT INTO fastapi_orders (customer) VALUES ($1) RETURNING id"
        order_id = await connection.fetchval(insert, order.customer)
        job = (await client.insert(Confirm(order.customer, order_id), tx=connection)).job
        if order.card == "declined":
            raise HTTPException(402, "card declined")
    return {"order": order_id, "job": job.id}


@app.get("/orders")
async def count() -> dict[str, int]:
    """Return the number of orders."""
    return {"orders": await app.state.pool.fetchval("SELECT count(*) FROM fastapi_orders")}


@app.get("/jobs/{job_id}")
async def job(job_id: int, client: Millhand) -> dict[str, Any]:
    """Return the state of a job."""
    try:
        row = await client.jobs.get(job_id)
    except NotFound as error:
        raise HTTPException(404, str(error)) from error
    return {"state": row.state.value, "output": row.output}
