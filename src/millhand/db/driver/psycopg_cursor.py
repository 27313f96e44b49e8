"""
Cursors for Millhand's statements on any psycopg connection, blocking or asynchronous.

They have numbered parameters and adapters of their own. The adapters and row factories of an application, for jsonb or
anything else, apply only to its own statements.
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

from millhand.db.query import Copy

AnyConnection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


class _UtcLoader(Loader):
    """An instant in UTC, whatever the session's time zone is."""

    format = Format.BINARY
    _epoch: ClassVar = datetime(2000, 1, 1, tzinfo=UTC)
    _microseconds: ClassVar = struct.Struct("!q")

    def load(self, data: Buffer) -> datetime:
        return self._epoch + timedelta(microseconds=self._microseconds.unpack(data)[0])


@cache
def _adapters() -> AdaptersMap:
    """Return psycopg's default adapters, with the few that Millhand's statements need changed."""
    adapters = AdaptersMap(types=known_types)
    register_default_adapters(adapters)
    register_all_arrays(adapters)
    adapters.register_loader("timestamptz", _UtcLoader)
    adapters.register_dumper(tuple, ListDumper)  # psycopg sends a tuple as a row; our params mean an array
    for name in ("json", "jsonb"):
        adapters.register_loader(name, TextLoader)  # as asyncpg returns it
    return adapters


class AsyncCursor(psycopg.AsyncRawCursor[tuple[Any, ...]]):
    """A cursor with Millhand's adapters."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        super().__init__(connection, row_factory=tuple_row)

    @property
    def adapters(self) -> AdaptersMap:
        return _adapters()


class Cursor(psycopg.RawCursor[tuple[Any, ...]]):
    """A blocking cursor with Millhand's adapters."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__(connection, row_factory=tuple_row)

    adapters = AsyncCursor.adapters


def copy_statement(copy: Copy, schema: str) -> Composed:
    table = Identifier(schema, copy.table) if schema else Identifier(copy.table)
    columns = SQL(", ").join(map(Identifier, copy.columns))
    return SQL("COPY {} ({}) FROM STDIN WITH (FORMAT text, ENCODING 'utf-8')").format(table, columns)


def by_name(
    cursor: psycopg.AsyncCursor[Any] | psycopg.Cursor[Any], rows: Sequence[Sequence[Any]]
) -> list[dict[str, Any]]:
    """Return rows by the names of their columns."""
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in rows]


def is_in_transaction(connection: AnyConnection) -> bool:
    """Return whether a transaction is open, or has failed and was not rolled back."""
    return connection.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)
