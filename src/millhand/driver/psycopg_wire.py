"""
How our statements go over a wire of psycopg's, in both of its colours.

Our own cursors, with numbered parameters, and with adapters of their own: what an application has registered for jsonb
or for anything else, and its row factories, are about its statements, not ours.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, ClassVar

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.postgres import register_default_adapters
from psycopg.postgres import types as known_types
from psycopg.pq import Format, TransactionStatus
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Composed, Identifier
from psycopg.types.array import ListDumper, register_all_arrays
from psycopg.types.string import TextLoader

from millhand.sql import compile_statement
from millhand.store.query import Copy, Query

AnyConnection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


class _UtcLoader(Loader):
    """An instant, in UTC whatever the session's time zone is."""

    format = Format.BINARY
    _epoch: ClassVar = datetime(2000, 1, 1, tzinfo=UTC)
    _microseconds: ClassVar = struct.Struct("!q")

    def load(self, data: Buffer) -> datetime:
        return self._epoch + timedelta(microseconds=self._microseconds.unpack(data)[0])


@cache
def _adapters() -> AdaptersMap:
    """Return psycopg's adapters as they came, but for what our statements see differently."""
    adapters = AdaptersMap(types=known_types)
    register_default_adapters(adapters)
    register_all_arrays(adapters)
    adapters.register_loader("timestamptz", _UtcLoader)
    adapters.register_dumper(tuple, ListDumper)  # a row of columns to psycopg, an array in our params
    for name in ("json", "jsonb"):
        adapters.register_loader(name, TextLoader)  # as asyncpg gives it
    return adapters


class AsyncCursor(psycopg.AsyncRawCursor[tuple[Any, ...]]):
    """A cursor of ours on anybody's connection."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        super().__init__(connection, row_factory=tuple_row)

    @property
    def adapters(self) -> AdaptersMap:
        """Ours, not the connection's."""
        return _adapters()


class Cursor(psycopg.RawCursor[tuple[Any, ...]]):
    """A cursor of ours on anybody's connection that blocks."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__(connection, row_factory=tuple_row)

    @property
    def adapters(self) -> AdaptersMap:
        """Ours, not the connection's."""
        return _adapters()


def as_sent(query: Query[Any], schema: str) -> tuple[bytes, Sequence[Any]]:
    """Return a query's SQL and the params in the order of their numbers."""
    sql, names = compile_statement(query.name, schema, fragments=query.fragments)
    return sql.encode(), [query.params[name] for name in names]


def copy_statement(copy: Copy, schema: str) -> Composed:
    """Return the statement that copies rows in."""
    table = Identifier(schema, copy.table) if schema else Identifier(copy.table)
    columns = SQL(", ").join(map(Identifier, copy.columns))
    return SQL("COPY {} ({}) FROM STDIN WITH (FORMAT text, ENCODING 'utf-8')").format(table, columns)


def by_name(cursor: AsyncCursor | Cursor, rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """Return rows by the names of their columns."""
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in rows]


def is_broken(connection: AnyConnection) -> bool:
    """Say whether nothing more can be said on a connection."""
    return connection.info.transaction_status == TransactionStatus.UNKNOWN


def is_in_transaction(connection: AnyConnection) -> bool:
    """Say whether a transaction is open on a connection, or one that has failed and was not rolled back."""
    return connection.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)
