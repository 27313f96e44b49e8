"""
The rows of other tables that go with a deleted row, by foreign keys ON DELETE CASCADE, SET NULL or SET DEFAULT.

Rule 1: a run that may delete rows raises an error for such a source, unless the source accepts it.
Rule 2: if it does, the run locks these rows before the deletion. The ledger keeps them in the order in which they can be
        inserted again, and `restore` brings them back.
Rule 3: if the source's own `delete` only changes the row, the ledger keeps that change among them.

Source: PostgreSQL, "Foreign Keys", "System Catalogs" (pg_constraint: conparentid, confdeltype, confdelsetcols).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from millhand.core.errors import ConfigError, DriverError
from millhand.core.orphans import Cascades, ReferenceSource
from millhand.db.driver.protocol import Executor
from millhand.orphans.sources.key_sql import literal, quoted, quoted_table
from millhand.orphans.sources.pg_catalog import table_columns
from millhand.orphans.sources.statements import texts_sql

DELETED, SET_NULL = "c", "n"
# A partitioned table has a copy of each constraint for each partition, which `conparentid` leads back to the original.
FOREIGN_KEYS = """
WITH tree AS (
    SELECT to_regclass($1::text) AS oid
    UNION
    SELECT relid FROM pg_partition_tree(to_regclass($1::text))
), found AS (
    SELECT oid, conparentid, conrelid, confrelid, confdeltype, conkey, confkey,
        coalesce(
            ARRAY(SELECT jsonb_array_elements_text(nullif(to_jsonb(con) -> 'confdelsetcols', 'null'))::smallint), '{}'
        ) AS set_columns
    FROM pg_catalog.pg_constraint AS con
    WHERE contype = 'f' AND confdeltype IN ('c', 'n', 'd') AND confrelid IN (SELECT oid FROM tree)
), named AS (
    SELECT attrelid, attnum, attname::text AS name, pg_get_expr(adbin, adrelid) AS default_sql
    FROM pg_catalog.pg_attribute AS attribute
    LEFT JOIN pg_catalog.pg_attrdef AS preset ON adrelid = attrelid AND adnum = attnum
)
SELECT
    format('%I.%I', nspname, relname) AS table_sql,
    conrelid::regclass::text AS label,
    relkind = 'r' AS is_plain,
    confdeltype::text AS action,
    ARRAY(
        SELECT name FROM unnest(conkey) WITH ORDINALITY AS key (number, place)
        JOIN named ON attrelid = conrelid AND attnum = number ORDER BY place
    ) AS columns,
    ARRAY(
        SELECT name FROM unnest(confkey) WITH ORDINALITY AS key (number, place)
        JOIN named ON attrelid = confrelid AND attnum = number ORDER BY place
    ) AS referenced,
    ARRAY(
        SELECT name FROM named
        WHERE attrelid = conrelid AND attnum = ANY (CASE WHEN set_columns = '{}' THEN conkey ELSE set_columns END)
        ORDER BY attnum
    ) AS changed,
    ARRAY(
        SELECT coalesce(default_sql, 'NULL') FROM named
        WHERE attrelid = conrelid AND attnum = ANY (CASE WHEN set_columns = '{}' THEN conkey ELSE set_columns END)
        ORDER BY attnum
    ) AS defaults,
    ARRAY(
        SELECT name FROM pg_catalog.pg_index AS index JOIN named ON attrelid = conrelid AND attnum = ANY (indkey)
        WHERE indrelid = conrelid AND indisprimary
    ) AS id
FROM found
JOIN pg_catalog.pg_class AS class ON class.oid = conrelid
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = relnamespace
WHERE conparentid NOT IN (SELECT oid FROM found)
ORDER BY label, columns
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """
    A foreign key that changes its table when a referenced row is deleted.

    `action` is PostgreSQL's letter. `changed` are the columns that SET NULL or SET DEFAULT changes, `defaults` their default
    expressions, and `id` is the primary key.
    """

    table_sql: str
    label: str
    is_plain: bool
    action: str
    columns: Sequence[str]
    referenced: Sequence[str]
    changed: Sequence[str]
    defaults: Sequence[str]
    id: Sequence[str]

    def text(self) -> str:
        if self.action == DELETED:
            return f"{self.label} (rows deleted)"
        to = "null" if self.action == SET_NULL else "default"
        return f"{self.label} ({', '.join(self.changed)} set to {to})"

    def became_sql(self) -> str:
        """Return the expression of what the changed columns become, as JSON of texts."""
        values = ["NULL"] * len(self.changed) if self.action == SET_NULL else self.defaults
        return texts_sql({name: f"({value})" for name, value in zip(self.changed, values, strict=True)})


