"""The views. A job is inserted in the session of the request, and exists when the session commits."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, abort, request

from millhand import NotFound
from millhand.contrib.flask import MillhandFlask
from orders.jobs import ConfirmOrder
from orders.models import Order, db

millhand = MillhandFlask()
orders = Blueprint("orders", __name__, cli_group=None)


@orders.cli.command("setup")
def setup() -> None:
    """Create the tables of Millhand and of the application, which would use Flask-Migrate if it were larger."""
    millhand.client.migrate()
    db.create_all()


@orders.post("/orders")
def take() -> tuple[dict[str, Any], int]:
    """Store an order and its job in one transaction."""
    asked = request.get_json()
    order = Order(customer=asked["customer"])
    db.session.add(order)
    db.session.flush()  # gives the order its id
    job = millhand.client.insert(ConfirmOrder(order.id), tx=db.session).job
    if asked.get("card") == "declined":
        db.session.rollback()  # no order, and no job
        return {"error": "card declined"}, 402
    db.session.commit()
    return {"order": order.id, "job": job.id}, 201


@orders.get("/orders/<int:order_id>")
def show(order_id: int) -> dict[str, Any]:
    """Return an order."""
    order = db.get_or_404(Order, order_id)
    return {"customer": order.customer, "is_confirmed": order.is_confirmed}


@orders.get("/jobs/<int:job_id>")
def job(job_id: int) -> dict[str, Any]:
    """Return the state of a job."""
    try:
        row = millhand.client.jobs.get(job_id)
    except NotFound as error:
        abort(404, str(error))
    return {"state": row.state, "output": row.output}
