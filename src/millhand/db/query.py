"""
A query is a value: a statement's name, its parameters and the parser of its rows.

It has no connection. Any executor can run it, so one definition serves every driver and every transaction, the caller's
own included.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from millhand.core.errors import NotFound

T = TypeVar("T")

Row = Sequence[Any]  # one record, by position, in the order of the statement's columns

TIMEOUT_SECONDS = 10.0
COPY_TIMEOUT_SECONDS = 60.0  # a chunk may have to wait while the server cleans an index

ID_MAX = 2**63 - 1  # PostgreSQL's bigint


class Query(msgspec.Struct, Generic[T], frozen=True):
    """
    The statement `name` of `db/sql/`, with its params by name.

    `parse` is called once, with all rows in the order of their arrival. `fragments` is SQL in place of `/* name */`, for
    what cannot be a parameter. Only a store makes it, never from a user's text; a `Where` is SQL by its author.
    Units: `timeout_seconds` is the deadline for the whole exchange.
    """

    name: str
    params: Mapping[str, Any]
    parse: Callable[[Sequence[Row]], T]
    timeout_seconds: float = TIMEOUT_SECONDS
    fragments: tuple[tuple[str, str], ...] = ()

    def within(self, seconds: float) -> Query[T]:
        """Return the same query with another deadline."""
        return msgspec.structs.replace(self, timeout_seconds=seconds)


class Copy(msgspec.Struct, frozen=True):
    """
    Rows for `columns` of `table`, in the text format of PostgreSQL's COPY, which needs no codec of a driver.

    `chunks` is read once, and each chunk is whole lines.
    Units: `timeout_seconds` is how long the server may take for one chunk, and for the end; the source may take longer.
    """

    name: str
    table: str
    columns: tuple[str, ...]
    chunks: AsyncIterable[bytes]
    timeout_seconds: float = COPY_TIMEOUT_SECONDS


class CopyOut(msgspec.Struct, frozen=True):
    """
    The rows of a SELECT, in the CSV format of PostgreSQL's COPY.

    `write` is awaited with each piece in turn; a piece may end within a row.
    Units: `timeout_seconds` is the deadline for the whole, with the time that `write` takes.
    """

    name: str
    select: str
    write: Callable[[bytes], Awaitable[None]]
    timeout_seconds: float = COPY_TIMEOUT_SECONDS

    @property
    def statement(self) -> str:
        return f"COPY (\n{self.select}\n) TO STDOUT (FORMAT csv, ENCODING 'UTF8')"


def checked_id(subject: str, id: int) -> int:
    """Return the id of a row. Raises: NotFound for a number that no row can have, for which drivers have other errors."""
    if isinstance(id, int) and not 0 <= id <= ID_MAX:
        raise NotFound(subject, id)
    return id


def parse_none(rows: Sequence[Row]) -> None:
    """Ignore the rows."""
    del rows


def parse_count(rows: Sequence[Row]) -> int:
    """Read the number in one row of one column."""
    return int(rows[0][0])
