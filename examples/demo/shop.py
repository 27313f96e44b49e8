"""
The jobs of the demo with the web page: a shop whose payment provider is down.

Charges fail until the provider is back, and are discarded after three attempts. Reports have one slot, and come a little
faster than it works them. No client works the queue `partner`.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar

from millhand import Config, InsertOpts, Job, JobRow, Workers, every

# The provider is down while this file is there.
OUTAGE = Path("payment-provider-is-down")

workers = Workers()
_orders = itertools.count(1_001)
_regions = itertools.cycle(("north", "south", "east", "west"))


class RetrySoon:
    """Retry after 10 s and 20 s, so that the demo is short. The default is 1 s, 16 s, 81 s, 4 min, …."""

    def next_retry_at(self, job: JobRow, *, now: datetime) -> datetime:
        return now + job.attempt * timedelta(seconds=10)


class ProviderUnavailable(Exception):
    """The payment provider did not accept a charge."""


@dataclass(frozen=True)
class ChargeCard:
    kind: ClassVar[str] = "charge_card"
    insert_opts: ClassVar[InsertOpts] = InsertOpts(max_attempts=3, tags=["payment"])
    order: int
    euros: int
    customer: str


@workers.add(retry=RetrySoon())
async def charge_card(job: Job[ChargeCard]) -> None:
    await asyncio.sleep(0.05 + job.args.euros / 1_000)
    call_provider(job.args)
    await job.client.insert(SendReceipt(job.args.order, job.args.customer))


def call_provider(charge: ChargeCard) -> None:
    if OUTAGE.exists():
        raise ProviderUnavailable(f"payment provider answers 503 to the charge of order {charge.order}")


@dataclass(frozen=True)
class SendReceipt:
    kind: ClassVar[str] = "send_receipt"
    insert_opts: ClassVar[InsertOpts] = InsertOpts(queue="mail")
    order: int
    to: str


@workers.add()
async def send_receipt(job: Job[SendReceipt]) -> None:
    await asyncio.sleep(0.2)
    job.record_output({"message": f"receipt-{job.args.order}"})


@dataclass(frozen=True)
class SalesReport:
    kind: ClassVar[str] = "sales_report"
    insert_opts: ClassVar[InsertOpts] = InsertOpts(queue="reports")
    region: str


@workers.add()
async def sales_report(job: Job[SalesReport]) -> None:
    await asyncio.sleep(8)
    job.record_output({"region": job.args.region, "pages": 4})


def new_order() -> ChargeCard:
    order = next(_orders)
    return ChargeCard(order, euros=5 + order * 37 % 246, customer=f"customer-{order % 90}@example.com")


def new_report() -> SalesReport:
    return SalesReport(next(_regions))


config = Config(
    workers=workers,
    queues={"default": 10, "mail": 5, "reports": 1},
    periodic_jobs=[
        every(timedelta(seconds=1), new_order, id="orders"),
        every(timedelta(seconds=6), new_report, id="reports", run_on_start=True),
    ],
)
