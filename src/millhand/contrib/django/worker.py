"""Run the worker of `manage.py millhand_worker`."""

from __future__ import annotations

from contextlib import AsyncExitStack, nullcontext

from millhand.client import Client
from millhand.config import Config
from millhand.contrib.django.built_in import built_ins
from millhand.contrib.django.setting import pool_size
from millhand.driver.django_url import django_url
from millhand.driver.psycopg import PsycopgDriver
from millhand.process.worker_process import Ended, run_worker


def run_django_worker(config: Config, alias: str, *, until_empty: bool = False) -> Ended:
    """
    Work the jobs in Django's database `alias` until a signal, a crash or, with `until_empty`, until the queues are empty.

    It opens its own connections with Django's settings. Call it in the main thread.

    Raises: ConfigError; SchemaError; DriverError, during the start.
    """
    url, size, extra = django_url(alias), pool_size(), built_ins()

    async def start(stack: AsyncExitStack) -> Client:
        driver = PsycopgDriver(url, config.schema, pool_size=size)
        client = Client(driver, extra.added(config, driver, stack))
        await client.start()
        return client

    return run_worker(lambda: nullcontext(start), until_empty=until_empty)
