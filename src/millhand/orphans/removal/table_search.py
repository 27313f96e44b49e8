"""
Read tables from end to end and note which columns name which candidates.

A cursor reads each table in one snapshot. While a thread looks through some rows, the database sends the next ones.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from millhand.driver.protocol import Executor
from millhand.errors import DriverError, OperationTimeout
from millhand.orphans.config import ReferenceSource
from millhand.orphans.removal.key_names import KeyNames, Named
from millhand.orphans.removal.text_forms import CELL
from millhand.orphans.scan.context import RunContext
from millhand.orphans.scan.lookup import existing_keys
from millhand.orphans.sources.searched_tables import SearchedTable, rows_sql

NUM_TIMEOUTS = 10  # a statement may take this many times `source_timeout`, because it reads many rows
FIRST_ROWS, MAX_ROWS = 256, 4_096  # rows that are read at once
CHUNK = 1_000_000  # characters that are read at once, if no row is longer
BEAT_SECONDS = 10.0
NOT_REACHED = "08001"  # the server behind a foreign table does not respond
MAX_LOOKS = 1_000  # for one candidate, at objects that declared values name
QUERY = re.compile("[?#]")

Row = Mapping[str, Any]


class TooLate(Exception):
    """The time for the search is over."""


@dataclass(kw_only=True)
class TableSearch:
    """
    Searches tables for `keys`, one after the other.

    `own_rows` are the rows that a run removes with their object: source and id, and the object's key. `places` has the first
    column that names a key. `undeclared` has the columns that no setting covers, each with the keys that it names.
    """

    context: RunContext
    ends_at: float
    keys: Sequence[str]
    names: KeyNames
    own_rows: Mapping[tuple[str, str], str]
    places: dict[str, str] = field(default_factory=dict)
    undeclared: dict[str, set[str]] = field(default_factory=dict)
    _beat_at: float = field(default_factory=time.monotonic)
    _looks: Counter[str] = field(default_factory=Counter)

    async def read(self, table: SearchedTable) -> str | None:
        """Search one table. Return why it cannot be read, if so. Raises: TooLate; DriverError, for an outage; StoreError."""
        sources = [one for one in self.context.config.sources if table.is_of(one.table)]
        try:
            async with self.context.executor.begin() as tx:
                async for rows, named in self._read(tx, table, sources):
                    await self._note(table, sources, rows, named)
        except (DriverError, OperationTimeout) as error:
            if isinstance(error, DriverError) and error.retryable and error.sqlstate != NOT_REACHED:
                raise
            return str(error)
        return None

    async def _read(
        self, tx: Executor, table: SearchedTable, sources: Sequence[ReferenceSource]
    ) -> AsyncIterator[tuple[Sequence[Row], Sequence[Named]]]:
        """Yield rows, with the cells among them that name keys."""
        seconds = self.context.config.source_timeout.total_seconds() * NUM_TIMEOUTS
        sql = rows_sql(table, [one.id for one in self._deletable(sources)], sources, mark=CELL)
        # A driver may keep FETCH prepared, so cursors with other columns have other names.
        cursor, size = f"millhand_{abs(hash(sql))}", FIRST_ROWS
        await tx.fetch("SET LOCAL row_security = off")
        await tx.fetch(f"DECLARE {cursor} NO SCROLL CURSOR FOR\n{sql}", timeout_seconds=seconds)
        before: tuple[Sequence[Row], asyncio.Future[list[Named]]] | None = None
        while rows := await tx.fetch(f"FETCH {size} FROM {cursor}", timeout_seconds=seconds):
            if before is not None:
                yield before[0], await before[1]
            texts = [row["cells"] for row in rows]
            before = rows, asyncio.ensure_future(asyncio.to_thread(self.names.find, texts))
            await self._beat()
            if len(rows) < size:
                break
            size = _next_size(size, sum(map(len, texts)))
        if before is not None:
            yield before[0], await before[1]

    def _deletable(self, sources: Sequence[ReferenceSource]) -> list[ReferenceSource]:
        of_rows = {source for source, _ in self.own_rows}
        return [one for one in sources if one.name in of_rows]

    async def _beat(self) -> None:
        now = time.monotonic()
        if now >= self.ends_at:
            raise TooLate
        if now - self._beat_at >= BEAT_SECONDS:
            self._beat_at = now
            await self.context.beat()

    async def _note(
        self,
        table: SearchedTable,
        sources: Sequence[ReferenceSource],
        rows: Sequence[Row],
        found: Sequence[Named],
    ) -> None:
        deletable = self._deletable(sources)
        for named in found:
            row = rows[named.row]
            column = _column_of(table, named, row["cells"])
            own = {self.own_rows.get((one.name, row[f"id_{n}"])) for n, one in enumerate(deletable)}
            keys = {self.keys[number] for number in named.numbers} - own
            declared = [(n, one) for n, one in enumerate(sources) if one.key == column]
            if declared and keys:
                values = _values(declared, row)
                is_json = any(one.json is not None for _, one in declared)
                keys = await self._note_values(table.place(column), named.text, values, keys, is_json=is_json)
            if keys:
                self._add(table.place(column), keys)
                if not table.is_listed(self.context.config.mentions, column):
                    self.undeclared.setdefault(table.place(column), set()).update(keys)

    async def _note_values(
        self,
        place: str,
        text: str,
        values: Sequence[tuple[str, str | None]],
        keys: set[str],
        *,
        is_json: bool,
    ) -> set[str]:
        """Note what declared values name, if no object has their key. Return the keys that the rest of the text names."""
        unknown = [key for key in keys - self.places.keys() if self._looks[key] < MAX_LOOKS]
        self._looks.update(unknown)
        read = {key for _, key in values if key is not None}
        existing = (
            await existing_keys(self.context.store, sorted(read), at_once=MAX_LOOKS) if unknown else set()
        )
        loose = CELL.join(value for value, key in values if key not in existing)
        numbers = self.names.find_in(loose)
        named = keys & {self.keys[number] for number in numbers}
        self._add(place, named)
        if not is_json:
            return set()
        for value in {value for value, _ in values}:
            text = text.replace(json.dumps(value, ensure_ascii=False), '""')
        return keys & {self.keys[number] for number in self.names.find_in(text)}

    def _add(self, place: str, keys: set[str]) -> None:
        for key in keys:
            self.places.setdefault(key, place)


def _column_of(table: SearchedTable, named: Named, cells: str) -> str | None:
    """Return the column of a cell; None, for the whole table, if a text of the row has the mark of cells in it."""
    return table.columns[named.column].name if cells.count(CELL) == len(table.columns) + 1 else None


def _values(declared: Sequence[tuple[int, ReferenceSource]], row: Row) -> list[tuple[str, str | None]]:
    """Return what sources read from one cell: values with their keys, and the query strings of URLs, which are no keys."""
    found: list[tuple[str, str | None]] = []
    for number, source in declared:
        values: Sequence[tuple[str | None, str | None]] = row[f"values_{number}"] or ()
        found += [(value, key) for value, key in values if value is not None]
        if source.url:
            found += [(rest, None) for value, _ in values for rest in QUERY.split(value or "", 1)[1:]]
    return found


def _next_size(size: int, length: int) -> int:
    """Return how many rows to read next, after so many rows with so many characters."""
    if length < CHUNK // 2:
        return min(size * 2, MAX_ROWS)
    return max(size // 2, 1) if length > CHUNK else size
