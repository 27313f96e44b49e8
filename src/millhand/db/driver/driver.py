"""What the drivers have in common."""

from __future__ import annotations

from typing import Any

from millhand.core.errors import ConfigError
from millhand.db.driver.protocol import Executor, Listener
from millhand.db.driver.url import DatabaseAddress, checked_pool_size, checked_url, database_address
from millhand.db.sql import checked_schema

# How the server plans Millhand's statements, set on the driver's own connections. The statements are few and each is meant
# for one index. A plan for the parameters of each call costs more than the fetch itself (0.1 of 0.2 ms; bench 2026-11).
# A plan made while the table was empty would scan the whole table until the next ANALYZE.
PLANNER_SETTINGS = {"enable_seqscan": "off", "jit": "off", "plan_cache_mode": "force_generic_plan"}


class PoolAdapter:
    """Another library's connections, with those methods of a driver's own pool that the driver calls."""


class SchemaDriver:
    """A driver with its schema and executors; subclasses open and close the connections."""

    address: DatabaseAddress | None = None
    pool_size: int | None = None
    schema: str
    _executor: Executor
    _find_executor: staticmethod[[object, str], Executor]

    @property
    def pool(self) -> Executor:
        return self._executor

    def executor(self, tx: object) -> Executor:
        return self._find_executor(tx, self.schema)

    def listener(self) -> Listener:
        """Raise ConfigError: a blocking driver cannot receive notifications."""
        raise ConfigError("a listener must have an event loop, got a blocking driver; work jobs with Client")


class PooledDriver(SchemaDriver):
    """
    A database by the caller's pool, which stays open, or by a URL, for which the driver makes its own pool.

    Raises: ConfigError for an invalid URL, schema or `pool_size`; TypeError for another pool than `_pool_type`.
    """

    _pool_type: type
    _pool_name: str

    def __init__(self, pool_or_url: object, schema: str, pool_size: int) -> None:
        self.schema = checked_schema(schema)
        self._url: str | None = None
        self._given: Any = None
        self._pool_size = checked_pool_size(pool_size)
        if isinstance(pool_or_url, str):
            self.pool_size = self._pool_size
            self._url = checked_url(pool_or_url)
            self.address = database_address(self._url)
        elif isinstance(pool_or_url, self._pool_type | PoolAdapter):
            self._given = pool_or_url
        else:
            kind = type(pool_or_url)
            raise TypeError(
                f"database must be {self._pool_name} or a URL that begins with 'postgresql://', "
                f"got {kind.__module__}.{kind.__qualname__}"
            )
