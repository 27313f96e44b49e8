"""The worker, a process of its own: `millhand worker orders.worker:config`."""

from __future__ import annotations

from datetime import timedelta

from millhand import Config, Job, Workers
from orders import create_app
from orders.jobs import ConfirmOrder
from orders.models import Order, db

app = create_app()
workers = Workers()


@workers.add(timeout=timedelta(seconds=30))
def confirm_order(job: Job[ConfirmOrder]) -> None:
    """Confirm an order. A plain function runs in a thread, and uses Flask's extensions in an application context."""
    with app.app_context():
        order = db.session.get_one(Order, job.args.order_id)
        order.is_confirmed = True
        job.record_output(f"order {order.id} of {order.customer} is confirmed")
        db.session.commit()


config = Config(workers=workers, queues={"default": 10})
