"""Statements about how autovacuum treats a table; names and values are ours, never a user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from millhand.store.query import Query, Row, parse_none


def table_get_options(table: str) -> Query[dict[str, str] | None]:
    """Give the storage parameters that a table has been given; None if it is not there."""

    def parse(rows: Sequence[Row]) -> dict[str, str] | None:
        if not rows:
            return None
        pairs = (option.partition("=") for option in rows[0][0])
        return {name: value for name, _, value in pairs}

    return Query("table_get_options", {}, parse, fragments=(("table", table),))


def table_set_options(table: str, options: Mapping[str, str]) -> Query[None]:
    """
    Set storage parameters of a table, and leave its others as they are.

    Concurrency: waits for a VACUUM or a rebuild of the table's indexes, and for nobody else.
    Source: PostgreSQL, "ALTER TABLE", SET.
    """
    said = ", ".join(f"{name} = {value}" for name, value in options.items())
    return Query("table_set_options", {}, parse_none, fragments=(("table", table), ("options", said)))


def table_reset_options(table: str, names: Sequence[str]) -> Query[None]:
    """Have storage parameters of a table be as the server has them. Concurrency: as `table_set_options`."""
    return Query(
        "table_reset_options", {}, parse_none, fragments=(("table", table), ("options", ", ".join(names)))
    )
