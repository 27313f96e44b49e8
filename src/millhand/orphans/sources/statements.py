"""The SQL of a declared source, and the rows that it returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from millhand.core.orphans import ReferenceSource
from millhand.orphans.rules import Reference
from millhand.orphans.sources.key_sql import (
    from_sql,
    key_sql,
    literal,
    quoted,
    quoted_table,
    value_sql,
    without_semicolon,
)

READY = Reference.READY.value
ALL_READY = f"'{READY}'::text"
SEPARATOR, SEPARATOR_SQL = "\x1f", "E'\\x1f'"  # rare in keys; `num_keys` reveals a key that has it
# The settings under which the text of a value is complete, and reads as the same value in any session.
TEXT_SETTINGS = """
SELECT
    set_config('DateStyle', 'ISO, YMD', true),
    set_config('IntervalStyle', 'postgres', true),
    set_config('extra_float_digits', '1', true),
    set_config('lc_monetary', 'C', true),
    set_config('xmloption', 'content', true)
"""
# Python has no times outside of these.
FIRST, LAST = "'0001-01-02 00:00+00'::timestamptz", "'9999-12-30 00:00+00'::timestamptz"
# A time without a zone is converted only between these, because its zone may move it by hours.
FIRST_NAIVE, LAST_NAIVE = "'0001-01-12'", "'9999-12-20'"
MAX_SIZE = 9 * 10**18  # bytes; any number up to it is a bigint
MAX_KEY = 5_000  # characters of a key that an export has
EMPTY_RANGE = ("", "")
OTHER = "other"  # meets no condition although `ready` is declared: keeps its object, is never missing


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRow:
    """
    One row that names a key. `state` is a `Reference`'s value, or `other`.

    A locked row has the text of each column in `row_json`: a JSON value would lose array bounds and the text of `json`.
    """

    created_at: datetime | None
    deleted_at: datetime | None
    etag: str | None
    key: str
    row_id: str
    row_json: str | None = None
    size: int | None
    source: str
    state: str
    upload_id: str | None = None
    version: str = ""  # changes with each update of the row; empty if its table has none

    @property
    def reference(self) -> Reference:
        """The reference that the rules get. A row in state `other` counts as ready."""
        return Reference.READY if self.state == OTHER else Reference(self.state)

    @property
    def left_at(self) -> datetime | None:
        """When the row got its state, if it records that."""
        return self.deleted_at if self.state == Reference.SOFT_DELETED else self.created_at


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """
    What the SQL of a source needs from the catalog.

    `id` is the column that identifies a row, None if there is none. `naive_times` are columns of times without a time zone.
    Other tables may inherit from a plain table: `has_children`. A reader of the table sees their rows too. The type of sizes
    has more values than bigint: `is_size_loose`.
    """

    has_children: bool = False
    has_versions: bool = False
    id: str | None = None
    id_type: str | None = None
    is_nondeterministic: bool = False
    is_plain: bool = False
    is_size_loose: bool = False
    naive_times: frozenset[str] = frozenset()
    needs_cast: bool = False


NO_FACTS = SourceFacts()


class SourceStatements:
    """The SQL of one source. Names are quoted. The user's conditions and SELECTs stand in parentheses."""

    def __init__(
        self, source: ReferenceSource, facts: SourceFacts = NO_FACTS, *, is_c_indexed: bool = False
    ) -> None:
        self.source = source
        self._facts = facts
        self.is_nondeterministic = facts.is_nondeterministic
        self.is_of_table = facts.has_versions
        state = _state_sql(source, facts)
        # Only keys need to be read if every row is ready and says nothing about its object.
        self.has_keys_only = state == ALL_READY and source.size is None and source.etag is None
        self.from_sql = from_sql(source)
        self.value_sql = value_sql(source, is_nondeterministic=facts.is_nondeterministic)
        # Indexes hold the key without `prepend`.
        key = key_sql(source, self.value_sql)
        self._key = f"{key}::text" if facts.needs_cast else key
        self.key_sql = f"({literal(source.prepend)} || {self._key})" if source.prepend else self._key
        self._match_key = f'{self._key} COLLATE "C"' if is_c_indexed else self._key
        self._key_column = f"{self.key_sql}::text AS key"
        optional = {
            "created_at": source.created_at and _time_sql(source.created_at, source, facts),
            "deleted_at": source.deleted_at and _time_sql(source.deleted_at, source, facts),
            "size": source.size and _size_sql(source.size, facts),
            "etag": source.etag and f"{quoted(source.etag)}::text",
            "upload_id": source.upload_id and f"{quoted(source.upload_id)}::text",
            "version": "xmin::text" if source.has_states and facts.has_versions else None,
        }
        self._state, self._size = state, optional["size"]
        self.id_sql = None if facts.id is None else _id_sql(facts.id, source, facts)
        self._id_column = None if self.id_sql is None else f"{self.id_sql} AS id"
        needed = [self._id_column] if source.has_states and self._id_column else []
        needed += [f"{sql} AS {name}" for name, sql in optional.items() if sql]
        self._all_columns = ",\n    ".join([self._key_column, f"{state} AS state", *needed])

    def range_sql(
        self, low: str, high: str | None, limit: int, *, as_one_text: bool = False
    ) -> tuple[str, list[object]]:
        """
        Return a query for the rows of (low, high] in key order.

        With `as_one_text`, a source of keys only returns one row: `num_keys`, and `keys` joined by `SEPARATOR`. That takes
        a twentieth of the time.
        """
        columns = self._key_column if self.has_keys_only else self._all_columns
        key = f'{self._key} COLLATE "C"'
        low, high = value_range(self.source.prepend, low, high)
        upper = "" if high is None else f" AND {key} <= $3::text"
        where = f"WHERE {key} > $1::text{upper}\nORDER BY {key}\nLIMIT $2::integer"
        params: list[object] = [low, limit] if high is None else [low, limit, high]
        sql = f"SELECT\n    {columns}\nFROM {self.from_sql}\n{where}"
        if as_one_text:
            keys = f"coalesce(string_agg(page.key, {SEPARATOR_SQL}), '')"
            sql = f"SELECT\n    {keys} AS keys,\n    count(*) AS num_keys\nFROM (\n{sql}\n) AS page"
        return sql, params

    def match_sql(
        self, keys: Sequence[str], *, keys_only: bool = False, with_id: bool = False
    ) -> tuple[str, list[object]]:
        """Return a query for the rows that name one of `keys`. `with_id` adds an id that no decision needs."""
        columns = self._key_column if keys_only else self._all_columns
        if with_id and self._id_column is not None and not self.source.has_states:
            columns += f",\n    {self._id_column}"
        where = f"WHERE {self._match_key} = ANY($1::text[])"
        prepend = self.source.prepend
        # An empty value names no object, as in a range.
        values = [key[len(prepend) :] for key in keys if key.startswith(prepend) and key != prepend]
        return f"SELECT\n    {columns}\nFROM {self.from_sql}\n{where}", [values]

    def export_sql(self, low: str, high: str | None) -> str:
        """Return a SELECT without parameters of all rows of (low, high]: source, key, size, etag and state, in any order."""
        low, high = value_range(self.source.prepend, low, high)
        key = f'{self._key} COLLATE "C"'
        upper = "" if high is None else f" AND {key} <= {literal(high)}"
        size = self._size or "NULL::bigint"
        etag = (
            f"nullif(btrim({quoted(self.source.etag)}::text, '\"'), '')" if self.source.etag else "NULL::text"
        )
        # An S3 key has at most 1,024 bytes. A longer text names no object, whatever its end.
        columns = (
            f"{literal(self.source.name)}::text AS source",
            f"left({self.key_sql}::text, {MAX_KEY}) AS key",
            f"{size} AS size",
            f"{etag} AS etag",
            f"{self._state} AS state",
        )
        names = ",\n    ".join(columns)
        return f"SELECT\n    {names}\nFROM {self.from_sql}\nWHERE {key} > {literal(low)}{upper}"

    @property
    def lock_sql(self) -> str:
        """A statement that locks rows by id and returns the ids that were free."""
        columns = f"{quoted(self.source.id)}::text AS id"
        return f"SELECT {columns}\nFROM {self._own_rows}\n{self._where_id}\nFOR UPDATE SKIP LOCKED"

    def locked_rows_sql(self, names: Iterable[str]) -> str:
        """Return a query for locked rows, each with the text of these columns as JSON."""
        columns = f"{self._all_columns},\n    {self._whole_sql(names)} AS row_json"
        return f"SELECT\n    {columns}\nFROM {self._own_rows}\n{self._where_id}"

    def left_rows_sql(self, names: Iterable[str]) -> str:
        """Return a query for what is left of rows after `delete_sql`: their ids, and the text of these columns as JSON."""
        columns = f"{quoted(self.source.id)}::text AS id, {self._whole_sql(names)} AS row_json"
        return f"SELECT {columns}\nFROM {self._own_rows}\n{self._where_id}"

    @property
    def delete_sql(self) -> str:
        """A statement that deletes rows by id: the user's own, if declared."""
        return self.source.delete or f"DELETE FROM {self._own_rows}\n{self._where_id}"

    def _whole_sql(self, names: Iterable[str]) -> str:
        table = quoted_table(self.source.table or "").rpartition(".")[2]
        return texts_sql({name: f"{table}.{quoted(name)}" for name in names})

    @property
    def _own_rows(self) -> str:
        # A table that inherits from this one may have a row with the same id.
        return f"ONLY {self.from_sql}" if self._facts.is_plain else self.from_sql

    @property
    def _where_id(self) -> str:
        return f"WHERE {quoted(self.source.id)} = ANY($1::text[]::{self._facts.id_type}[])"

    def row(self, found: Mapping[str, Any]) -> ReferenceRow:
        return ReferenceRow(
            created_at=found.get("created_at"),
            deleted_at=found.get("deleted_at"),
            etag=found.get("etag"),
            key=found["key"],
            row_id=found.get("id") or "",
            row_json=found.get("row_json"),
            size=found.get("size"),
            source=self.source.name,
            state=found["state"],
            upload_id=found.get("upload_id"),
            version=found.get("version") or "",
        )


