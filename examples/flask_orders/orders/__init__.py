"""Orders over HTTP with Flask and Flask-SQLAlchemy."""

from __future__ import annotations

import os
import sys

from flask import Flask
from sqlalchemy.engine import make_url

from orders.models import db
from orders.views import millhand, orders


def create_app() -> Flask:
    """Return the application: for `flask run`, for a server such as waitress, and for the worker."""
    app = Flask(__name__)
    url = os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")
    app.config["SQLALCHEMY_DATABASE_URI"] = make_url(url).set(drivername="postgresql+psycopg")
    db.init_app(app)
    with app.app_context():
        millhand.init_app(app, db.engine)  # jobs are inserted with the application's own connections
    app.register_blueprint(orders)
    return app
