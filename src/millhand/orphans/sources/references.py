"""
Where rows name objects: the declared sources, read by key range and by key.

Rule 1: a source that fails, is filtered by row-level security or sits on a standby ends the run. An empty answer must
        never come to mean that nothing is referenced.
Rule 2: keys are compared as UTF-8 bytes, COLLATE "C", as the listing is; each read is one short statement.
Rule 3: a row that is to go is locked first and read again after: what refers to it by a foreign key can then no longer
        come in between.

Source: PostgreSQL, "Row Security Policies" (row_security), "Explicit Locking" (FOR UPDATE), "Collation Support".
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from millhand.driver.protocol import Executor
from millhand.errors import ConfigError, DriverError, MillhandError, OperationTimeout
from millhand.orphans.config import OrphansConfig, ReferenceSource
from millhand.orphans.sources.check import look_up
from millhand.orphans.sources.key_sql import index_sql
from millhand.orphans.sources.query_plan import num_scanned
from millhand.orphans.sources.statements import READY, SEPARATOR, ReferenceRow, SourceStatements

BATCH_ROWS = 5_000
MANY_ROWS = 100_000  # read for every page, they take longer than anything else a run does

logger = logging.getLogger(__name__)


class SourceFailed(MillhandError):
    """A reference source gave no answer that may be trusted; the run ended, and nothing more was removed."""

    def __init__(self, source: str, reason: object) -> None:
        super().__init__(f"orphans source {source!r} must answer in full, got {reason}; the run ended there")
        self.source = source
        self.reason = str(reason)


@dataclass(frozen=True, slots=True)
class RangeRead:
    """
    All rows that name a key in (low, high], and how far that is.

    `ready_keys` are the keys of rows of which there is no more to know: they are most, and no row is made of them. Of
    `sized` rows there is no more to know if the object has that size. `rows_of` counts all by source.
    """

    high: str | None
    ready_keys: list[str]
    rows: list[ReferenceRow]
    rows_of: dict[str, int]
    sized: list[SizedRow]


@dataclass(frozen=True, slots=True)
class _Part:
    """What one source answered: the key of each row, and the rows if there is more to them than a key."""

    statement: SourceStatements
    keys: list[str]
    rows: list[dict[str, Any]]

    @classmethod
    def of(cls, statement: SourceStatements, found: list[dict[str, Any]]) -> _Part:
        return cls(statement, [row["key"] for row in found], [] if statement.is_plain else found)

    def up_to(self, high: str | None) -> _Part:
        """Leave out what comes after `high`."""
        if high is None or not self.keys or max(self.keys) <= high:
            return self
        keys = [key for key in self.keys if key <= high]
        return _Part(self.statement, keys, [row for row in self.rows if row["key"] <= high])


class SizedRow(NamedTuple):
    """A row that is ready and says how large its object is; the row itself is made only if it is not."""

    key: str
    size: int
    found: Mapping[str, Any]
    statements: SourceStatements

    def row(self) -> ReferenceRow:
        return self.statements.row(self.found)


@dataclass(frozen=True, slots=True)
class ClaimedRow:
    """A row that is locked, as it is now."""

    row: ReferenceRow
    row_json: str


class References:
    """The sources of one run. Made by `open_references`, which has looked at each of them."""

    def __init__(
        self, executor: Executor, statements: Sequence[SourceStatements], timeout: timedelta
    ) -> None:
        self._executor = executor
        self._statements = {statement.source.name: statement for statement in statements}
        self._timeout_seconds = timeout.total_seconds()

    def source(self, name: str) -> ReferenceSource:
        return self._statements[name].source

    @property
    def names(self) -> list[str]:
        """The names of all sources."""
        return list(self._statements)

    @property
    def places(self) -> list[tuple[str, str, str]]:
        """Of each source the name, and as SQL what it is read from and its key; of a URL that is none of ours, the URL."""
        return [
            (name, one.from_sql, f"coalesce({one.key_sql}, {one.value_sql})")
            if one.source.url or one.source.function
            else (name, one.from_sql, one.key_sql)
            for name, one in self._statements.items()
        ]

    async def read_range(
        self, low: str, high: str | None, *, limit: int = BATCH_ROWS, only: str | None = None
    ) -> RangeRead:
        """
        Read the rows that name a key after `low` and up to `high`, None being the last there is.

        Shape: some `limit` rows a source. Where there are more, the answer ends at an earlier key than asked, and holds
        every row up to that one. With `only`, of that one source.
        """
        parts: list[_Part] = []
        for statement in self._statements.values() if only is None else (self._statements[only],):
            keys = await self._read_joined(statement, low, high, limit + 1) if statement.is_plain else None
            if keys is None:
                found = await self._read(statement, statement.range_sql(low, high, limit + 1))
                part = _Part.of(statement, found)
            else:
                part = _Part(statement, keys, [])
            if len(part.keys) > limit:
                part, high = await self._cut(part)
            parts.append(part)
        return _joined(parts, high)

    async def _cut(self, part: _Part) -> tuple[_Part, str]:
        """End a read that was too long at the last key of which all rows are sure to be there."""
        last = max(part.keys)
        if before := [key for key in part.keys if key < last]:
            high = max(before)
            return part.up_to(high), high
        # All of them name one key: it is read by itself, however many there are.
        statement = part.statement
        found = await self._read(statement, statement.match_sql([last], is_short=statement.is_plain))
        return _Part.of(statement, found), last

    async def naming(
        self, keys: Sequence[str], *, executor: Executor | None = None
    ) -> dict[str, list[ReferenceRow]]:
        """Return the rows that name any of `keys` at this moment, by key; inside `executor`'s transaction if given."""
        found: dict[str, list[ReferenceRow]] = {}
        for statement in self._statements.values() if keys else ():
            for found_row in await self._read(statement, statement.match_sql(keys), executor):
                row = statement.row(found_row)
                found.setdefault(row.key, []).append(row)
        return found

    async def some_keys(self, source: str, *, prefix: str, limit: int) -> list[str]:
        """Return some keys of a source below `prefix` in no order, so that no index on the key has a say in it."""
        one = self._statements[source]
        sql = f"SELECT {one.key_sql}::text AS key\nFROM {one.from_sql}\nWHERE starts_with({one.key_sql}::text, $1)\nLIMIT $2"
        return [row["key"] for row in await self._read(one, (sql, [prefix, limit]))]

    async def claim(self, tx: Executor, source: str, row_ids: Sequence[str]) -> list[ClaimedRow]:
        """
        Lock the rows and return them as they are then; those that others hold are left out.

        Concurrency: the lock is held until `tx` ends, and nobody is waited for.
        """
        statement = self._statements[source]
        with self._explained(source):
            locked = await tx.fetch(
                statement.lock_sql, [list(row_ids)], timeout_seconds=self._timeout_seconds
            )
            ids = [row["id"] for row in locked]
            rows = await tx.fetch(statement.claimed_sql, [ids], timeout_seconds=self._timeout_seconds)
        return [ClaimedRow(statement.row(row), row["row_json"]) for row in rows]

    async def delete_rows(self, tx: Executor, source: str, row_ids: Sequence[str]) -> None:
        """Delete rows that were claimed. Raises: DriverError, for what the table's own constraints forbid."""
        statement = self._statements[source]
        await tx.fetch(statement.delete_sql, [list(row_ids)], timeout_seconds=self._timeout_seconds)

    async def _read_joined(
        self, statement: SourceStatements, low: str, high: str | None, limit: int
    ) -> list[str] | None:
        """Read the keys of a plain source as one text; None when one of them has what should part two."""
        [found] = await self._read(statement, statement.range_sql(low, high, limit, is_joined=True))
        keys: list[str] = found["keys"].split(SEPARATOR) if found["num_keys"] else []
        return keys if len(keys) == found["num_keys"] else None

    async def _read(
        self,
        statement: SourceStatements,
        question: tuple[str, list[object]],
        executor: Executor | None = None,
    ) -> list[dict[str, Any]]:
        sql, params = question
        with self._explained(statement.source.name):
            return await (executor or self._executor).fetch(
                sql, params, timeout_seconds=self._timeout_seconds
            )

    @contextmanager
    def _explained(self, source: str) -> Iterator[None]:
        try:
            yield
        except (DriverError, OperationTimeout) as error:
            raise SourceFailed(source, error) from error