def texts_sql(values: Mapping[str, str]) -> str:
    """Return the expression of a JSON object with the text of each of these expressions, by name."""
    names = ", ".join(map(literal, values))
    return f"jsonb_object(ARRAY[{names}]::text[], ARRAY[{', '.join(f'{sql}::text' for sql in values.values())}])::text"


def value_range(prepend: str, low: str, high: str | None) -> tuple[str, str | None]:
    """
    Return the range of values that become keys in (low, high] with `prepend` in front.

    ("", "") is the empty range. Text is in the order of its UTF-8 bytes.
    """
    if not low.startswith(prepend) and low > prepend:
        return EMPTY_RANGE
    if high is not None and not high.startswith(prepend) and high < prepend:
        return EMPTY_RANGE
    start = low[len(prepend) :] if low.startswith(prepend) else ""
    end = high[len(prepend) :] if high is not None and high.startswith(prepend) else None
    return start, end


def _time_sql(column: str, source: ReferenceSource, facts: SourceFacts) -> str:
    read = time = f"{quoted(column)}::timestamptz"
    first, last = FIRST, LAST
    if column in facts.naive_times:
        read, first, last = quoted(column), FIRST_NAIVE, LAST_NAIVE
        time = f"{read}::timestamp AT TIME ZONE {literal(source.time_zone or '')}"
    # A null stays null, because a row without a time may still wait for its upload.
    return f"(CASE WHEN {read} > {last} THEN {LAST} WHEN {read} < {first} THEN {FIRST} ELSE {time} END)"


