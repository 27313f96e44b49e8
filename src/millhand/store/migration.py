"""
Statements for the table of applied migrations.

Up to version 4 of line main the table has no column `line`; `has_line` selects the statement.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from millhand.store.query import Query, parse_none


class MigrationShape(msgspec.Struct, frozen=True):
    """What exists of the migration table. `schema_name` is None if the search path names no existing schema."""

    has_table: bool
    has_line: bool
    schema_name: str | None
    has_schema: bool


def migration_get_shape() -> Query[MigrationShape]:
    """Return whether the table exists, and whether it has lines."""
    return Query("migration_get_shape", {}, lambda rows: MigrationShape(*rows[0]))


def migration_get_conflicting_names(names: Sequence[str]) -> Query[list[str]]:
    """Return those of `names` that a table or a type in the schema has."""
    return Query(
        "migration_get_conflicting_names", {"names": list(names)}, lambda rows: [row[0] for row in rows]
    )


def migration_get_versions(line: str, *, has_line: bool) -> Query[frozenset[int]]:
    """Return the applied versions of `line`."""
    name = "migration_get_versions" if has_line else "migration_get_versions_without_line"
    params = {"line": line} if has_line else {}
    return Query(name, params, lambda rows: frozenset(row[0] for row in rows))


def migration_get_other_lines(line: str) -> Query[list[str]]:
    """Return the other lines that have applied versions; the table must have lines."""
    return Query("migration_get_other_lines", {"line": line}, lambda rows: [row[0] for row in rows])


def migration_insert(line: str, version: int, *, has_line: bool) -> Query[None]:
    """Record that a version was applied."""
    if has_line:
        return Query("migration_insert", {"line": line, "version": version}, parse_none)
    return Query("migration_insert_without_line", {"version": version}, parse_none)


def migration_delete(line: str, version: int, *, has_line: bool) -> Query[None]:
    """Delete the record of a version."""
    if has_line:
        return Query("migration_delete", {"line": line, "version": version}, parse_none)
    return Query("migration_delete_without_line", {"version": version}, parse_none)


def migration_lock() -> Query[None]:
    """
    Take this schema's migration lock, and wait for another migrator that has it.

    Concurrency: the lock ends with the transaction. River's own migrator takes no lock.
    """
    return Query("migration_lock", {}, parse_none)
