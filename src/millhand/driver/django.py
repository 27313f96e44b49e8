"""The driver on Django's connections by psycopg 3; see `django_executor`."""

from __future__ import annotations

from typing import Any

import django.db

from millhand.driver.django_executor import DJANGO_CONNECTION, DjangoExecutor
from millhand.driver.driver import SchemaDriver
from millhand.driver.protocol import Listener
from millhand.driver.run_sync import reject_listener
from millhand.driver.tx_executor import sync_executor_of
from millhand.sql import checked_schema


class DjangoDriver(SchemaDriver):
    """
    One of Django's databases, by the calling thread's connection, which Django opens and closes.

    Its pool is that connection: statements are part of the `transaction.atomic` that is open, or committed at once.

    Concurrency: any number of threads.
    Raises: ConfigError for an invalid schema.
    """

    _find_executor = staticmethod(sync_executor_of)

    def __init__(self, alias: str, schema: str = "") -> None:
        self.alias = alias
        self.schema = checked_schema(schema)
        self._executor = DjangoExecutor(lambda: django.db.connections[alias], self.schema)

    def listener(self) -> Listener:
        """Raise ConfigError: without an event loop there is no listener."""
        return reject_listener()

    async def open(self) -> None:
        """Do nothing: Django connects at the first statement."""

    async def close(self) -> None:
        """Do nothing: Django closes its connections at the end of a request."""


def driver_on(database: object, schema: str) -> DjangoDriver | None:
    """Return a driver for the database of a Django connection, in any thread; None for anything else."""
    if isinstance(database, DJANGO_CONNECTION):
        connection: Any = database
        return DjangoDriver(connection.alias, schema)
    return None
