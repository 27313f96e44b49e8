"""Statements for a table's autovacuum parameters; names and values are Millhand's, never a user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from millhand.store.query import Query, Row, parse_none


def table_get_options(table: str) -> Query[dict[str, str] | None]:
    """Return a table's own storage parameters; None if there is no such table."""

    def parse(rows: Sequence[Row]) -> dict[str, str] | None:
        if not rows:
            return None
        pairs = (option.partition("=") for option in rows[0][0])
        return {name: value for name, _, value in pairs}

    return Query("table_get_options", {}, parse, fragments=(("table", table),))


def table_set_options(table: str, options: Mapping[str, str]) -> Query[None]:
    """
    Set storage parameters of a table; others keep their values.

    Concurrency: waits only for a VACUUM or a rebuild of the table's indexes.
    Source: PostgreSQL, "ALTER TABLE", SET.
    """
    settings = ", ".join(f"{name} = {value}" for name, value in options.items())
    return Query("table_set_options", {}, parse_none, fragments=(("table", table), ("options", settings)))


def table_reset_options(table: str, names: Sequence[str]) -> Query[None]:
    """Reset storage parameters of a table to the server's. Concurrency: as `table_set_options`."""
    return Query(
        "table_reset_options", {}, parse_none, fragments=(("table", table), ("options", ", ".join(names)))
    )
