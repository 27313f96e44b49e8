"""
The built-in jobs of a project: the heartbeat and the orphan cleanup.

    MILLHAND["HEARTBEAT"] = "1m"
    MILLHAND["ORPHANS"] = {"config": "shop.orphans.config", "storage": "s3://bucket", "interval": "1h"}

`config` is the dotted path of an `OrphansConfig`, or of a function that returns one; `django_sources()` builds its sources
from the project's file fields.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta

from django.utils.module_loading import import_string

from millhand.config import Config
from millhand.contrib.django.setting import NAME, decoded_setting, errors_of
from millhand.driver.protocol import Driver
from millhand.errors import ConfigError
from millhand.jobs import add_heartbeat, add_orphan_cleanup
from millhand.orphans.config import OrphansConfig
from millhand.settings.catalog import ORPHANS_INTERVAL
from millhand.storage import open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphansTable:
    """The keys of `MILLHAND["ORPHANS"]`."""

    config: str
    storage: str
    interval: timedelta = ORPHANS_INTERVAL


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltIns:
    """The built-in jobs of a project and their settings."""

    heartbeat: timedelta | None
    orphans: tuple[OrphansTable, OrphansConfig] | None

    @property
    def is_any(self) -> bool:
        return self.heartbeat is not None or self.orphans is not None

    def added(self, config: Config, driver: Driver, stack: AsyncExitStack) -> Config:
        """Return the configuration with the built-in jobs; add their workers to `config`, and their store to `stack`."""
        queue = "default" if "default" in config.queues else min(config.queues)
        jobs = [*config.periodic_jobs]
        if self.heartbeat is not None:
            jobs.append(add_heartbeat(config.workers, interval=self.heartbeat, queue=queue))
        if self.orphans is not None:
            table, orphans = self.orphans
            with errors_of(f"{NAME}['ORPHANS'].storage"):
                store = open_store(table.storage)
            stack.push_async_callback(store.aclose)
            workers, interval = config.workers, table.interval
            jobs.append(
                add_orphan_cleanup(workers, driver.pool, store, orphans, interval=interval, queue=queue)
            )
        return replace(config, periodic_jobs=jobs if config.leader_election else ())


def built_ins() -> BuiltIns:
    """Return the built-in jobs of `MILLHAND`, checked as far as possible. Raises: ConfigError."""
    heartbeat = decoded_setting("HEARTBEAT", timedelta | None)
    table = decoded_setting("ORPHANS", OrphansTable | None)
    orphans = (table, _orphans_config(table)) if isinstance(table, OrphansTable) else None
    return BuiltIns(heartbeat=heartbeat if isinstance(heartbeat, timedelta) else None, orphans=orphans)


def _orphans_config(table: OrphansTable) -> OrphansConfig:
    where = f"{NAME}['ORPHANS']"
    try:
        config = import_string(table.config)
    except ImportError as error:
        raise ConfigError(f"{where}.config must be a dotted path, got {table.config!r}: {error}") from error
    if callable(config) and not isinstance(config, type):
        config = config()
    if not isinstance(config, OrphansConfig):
        raise ConfigError(f"{where}.config must name an OrphansConfig, got {type(config).__name__}")
    return config
