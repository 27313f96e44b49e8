"""The restore of removed objects: a job that the web page inserts, because only workers have the keys of the store."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from millhand.core.errors import ConfigError, JobCancel
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState, Json
from millhand.core.log.logger import logger_of
from millhand.core.unique import REQUIRED_STATES, UniqueOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.protocol import Executor
from millhand.orphans import RestoreReport, restore
from millhand.storage import ObjectStore

logger = logger_of(__name__)

# The quarantine of a large run is restored one object after the other. An attempt that is interrupted loses nothing.
TIMEOUT = timedelta(hours=6)
MAX_ATTEMPTS = 5
NUM_FAILED_SHOWN = 100
OPTS = InsertOpts(
    max_attempts=MAX_ATTEMPTS,
    unique=UniqueOpts(by_args=True, by_state=REQUIRED_STATES | {JobState.RETRYABLE}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanRestore:
    """What to restore from quarantine: all of one run, all below a prefix, or one key. `store` is the URL of its store."""

    kind: ClassVar[str] = "orphan_restore"
    insert_opts: ClassVar[InsertOpts] = OPTS

    store: str
    run: int | None = None
    prefix: str | None = None
    key: str | None = None


def register_orphan_restore(workers: Workers, executor: Executor, store: ObjectStore) -> None:
    """Register the worker of the restore. Raises: ConfigError if the kind is registered already."""

    @workers.add(timeout=TIMEOUT)
    async def restore_orphans(job: Job[OrphanRestore]) -> None:
        args = job.args
        if args.store != store.url:
            raise ConfigError(
                f"store must be the one of this worker, got {args.store!r} and not {store.url!r}; "
                "let the workers of each store have a queue of their own"
            )
        report = await restore(executor, store, run=args.run, prefix=args.prefix, key=args.key)
        job.record_output(output_of(report))
        logger.info(
            "orphans restored", extra={"bucket": store.url, "job_id": job.id, "restored": report.restored}
        )
        if report.is_empty:
            raise JobCancel("nothing that was removed matches, so nothing was restored")
        if report.failed:
            key, reason = report.failed[0]
            raise JobCancel(f"{len(report.failed):,} keys cannot be restored, the first is {key!r}: {reason}")


def output_of(report: RestoreReport) -> dict[str, Json]:
    """Return the output of the job: the counts, and the first keys that could not be restored, with the reason."""
    return {
        "restored": report.restored,
        "rows": report.rows,
        "kept": report.kept,
        "already": report.already,
        "failed": [{"key": key, "reason": reason} for key, reason in report.failed[:NUM_FAILED_SHOWN]],
    }