def _size_sql(column: str, facts: SourceFacts) -> str:
    """Return the expression of a size. One that is no number of bytes, such as NaN, is -1, which no object has."""
    name = quoted(column)
    if not facts.is_size_loose:
        return f"{name}::bigint"
    return (
        f"(CASE WHEN {name} BETWEEN 0 AND {MAX_SIZE} THEN {name}::bigint WHEN {name} IS NOT NULL THEN -1 END)"
    )


def _id_sql(column: str, source: ReferenceSource, facts: SourceFacts) -> str:
    """Return the id of a row. That of an inheriting table names its table, because ids are unique in each table only."""
    own = f"{quoted(column)}::text"
    if not facts.has_children:
        return own
    return f"CASE WHEN {_is_child_sql(source)} THEN tableoid::regclass::text || ' ' || {own} ELSE {own} END"


def _is_child_sql(source: ReferenceSource) -> str:
    return f"tableoid <> {literal(quoted_table(source.table or ''))}::regclass"


def _state_sql(source: ReferenceSource, facts: SourceFacts) -> str:
    # A row that meets several conditions has the first of these states.
    conditions = (
        (Reference.SOFT_DELETED, source.soft_deleted),
        (Reference.PENDING, source.pending),
        (Reference.UNATTACHED, source.unattached),
        (Reference.READY, source.ready),
    )
    cases = [
        f"WHEN (\n{without_semicolon(sql)}\n) THEN '{state}'" for state, sql in conditions if sql is not None
    ]
    if facts.has_children and cases:
        # Rows of inheriting tables keep their objects, and no run deletes them.
        cases.insert(0, f"WHEN {_is_child_sql(source)} THEN '{OTHER}'")
    otherwise = OTHER if source.ready is not None else Reference.READY
    return f"CASE {' '.join(cases)} ELSE '{otherwise}' END" if cases else ALL_READY