async def foreign_keys(executor: Executor, table_sql: str) -> list[ForeignKey]:
    """Return the foreign keys that a deletion from a table makes act, one level deep. Raises: DriverError."""
    return [ForeignKey(**row) for row in await executor.fetch(FOREIGN_KEYS, [table_sql])]


async def check_cascades(executor: Executor, source: ReferenceSource) -> None:
    """Check that a deletion from a source changes no other table, or that this is accepted. Raises: ConfigError."""
    if not (source.is_deletable and source.has_states):
        return
    hit = await _all_foreign_keys(executor, quoted_table(source.table or ""))
    if hit and source.cascades is Cascades.REFUSE:
        changes = ", ".join(dict.fromkeys(one.text() for one in hit))
        raise ConfigError(
            f"cascades of orphans source {source.name!r} must be 'accept' if the deletion of a row changes other tables, "
            f"got 'refuse', and {changes}; set cascades = \"accept\", or change these foreign keys"
        )
    for one in hit:
        if one.action != DELETED and not one.id:
            raise ConfigError(
                f"orphans source {source.name!r} must change only tables that have a primary key, got {one.text()} without "
                "one, whose rows a restore could not find again; add a primary key, or change the foreign key"
            )


async def lock_cascaded(tx: Executor, source: ReferenceSource, row_json: str) -> str | None:
    """
    Lock the rows that go with a locked row, and return them as JSON for the ledger; None if there are none.

    Raises: DriverError, also if they are not accepted. The row must then stay.
    """
    records: list[dict[str, Any]] = []
    seen: set[tuple[str, tuple[str, ...], str]] = set()
    parents = [(quoted_table(source.table or ""), row_json)]
    while parents:
        table_sql, parent = parents.pop(0)
        for key in await foreign_keys(tx, table_sql):
            if source.cascades is Cascades.REFUSE:
                raise DriverError(
                    "DELETE", f"a foreign key that changes {key.text()}, which the source does not accept"
                )
            for found in await _lock_rows(tx, key, parent):
                changed = () if key.action == DELETED else tuple(key.changed)
                identity = (key.table_sql, changed, found["row_json"])
                if identity in seen:
                    continue
                seen.add(identity)
                record = {"table": key.table_sql, "row": json.loads(found["row_json"])}
                if key.action == DELETED:
                    parents.append((key.table_sql, found["row_json"]))
                else:
                    record |= {"became": json.loads(found["became"]), "id": list(key.id)}
                records.append(record)
    return json.dumps(records) if records else None


def with_left_row(
    cascaded_json: str | None, source: ReferenceSource, row_json: str | None, left_json: str | None
) -> str | None:
    """Return the rows for the ledger with a row that the source's own `delete` only changed; `left_json` is what is left."""
    before, left = json.loads(row_json or "{}"), json.loads(left_json or "{}")
    became = {name: text for name, text in left.items() if name in before and before[name] != text}
    if not became:
        return cascaded_json
    table_sql = quoted_table(source.table or "")
    record = {"table": table_sql, "row": before, "became": became, "id": [source.id], "is_own": True}
    return json.dumps([record, *json.loads(cascaded_json or "[]")])


def num_other_rows(cascaded_json: str | None) -> int:
    """Return how many rows of other tables a deletion changed."""
    return sum(not record.get("is_own") for record in json.loads(cascaded_json or "[]"))


async def _all_foreign_keys(executor: Executor, table_sql: str) -> list[ForeignKey]:
    """Return the foreign keys that a deletion from a table makes act, through all tables whose rows are deleted with it."""
    found: list[ForeignKey] = []
    tables = [table_sql]
    for table in tables:
        keys = [key for key in await foreign_keys(executor, table) if key not in found]
        found += keys
        tables += [key.table_sql for key in keys if key.action == DELETED and key.table_sql not in tables]
    return found


async def _lock_rows(tx: Executor, key: ForeignKey, parent: str) -> list[dict[str, Any]]:
    columns = await table_columns(tx, key.table_sql)
    pairs = zip(key.columns, key.referenced, strict=True)
    where = " AND ".join(
        f"{quoted(own)} = ($1::text::jsonb ->> {literal(theirs)})::{columns[own].type}"
        for own, theirs in pairs
    )
    row = texts_sql({name: quoted(name) for name in columns})
    became = "" if key.action == DELETED else f", {key.became_sql()} AS became"
    only = "ONLY " if key.is_plain else ""
    return await tx.fetch(
        f"SELECT {row} AS row_json{became}\nFROM {only}{key.table_sql}\nWHERE {where}\nFOR UPDATE", [parent]
    )
