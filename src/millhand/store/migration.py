"""
Statements about the record of migrations.

Up to version 4 of line main the table knows no lines; `has_line` says which table is meant.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from millhand.store.query import Query, Row, parse_none


class MigrationShape(msgspec.Struct, frozen=True):
    """What there is to record migrations in. `schema_name` is None if the search path names no schema that exists."""

    has_table: bool
    has_line: bool
    schema_name: str | None
    has_schema: bool


def migration_get_shape() -> Query[MigrationShape]:
    """Say whether the table is there, and whether it knows lines."""
    return Query("migration_get_shape", {}, lambda rows: MigrationShape(*rows[0]))


def migration_get_foreign(names: Sequence[str]) -> Query[list[str]]:
    """Give those of `names` that a table or a type of the schema has."""
    return Query("migration_get_foreign", {"names": list(names)}, lambda rows: [row[0] for row in rows])


def migration_get_versions(line: str, *, has_line: bool) -> Query[frozenset[int]]:
    """Give the versions of `line` that are applied."""
    if has_line:
        return Query("migration_get_versions", {"line": line}, _parse_versions)
    return Query("migration_get_versions_without_line", {}, _parse_versions)


def migration_get_other_lines(line: str) -> Query[list[str]]:
    """Give the lines of which versions are applied, without `line`; the table must know lines."""
    return Query("migration_get_other_lines", {"line": line}, lambda rows: [row[0] for row in rows])


def migration_insert(line: str, version: int, *, has_line: bool) -> Query[None]:
    """Record that a version was applied."""
    if has_line:
        return Query("migration_insert", {"line": line, "version": version}, parse_none)
    return Query("migration_insert_without_line", {"version": version}, parse_none)


def migration_delete(line: str, version: int, *, has_line: bool) -> Query[None]:
    """Record that a version is applied no longer."""
    if has_line:
        return Query("migration_delete", {"line": line, "version": version}, parse_none)
    return Query("migration_delete_without_line", {"version": version}, parse_none)


def migration_lock() -> Query[None]:
    """
    Wait for the other migrator of this schema, if there is one.

    Concurrency: held until the transaction ends. River's own migrator takes no lock.
    """
    return Query("migration_lock", {}, parse_none)


def _parse_versions(rows: Sequence[Row]) -> frozenset[int]:
    return frozenset(row[0] for row in rows)
