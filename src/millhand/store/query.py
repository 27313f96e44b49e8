"""
A query is a value: a statement's name, its parameters and how its rows are read.

There is no connection inside. Whoever holds one runs it, so that one definition serves every driver and every
transaction, the caller's own included.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")

Row = Sequence[Any]  # one record, read by position, in the order of the statement's columns

TIMEOUT_SECONDS = 10.0
COPY_TIMEOUT_SECONDS = 60.0  # a chunk may have to wait for an index that is being tidied up


class Query(msgspec.Struct, Generic[T], frozen=True):
    """
    The statement `name` of `sql/`, to be run with `params`, by name.

    Shape: `parse` gets all rows, in the order in which they arrived, and is called once. `fragments` is SQL to be put
    in for `/* name */`, for what cannot be a parameter; made in `store/` of a fixed vocabulary, never of a user's text,
    but for a `Where`, which its author has written as SQL.
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
    Rows for `columns` of `table`, to be copied there in PostgreSQL's text format.

    Text, because it needs no codec: every driver can send bytes. `chunks` is read once, and each chunk is whole lines.

    Units: `timeout_seconds` is how long the server may take for one chunk, and for the end; its source may take longer.
    """

    name: str
    table: str
    columns: tuple[str, ...]
    chunks: AsyncIterable[bytes]
    timeout_seconds: float = COPY_TIMEOUT_SECONDS


def parse_none(rows: Sequence[Row]) -> None:
    """Read nothing of an answer."""
    del rows


def parse_count(rows: Sequence[Row]) -> int:
    """Read the one number of an answer of one row and one column."""
    return int(rows[0][0])
