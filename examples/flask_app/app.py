"""
Orders over HTTP with Flask and Flask-SQLAlchemy: a job is inserted in the session of the request.

    flask --app examples/flask_app/app.py run
    cd examples/flask_app && millhand worker app:config      # works the jobs, in a separate process
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from flask import Flask, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from millhand import Config, Job, NotFound, Workers
from millhand.contrib.flask import MillhandFlask

workers = Workers()


@dataclass(frozen=True)
class Confirm:
    kind: ClassVar[str] = "confirm_order"
    customer: str
    order_id: int


@workers.add(timeout=timedelta(seconds=30))
def confirm(job: Job[Confirm]) -> None:
    """Write to the customer; a plain function runs in a thread."""
    job.record_output(f"order {job.args.order_id} of {job.args.customer} is confirmed")


class Model(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Model)
config = Config(workers=workers, queues={"default": 10})
millhand = MillhandFlask()


class Order(db.Model):  # type: ignore[name-defined]  # Flask-SQLAlchemy creates the class at run time
    __tablename__ = "flask_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]


def create_app() -> Flask:
    """Return the application for `flask run`, or for a server such as waitress."""
    app = Flask(__name__)
    url = os.environ["DATABASE_URL"].partition("://")[2]
    app.config["SQLALCHEMY_DATABASE_URI"] = f"postgresql+psycopg://{url}"
    db.init_app(app)
    with app.app_context():
        db.create_all()
        millhand.init_app(app, db.engine, config)
    app.add_url_rule("/orders", view_func=count)
    app.add_url_rule("/orders", view_func=take, methods=["POST"])
    app.add_url_rule("/jobs/<int:job_id>", view_func=job)
    return app


def take() -> tuple[dict[str, Any], int]:
    """Store an order and its job in one transaction."""
    asked = request.get_json()
    order = Order(customer=asked["customer"])
    db.session.add(order)
    db.session.flush()
    inserted = millhand.client.insert(Confirm(order.customer, order.id), tx=db.session).job
    if asked.get("card") == "declined":
        db.session.rollback()
        return {"error": "card declined"}, 402
    db.session.commit()
    return {"order": order.id, "job": inserted.id}, 201


def count() -> dict[str, int]:
    """Return the number of orders."""
    return {"orders": db.session.query(Order).count()}


def job(job_id: int) -> tuple[dict[str, Any], int]:
    """Return the state of a job."""
    try:
        row = millhand.client.jobs.get(job_id)
    except NotFound as error:
        return {"error": str(error)}, 404
    return {"state": row.state.value, "output": row.output}, 200
