"""`manage.py millhand_worker`."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, nullcontext
from dataclasses import replace
from datetime import timedelta

from django.core.management.base import BaseCommand, CommandError

from millhand.client import Client
from millhand.contrib.django.cleanup import project_cleanup
from millhand.contrib.django.discovery import whole_config
from millhand.contrib.django.setting import database_alias, is_given, pool_size
from millhand.core.config import Config, QueueConfig
from millhand.core.errors import ConnectionLost, MillhandError, SchemaError
from millhand.db.driver.django import django_url
from millhand.db.driver.psycopg import PsycopgDriver
from millhand.engine.heartbeat import with_heartbeat
from millhand.observe.log import configure_logging
from millhand.process.observed import environment_observer
from millhand.process.replaced_queues import ReplacedQueues
from millhand.process.worker_process import Ended, run_worker
from millhand.shells.settings.decode import decode_text


class Command(BaseCommand):
    """`millhand worker` for the workers in `<app>/jobs.py`, on the database that MILLHAND names."""

    help = (
        "Work the jobs of this project until Ctrl-C, which stops the worker gracefully: it waits for running jobs, then "
        "interrupts them and makes them available again. A second Ctrl-C interrupts them at once; a third kills the "
        "process."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add(
            "--queue",
            action="append",
            default=[],
            metavar="NAME:N",
            dest="queues",
            help="Work only this queue, with at most N jobs at a time. Replaces all queues of the config; repeatable.",
        )
        add("--soft-stop-timeout", metavar="DURATION", help="Let a stop wait this long for running jobs.")
        add("--until-empty", action="store_true", help="Stop once no job is running and none is due.")
        add(
            "--log-format", choices=["auto", "text", "json"], help="Configure logging here, not with LOGGING."
        )
        add(
            "--log-level",
            choices=["debug", "info", "warning", "error"],
            help="Configure logging here, not with LOGGING.",
        )

    def handle(
        self,
        *,
        queues: list[str],
        soft_stop_timeout: str | None,
        until_empty: bool,
        log_format: str | None,
        log_level: str | None,
        **_: object,
    ) -> None:
        if log_format or log_level or not logging.getLogger().handlers:
            configure_logging(log_format or "auto", log_level or "info")  # type: ignore[arg-type]  # of its choices
        try:
            whole = whole_config()
            config = replace(whole, **dict(_flags(queues, soft_stop_timeout, until_empty)))  # type: ignore[arg-type]
            replaced = ReplacedQueues(is_chosen=is_given("QUEUES"), names=frozenset(whole.queues))
            if not len(config.workers) and project_cleanup() is None:
                raise CommandError(
                    "apps must have workers, got none; add a jobs.py with `workers = Workers()` to an app"
                )
            ended = run_django_worker(
                config, database_alias(), replaced=replaced if queues else None, until_empty=until_empty
            )
        except SchemaError as error:
            reason = str(error).partition("; run:")[0]
            raise CommandError(f"{reason}; run: manage.py migrate millhand") from error
        except ConnectionLost as error:
            raise CommandError(
                f"database {database_alias()!r} must accept connections, got {error.reason.strip()}; "
                "check that the server runs and that DATABASES is right"
            ) from error
        except MillhandError as error:
            raise CommandError(str(error)) from error
        if code := ended.exit_code():
            sys.exit(code)


def run_django_worker(
    config: Config, alias: str, *, replaced: ReplacedQueues | None = None, until_empty: bool = False
) -> Ended:
    """Work the jobs in Django's database `alias`, on connections of its own. Call it in the main thread."""
    url, size, cleanup = django_url(alias), pool_size(), project_cleanup()

    async def start(stack: AsyncExitStack) -> Client:
        driver = PsycopgDriver(url, config.schema, pool_size=size)
        if replaced is not None:
            await driver.open()
            stack.push_async_callback(driver.close)
            await replaced.warn(config.queues, driver)
        whole = config if cleanup is None else cleanup.added(config, driver, stack)
        client = Client(driver, with_heartbeat(whole, run_on_start=True))
        await client.start()
        return client

    return run_worker(lambda: nullcontext(start), until_empty=until_empty, observer=environment_observer())


def _flags(
    queues: list[str], soft_stop_timeout: str | None, until_empty: bool
) -> Iterator[tuple[str, object]]:
    if queues:
        yield "queues", decode_text(",".join(queues), Mapping[str, QueueConfig], "--queue")
    if soft_stop_timeout is not None:
        yield "soft_stop_timeout", decode_text(soft_stop_timeout, timedelta | None, "--soft-stop-timeout")
    if until_empty and not is_given("HEARTBEAT_INTERVAL"):
        yield "heartbeat_interval", None
