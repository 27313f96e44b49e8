"""The driver on Django's connections by psycopg 3; see `django_executor`."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

import django.db
from psycopg.pq import Conninfo

from millhand.core.errors import ConfigError
from millhand.db.driver.django_executor import DJANGO_CONNECTION, DjangoExecutor
from millhand.db.driver.driver import SchemaDriver
from millhand.db.driver.tx_executor import sync_executor_of
from millhand.db.sql import checked_schema


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

    @property
    def has_open_transaction(self) -> bool:
        """Whether a `transaction.atomic` of the calling thread is open."""
        connection: Any = django.db.connections[self.alias]
        return bool(connection.in_atomic_block or not connection.get_autocommit())

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


def django_url(alias: str) -> str:
    """
    Return a URL for the database `alias`, with those of its OPTIONS that libpq knows, for a worker's own connections.

    `assume_role` becomes an option of libpq; Django itself sets the role on each connection.
    Raises: ConfigError for a database that is not PostgreSQL.
    """
    connection: Any = django.db.connections[alias]
    if connection.vendor != "postgresql":
        raise ConfigError(f"database {alias!r} must be PostgreSQL, got one of {connection.vendor}")
    given: dict[str, Any] = connection.get_connection_params()
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    params = {name: str(value) for name, value in given.items() if name in known and value is not None}
    role = connection.settings_dict["OPTIONS"].get("assume_role")
    if role:
        escaped = role.replace("\\", "\\\\").replace(" ", "\\ ")
        options = f"{params.get('options', '')} -c role={escaped}"
        params["options"] = options.strip()
    return f"postgresql:///?{urlencode(params, quote_via=quote)}"
