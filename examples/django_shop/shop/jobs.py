"""The workers of this app; `manage.py millhand_worker` finds them here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from millhand import InsertOpts, Job, Workers, every
from shop.models import Order

workers = Workers()


@dataclass(frozen=True)
class Confirm:
    kind: ClassVar[str] = "confirm_order"
    insert_opts: ClassVar[InsertOpts] = InsertOpts(queue="mail")
    order_id: int


@workers.add(timeout=timedelta(seconds=30))
def confirm(job: Job[Confirm]) -> None:
    """Write to the customer; a plain function runs in a thread and uses the ORM as a view does."""
    order = Order.objects.get(pk=job.args.order_id)
    if "@" not in order.customer:
        raise ValueError(f"customer must have an address, got {order.customer!r}")
    order.is_confirmed = True
    order.save(update_fields=["is_confirmed"])


@workers.add()
async def count_open(limit: int = 100) -> None:
    """Count open orders; a coroutine runs on the event loop and uses the asynchronous ORM."""
    num_open = await Order.objects.filter(is_confirmed=False).acount()
    if num_open > limit:
        raise RuntimeError(f"{num_open} orders are open")


periodic_jobs = [every(timedelta(minutes=10), count_open.args(), id="count_open")]
