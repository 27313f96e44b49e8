"""
Millhand in a Flask application: a client that inserts and controls jobs in the request's transaction.

    millhand = MillhandFlask()                      # or MillhandFlask(app, engine)
    millhand.init_app(app, db.engine)               # Flask-SQLAlchemy's, any Engine, a pool of psycopg's, a URL
    millhand.client.insert(SendEmail(…), tx=db.session)

Work the jobs with `millhand worker` in a process of its own: a Flask application has no event loop.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from flask import Flask, current_app

from millhand.core.config import Config
from millhand.core.errors import ConfigError
from millhand.sync_client import SyncClient

if TYPE_CHECKING:
    from millhand.sync_client import Database

EXTENSION = "millhand"
URL_KEY = "MILLHAND_DATABASE_URL"


class MillhandFlask:
    """
    A Flask extension that serves any number of applications.

    Concurrency: any number of threads. A URL becomes a pool at the first use in each process, so that servers may fork.
    """

    def __init__(
        self, app: Flask | None = None, database: Database | None = None, config: Config | None = None
    ) -> None:
        if app is not None:
            self.init_app(app, database, config)

    def init_app(self, app: Flask, database: Database | None = None, config: Config | None = None) -> None:
        """
        Add a client on `database`, or on `MILLHAND_DATABASE_URL` of its configuration, to an application.

        Raises: ConfigError without a valid database.
        """
        chosen = app.config.get(URL_KEY) if database is None else database
        if chosen is None:
            raise ConfigError(
                f"database must be given, got none; pass one to init_app, or set {URL_KEY} in app.config"
            )
        app.extensions[EXTENSION] = _Held(chosen, config)

    @property
    def client(self) -> SyncClient:
        """
        The client of the current application.

        Raises: ConfigError if it has none; the errors of `SyncClient.start` at the first use.
        """
        held = current_app.extensions.get(EXTENSION)
        if not isinstance(held, _Held):
            raise ConfigError(f"app {current_app.name!r} must have a client, got none; call init_app first")
        return held.client()


class _Held:
    """One application's client, created anew in each process."""

    def __init__(self, database: Database, config: Config | None) -> None:
        self._config = config
        self._database = database
        self._lock = threading.Lock()
        self._made = SyncClient(database, config)
        self._started_in: int | None = None

    def client(self) -> SyncClient:
        """Return the client; for a URL, with a pool of this process."""
        if not isinstance(self._database, str):
            return self._made
        with self._lock:
            if self._started_in != os.getpid():
                # A pool from before a fork belongs to the parent process.
                self._made = SyncClient(self._database, self._config)
                self._made.start()
                self._started_in = os.getpid()
            return self._made
