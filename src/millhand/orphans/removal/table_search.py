"""
Read tables from end to end and note which columns name which candidates.

A cursor reads each table, and a second one its long rows, one at a time. Both read one snapshot. While a thread looks
through some rows, the database sends the next ones.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from millhand.core.errors import ConfigError, DriverError, OperationTimeout
from millhand.core.orphans import ReferenceSource
from millhand.db.driver.protocol import Executor
from millhand.orphans.removal.key_names import KeyNames, Named
from millhand.orphans.removal.text_forms import CELL
from millhand.orphans.scan.context import RunContext
from millhand.orphans.scan.lookup import existing_keys
from millhand.orphans.sources.coverage import Coverage
from millhand.orphans.sources.searched_tables import SearchedTable, rows_sql

NUM_TIMEOUTS = 10  # a statement may take this many times `source_timeout`, because it reads many rows
FIRST_ROWS, MAX_ROWS = 256, 1_024  # short rows that are read at once
CHUNK = 1_000_000  # characters that are read at once, if the rows are about as long as those before
BEAT_SECONDS = 10.0
NOT_REACHED = "08001"  # the server behind a foreign table does not respond
MAX_LOOKS = 1_000  # for one candidate, at objects that declared values name
QUERY = re.compile("[?#]")

Row = Mapping[str, Any]


class TooLate(Exception):
    """The time for the search is over."""


@dataclass(slots=True, kw_only=True)
class Undeclared:
    """The keys that a column names and no setting covers. `behind` is a source whose SELECT or view reads the table."""

    keys: set[str] = field(default_factory=set)
    behind: str | None


@dataclass(kw_only=True)
class TableSearch:
    """
    Searches tables for `keys`, one after the other.

    `own_rows` are the rows that a run removes with their object: source and id, and the object's key. `places` has the first
    column that names a key. `undeclared` has the columns that no setting covers, each with the keys that it names.
    """

    context: RunContext
    coverage: Sequence[Coverage]
    ends_at: float
    keys: Sequence[str]
    names: KeyNames
    own_rows: Mapping[tuple[str, str], str]
    places: dict[str, str] = field(default_factory=dict)
    undeclared: dict[str, Undeclared] = field(default_factory=dict)
    _beat_at: float = -math.inf  # so that the first rows show whether there is a second connection
    _looks: Counter[str] = field(default_factory=Counter)

    async def read(self, table: SearchedTable) -> str | None:
        """Search one table. Return why it cannot be read, if so. Raises: TooLate; ConfigError; DriverError; StoreError."""
        declared = [one for one in self.coverage if one.is_of(table.oid)]
        try:
            async with self.context.executor.begin() as tx:
                async for rows, named in self._read(tx, table, declared):
                    await self._note(table, declared, rows, named)
        except (DriverError, OperationTimeout) as error:
            if isinstance(error, DriverError) and error.retryable and error.sqlstate != NOT_REACHED:
                raise
            return str(error)
        return None

    async def _read(
        self, tx: Executor, table: SearchedTable, declared: Sequence[Coverage]
    ) -> AsyncIterator[tuple[Sequence[Row], Sequence[Named]]]:
        """Yield rows, with the cells among them that name keys."""
        before: tuple[Sequence[Row], asyncio.Future[list[Named]]] | None = None
        async for rows in self._all_rows(tx, table, declared):
            if before is not None:
                yield before[0], await before[1]
            texts = [row["cells"] for row in rows]
            before = rows, asyncio.ensure_future(asyncio.to_thread(self.names.find, texts))
        if before is not None:
            yield before[0], await before[1]

    async def _all_rows(
        self, tx: Executor, table: SearchedTable, declared: Sequence[Coverage]
    ) -> AsyncIterator[Sequence[Row]]:
        """Yield the rows of one snapshot: short ones together, then each long one alone."""
        await tx.fetch("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await tx.fetch("SET LOCAL row_security = off")
        with_ids, has_long = {source for source, _ in self.own_rows}, False
        sql = rows_sql(table, declared, with_ids, mark=CELL, is_long=False)
        async for rows in self._rows(tx, sql, FIRST_ROWS):
            short = [row for row in rows if row["cells"] is not None]
            has_long |= len(short) < len(rows)
            if short:
                yield short
        if has_long:
            sql = rows_sql(table, declared, with_ids, mark=CELL, is_long=True)
            async for rows in self._rows(tx, sql, 1):
                yield rows

    async def _rows(self, tx: Executor, sql: str, size: int) -> AsyncIterator[Sequence[Row]]:
        seconds = self.context.config.source_timeout.total_seconds() * NUM_TIMEOUTS
        # A driver may keep FETCH prepared, so cursors with other columns have other names.
        cursor = f"millhand_{abs(hash(sql))}"
        await tx.fetch(f"DECLARE {cursor} NO SCROLL CURSOR FOR\n{sql}", timeout_seconds=seconds)
        while rows := await tx.fetch(f"FETCH {size} FROM {cursor}", timeout_seconds=seconds):
            yield rows
            await self._beat()
            if len(rows) < size:
                break
            size = _next_size(size, sum(len(row["cells"] or "") for row in rows))

    async def _beat(self) -> None:
        now = time.monotonic()
        if now >= self.ends_at:
            raise TooLate
        if now - self._beat_at >= BEAT_SECONDS:
            self._beat_at = now
            try:
                await self.context.beat()
            except OperationTimeout as error:
                raise ConfigError(
                    "orphan cleanup must have two connections at once, one for the search and one for the heartbeat of "
                    f"its run, got none for {error.operation} within {error.seconds:g} s; raise database.pool_size to 2, "
                    "or the size of your own pool"
                ) from error

    async def _note(
        self, table: SearchedTable, covering: Sequence[Coverage], rows: Sequence[Row], found: Sequence[Named]
    ) -> None:
        for named in found:
            row, column = rows[named.row], table.columns[named.column].name
            ids = ((one.name, row.get(f"id_{n}")) for n, one in enumerate(covering))
            own = {self.own_rows.get((source, id_)) for source, id_ in ids if id_ is not None}
            keys = {self.keys[number] for number in named.numbers} - own
            sources = [(n, one.statements.source) for n, one in enumerate(covering)]
            declared = [
                (n, one) for n, one in sources if one.key == column and row[f"values_{n}"] is not None
            ]
            if declared and keys:
                values = _values(declared, row)
                is_json = any(one.json is not None for _, one in declared)
                keys = await self._note_values(table.place(column), named.text, values, keys, is_json=is_json)
            if keys:
                self._add(table.place(column), keys)
                if not table.is_listed(self.context.config.mentions, column):
                    behind = next((one.name for one in self.coverage if table.oid in one.behind), None)
                    found_here = self.undeclared.setdefault(table.place(column), Undeclared(behind=behind))
                    found_here.keys.update(keys)

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


def _values(declared: Sequence[tuple[int, ReferenceSource]], row: Row) -> list[tuple[str, str | None]]:
    """Return what sources read from one cell: values with their keys, and the query strings of URLs, which are no keys."""
    found: list[tuple[str, str | None]] = []
    for number, source in declared:
        values: Sequence[tuple[str | None, str | None]] = row[f"values_{number}"]
        found += [(value, key) for value, key in values if value is not None]
        if source.url:
            found += [(rest, None) for value, _ in values for rest in QUERY.split(value or "", 1)[1:]]
    return found


def _next_size(size: int, length: int) -> int:
    """Return how many rows to read next, after so many rows with so many characters."""
    if length < CHUNK // 2:
        return min(size * 2, MAX_ROWS)
    return max(size // 2, 1) if length > CHUNK else size
