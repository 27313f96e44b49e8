"""
River's tables and ours as migrations of Django's, made by our migrator.

Each migration names the versions that it leads to, line by line; a release with a new version brings a new migration.
They are not atomic: what one version of a line adds to an enum, a later one may use only when it is committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.apps.registry import Apps
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations import RunPython
from django.db.migrations.operations.base import Operation

from millhand.contrib.django.setting import database_alias, schema_name
from millhand.driver.django import DjangoDriver
from millhand.driver.run_sync import run_sync
from millhand.schema.migrator import Migrator


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """Where a migration leads and whence; 0 is before the first version of a line."""

    above: Mapping[str, int]
    below: Mapping[str, int]

    def up(self, apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
        """Apply what is not applied yet; River's own migrator, or `millhand migrate up`, may have done so."""
        if _is_ours(editor):
            for line, version in self.above.items():  # main first, which the other needs
                run_sync(_migrator(line).up(target=version))

    def down(self, apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
        """Take back what this migration leads to."""
        if _is_ours(editor):
            for line in reversed(tuple(self.above)):
                run_sync(_migrator(line).down(target=self.below.get(line, 0)))


def lead_to(above: Mapping[str, int], *, below: Mapping[str, int] | None = None) -> Operation:
    """Return the operation that brings each line to its version in `above`, and back to that in `below`."""
    versions = Versions(above=above, below=below or {})
    return RunPython(versions.up, versions.down)


def _migrator(line: str) -> Migrator:
    return Migrator(DjangoDriver(database_alias(), schema_name()), line)


def _is_ours(editor: BaseDatabaseSchemaEditor) -> bool:
    """Whether it is the database of the jobs that is migrated: a project may have others."""
    return bool(editor.connection.alias == database_alias())
