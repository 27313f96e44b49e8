"""
What `tx=` takes, as type checkers see it: for each library the methods by which its connections differ from other values.

They are protocols, so no library needs to be installed. `db/driver/tx_executor.py` finds the executor at run time.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias


class AsyncpgConnection(Protocol):
    """A connection of asyncpg, also one acquired from a pool."""

    def get_server_pid(self) -> int: ...

    def is_in_transaction(self) -> bool: ...


class AsyncPsycopgConnection(Protocol):
    """A `psycopg.AsyncConnection`."""

    @property
    def pgconn(self) -> Any: ...  # noqa: ANN401 - psycopg's own type

    async def commit(self) -> None: ...


class AsyncSqlalchemyConnection(Protocol):
    """An `AsyncConnection`, `AsyncSession` or `async_scoped_session` of SQLAlchemy."""

    def begin_nested(self) -> Any: ...  # noqa: ANN401 - SQLAlchemy's own type

    async def commit(self) -> None: ...


class PsycopgConnection(Protocol):
    """A `psycopg.Connection`."""

    @property
    def pgconn(self) -> Any: ...  # noqa: ANN401 - as above

    def commit(self) -> None: ...


class SqlalchemyConnection(Protocol):
    """A `Connection`, `Session` or `scoped_session` of SQLAlchemy."""

    def begin_nested(self) -> Any: ...  # noqa: ANN401 - as above

    def commit(self) -> None: ...


class DjangoConnection(Protocol):
    """A connection of Django."""

    @property
    def in_atomic_block(self) -> bool: ...

    def ensure_connection(self) -> None: ...


class TransactionExecutor(Protocol):
    """The executor of a transaction that a driver began."""

    async def execute_script(self, sql: str, *, timeout_seconds: float | None = None) -> None: ...


Tx: TypeAlias = AsyncpgConnection | AsyncPsycopgConnection | AsyncSqlalchemyConnection | TransactionExecutor
"""What `tx=` of a `Client` takes: a connection or session of asyncpg, psycopg or SQLAlchemy for asyncio."""

SyncTx: TypeAlias = PsycopgConnection | SqlalchemyConnection | DjangoConnection | TransactionExecutor
"""What `tx=` of a `SyncClient` takes: a blocking connection or session of psycopg, SQLAlchemy or Django."""

AnyTx: TypeAlias = Tx | SyncTx
"""What `tx=` takes where both kinds of clients do."""
