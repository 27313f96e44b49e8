"""
What the engine asks of a database driver: run a query, begin a transaction, listen.

Errors are translated at this edge, once: everything raised is `ConnectionLost`, `PoolClosed`, `OperationTimeout` or
another `DriverError`, with the driver's own error as cause.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar, runtime_checkable

from millhand.store.query import TIMEOUT_SECONDS, Copy, Query

T = TypeVar("T")


class Executor(Protocol):
    """Something that speaks to one database: a pool (each word on a connection of its own), or one transaction."""

    async def run(self, query: Query[T]) -> T:
        """
        Run `query` within its deadline and return what it parsed.

        Raises: OperationTimeout, with the query's name; ConnectionLost; PoolClosed; DriverError.
        Concurrency: on a pool, any number at once; in a transaction, one at a time.
        """
        ...

    def begin(self) -> AbstractAsyncContextManager[Executor]:
        """Begin a transaction (in a transaction: a savepoint), committed at the end, rolled back by what is raised."""
        ...

    async def copy(self, copy: Copy) -> int:
        """
        Copy rows into a table, all or none, and return how many there were.

        Raises: whatever the source of the rows raises, as it is; else as `run`. Inside a transaction either leaves it
        to be rolled back.
        Concurrency: keeps its connection for as long as there are rows; their source must not need the same one.
        """
        ...

    async def fetch(
        self, sql: str, params: Sequence[Any] = (), *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        """
        Run SQL that is not ours, such as a user's reference source, with `$1` parameters; rows by column name.

        Raises: as `run`; the operation's name in errors is the beginning of the SQL.
        """
        ...

    async def execute_script(self, sql: str, *, timeout_seconds: float | None = None) -> None:
        """
        Run several statements without parameters or rows, as migrations are; None waits without end.

        `/* schema */` and its companions are compiled as in `sql/`.
        """
        ...


class Listener(Protocol):
    """One connection that does nothing but LISTEN. Made by `Driver.listener`, used by the notifier alone."""

    async def connect(self) -> None:
        """Connect; raises as `Executor.run`."""
        ...

    async def listen(self, topic: str, receive: Callable[[str], None]) -> None:
        """Have `receive` called with each payload of `<schema>.<topic>`, on the event loop."""
        ...

    async def ping(self) -> None:
        """Raise if the connection does not answer."""
        ...

    def on_lost(self, ring: Callable[[], None]) -> None:
        """Have `ring` called once, on the event loop, when the connection was lost; call before `connect`."""
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
    """One database as one client uses it: a pool, the schema of River's tables, and listeners."""

    schema: str

    @property
    def pool(self) -> Executor:
        """The pool as an executor."""
        ...

    def executor(self, tx: object) -> Executor:
        """
        Return an executor inside the caller's own connection or transaction.

        Raises: TypeError that lists what is accepted, for anything else.
        """
        ...

    def listener(self) -> Listener: ...

    async def open(self) -> None:
        """Make ready what was not given ready-made; idempotent."""
        ...

    async def close(self) -> None:
        """Close what `open` made; idempotent. What the caller brought stays open."""
        ...
