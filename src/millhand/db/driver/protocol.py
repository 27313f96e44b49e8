"""
What the engine needs from a database driver: run a query, begin a transaction, listen.

Drivers translate every error at this edge: they raise `ConnectionLost`, `PoolClosed`, `OperationTimeout` or another
`DriverError`, with the library's own error as cause.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar, runtime_checkable

from millhand.db.driver.url import DatabaseAddress
from millhand.db.query import TIMEOUT_SECONDS, Copy, CopyOut, Query

T = TypeVar("T")


class Executor(Protocol):
    """Runs statements on a pool, each on a connection of its own, or inside one transaction."""

    async def run(self, query: Query[T]) -> T:
        """
        Run `query` within its deadline and return what it parsed.

        Raises: OperationTimeout, with the query's name; ConnectionLost; PoolClosed; DriverError.
        Concurrency: on a pool, any number at once; in a transaction, one at a time.
        """
        ...

    def begin(self) -> AbstractAsyncContextManager[Executor]:
        """Begin a transaction, or a savepoint inside one; commit at the end, roll back on an exception."""
        ...

    async def copy(self, copy: Copy) -> int:
        """
        Copy rows into a table, all or none, and return how many there were.

        Raises: the error of the rows' source, unchanged; else as `run`. Inside a transaction, roll it back then.
        Concurrency: uses its connection until the rows end; their source must not need the same one.
        """
        ...

    async def copy_out(self, copy: CopyOut) -> int:
        """
        Copy the rows of a SELECT to a function, in one snapshot, and return how many there were.

        Raises: the error of the function, unchanged; else as `run`.
        Concurrency: uses its connection until the rows end; the function must not need the same one.
        """
        ...

    async def fetch(
        self, sql: str, params: Sequence[Any] = (), *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        """
        Run SQL from outside `db/sql/`, such as a reference source's, with `$1` parameters; return rows by column name.

        Raises: as `run`; errors name the operation by the beginning of the SQL.
        """
        ...

    async def execute_script(self, sql: str, *, timeout_seconds: float | None = None) -> None:
        """
        Run several statements without parameters or rows, such as a migration; None waits without limit.

        `/* schema */` and `/* schema_name */` are filled in as in `db/sql/`.
        """
        ...


class Listener(Protocol):
    """One connection that only listens. `Driver.listener` makes it; only the notifier uses it."""

    async def connect(self) -> None:
        """Connect; raises as `Executor.run`."""
        ...

    async def listen(self, topic: str, receive: Callable[[str], None]) -> None:
        """Call `receive` with each payload of `<schema>.<topic>`, on the event loop."""
        ...

    async def ping(self) -> None:
        """Raise if the connection does not answer."""
        ...

    def on_lost(self, wake: Callable[[], None]) -> None:
        """Call `wake` once, on the event loop, when the connection is lost; set it before `connect`."""
        ...

    @property
    def is_lost(self) -> bool:
        """Whether the connection was lost after it was made."""
        ...

    async def close(self) -> None:
        """Close; idempotent, never raises."""
        ...


@runtime_checkable
class Driver(Protocol):
    """
    One database as one client uses it: a pool, the schema of River's tables, and listeners.

    `address` is where it is, and `pool_size` how many connections its pool may have, for a driver with a URL.
    """

    address: DatabaseAddress | None
    pool_size: int | None
    schema: str

    @property
    def pool(self) -> Executor:
        """The pool as an executor."""
        ...

    def executor(self, tx: object) -> Executor:
        """Return an executor inside the caller's own connection or transaction. Raises: TypeError for anything else."""
        ...

    def listener(self) -> Listener: ...

    async def open(self) -> None:
        """Make the pool, unless the caller gave one; idempotent. Raises: as `Executor.run`."""
        ...

    async def close(self) -> None:
        """Close what `open` made, never the caller's pool; idempotent, never raises. Running statements get ten seconds."""
        ...


def has_open_transaction(driver: Driver) -> bool:
    """Return whether statements on the driver's pool are part of a transaction of the caller's that is open."""
    return bool(getattr(driver, "has_open_transaction", False))
