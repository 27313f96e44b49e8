"""
Read the references of the declared sources, by key range and by key.

Rule 1: a source that fails, is filtered by row-level security or is on a standby ends the run. An empty result must never
        mean that no row references an object.
Rule 2: keys are compared as UTF-8 bytes, COLLATE "C", as in the listing. Each read is one short statement.
Rule 3: a row is locked before its deletion and then read again, so that no row with a foreign key to it comes in between.

Source: PostgreSQL, "Row Security Policies" (row_security), "Explicit Locking" (FOR UPDATE), "Collation Support".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from millhand.core.errors import ConfigError, DriverError, MillhandError, OperationTimeout
from millhand.core.log.logger import logger_of
from millhand.core.orphans import BLOB_SOURCE, Mode, OrphansConfig, ReferenceSource
from millhand.db.driver.protocol import Executor
from millhand.orphans.sources.cascades import check_cascades, lock_cascaded
from millhand.orphans.sources.check import check_source
from millhand.orphans.sources.key_sql import index_sql, quoted_table
from millhand.orphans.sources.pg_catalog import table_columns
from millhand.orphans.sources.query_plan import num_rows_scanned
from millhand.orphans.sources.statements import (
    EMPTY_RANGE,
    READY,
    SEPARATOR,
    TEXT_SETTINGS,
    ReferenceRow,
    SourceStatements,
    value_range,
)
from millhand.orphans.sources.subscription import check_subscriptions

BATCH_ROWS = 5_000
MANY_ROWS = 100_000  # scanning more for each page takes most of the time of a run

logger = logger_of(__name__)


class SourceFailed(MillhandError):
    """A reference source failed, so the run ended and removed nothing more."""

    def __init__(self, source: str, reason: object) -> None:
        super().__init__(
            f"orphans source {source!r} must return all its rows, got {reason}; the run ended there"
        )
        self.source = source
        self.reason = str(reason)


@dataclass(frozen=True, slots=True)
class RangeRead:
    """
    All rows that name a key in (low, high].

    Most rows are ready and need no further check; of these, `ready_keys` holds only the key. A row in `sized` needs none if
    its object has that size. `rows_of` counts all rows by source.
    """

    high: str | None
    ready_keys: list[str]
    rows: list[ReferenceRow]
    rows_of: dict[str, int]
    sized: list[SizedRow]


@dataclass(frozen=True, slots=True)
class _SourceRead:
    """The rows of one source: their keys, and the whole rows unless the source has keys only."""

    statement: SourceStatements
    keys: list[str]
    rows: list[dict[str, Any]]

    @classmethod
    def of(cls, statement: SourceStatements, found: list[dict[str, Any]]) -> _SourceRead:
        return cls(statement, [row["key"] for row in found], [] if statement.has_keys_only else found)

    def up_to(self, high: str | None) -> _SourceRead:
        if high is None or not self.keys or max(self.keys) <= high:
            return self
        keys = [key for key in self.keys if key <= high]
        return _SourceRead(self.statement, keys, [row for row in self.rows if row["key"] <= high])


class SizedRow(NamedTuple):
    """A ready row that holds the size of its object. `row` is called only if the object has another size."""

    key: str
    size: int
    found: Mapping[str, Any]
    statements: SourceStatements

    def row(self) -> ReferenceRow:
        return self.statements.row(self.found)


class References:
    """The checked sources of one run, made by `open_references`."""

    def __init__(
        self, executor: Executor, statements: Sequence[SourceStatements], timeout: timedelta
    ) -> None:
        self._executor = executor
        self._statements = {statement.source.name: statement for statement in statements}
        self._timeout_seconds = timeout.total_seconds()

    def source(self, name: str) -> ReferenceSource:
        return self._statements[name].source

    @property
    def statements(self) -> list[SourceStatements]:
        return list(self._statements.values())

    @property
    def names(self) -> list[str]:
        return list(self._statements)

    @property
    def key_expressions(self) -> list[tuple[str, str, str]]:
        """For each source its name, FROM item and key expression. The key of a URL of another server is the URL."""
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
        Read the rows that name a key after `low` and up to `high`; None means to the end.

        Shape: about `limit` rows for each source. If there are more, the result ends at an earlier key and holds every row
        up to that key. With `only`, it reads that one source.
        """
        reads: list[_SourceRead] = []
        for statement in self._statements.values() if only is None else (self._statements[only],):
            read = await self._read_source(statement, low, high, limit + 1)
            if len(read.keys) > limit:
                read, high = await self._cut(read)
            reads.append(read)
        return _combine(reads, high)

    async def _cut(self, read: _SourceRead) -> tuple[_SourceRead, str]:
        """End a read that is too long at the last key whose rows it holds in full."""
        last = max(read.keys)
        if before := [key for key in read.keys if key < last]:
            high = max(before)
            return read.up_to(high), high
        # All rows name one key, so read all rows of that key.
        statement = read.statement
        found = await self._read(statement, statement.match_sql([last], keys_only=statement.has_keys_only))
        return _SourceRead.of(statement, found), last

    async def rows_by_key(
        self, keys: Sequence[str], *, executor: Executor | None = None, with_id: bool = False
    ) -> dict[str, list[ReferenceRow]]:
        """
        Return the rows that name any of `keys` now, by key. With `executor`, read inside its transaction.

        Rows of a source without conditions have their id only `with_id`, for people; findings never have it.
        """
        found: dict[str, list[ReferenceRow]] = {}
        for statement in self._statements.values() if keys else ():
            query = statement.match_sql(keys, with_id=with_id)
            if not query[1][0]:  # no key begins as those of this source do
                continue
            for found_row in await self._read(statement, query, executor):
                row = statement.row(found_row)
                found.setdefault(row.key, []).append(row)
        return found

    async def sample_keys(self, source: str, *, prefix: str, limit: int) -> list[str]:
        """Return some keys of a source below `prefix`, unordered, so that the query does not follow an index on the key."""
        statement = self._statements[source]
        key = f"{statement.key_sql}::text"
        sql = f"SELECT {key} AS key\nFROM {statement.from_sql}\nWHERE starts_with({key}, $1)\nLIMIT $2"
        return [row["key"] for row in await self._read(statement, (sql, [prefix, limit]))]

    async def lock_rows(self, tx: Executor, source: str, row_ids: Sequence[str]) -> list[ReferenceRow]:
        """
        Lock the rows and return them as they are then, with `row_json`, without rows that other transactions have locked.

        Concurrency: `tx` holds the locks until it ends. The call never waits for a lock.
        """
        statement = self._statements[source]
        with _source_errors(source):
            locked = await tx.fetch(
                statement.lock_sql, [list(row_ids)], timeout_seconds=self._timeout_seconds
            )
            ids = [row["id"] for row in locked]
            await tx.fetch(TEXT_SETTINGS)
            # Read now, because a column may be new. The locks keep the table as it is.
            columns = await table_columns(tx, quoted_table(statement.source.table or ""))
            sql = statement.locked_rows_sql(columns)
            rows = await tx.fetch(sql, [ids], timeout_seconds=self._timeout_seconds)
        return [statement.row(row) for row in rows]

    async def lock_cascaded(self, tx: Executor, rows: Sequence[ReferenceRow]) -> dict[str, str | None]:
        """Lock what goes with locked rows, and return it for the ledger by row id. Raises: DriverError, if refused."""
        return {
            row.row_id: await lock_cascaded(tx, self.source(row.source), row.row_json or "{}") for row in rows
        }

    async def delete_rows(self, tx: Executor, source: str, row_ids: Sequence[str]) -> dict[str, str]:
        """
        Delete locked rows. Return those that the source's own statement only changed: the text of each column, by row id.

        Raises: DriverError, if a constraint of the table forbids it.
        """
        statement = self._statements[source]
        ids, seconds = list(row_ids), self._timeout_seconds
        await tx.fetch(statement.delete_sql, [ids], timeout_seconds=seconds)
        if statement.source.delete is None:
            return {}
        columns = await table_columns(tx, quoted_table(statement.source.table or ""))
        left = await tx.fetch(statement.left_rows_sql(columns), [ids], timeout_seconds=seconds)
        return {row["id"]: row["row_json"] for row in left}

    async def _read_source(
        self, statement: SourceStatements, low: str, high: str | None, limit: int
    ) -> _SourceRead:
        if value_range(statement.source.prepend, low, high) == EMPTY_RANGE:
            return _SourceRead(statement, [], [])
        if statement.has_keys_only:
            [found] = await self._read(statement, statement.range_sql(low, high, limit, as_one_text=True))
            keys = found["keys"].split(SEPARATOR) if found["num_keys"] else []
            if len(keys) == found["num_keys"]:  # no key holds the separator
                return _SourceRead(statement, keys, [])
        return _SourceRead.of(statement, await self._read(statement, statement.range_sql(low, high, limit)))

    async def _read(
        self, statement: SourceStatements, query: tuple[str, list[object]], executor: Executor | None = None
    ) -> list[dict[str, Any]]:
        sql, params = query
        with _source_errors(statement.source.name):
            return await (executor or self._executor).fetch(
                sql, params, timeout_seconds=self._timeout_seconds
            )


