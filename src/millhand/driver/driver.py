"""What the drivers have in common."""

from __future__ import annotations

from typing import Any

from millhand.driver.protocol import Executor
from millhand.driver.url import checked_pool_size, checked_url
from millhand.errors import PoolClosed
from millhand.sql import checked_schema


class PoolAdapter:
    """Another library's connections, with those methods of a driver's own pool that the driver calls."""


class SchemaDriver:
    """A driver with its schema and executors; subclasses open and close the connections."""

    schema: str
    _executor: Executor
    _find_executor: staticmethod[[object, str], Executor]

    @property
    def pool(self) -> Executor:
        """The pool as an executor; usable once the driver was opened."""
        return self._executor

    def executor(self, tx: object) -> Executor:
        """
        Return an executor inside the caller's own connection, in the transaction that is open on it, if any.

        Raises: TypeError that lists what is accepted.
        """
        return self._find_executor(tx, self.schema)


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
            self._url = checked_url(pool_or_url)
        elif isinstance(pool_or_url, self._pool_type | PoolAdapter):
            self._given = pool_or_url
        else:
            kind = type(pool_or_url)
            raise TypeError(
                f"database must be {self._pool_name} or a URL that begins with 'postgresql://', "
                f"got {kind.__module__}.{kind.__qualname__}"
            )


def not_open() -> PoolClosed:
    """Return the error for a driver that is used before `open` or after `close`."""
    return PoolClosed("connect", "a driver that is not open; start its client, or open() it, first")
