"""The orphan cleanup: a periodic job around `millhand.orphans`, which compares rows with objects and mends safely."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from millhand.driver.protocol import Executor
from millhand.errors import JobSnooze
from millhand.insert_opts import InsertOpts
from millhand.job import Job, JobState
from millhand.orphans import OrphansConfig, RunReport, help_run, reconcile
from millhand.orphans.event import OnEvent
from millhand.orphans.report.progress import ProgressLog, expected_objects
from millhand.periodic import PeriodicJob, every
from millhand.storage import ObjectStore
from millhand.unique import UniqueOpts
from millhand.worker import Workers

logger = logging.getLogger(__name__)

INTERVAL = timedelta(hours=1)
# A bucket of 10 million objects takes minutes; what takes six hours does not come to an end. A run that is cut short
# goes on where it was.
TIMEOUT = timedelta(hours=6)
MAX_ATTEMPTS = 3
# What is in the way may be the lease of a worker that was killed; it runs out in a minute, and its run is gone on with.
BUSY_FOR = timedelta(minutes=1)
UNFINISHED = (JobState.AVAILABLE, JobState.PENDING, JobState.RUNNING, JobState.SCHEDULED)
NO_SOURCES = "no sources are declared; say in [[orphans.sources]] of millhand.toml which rows name objects"


@dataclass(frozen=True, slots=True)
class OrphanCleanup:
    """The args of the orphan cleanup: what it does is a setting of the worker, not of the job."""

    kind: ClassVar[str] = "orphan_cleanup"


@dataclass(frozen=True, slots=True)
class OrphanHelp:
    """The args of a job that helps a run: some of its partitions are listed and judged by another worker."""

    kind: ClassVar[str] = "orphan_help"

    run_id: int


def add_orphan_cleanup(
    workers: Workers,
    executor: Executor,
    store: ObjectStore,
    config: OrphansConfig,
    *,
    interval: timedelta = INTERVAL,
    queue: str = "default",
    on_event: OnEvent | None = None,
) -> PeriodicJob:
    """
    Register the cleanup's worker and return its periodic job, which also runs when a client becomes leader.

    `executor` reads the sources and keeps the ledger: the `pool` of a driver. It and `store` stay the caller's to close.
    One run is inserted per interval; should one last longer, the next finds it at work and comes back in a minute.
    `on_event` is told of each run's end and of alerts, in the client's loop: it must not block.
    With `helpers` in `config`, a run over a large bucket inserts jobs of kind `orphan_help`, which whoever works `queue`
    with the same settings shares it by.

    Raises: ConfigError for an interval that cannot be, or a kind `orphan_cleanup` or `orphan_help` that is registered.
    """

    @workers.add(timeout=TIMEOUT)
    async def clean_up(job: Job[OrphanCleanup]) -> None:
        if not config.sources:
            _log_nothing_declared(config)
            return
        progress = ProgressLog(await expected_objects(executor, store.url))
        report = await reconcile(
            executor,
            store,
            config,
            progress=progress,
            on_event=on_event,
            ask_for_help=lambda run_id, num_helpers: _insert_help(job, run_id, num_helpers),
        )
        job.record_output(report.fields())
        _log_report(report)
        if report.state == "busy":
            raise JobSnooze(BUSY_FOR)

    @workers.add(timeout=TIMEOUT)
    async def help_out(job: Job[OrphanHelp]) -> None:
        num_partitions = await help_run(executor, store, config, job.args.run_id)
        job.record_output({"partitions": num_partitions})
        logger.info("orphan cleanup helped", extra={"job_id": job.id, "partitions": num_partitions})

    period = max(interval, timedelta(seconds=1))
    opts = InsertOpts(
        max_attempts=MAX_ATTEMPTS,
        queue=queue,
        unique=UniqueOpts(by_period=period, by_queue=True, by_state=UNFINISHED),
    )
    return every(interval, OrphanCleanup(), id="orphan_cleanup", opts=opts, run_on_start=True)


async def _insert_help(job: Job[OrphanCleanup], run_id: int, num_helpers: int) -> None:
    # Once each: a helper that fails is no loss, for the run does what nobody else does.
    opts = InsertOpts(max_attempts=1, queue=job.queue)
    await job.client.insert_many([(OrphanHelp(run_id=run_id), opts)] * num_helpers)


def _log_report(report: RunReport) -> None:
    fields = report.fields()
    if report.state == "refused":
        logger.warning("orphan cleanup refused", extra={**fields, "reason": "; ".join(report.refusals)})
    elif report.state == "busy":
        logger.info(
            "orphan cleanup skipped", extra={"mode": report.mode.value, "reason": "another run is at it"}
        )
    else:
        logger.info("orphan cleanup completed", extra=fields)


def _log_nothing_declared(config: OrphansConfig) -> None:
    logger.info(
        "orphan cleanup completed",
        extra={
            "mode": config.mode.value,
            "objects": 0,
            "rows": 0,
            "orphan_objects": 0,
            "abandoned_rows": 0,
            "missing": 0,
            "deleted": 0,
            "refused": 0,
            "seconds": 0.0,
            "reason": NO_SOURCES,
        },
    )
