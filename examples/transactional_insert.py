"""
Insert a job in your own transaction: the job exists if the transaction commits.

Prints:

    order 2 is rolled back, and so is its receipt
    [1] orders, [1] receipts to be sent
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from typing import ClassVar

import asyncpg

from millhand import Client, InsertOpts, JobFilters


@dataclass(frozen=True)
class SendReceipt:
    kind: ClassVar[str] = "send_receipt"
    insert_opts: ClassVar[InsertOpts] = InsertOpts(queue="receipts")
    order_id: int


class CardDeclined(Exception):
    pass


async def place_order(client: Client, pool: asyncpg.Pool, order_id: int) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("INSERT INTO example_orders VALUES ($1)", order_id)
        await client.insert(SendReceipt(order_id), tx=connection)
        if order_id == 2:
            raise CardDeclined


async def main() -> None:
    url = os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")
    async with asyncpg.create_pool(url, min_size=1) as pool, Client(pool) as client:
        await pool.execute("CREATE TABLE example_orders (id bigint)")
        await place_order(client, pool, 1)
        try:
            await place_order(client, pool, 2)
        except CardDeclined:
            print("order 2 is rolled back, and so is its receipt")
        orders = await pool.fetchval("SELECT array_agg(id) FROM example_orders")
        jobs = await client.jobs.delete_many(JobFilters(kinds=["send_receipt"]))  # clean up
        print(f"{orders} orders, {[job.args['order_id'] for job in jobs]} receipts to be sent")
        await pool.execute("DROP TABLE example_orders")


if __name__ == "__main__":
    asyncio.run(main())