@contextmanager
def _source_errors(source: str) -> Iterator[None]:
    try:
        yield
    except (DriverError, OperationTimeout) as error:
        raise SourceFailed(source, error) from error


async def open_references(executor: Executor, config: OrphansConfig) -> References:
    """Check each source and return them ready to be read. Raises: ConfigError, if the catalog contradicts; SourceFailed."""
    if not config.sources:
        raise ConfigError(
            "orphans.sources must name at least one place where rows name objects, got none; "
            "add [[orphans.sources]] with name and table"
        )
    timeout_seconds = config.source_timeout.total_seconds()
    statements: list[SourceStatements] = []
    for source in config.sources:
        with _source_errors(source.name):
            statements.append(await _prepare(executor, source, timeout_seconds))
            if config.mode is not Mode.REPORT:
                await check_cascades(executor, source)
    # Sources with pending rows first: a row that moves to the next source meanwhile is seen in one of them.
    statements.sort(key=lambda statement: statement.source.pending is None)
    return References(executor, statements, config.source_timeout)


async def _prepare(executor: Executor, source: ReferenceSource, timeout_seconds: float) -> SourceStatements:
    facts = await check_source(executor, source)
    plain, in_c = SourceStatements(source, facts), SourceStatements(source, facts, is_c_indexed=True)
    queries = [
        plain.match_sql([f"{source.prepend}a"]),
        in_c.match_sql([f"{source.prepend}a"]),
        plain.range_sql("", None, BATCH_ROWS),
    ]
    async with executor.begin() as tx:
        # With row_security off, planning a query that a policy filters is an error instead of fewer rows.
        await tx.fetch("SET LOCAL row_security = off")
        await check_subscriptions(tx, source.name, queries[-1], timeout_seconds)
        match, match_in_c, page = [await num_rows_scanned(tx, *query, timeout_seconds) for query in queries]
    if page > MANY_ROWS and source.name != BLOB_SOURCE:
        fields = {"operation": source.name, "rows": page, "reason": index_sql(source)}
        logger.warning("orphan source scans its table for each page", extra=fields)
    # A comparison uses an index only if it names the collation of that index.
    return in_c if match > 0 and match_in_c == 0 else plain


def _combine(reads: Sequence[_SourceRead], high: str | None) -> RangeRead:
    combined = RangeRead(high, [], [], {}, [])
    for whole in reads:
        # A later source may end earlier than the sources before it.
        read = whole.up_to(high)
        combined.rows_of[read.statement.source.name] = len(read.keys)
        if read.statement.has_keys_only:
            combined.ready_keys.extend(read.keys)
        else:
            for row in read.rows:
                if row["state"] != READY or row.get("etag") is not None:
                    combined.rows.append(read.statement.row(row))
                elif (size := row.get("size")) is None:
                    combined.ready_keys.append(row["key"])
                else:
                    combined.sized.append(SizedRow(row["key"], size, row, read.statement))
    return combined
