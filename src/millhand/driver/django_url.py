"""The URL of one of Django's databases, for a worker, which has connections of its own and an event loop."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from django.db import connections
from psycopg.pq import Conninfo

from millhand.errors import ConfigError


def django_url(alias: str) -> str:
    """
    Return a URL that leads where Django's connections of `alias` lead, with all that libpq takes of its OPTIONS.

    `assume_role` is what Django says on each of its connections, and libpq can say as well.

    Raises: ConfigError for a database that is not PostgreSQL.
    """
    connection: Any = connections[alias]
    if connection.vendor != "postgresql":
        raise ConfigError(f"database {alias!r} must be PostgreSQL, got one of {connection.vendor}")
    said: dict[str, Any] = connection.get_connection_params()
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    params = {name: str(value) for name, value in said.items() if name in known and value is not None}
    role = connection.settings_dict["OPTIONS"].get("assume_role")
    if role:
        options = f"{params.get('options', '')} -c role={_escaped(role)}"
        params["options"] = options.strip()
    return f"postgresql:///?{urlencode(params, quote_via=quote)}"


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace(" ", "\\ ")