async def open_references(executor: Executor, config: OrphansConfig) -> References:
    """
    Look at each declared source and return them ready to be read.

    Raises: ConfigError, for a source that is not as it was declared; SourceFailed.
    """
    if not config.sources:
        raise ConfigError(
            "orphans.sources must name at least one place where rows name objects, got none; "
            "add [[orphans.sources]] with name and table"
        )
    timeout_seconds = config.source_timeout.total_seconds()
    statements: list[SourceStatements] = []
    for source in config.sources:
        try:
            statements.append(await _look_at(executor, source, timeout_seconds))
        except (DriverError, OperationTimeout) as error:
            raise SourceFailed(source.name, error) from error
    # In the order of the life cycle: a row that moves from one source to the next meanwhile is seen in one of them.
    statements.sort(key=lambda statement: statement.source.pending is None)
    return References(executor, statements, config.source_timeout)


async def _look_at(executor: Executor, source: ReferenceSource, timeout_seconds: float) -> SourceStatements:
    declared = await look_up(executor, source)
    made = partial(SourceStatements, source, id_type=declared.id_type, is_cast=declared.is_cast)
    plain, in_c = made(), made(is_c_indexed=True)
    questions = [
        plain.match_sql([f"{source.prepend}a"]),
        in_c.match_sql([f"{source.prepend}a"]),
        plain.range_sql("", None, BATCH_ROWS),
    ]
    async with executor.begin() as tx:
        # Planning a query that a policy would filter is then an error, where it would otherwise return fewer rows.
        await tx.fetch("SET LOCAL row_security = off")
        match, match_in_c, page = [await num_scanned(tx, *asked, timeout_seconds) for asked in questions]
    if page > MANY_ROWS:
        _warn_of_scans(source, page)
    # Equality can use an index of either collation, but only in its own words.
    return in_c if match > 0 and match_in_c == 0 else plain


def _joined(parts: Sequence[_Part], high: str | None) -> RangeRead:
    read = RangeRead(high, [], [], {}, [])
    for whole in parts:
        # A later source may have ended earlier than the ones before it.
        part = whole.up_to(high)
        read.rows_of[part.statement.source.name] = len(part.keys)
        if part.statement.is_plain:
            read.ready_keys.extend(part.keys)
        else:
            _sort_out(read, part.statement, part.rows)
    return read


def _sort_out(read: RangeRead, statement: SourceStatements, found: list[dict[str, Any]]) -> None:
    for row in found:
        if row["state"] != READY or row.get("etag") is not None:
            read.rows.append(statement.row(row))
        elif (size := row.get("size")) is None:
            read.ready_keys.append(row["key"])
        else:
            read.sized.append(SizedRow(row["key"], size, row, statement))


def _warn_of_scans(source: ReferenceSource, num_rows: int) -> None:
    logger.warning(
        "orphan source is read from end to end for each page",
        extra={"operation": source.name, "rows": num_rows, "reason": index_sql(source)},
    )
