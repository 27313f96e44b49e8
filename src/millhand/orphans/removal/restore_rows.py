"""Insert a deleted row again, and restore the rows of other tables that went with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from millhand.core.errors import DriverError
from millhand.db.driver.protocol import Executor
from millhand.orphans.ledger import Action
from millhand.orphans.sources.key_sql import literal, quoted, quoted_table
from millhand.orphans.sources.pg_catalog import table_columns
from millhand.orphans.sources.statements import TEXT_SETTINGS

NO_ON_CONFLICT = "55000"  # of a table with a deferrable unique constraint


async def restore_rows(executor: Executor, action: Action) -> int:
    """
    Restore the row of an action and the rows that went with it, and return how many came back.

    A row stays as it is if a row with its key or id exists, or if its changed columns have changed again. A row that its
    source only changed exists, and gets its columns back.
    Raises: DriverError; then nothing is restored.
    """
    if action.row_json is None:
        return 0
    async with executor.begin() as tx:
        await tx.fetch(TEXT_SETTINGS)
        num_rows = await _insert(tx, quoted_table(action.table_name or ""), json.loads(action.row_json))
        for record in json.loads(action.cascaded_json or "[]"):
            table = record["table"]
            num_rows += await (
                _change_back(tx, table, record) if "became" in record else _insert(tx, table, record["row"])
            )
    return num_rows


async def _insert(tx: Executor, table_sql: str, row: Mapping[str, str | None]) -> int:
    columns = await table_columns(tx, table_sql)
    types = {name: one.type for name, one in columns.items() if name in row and not one.is_generated}
    if not types:
        raise DriverError("INSERT", f"no table {table_sql} with columns of the row")
    names = ", ".join(map(quoted, types))
    values = ", ".join(f"($1::text::jsonb ->> {literal(name)})::{type_}" for name, type_ in types.items())
    insert = f"INSERT INTO {table_sql} ({names}) OVERRIDING SYSTEM VALUE\nSELECT {values}"
    try:
        async with tx.begin() as attempt:
            return await _number_of(attempt, f"{insert}\nON CONFLICT DO NOTHING", [json.dumps(row)])
    except DriverError as error:
        if error.sqlstate != NO_ON_CONFLICT:
            raise
    # A row that exists is then an error.
    return await _number_of(tx, insert, [json.dumps(row)])


async def _change_back(tx: Executor, table_sql: str, record: Mapping[str, Any]) -> int:
    columns = await table_columns(tx, table_sql)

    def value(name: str, param: str) -> str:
        return f"({param}::text::jsonb ->> {literal(name)})::{columns[name].type}"

    changed = [name for name in record["became"] if name in columns and not columns[name].is_generated]
    if not changed or any(name not in columns for name in record["id"]):
        raise DriverError("UPDATE", f"no table {table_sql} with columns of the row")
    sets = ", ".join(f"{quoted(name)} = {value(name, '$1')}" for name in changed)
    where = [f"{quoted(name)} = {value(name, '$1')}" for name in record["id"]]
    # By their texts, because not every type can be compared.
    where += [f"{quoted(name)}::text IS NOT DISTINCT FROM ({value(name, '$2')})::text" for name in changed]
    sql = f"UPDATE {table_sql}\nSET {sets}\nWHERE {' AND '.join(where)}"
    return await _number_of(tx, sql, [json.dumps(record["row"]), json.dumps(record["became"])])


async def _number_of(tx: Executor, sql: str, params: list[str]) -> int:
    return len(await tx.fetch(f"{sql}\nRETURNING 1 AS one", params))
