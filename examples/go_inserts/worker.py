"""The worker: `millhand worker worker:config` works the jobs that main.go inserts."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

import asyncpg

from millhand import Config, Job, Workers

workers = Workers()


@dataclass(frozen=True)
class WriteInvoice:
    kind: ClassVar[str] = "write_invoice"  # as Kind() in main.go
    order_id: int
    customer: str


@workers.add(timeout=timedelta(seconds=30))
async def write_invoice(job: Job[WriteInvoice]) -> None:
    """Write the invoice of an order, and complete the job in the same transaction."""
    url = os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            read = "SELECT quantity FROM orders WHERE id = $1 FOR UPDATE"
            quantity = await connection.fetchval(read, job.args.order_id)
            invoice = f"{job.args.customer}: {quantity} pieces"
            await connection.execute(
                "UPDATE orders SET invoice = $2 WHERE id = $1", job.args.order_id, invoice
            )
            job.record_output(invoice)  # River UI shows it
            await job.complete(tx=connection)
    finally:
        await connection.close()


config = Config(workers=workers, queues={"python": 10})
