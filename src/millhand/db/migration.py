"""
Statements for the table of applied migrations.

Up to version 4 of line main the table has no column `line`; `has_line` selects the statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import msgspec

from millhand.db.query import TIMEOUT_SECONDS, Query, parse_none


class MigrationShape(msgspec.Struct, frozen=True):
    """What exists of the migration table. `schema_name` is None if the search path names no existing schema."""

    has_table: bool
    has_line: bool
    schema_name: str | None
    has_schema: bool


class OldestTransaction(msgspec.Struct, frozen=True):
    """A session with an open transaction, and for how many seconds it has been open."""

    pid: int
    application_name: str
    state: str
    seconds: float


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


def migration_set_lock_timeout(lock_timeout: str) -> Query[str]:
    """Set `lock_timeout` until the end of the transaction, and return its value before."""
    params = {"lock_timeout": lock_timeout}
    return Query("migration_set_lock_timeout", params, lambda rows: str(rows[0][0]))


def migration_get_oldest_transaction() -> Query[OldestTransaction | None]:
    """Return the oldest open transaction that this role may see."""
    return Query(
        "migration_get_oldest_transaction", {}, lambda rows: OldestTransaction(*rows[0]) if rows else None
    )


def migration_pause(pause: timedelta) -> Query[None]:
    """Return after `pause`."""
    seconds = pause.total_seconds()
    return Query("migration_pause", {"seconds": seconds}, parse_none).within(seconds + TIMEOUT_SECONDS)
