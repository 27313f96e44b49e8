"""
Django migrations that create River's tables and ours with our migrator.

Each migration names a version of each line; a release with a new version adds a migration. The migrations are not atomic:
an enum value of one version must be committed before a later version can use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.apps.registry import Apps
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations import RunPython
from django.db.migrations.operations.base import Operation

from millhand.contrib.django.setting import database_alias, schema_name
from millhand.db.driver.django import DjangoDriver
from millhand.db.driver.run_sync import run_sync
from millhand.db.schema.migrator import Migrator


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """The versions after and before a migration; 0 is before the first version of a line."""

    above: Mapping[str, int]
    below: Mapping[str, int]

    def up(self, apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
        """Apply the missing versions; River's migrator or `millhand migrate up` may have applied some."""
        if _is_ours(editor):
            for line, version in self.above.items():  # main first, because the other line needs it
                run_sync(_migrator(line).up(target=version))

    def down(self, apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
        if _is_ours(editor):
            for line in reversed(tuple(self.above)):
                run_sync(_migrator(line).down(target=self.below.get(line, 0)))


def lead_to(above: Mapping[str, int], *, below: Mapping[str, int] | None = None) -> Operation:
    """Return the operation that migrates each line to its version in `above`, and back to that in `below`."""
    versions = Versions(above=above, below=below or {})
    return RunPython(versions.up, versions.down)


def _migrator(line: str) -> Migrator:
    return Migrator(DjangoDriver(database_alias(), schema_name()), line)


def _is_ours(editor: BaseDatabaseSchemaEditor) -> bool:
    """Return whether Django migrates the database of the jobs, and not another one of the project."""
    return bool(editor.connection.alias == database_alias())
