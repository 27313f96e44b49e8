"""
The statement that compares a report of S3 Inventory with the exported rows, in the SQL of several engines.

Rule 1: the statement returns keys to look at, and counts. The run reads the object and the rows of each key again, so a
        wrong answer of an engine may hide an orphan or a missing object, and deletes nothing.
Rule 2: three canaries are part of the text. An engine must return the key that only one side has, and not the key that both
        sides have.
Rule 3: the text differs between engines only in names of types and functions, and in how a literal is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from millhand.core.blob import BLOB_PREFIX
from millhand.storage.protocol import RESERVED_PREFIX

CANARY_PREFIX = f"{RESERVED_PREFIX}inventory/"
STAMP = "%Y-%m-%dT%H:%M:%SZ"
MARKER = "binding.json"
# How an object and a row of the same key differ. The last three have both.
NO_ROW, NO_OBJECT = "no_row", "no_object"
WITH_OBJECT = (NO_ROW, "state", "size", "etag")
KINDS = (*WITH_OBJECT, NO_OBJECT)
# What the statement counts.
ALL_OBJECTS, ALL_ROWS, READY_ROWS = "all_objects", "all_rows", "ready_rows"
COUNTS = (ALL_OBJECTS, ALL_ROWS, READY_ROWS)
COLUMNS = ("kind", "source", "key", "num", "size")
# States of rows whose object lives: `other` meets no condition, although `ready` is declared.
LIVE_STATES = "('ready', 'other')"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How an engine writes what others write otherwise."""

    name: str
    text: str = "VARCHAR"
    decoded: str = "url_decode({})"
    is_escaped: bool = False  # whether a backslash begins an escape in a literal
    once: str = ""  # after AS, so that the engine does not store a table expression that is read twice

    def literal(self, text: str) -> str:
        if self.is_escaped:  # two quotes end a literal and begin another
            escaped = text.replace("\\", "\\\\").replace("'", "\\'")
            return f"'{escaped}'"
        return "'" + text.replace("'", "''") + "'"


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        # Only DuckDB leaves a plus as it is.
        Dialect(name="duckdb", decoded="url_decode(replace({}, '+', ' '))", once="NOT MATERIALIZED "),
        Dialect(name="spark", text="STRING", is_escaped=True),
        Dialect(name="trino"),
        Dialect(name="athena"),
    )
}
DUCKDB = DIALECTS["duckdb"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryKeys:
    """The made-up keys of one statement. They name the report's time, the bucket and the sources."""

    both: str
    object_only: str
    row_only: str

    @classmethod
    def of(cls, created_at: datetime, scope: str) -> CanaryKeys:
        """`scope` is a text that differs between buckets and between sets of sources."""
        start = f"{CANARY_PREFIX}{created_at.strftime(STAMP)}/{scope}/"
        return cls(both=f"{start}both", object_only=f"{start}object", row_only=f"{start}row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """
    What a statement compares: a report and exported rows.

    `report` and `rows` are FROM items. `columns` are those of the report, in lower case and without underscores. `root` is
    what the store puts in front of its keys. The keys of an encoded report, which is CSV, are encoded as in URLs, and its
    empty values may be empty texts; so may those of rows that are not typed. Without etags of rows, those of objects are not
    read, which saves memory and disk.
    """

    canaries: CanaryKeys
    columns: Sequence[str]
    excluded: Sequence[str]
    has_etags: bool = True
    is_encoded: bool
    is_typed: bool
    prefix: str
    report: str
    root: str
    rows: str


def difference_sql(compared: Compared, dialect: Dialect) -> str:
    """Return the statement. Shape: rows of `COLUMNS`, in any order; a key may come several times."""
    quoted, keys, once = dialect.literal, compared.canaries, dialect.once
    in_scope = _scope_sql(compared, dialect)
    size = f"CAST(nullif(CAST(size AS {dialect.text}), '') AS BIGINT)"
    row_size, row_etag = ("size", "etag") if compared.is_typed else (size, "nullif(etag, '')")
    return f"""\
WITH listed AS {once}(
{_listed_sql(compared, dialect)}
),
object AS {once}(
    SELECT key, size, etag FROM listed
    UNION ALL SELECT {quoted(keys.both)}, 0, ''
    UNION ALL SELECT {quoted(keys.object_only)}, 0, ''
),
exported AS {once}(
    SELECT source, key, {row_size} AS size, {row_etag} AS etag, state
    FROM {compared.rows}
),
reference_row AS {once}(
    SELECT source, key, size, etag, state FROM exported
    WHERE {in_scope}
    UNION ALL SELECT '', {quoted(keys.both)}, 0, '', 'ready'
    UNION ALL SELECT '', {quoted(keys.row_only)}, 0, '', 'ready'
)
SELECT
    CASE
        WHEN r.key IS NULL THEN '{NO_ROW}'
        WHEN o.key IS NULL THEN '{NO_OBJECT}'
        WHEN r.state NOT IN {LIVE_STATES} THEN 'state'
        WHEN o.size <> r.size THEN 'size'
        ELSE 'etag'
    END AS kind,
    coalesce(r.source, '') AS source,
    coalesce(o.key, r.key) AS key,
    1 AS num,
    coalesce(o.size, 0) AS size
FROM object AS o
FULL OUTER JOIN reference_row AS r ON o.key = r.key
WHERE
    r.key IS NULL
    OR (o.key IS NULL AND r.state <> 'other')
    OR r.state NOT IN {LIVE_STATES}
    OR o.size <> r.size
    OR o.etag <> r.etag
UNION ALL
SELECT '{ALL_OBJECTS}', '', '', count(*), CAST(coalesce(sum(size), 0) AS BIGINT) FROM listed
UNION ALL
SELECT '{ALL_ROWS}', source, '', count(*), 0 FROM exported GROUP BY source
UNION ALL
SELECT '{READY_ROWS}', source, '', count(*), 0 FROM exported
WHERE state IN {LIVE_STATES} AND {in_scope}
GROUP BY source
"""


def _listed_sql(compared: Compared, dialect: Dialect) -> str:
    """Return the SELECT of the newest versions in scope, by their keys in the store."""
    names, text = compared.columns, dialect.text
    name = dialect.decoded.format("key") if compared.is_encoded else "key"
    size = (
        f"CAST(nullif(CAST(size AS {text}), '') AS BIGINT)" if compared.is_encoded else "CAST(size AS BIGINT)"
    )
    newest = [
        f"lower(coalesce(CAST({column} AS {text}), '{value}')) = '{value}'"
        for column, name_, value in (
            ("is_latest", "islatest", "true"),
            ("is_delete_marker", "isdeletemarker", "false"),
        )
        if name_ in names
    ]
    etag = f"replace(CAST(e_tag AS {text}), '\"', '')" if compared.has_etags else "''"
    where = f"\n        WHERE {' AND '.join(newest)}" if newest else ""
    root = compared.root
    key = f"substr(name, {len(root) + 1})" if root else "name"
    below_root = _starts_sql("name", root, dialect)
    return f"""\
    SELECT key, size, etag
    FROM (
        SELECT {key} AS key, size, etag
        FROM (
            SELECT {name} AS name, {size} AS size, {etag} AS etag
            FROM {compared.report}{where}
        ) AS report_row
        WHERE {below_root} AND size IS NOT NULL
    ) AS report_key
    WHERE {_scope_sql(compared, dialect)}"""


def _scope_sql(compared: Compared, dialect: Dialect) -> str:
    """Return the condition that a key is in scope, or is the marker of a store below, which a run must see."""
    literal = dialect.literal
    conditions = [_starts_sql("key", compared.prefix, dialect)] if compared.prefix else []
    conditions += [f"NOT {_starts_sql('key', excluded, dialect)}" for excluded in compared.excluded]
    marker = f"/{RESERVED_PREFIX}{MARKER}"
    ours = " OR ".join(f"position('/{prefix}' IN key) > 0" for prefix in (RESERVED_PREFIX, BLOB_PREFIX))
    is_marker = f"substr(key, length(key) - {len(marker) - 1}) = {literal(marker)}"
    conditions.append(f"NOT {_starts_sql('key', RESERVED_PREFIX, dialect)}")
    conditions.append(f"(NOT ({ours}) OR {is_marker})")
    return "\n        AND ".join(conditions)


def _starts_sql(column: str, prefix: str, dialect: Dialect) -> str:
    """Return the condition that a text starts with a prefix. `starts_with` has another name in each engine."""
    return f"(substr({column}, 1, {len(prefix)}) = {dialect.literal(prefix)})" if prefix else "(1 = 1)"
