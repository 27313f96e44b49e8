"""`millhand worker`: run a client as a process until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from millhand import jobs, storage
from millhand.cli.error_log import start_errors_logged
from millhand.cli.metric_export import exported_metrics
from millhand.cli.worked_kinds import built_ins
from millhand.client import Client
from millhand.core.config import Config, built_in_queue
from millhand.core.errors import ConfigError, MillhandError
from millhand.core.log.logger import logger_of
from millhand.core.periodic import PeriodicJob
from millhand.core.worker import Workers
from millhand.db.driver.protocol import Driver
from millhand.db.schema.migrator import require_schema
from millhand.db.sql import LINE_MILLHAND
from millhand.engine.heartbeat import with_heartbeat
from millhand.observe.log import configure_logging
from millhand.process.connection_budget import take_num_processes, warn_of_connections
from millhand.process.observed import check_observed, supervisor_observer, worker_observer
from millhand.process.replaced_queues import ReplacedQueues, replaced_by_settings, replaced_queues
from millhand.process.signals import StopRequested, StopSignals
from millhand.process.supervisor import Supervisor
from millhand.process.worker_process import Start, run_worker
from millhand.shells.cli.chosen_database import several_settings, without_orphans, worked_names
from millhand.shells.cli.command import Choice, Command
from millhand.shells.cli.database import (
    Database,
    database,
    migrate_all_lines,
    named_database,
    opened,
    require_database,
)
from millhand.shells.cli.options import list_option
from millhand.shells.cli.output import NotDone, WrongUse
from millhand.shells.cli.param_types import OneOf, Whole, not_empty
from millhand.shells.cli.target import load_config
from millhand.shells.exit_code import DONE
from millhand.shells.settings.load import DEFAULT, Settings, load_settings, shown_settings

if TYPE_CHECKING:
    from millhand.cli.web import PageSettings
    from millhand.process.worker_observer import WorkerObserver


logger = logger_of(__name__)


@click.command(
    cls=Command,
    choice=Choice.NONE,
    example="millhand worker shop.jobs:config --queue mail:10",
    epilog="Ctrl-C stops the worker gracefully: it waits for running jobs, then interrupts them and makes them available "
    "again. A second Ctrl-C interrupts them at once; a third kills the process. Exit code 0 after a graceful stop, 1 "
    "after a crash.",
)
@click.argument("target", metavar="[MODULE:CONFIG]", required=False)
@click.option(
    "--queue",
    "queues",
    multiple=True,
    callback=not_empty,
    metavar="NAME:N",
    help="Work only this queue, with at most N jobs at a time. Replaces all queues of the config; repeatable.",
)
@list_option(
    "--database",
    "databases",
    "Work this database of [databases], and log its name; by default all of them",
    metavar="NAME",
)
@click.option(
    "--soft-stop-timeout",
    callback=not_empty,
    metavar="DURATION",
    help="Let a stop wait this long for running jobs; 8s by default.",
)
@click.option("--until-empty", is_flag=True, help="Stop once no job is running and none is due.")
@click.option(
    "--embedded",
    is_flag=True,
    help="Without DATABASE_URL, start an embedded PostgreSQL in .millhand/postgres.",
)
@click.option("--migrate", "should_migrate", is_flag=True, help="Migrate the database of DATABASE_URL first.")
@click.option(
    "--log-format",
    type=OneOf(["auto", "text", "json"]),
    help="Write the log as text or JSON; auto means text on a terminal.",
)
@click.option(
    "--log-level", type=OneOf(["debug", "info", "warning", "error"]), help="Log this level and above."
)
@click.option(
    "--log-schema",
    type=OneOf(["millhand", "ecs", "otel", "gcp"]),
    help="Name the fields of JSON as Elastic, OpenTelemetry or Google Cloud do.",
)
@click.option(
    "--processes",
    "num_processes",
    type=Whole(1),
    default=1,
    metavar="N",
    help="Run N worker processes and restart any that exits unexpectedly; 1 by default.",
)
@click.option(
    "--otel",
    "is_traced",
    is_flag=True,
    help="Send traces of inserts and attempts, and metrics, as the variables OTEL_… say.",
)
@click.option("--web", "serves_page", is_flag=True, help="Serve the web page too, as millhand web does.")
@click.option("--show-config", is_flag=True, help="Print the settings in force and their origin, and exit.")
@click.pass_obj
def worker(
    config_path: Path | None,
    *,
    target: str | None,
    queues: tuple[str, ...],
    databases: tuple[str, ...],
    soft_stop_timeout: str | None,
    until_empty: bool,
    embedded: bool,
    should_migrate: bool,
    log_format: str | None,
    log_level: str | None,
    log_schema: str | None,
    num_processes: int,
    is_traced: bool,
    serves_page: bool,
    show_config: bool,
) -> int:
    """
    Run a worker until Ctrl-C.

    MODULE:CONFIG names a millhand.Config in your code, or a function that returns one. Without it, the worker runs only
    the built-in jobs: a heartbeat and the orphan cleanup.

    Of several databases, each has a client of its own in this process, with the slots of the configuration. One that does
    not answer is logged and tried again, and the others work. The process exits with 1 if none answers at its start.
    """
    flags = {
        "worker.queues": ("--queue", ",".join(queues) or None),
        "worker.soft_stop_timeout": ("--soft-stop-timeout", soft_stop_timeout),
        "database.embedded": ("--embedded", "true" if embedded else None),
        "log.format": ("--log-format", log_format),
        "log.level": ("--log-level", log_level),
        "log.schema": ("--log-schema", log_schema),
        "otel.enabled": ("--otel", "true" if is_traced else None),
    }
    given = {path: (flag, text) for path, (flag, text) in flags.items() if text is not None}
    settings = load_settings(config_path, flags=given)
    if not show_config:
        configure_logging(
            settings.get("log.format"), settings.get("log.level"), schema=settings.get("log.schema")
        )
    signals = StopSignals()
    stopped = contextlib.nullcontext() if show_config else _stopped_by(signals)
    with start_errors_logged("text" if show_config else settings.get("log.format")), stopped:
        names = worked_names(settings, databases)
        if len(names) == 1:
            settings = settings.in_database(names[0])
        elif names:
            settings = without_orphans(settings)
        if until_empty:
            settings = settings.with_fallback("heartbeat.enabled", value=False, origin="--until-empty")
        config = None
        if target is not None:
            config = load_config(target, Path.cwd())
            signals.retake()
            settings = settings.with_config(config, target)
        run = WorkerRun(
            config=config,
            names=names if len(names) > 1 else (),
            num_compared=take_num_processes(),
            replaced=(
                replaced_queues(config_path, config, target)
                if queues
                else replaced_by_settings(settings, config, target)
            ),
            settings=settings,
            should_migrate=should_migrate,
            target=target,
            until_empty=until_empty,
            page=_page(settings, num_processes, names) if serves_page else None,
        )
        run.check()
        if show_config:
            click.echo("\n".join(shown_settings(settings)))
            return DONE
        if not run.names:
            require_database(settings)
        if num_processes == 1:
            return run.run(signals)
        command = [sys.executable, "-m", "millhand"]
        if config_path is not None:
            command += ["--config", str(config_path)]
        command.append("worker")
        for flag, text in given.values():
            command += [flag, text] if flag not in ("--queue", "--embedded", "--otel") else []
        for flag, texts in (("--queue", queues), ("--database", databases)):
            for text in texts:
                command += [flag, text]
        switches = {"--until-empty": until_empty, "--embedded": embedded, "--migrate": should_migrate}
        switches["--otel"] = is_traced
        command += [flag for flag, is_on in switches.items() if is_on]
        command += [target] if target is not None else []
        return run.supervise(command, num_processes, signals)


@contextlib.contextmanager
def _stopped_by(signals: StopSignals) -> Iterator[None]:
    """
    Take the signals in the block, and exit with 0 at one that arrives before a client or a supervisor listens.

    The import of a configuration may take seconds. Without a handler, the kernel drops a SIGTERM for the first process of a
    container.
    """
    try:
        with signals:
            yield
    except StopRequested as stop:
        logger.info("worker stopped", extra={"signal": stop.name, "completed": 0, "failed": 0})
        raise click.exceptions.Exit(DONE) from None


def _page(settings: Settings, num_processes: int, names: Sequence[str]) -> PageSettings:
    """Return how to serve the page of the databases that the worker works. Raises: ConfigError, WrongUse."""
    if num_processes > 1:
        raise WrongUse(
            f"--web must be left out with several processes, got {num_processes}; run millhand web beside them"
        )
    from millhand.cli.web import page_settings  # noqa: PLC0415 - a worker without the page starts faster

    return page_settings(settings, None, names if len(names) > 1 else ())


class WorkerRun(msgspec.Struct, frozen=True, kw_only=True):
    """
    One run of a worker, from its settings to its exit code.

    `names` has those of several databases, and `num_compared` the processes whose connections it compares with the server's.
    """

    config: Config | None
    names: tuple[str, ...] = ()
    num_compared: int
    replaced: ReplacedQueues | None
    settings: Settings
    should_migrate: bool
    target: str | None
    until_empty: bool
    page: PageSettings | None = None

    def check(self) -> None:
        """Raise for errors that are visible before the start. Raises: ConfigError; WrongUse."""
        config = self.settings.config(self.config)
        self.settings.orphans_config()
        check_observed(self.settings)
        several_settings(self.settings, self.names)
        if self.names and config.blob_store:
            raise WrongUse(
                f"blob_store must be empty with several databases, got {self.target} with one: a bucket belongs to one "
                "database, whose orphan cleanup deletes the blobs of others; run it with --database NAME"
            )
        if self.names and config.archive is not None:
            raise WrongUse(
                "the archive must be of one database, because the files of several would be in one folder; run the worker "
                "with --database NAME, which adds the name to archive.url, or without a url in [archive]"
            )
        # A target without workers is a mistake; every worker has the heartbeat.
        others = self._built_ins().keys() - ({"heartbeat"} if self.target else set())
        if not len(config.workers) and not others:
            raise WrongUse(
                f"{self.target} must have workers, got none; register one with @workers.add() and write "
                "Config(workers=workers)"
                if self.target
                else "a worker must have jobs to work, got none; enable [heartbeat] or [orphans], or name a MODULE:CONFIG"
            )
        if not config.queues and self.settings.origin("worker.queues") == self.target:
            raise WrongUse(
                f'{self.target} must have queues, got none; write Config(queues={{"default": 100}})'
            )
        if not config.queues:
            with self.settings.errors_with_origin("worker"):
                raise ConfigError("queues must name at least one queue, got none; write {default = 100}")
        built_in = [(section, kind) for section, kinds in self._built_ins().items() for kind in kinds]
        for section, kind in built_in:
            if kind in config.workers:
                raise WrongUse(
                    f"kind {kind!r} must be registered once, got it in {self.target} and as the built-in job; "
                    f"rename yours, or set enabled = false in [{section}]"
                )
        built_in_kinds = {kind for _, kind in built_in}
        config.require_workers_of(job for job in config.periodic_jobs if job.kind not in built_in_kinds)

    def run(self, signals: StopSignals) -> int:
        """Run until the worker stops, and return the exit code. The caller has taken the signals."""
        observer = worker_observer(self.settings, self.names)
        if self.names:
            return self._run_several(observer, signals)
        return run_worker(
            self._opened, until_empty=self.until_empty, unblocks=True, observer=observer, signals=signals
        ).exit_code()

    def supervise(self, command: Sequence[str], num_processes: int, signals: StopSignals) -> int:
        """Run `num_processes` processes of a command until they stop, and return the exit code; as `run`."""
        client_id = self.settings.get("worker.client_id")
        if client_id is not None:
            raise WrongUse(
                f"client_id must be unset with several processes, got {client_id!r}; "
                "each process gets an id of its own"
            )

        async def run() -> int:
            supervisor = Supervisor(command, num_processes, until_empty=self.until_empty, observer=observer)
            signals.listen(supervisor.on_signal)
            try:
                async with observer or contextlib.nullcontext():
                    return await supervisor.run()
            finally:
                signals.end()

        observer = supervisor_observer(self.settings, num_processes)
        try:
            # Keeps an embedded database running.
            with contextlib.nullcontext() if self.names else database(self.settings):
                return asyncio.run(run())
        except StopRequested as stop:
            logger.info("worker processes stopped", extra={"signal": stop.name, "num_processes": 0})
            return DONE

    def _run_several(self, observer: WorkerObserver | None, signals: StopSignals) -> int:
        """Run a client for each named database, and return the exit code."""
        from millhand.process.databases_process import run_databases  # noqa: PLC0415 - one database starts faster

        each = several_settings(self.settings, self.names)
        starts = {
            one.database_name: msgspec.structs.replace(self, settings=one, page=None).start_named
            for one in each
        }
        page = self.page
        beside = (
            contextlib.nullcontext if page is None else lambda: page.serving(named_database(each[0]), each[0])
        )
        return run_databases(
            starts, until_empty=self.until_empty, beside=beside, observer=observer, signals=signals
        ).exit_code()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Start]:
        """Yield the function that starts the client, while the database runs."""
        with database(self.settings) as base:
            yield functools.partial(self._start, base)

    async def start_named(self, stack: AsyncExitStack) -> Client:
        """Start the client of one of several databases. Raises: MillhandError."""
        try:
            return await self._start(named_database(self.settings), stack)
        except NotDone as error:
            raise MillhandError(error.message) from error.__cause__

    async def _start(self, base: Database, stack: AsyncExitStack) -> Client:
        driver = base.driver(self.settings)
        await stack.enter_async_context(opened(driver, base.url, base.url_variable))
        if base.is_embedded or self.should_migrate:
            await migrate_all_lines(driver)
        if "orphans" in self._built_ins() and self.settings.get("orphans.sources"):
            await require_schema(driver.pool, driver.schema, LINE_MILLHAND)
        if self.replaced is not None:
            await self.replaced.warn(self.settings.get("worker.queues"), driver)
        if self.page is not None:
            await stack.enter_async_context(self.page.serving(base, self.settings))
        client = Client(driver, self._wired(driver, stack))
        if not client.config.poll_only:  # behind a pooler, the connections are not the server's
            await warn_of_connections(driver, self.num_compared)
        await stack.enter_async_context(exported_metrics(client, self.settings))
        await client.start()
        return client

    def _wired(self, driver: Driver, stack: AsyncExitStack) -> Config:
        settings = self.settings
        workers = Workers() if self.config is None else self.config.workers.copy()
        periodic_jobs: list[PeriodicJob] = [] if self.config is None else [*self.config.periodic_jobs]
        queue = built_in_queue(settings.get("worker.queues"))
        if "orphans" in self._built_ins():
            store = _orphan_store(settings)
            stack.push_async_callback(store.aclose)
            config, interval = settings.orphans_config(), settings.get("orphans.interval")
            with settings.errors_with_origin("orphans"):
                added = jobs.add_orphan_cleanup(
                    workers, driver.pool, store, config, interval=interval, queue=queue
                )
            periodic_jobs.append(added)
        if not settings.get("worker.leader_election"):
            periodic_jobs = []  # the leader inserts them, and this client never leads
        middleware = () if self.config is None else self.config.middleware
        if settings.get("otel.enabled"):
            from millhand.cli.tracing import traced  # noqa: PLC0415 - a worker without traces starts faster

            middleware = traced(middleware, settings)
        own = settings.config(
            self.config, middleware=middleware, periodic_jobs=periodic_jobs, workers=workers
        )
        return with_heartbeat(own, run_on_start=True)

    def _built_ins(self) -> dict[str, tuple[str, ...]]:
        return built_ins(self.settings)


def _orphan_store(settings: Settings) -> storage.ObjectStore:
    """Return the store of the orphan cleanup, in a new directory if the settings name none. Raises: ConfigError."""
    is_default = settings.origin("storage.url") == DEFAULT
    try:
        with settings.errors_with_origin("storage"):
            return storage.open_store(settings.get("storage.url"), create=is_default)
    except ConfigError as error:
        if not is_default:
            raise
        raise ConfigError(f"{error}, or set enabled = false in [orphans]") from error
