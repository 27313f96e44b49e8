"""Run a command's work with a client that works no jobs."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from millhand.client import Client
from millhand.core.config import Config
from millhand.db.driver.protocol import Driver
from millhand.shells.cli.answers import Answers, ask_with
from millhand.shells.cli.chosen_database import command_settings
from millhand.shells.cli.database import run_with_driver
from millhand.shells.settings.load import Settings

T = TypeVar("T")

_SILENT = logging.NullHandler()


def run_with_client(config_path: Path | None, work: Callable[[Client], Awaitable[T]]) -> T:
    """Run `work` with a client that works no jobs, on the database of the settings, and return its result."""
    return run_with_both(config_path, lambda client, _: work(client))


def run_with_both(config_path: Path | None, work: Callable[[Client, Driver], Awaitable[T]]) -> T:
    """Run `work` as `run_with_client`, and pass it the client's driver too, for statements that a client does not have."""
    return run_with_settings(command_settings(config_path), work)


def run_with_settings(settings: Settings, work: Callable[[Client, Driver], Awaitable[T]]) -> T:
    """Run `work` as `run_with_both`, on the database of the settings."""
    return run_with_driver(settings, lambda driver: with_client(settings, driver, work), pool_size=1)


async def with_client(
    settings: Settings, driver: Driver, work: Callable[[Client, Driver], Awaitable[T]]
) -> T:
    """Run `work` with a client that works no jobs, on an open driver, and return its result."""
    with settings.errors_with_origin("database"):
        config = Config(schema=settings.get("database.schema"), skip_unknown_job_check=True)
    # The command prints the error itself, and "database unreachable" would mislead if one statement was too slow.
    logging.getLogger("millhand.engine.outage").addHandler(_SILENT)
    async with Client(driver, config) as client:
        return await work(client, driver)


def ask_clients(config_path: Path | None, work: Callable[[Client, Driver], Awaitable[T]]) -> Answers[T]:
    """Run `work` as `run_with_both`, or with a client of each database that the settings name, all at once."""
    return ask_with(config_path, lambda settings: lambda driver: with_client(settings, driver, work))
