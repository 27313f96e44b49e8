"""Run the worker of `manage.py millhand_worker`."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass

from millhand.client import Client
from millhand.config import Config
from millhand.contrib.django.built_in import BuiltIns, built_ins
from millhand.contrib.django.setting import pool_size
from millhand.driver.django_url import django_url
from millhand.driver.psycopg import PsycopgDriver
from millhand.process.signals import StopRequested, StopSignals
from millhand.process.worker_process import WorkerProcess, run_to_the_end

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end of a worker: gracefully or by a crash, and whether all its threads have ended."""

    is_in_order: bool
    is_all_ended: bool


def run_worker(config: Config, alias: str, *, until_empty: bool = False) -> Ended:
    """
    Work the jobs in Django's database `alias` until a signal, a crash or, with `until_empty`, until the queues are empty.

    It opens its own connections with Django's settings. Call it in the main thread.

    Raises: ConfigError; SchemaError; DriverError, during the start.
    """
    url, size, extra = django_url(alias), pool_size(), built_ins()
    with StopSignals() as signals:
        try:
            is_in_order, is_all_ended = run_to_the_end(
                lambda: _work(
                    PsycopgDriver(url, config.schema, pool_size=size),
                    config,
                    extra,
                    signals,
                    until_empty=until_empty,
                )
            )
        except StopRequested as stop:
            logger.info("worker stopped", extra={"signal": stop.name, "completed": 0, "failed": 0})
            return Ended(is_in_order=True, is_all_ended=True)
    return Ended(is_in_order=is_in_order, is_all_ended=is_all_ended)


async def _work(
    driver: PsycopgDriver, config: Config, extra: BuiltIns, signals: StopSignals, *, until_empty: bool
) -> bool:
    process = WorkerProcess(until_empty=until_empty)
    signals.listen(process.on_signal)
    try:
        async with AsyncExitStack() as stack:

            async def start() -> Client:
                client = Client(driver, extra.added(config, driver, stack))
                await client.start()
                return client

            return await process.run(start)
    finally:
        signals.end()
