"""
The orphan cleanup of a project.

    MILLHAND["ORPHANS"] = {"config": "shop.orphans.config", "storage": "s3://bucket", "interval": "1h"}

`config` is the dotted path of an `OrphansConfig`, or of a function that returns one; `django_sources()` builds its sources
from the project's file fields.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta

from django.utils.module_loading import import_string

from millhand.contrib.django.setting import NAME, decoded_setting, errors_of
from millhand.core.config import Config, built_in_queue
from millhand.core.errors import ConfigError
from millhand.core.orphans import OrphansConfig
from millhand.db.driver.protocol import Driver
from millhand.jobs import add_orphan_cleanup
from millhand.shells.settings.catalog import ORPHANS_INTERVAL
from millhand.storage import open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphansTable:
    """The keys of `MILLHAND["ORPHANS"]`."""

    config: str
    storage: str
    interval: timedelta = ORPHANS_INTERVAL


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectCleanup:
    """The orphan cleanup of a project and its settings."""

    table: OrphansTable
    config: OrphansConfig

    def added(self, config: Config, driver: Driver, stack: AsyncExitStack) -> Config:
        """Return the configuration with the cleanup and its worker; close its store with `stack`."""
        with errors_of(f"{NAME}['ORPHANS'].storage"):
            store = open_store(self.table.storage)
        stack.push_async_callback(store.aclose)
        workers = config.workers.copy()
        job = add_orphan_cleanup(
            workers,
            driver.pool,
            store,
            self.config,
            interval=self.table.interval,
            queue=built_in_queue(config.queues),
        )
        periodic_jobs = [*config.periodic_jobs, job] if config.leader_election else ()
        return replace(config, periodic_jobs=periodic_jobs, workers=workers)


def project_cleanup() -> ProjectCleanup | None:
    """Return the orphan cleanup of `MILLHAND`, checked as far as possible. Raises: ConfigError."""
    table = decoded_setting("ORPHANS", OrphansTable | None)
    if not isinstance(table, OrphansTable):
        return None
    where = f"{NAME}['ORPHANS']"
    try:
        config = import_string(table.config)
    except ImportError as error:
        raise ConfigError(f"{where}.config must be a dotted path, got {table.config!r}: {error}") from error
    if callable(config) and not isinstance(config, type):
        config = config()
    if not isinstance(config, OrphansConfig):
        raise ConfigError(f"{where}.config must name an OrphansConfig, got {type(config).__name__}")
    return ProjectCleanup(table=table, config=config)
