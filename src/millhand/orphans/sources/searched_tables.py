"""
The tables to search for undeclared references, from PostgreSQL's catalog, and the SQL that reads their texts.

Every column is read whose type can hold a name: all types except numbers, times and a few others. A table is identified by
its schema and name, and by its bare name only if the search path leads to it.

Source: PostgreSQL, "System Catalogs" (pg_class, pg_type), "Table Partitioning", "Row Security Policies".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from millhand.core.orphans import ReferenceSource
from millhand.db.driver.protocol import Executor
from millhand.orphans.sources.coverage import Coverage
from millhand.orphans.sources.key_sql import from_sql, key_sql, literal, quoted, value_sql
from millhand.orphans.sources.pg_catalog import JOINED
from millhand.orphans.sources.statements import SourceStatements

MAX_ARGUMENTS = 40  # of one call of concat, which has at most 100
MAX_SHORT = 65_536  # bytes of a row that is read together with others
TEXT, BYTES, UUID = "text", "bytes", "uuid"

# Booleans, dates, geometry, addresses, numbers, spans of time, bits, pseudo-types.
OTHER_CATEGORIES = "'B', 'D', 'G', 'I', 'N', 'P', 'T', 'V'"
OTHER_TYPES = (
    "'box2d', 'box3d', 'char', 'cube', 'daterange', 'datemultirange', 'geography', 'geometry', 'halfvec', 'int4multirange', "
    "'int4range', 'int8multirange', 'int8range', 'macaddr', 'macaddr8', 'nummultirange', 'numrange', 'pg_lsn', "
    "'pg_snapshot', 'raster', 'sparsevec', 'tid', 'tsmultirange', 'tsrange', 'tstzmultirange', 'tstzrange', "
    "'txid_snapshot', 'vector', 'xid8'"
)
# Millhand's own tables and River's hold keys because of the cleanup itself, and as args of jobs. They are in a schema that
# River migrated; a table of this name in another schema is the application's.
OWN_TABLES = (
    "^(millhand_(archive_(cursor|file)|audit|bulk_(batch|change)|client|dead_job(_cursor)?|deleted_job_stats|error_(group|stats)|fleet_event"
    "|flow(_join|_task)?|history|job_stats|leader|limit|limit_(arrival|partition)|limited_job"
    "|orphan_(action|binding|finding|partition|run)|queue_depth|schedule)"
    "|river_(client|client_queue|job|leader|migration|notification|queue))$"
)
IS_OWN = f"""class.relname ~ '{OWN_TABLES}' AND EXISTS (
    SELECT FROM pg_catalog.pg_class AS migration
    WHERE migration.relnamespace = class.relnamespace AND migration.relname = 'river_migration'
)"""
# The partitions of a table that may be read as a whole are read with it.
ROOT = """EXISTS (
    SELECT FROM pg_catalog.pg_class AS root
    WHERE
        root.oid = coalesce(pg_partition_root(class.oid), class.oid)
        AND has_schema_privilege(root.relnamespace, 'USAGE') AND has_table_privilege(root.oid, 'SELECT')
)"""
TABLES = f"""
SELECT
    class.oid::bigint AS oid,
    namespace.nspname::text AS schema,
    class.relname::text AS name,
    class.relkind = 'r' AS is_plain,
    pg_table_is_visible(class.oid) AS is_visible,
    row_security_active(class.oid) AS is_filtered,
    array_agg(attribute.attname::text ORDER BY attribute.attnum) AS names,
    array_agg(
        CASE coalesce(element_base.typname, element.typname, base.typname, type.typname)
            WHEN 'uuid' THEN 'uuid'
            WHEN 'bytea' THEN CASE WHEN element.oid IS NULL THEN 'bytes' ELSE 'text' END
            ELSE 'text'
        END
        ORDER BY attribute.attnum
    ) AS kinds,
    array_agg(
        has_schema_privilege(namespace.oid, 'USAGE')
        AND has_column_privilege(class.oid, attribute.attnum, 'SELECT')
        ORDER BY attribute.attnum
    ) AS are_readable
{JOINED}    AND class.relkind IN ('r', 'm', 'p', 'f')
    AND class.relpersistence <> 't' AND class.relispopulated
    AND namespace.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    AND NOT ({IS_OWN})
    AND coalesce(element.typcategory, type.typcategory) NOT IN ({OTHER_CATEGORIES})
    AND coalesce(element_base.typname, element.typname, base.typname, type.typname) NOT IN ({OTHER_TYPES})
    AND CASE
        WHEN class.relispartition THEN class.relkind <> 'p' AND NOT {ROOT}
        WHEN class.relkind = 'p' THEN {ROOT}
        ELSE true
    END
