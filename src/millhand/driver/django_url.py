"""The URL of one of Django's databases, for a worker, which has its own connections and an event loop."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from django.db import connections
from psycopg.pq import Conninfo

from millhand.errors import ConfigError


def django_url(alias: str) -> str:
    """
    Return a URL for the database `alias`, with those of its OPTIONS that libpq knows.

    `assume_role` becomes an option of libpq; Django itself sets the role on each connection.

    Raises: ConfigError for a database that is not PostgreSQL.
    """
    connection: Any = connections[alias]
    if connection.vendor != "postgresql":
        raise ConfigError(f"database {alias!r} must be PostgreSQL, got one of {connection.vendor}")
    given: dict[str, Any] = connection.get_connection_params()
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    params = {name: str(value) for name, value in given.items() if name in known and value is not None}
    role = connection.settings_dict["OPTIONS"].get("assume_role")
    if role:
        options = f"{params.get('options', '')} -c role={_escaped(role)}"
        params["options"] = options.strip()
    return f"postgresql:///?{urlencode(params, quote_via=quote)}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")
