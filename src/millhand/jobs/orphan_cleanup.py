"""The orphan cleanup: a periodic job that compares rows with objects and removes objects that no row references."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from millhand.core.errors import JobSnooze
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState
from millhand.core.log.logger import logger_of
from millhand.core.periodic import PeriodicJob, every
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.protocol import Executor
from millhand.jobs.orphan_restore import register_orphan_restore
from millhand.orphans import OrphansConfig, RunReport, reconcile
from millhand.orphans.event import OnEvent
from millhand.orphans.report.progress import ProgressLog, expected_objects
from millhand.orphans.sources.blobs import with_blobs
from millhand.storage import ObjectStore

logger = logger_of(__name__)

INTERVAL = timedelta(hours=1)
# A bucket of 10 million objects takes minutes; a run of six hours does not end. The next attempt continues where this
# one stopped.
TIMEOUT = timedelta(hours=6)
MAX_ATTEMPTS = 3
# A worker that was killed may still hold the run. Its lease expires in a minute, and the next attempt takes the run over.
BUSY_FOR = timedelta(minutes=1)
UNFINISHED = (JobState.AVAILABLE, JobState.PENDING, JobState.RUNNING, JobState.SCHEDULED)
NO_SOURCES = "no sources are declared; declare the tables that reference objects in [[orphans.sources]] of millhand.toml"


@dataclass(frozen=True, slots=True)
class OrphanCleanup:
    """The args of the orphan cleanup: none, because the worker's settings control it."""

    kind: ClassVar[str] = "orphan_cleanup"


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

    It also registers the worker of `OrphanRestore`, by which the web page restores objects.

    `executor`, the `pool` of a driver, reads the sources and keeps the ledger. The caller closes it and `store`.
    One run is inserted per interval. If one lasts longer, the next finds it at work and tries again in a minute.
    `on_event` is called at the end of each run and for alerts, in the client's event loop: it must not block.

    Raises: ConfigError for an impossible interval, or if a kind `orphan_cleanup` or `orphan_restore` is registered already.
    """

    @workers.add(timeout=TIMEOUT)
    async def clean_up(job: Job[OrphanCleanup]) -> None:
        if not config.sources and not (await with_blobs(executor, store, config)).sources:
            nothing = RunReport(bucket=store.url, mode=config.mode, state="completed").fields()
            logger.info("orphan cleanup completed", extra={**nothing, "reason": NO_SOURCES})
            return
        progress = ProgressLog(await expected_objects(executor, store.url))
        report = await reconcile(executor, store, config, progress=progress, on_event=on_event)
        job.record_output(report.fields())
        _log_report(report)
        if report.state == "busy":
            raise JobSnooze(BUSY_FOR)

    register_orphan_restore(workers, executor, store)
    period = max(interval, timedelta(seconds=1))
    opts = InsertOpts(
        max_attempts=MAX_ATTEMPTS,
        queue=queue,
        unique=UniqueOpts(by_period=period, by_queue=True, by_state=UNFINISHED),
    )
    return every(interval, OrphanCleanup(), id="orphan_cleanup", opts=opts, run_on_start=True)


def _log_report(report: RunReport) -> None:
    fields = report.fields()
    if report.state == "aborted":
        logger.warning("orphan cleanup aborted", extra={**fields, "reason": "; ".join(report.abort_reasons)})
    elif report.state == "busy":
        logger.info(
            "orphan cleanup skipped",
            extra={"mode": report.mode.value, "reason": "another run is in progress"},
        )
    else:
        logger.info("orphan cleanup completed", extra=fields)