GROUP BY class.oid, namespace.nspname
ORDER BY 2, 3
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchedColumn:
    """A column that can hold names. `kind` is `text`, `bytes` or `uuid`."""

    name: str
    kind: str
    is_readable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchedTable:
    """
    A table with columns that can hold names. `is_filtered` means that a policy may hide rows from us.

    `is_plain` is false for a partitioned table, which is read with its partitions. Others are read without the tables that
    inherit from them, because these are searched too.
    """

    oid: int
    schema: str
    name: str
    is_filtered: bool
    is_plain: bool
    is_visible: bool
    columns: tuple[SearchedColumn, ...]

    @property
    def label(self) -> str:
        """The name to write in settings and reports."""
        return self.name if self.is_visible else self.qualified

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def unreadable(self) -> list[str | None]:
        """The columns that we may not read; None stands for the whole table."""
        columns = [one.name for one in self.columns if not one.is_readable]
        return [None] if self.is_filtered or len(columns) == len(self.columns) else list(columns)

    def place(self, column: str | None = None) -> str:
        """Return how to name the table or a column in settings and reports."""
        return self.label if column is None else f"{self.label}.{column}"

    def is_listed(self, names: Collection[str], column: str | None = None) -> bool:
        """Return whether a setting lists this table, its whole schema, or the column."""
        tables = (self.qualified, self.name) if self.is_visible else (self.qualified,)
        columns = () if column is None else tuple(f"{table}.{column}" for table in tables)
        return any(name in names for name in (*tables, *columns, f"{self.schema}.*"))

    def without(self, names: Collection[str]) -> SearchedTable:
        """Return the table without the columns that a setting lists."""
        columns = tuple(one for one in self.columns if not self.is_listed(names, one.name))
        return replace(self, columns=columns)

    @property
    def readable(self) -> SearchedTable:
        columns = () if self.is_filtered else tuple(one for one in self.columns if one.is_readable)
        return replace(self, columns=columns)


async def searched_tables(executor: Executor, *, with_uuids: bool) -> list[SearchedTable]:
    """Return the application's tables that can hold names, in order, readable or not. Raises: DriverError."""
    tables = []
    for row in await executor.fetch(TABLES):
        names, kinds, readable = row.pop("names"), row.pop("kinds"), row.pop("are_readable")
        columns = tuple(
            SearchedColumn(name=name, kind=kind, is_readable=is_readable)
            for name, kind, is_readable in zip(names, kinds, readable, strict=True)
            if with_uuids or kind != UUID
        )
        if columns:
            tables.append(SearchedTable(**row, columns=columns))
    return tables


def rows_sql(
    table: SearchedTable, declared: Sequence[Coverage], with_ids: Collection[str], *, mark: str, is_long: bool
) -> str:
    """
    Return the query for the rows: the `cells` as one text with `mark` around each, and what the sources in `declared` read.

    `values_0`, `values_1` are pairs of value and key. `id_0` is the id of the row, for sources in `with_ids`. Both are null
    in a row that the source does not read. Without `is_long`, all columns of a long row are null; with it, only long rows
    are returned.
    """
    columns = {"cells": _cells_sql(table, mark)}
    for number, one in enumerate(declared):
        where = one.condition(table.oid)
        columns[f"values_{number}"] = _if(where, _values_sql(one.statements))
        if one.name in with_ids and one.statements.id_sql is not None:
            columns[f"id_{number}"] = _if(where, one.statements.id_sql)
    only = "ONLY " if table.is_plain else ""
    place = f"{only}{quoted(table.schema)}.{quoted(table.name)} AS millhand_row"
    inner = ",\n    ".join(f"{sql} AS {name}" for name, sql in columns.items())
    is_short = f"octet_length(cells) <= {MAX_SHORT}"
    outer = (
        list(columns) if is_long else [f"CASE WHEN {is_short} THEN {name} END AS {name}" for name in columns]
    )
    where = f"\nWHERE NOT {is_short}" if is_long else ""
    return f"SELECT {', '.join(outer)}\nFROM (SELECT\n    {inner}\nFROM {place}\nOFFSET 0) AS read{where}"


def _if(condition: str | None, sql: str) -> str:
    return sql if condition is None else f"CASE WHEN {condition} THEN {sql} END"


def _cells_sql(table: SearchedTable, mark: str) -> str:
    mark, other = f"E'\\x{ord(mark):02x}'", f"E'\\x{ord(mark) + 1:02x}'"
    # No cell has the mark, so the number of marks before a place gives its column.
    cells = [f'{mark}, replace({_text_sql(column)} COLLATE "C", {mark}, {other})' for column in table.columns]
    groups = [cells[start : start + MAX_ARGUMENTS] for start in range(0, len(cells), MAX_ARGUMENTS)]
    texts = ", ".join(f"concat({', '.join(group)})" for group in groups)
    return f"concat({texts}, {mark})"


def _text_sql(column: SearchedColumn) -> str:
    name = f"millhand_row.{quoted(column.name)}"
    # Texts in UTF-16 have a zero behind each Latin letter.
    return (
        f"replace(encode({name}::bytea, 'escape'), E'\\\\000', '')"
        if column.kind == BYTES
        else f"{name}::text"
    )


def _values_sql(statements: SourceStatements) -> str:
    source = statements.source
    column = quoted(source.key)
    of_row = ReferenceSource(
        name=source.name,
        select=f"SELECT millhand_row.{column} AS {column}",
        key=source.key,
        array=source.array,
        json=source.json,
        url=source.url,
        function=source.function,
    )
    value = value_sql(of_row, is_nondeterministic=statements.is_nondeterministic)
    pair = f"ARRAY[({value})::text, {literal(source.prepend)} || ({key_sql(of_row, value)})::text]"
    return f"ARRAY(SELECT {pair} FROM {from_sql(of_row)})"
