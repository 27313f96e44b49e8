"""
Declares clients dead that miss their heartbeats, and rescues the jobs of clients that are gone.

    two heartbeats missed, and none for another second ─▶ declared dead ─▶ its jobs are rescued
    the same, but PostgreSQL still has its session ─────▶ declared dead two minutes later
    stopped, and left jobs running ─────────────────────▶ its jobs are rescued
    restarted with the same id ─────────────────────────▶ its jobs from before the restart are rescued

`decide_stranded` decides about each job, in this order:

    cancellation was requested ─────────────────────────▶ cancelled
    no attempts left ───────────────────────────────────▶ discarded
    rescued `NUM_IMMEDIATE_RESCUES` times already ──────▶ retryable, by the worker's retry policy, else the client's
    otherwise ──────────────────────────────────────────▶ available at once

Rule 1: only the database's clock decides. The UPDATE checks again what the SELECT found.
Rule 2: a client that has missed its own heartbeats declares no other client dead. It counts missed heartbeats only from
        `steady_since`, when its own began to arrive in time. So after an outage, each living client can send one first.
Rule 3: a living client's job is never rescued, whatever its age or kind. If a client returns after it was declared dead,
        its next heartbeat finds that out, and its outcomes for the rescued jobs are not written.
Rule 4: a job whose rescue the database refuses is logged, and blocks no other. The next pass tries it again.

Two leaders may do this at once: each row is rescued once.
Model: models/rescue.tla, `Suspect` to `Rescue`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from millhand.core.clock import Clock, rest_seconds
from millhand.core.errors import DriverError
from millhand.core.job import AttemptError, ClientId, JobId, JobState
from millhand.core.log.logger import logger_of
from millhand.core.retry import RetryPolicy, checked_retry_at
from millhand.core.transition import is_cancel_requested
from millhand.core.worker import Worker, Workers
from millhand.db.driver.protocol import Executor
from millhand.engine.client_metrics import ClientMetrics
from millhand.engine.inserter import Inserter
from millhand.engine.maintenance.batch import (
    STATEMENT_SECONDS,
    BatchService,
    BatchSize,
    log_not_rescued,
    report_discarded,
    write_allowed,
)
from millhand.engine.maintenance.scan_scope import FullScanTimer
from millhand.engine.registration import Registration
from millhand.engine.store.client import RECENTLY
from millhand.engine.store.client_end import (
    End,
    Losses,
    Stranded,
    client_declare_lost,
    job_get_stranded,
    job_rescue_stranded_many,
)
from millhand.engine.store.job import Rescue

logger = logger_of(__name__)

# With the default heartbeats, a client that starts now can be declared dead after eleven seconds at the earliest.
PAUSE_SECONDS_MAX = 5.0
MARGIN_SECONDS = 0.02
# A database that was stalled answers all waiting statements at once. Heartbeats among them have this long to arrive.
CONFIRM_SECONDS = 1.0
# How often to search for jobs when no client started or ended recently.
SEARCH_SECONDS = 30.0
# A job that ran during so many crashes may cause them. From then on it is retried with backoff.
NUM_IMMEDIATE_RESCUES = 3
RESCUE_COUNT = "river:rescue_count"

TEXTS = {
    End.LOST: "missed its heartbeats",
    End.RESTARTED: "restarted",
    End.STOPPED: "stopped and left the job running",
}


class ClientRescuer(BatchService):
    """
    Declares clients dead and rescues their jobs; `inserter` announces the available ones.

    `registration.steady_since` is None while this client's own heartbeats fail; a pass then does nothing. While
    `registration.is_alone`, a pass only searches for jobs, every `SEARCH_SECONDS`.
    """

    interval_seconds = PAUSE_SECONDS_MAX

    def __init__(
        self,
        pool: Executor,
        inserter: Inserter,
        *,
        client_id: ClientId,
        clock: Clock,
        metrics: ClientMetrics | None = None,
        registration: Registration,
        retry_policy: RetryPolicy,
        workers: Workers,
        batch_size: BatchSize | None = None,
    ) -> None:
        super().__init__(pool, clock, batch_size)
        self._after_id = JobId(0)
        self._client_id = client_id
        self._full_scan_timer = FullScanTimer(clock)
        self._inserter = inserter
        self._is_full = True
        self._metrics = ClientMetrics() if metrics is None else metrics
        self._num_changed = 0  # clients that started or ended recently, in the last pass
        self._pause_seconds_next = PAUSE_SECONDS_MAX
        self._registration = registration
        self._rest_until = 0.0
        self._retry_policy = retry_policy
        self._search_at = 0.0
        self._suspect_ids: tuple[ClientId, ...] = ()
        self._workers = workers

    async def run(self, started: Callable[[], None]) -> None:
        self._search_at, self._rest_until, self._suspect_ids = 0.0, 0.0, ()
        self._full_scan_timer.restart()
        await super().run(started)

    def next_pause_seconds(self) -> float:
        return self._pause_seconds_next

    async def run_once(self) -> None:
        steady_since = self._registration.steady_since
        self._pause_seconds_next = CONFIRM_SECONDS
        if steady_since is None:
            self._suspect_ids = ()
            return
        if self._registration.is_alone:
            self._pause_seconds_next = PAUSE_SECONDS_MAX
            if self._clock.monotonic() >= self._search_at:
                await self._search()
            return
        losses = await self._declare(steady_since)
        num_changed = len(losses.lost_ids) + losses.num_recent
        has_changed = bool(losses.lost_ids) or num_changed > self._num_changed
        self._num_changed = num_changed
        if has_changed or self._is_search_due():
            await self._search()
        self.probe("checked", num_changed)

    def _is_search_due(self) -> bool:
        """Return whether a search for jobs is due: soon after clients started or ended, else every `SEARCH_SECONDS`."""
        return self._clock.monotonic() >= (self._rest_until if self._num_changed else self._search_at)

    async def _search(self) -> None:
        self._after_id = JobId(0)
        self._is_full = self._full_scan_timer.take_due()
        began = self._clock.monotonic()
        # Also set before the search, which may fail.
        self._search_at, self._rest_until = began + SEARCH_SECONDS, began
        await super().run_once()
        ended = self._clock.monotonic()
        self._search_at = ended + rest_seconds(ended - began, least=SEARCH_SECONDS)
        self._rest_until = ended + rest_seconds(ended - began)

    async def _declare(self, steady_since: datetime) -> Losses:
        """Declare the suspects dead that still send no heartbeat, and remember new suspects."""
        query = client_declare_lost(
            id=self._client_id, recently=RECENTLY, steady_since=steady_since, suspect_ids=self._suspect_ids
        )
        losses = await self._pool.run(query.within(STATEMENT_SECONDS))
        for id in losses.lost_ids:
            logger.warning("client declared dead", extra={"client_id": id})
        self._metrics.num_declared_dead += len(losses.lost_ids)
        self._suspect_ids = losses.suspect_ids
        if not losses.suspect_ids:
            self._pause_seconds_next = _pause_seconds(losses.seconds_left)
        return losses

    async def run_batch(self, num_rows: int) -> int:
        query = job_get_stranded(after_id=self._after_id, is_full=self._is_full, limit=num_rows)
        found = await self._pool.run(query.within(STATEMENT_SECONDS))
        if not found:
            return 0
        await write_allowed([(one, self._decide(one)) for one in found], self._rescue, _log_refused)
        self._after_id = found[-1].job.id
        return len(found)

    async def _rescue(self, rescues: Sequence[tuple[Stranded, Rescue]]) -> None:
        write = job_rescue_stranded_many([one.job for one, _ in rescues], [rescue for _, rescue in rescues])
        ids = {*await self._pool.run(write.within(STATEMENT_SECONDS))}
        rescued = [(one, rescue) for one, rescue in rescues if one.job.id in ids]
        for one, rescue in rescued:
            self._log_rescued(one, rescue)
            report_discarded(one.job, rescue, self._metrics)
        if rescued:
            logger.info("jobs rescued", extra={"num_jobs": len(rescued)})
            self._metrics.add_rescued(self.name, len(rescued))
        self._inserter.announce(
            {one.job.queue for one, rescue in rescued if rescue.state is JobState.AVAILABLE}
        )

    def _decide(self, one: Stranded) -> Rescue:
        return decide_stranded(one, self._workers.get(one.job.kind), retry_policy=self._retry_policy)

    def _log_rescued(self, one: Stranded, rescue: Rescue) -> None:
        job = one.job
        logger.warning(
            "job rescued",
            extra={
                "attempt": job.attempt,
                "client_id": job.attempted_by[-1],
                "job_id": job.id,
                "kind": job.kind,
                "max_attempts": job.max_attempts,
                "queue": job.queue,
                "reason": TEXTS[one.end],
                "state": rescue.state.value,
            },
        )
        self.probe("rescued", job.id)


def _log_refused(refused: tuple[Stranded, Rescue], error: DriverError) -> None:
    log_not_rescued(refused[0].job, error)


def _pause_seconds(seconds_left: float | None) -> float:
    """Return the pause before the next check; `seconds_left` is None if no other client sends heartbeats."""
    if seconds_left is None:
        return PAUSE_SECONDS_MAX
    return min(seconds_left + MARGIN_SECONDS, PAUSE_SECONDS_MAX) if seconds_left > 0 else CONFIRM_SECONDS


def decide_stranded(one: Stranded, worker: Worker | None, *, retry_policy: RetryPolicy) -> Rescue:
    """Return the rescue of a job whose client is gone; `worker` is this client's for its kind, if any."""
    job, at = one.job, one.at
    text = f"Job rescued by ClientRescuer: client {job.attempted_by[-1]!r} {TEXTS[one.end]}"
    error = AttemptError(at, job.attempt, text)
    if is_cancel_requested(job):
        return Rescue(job.id, JobState.CANCELLED, error, finalized_at=at)
    if job.attempt >= job.max_attempts:
        return Rescue(job.id, JobState.DISCARDED, error, finalized_at=at)
    if num_rescues(job.metadata.get(RESCUE_COUNT)) < NUM_IMMEDIATE_RESCUES:
        return Rescue(job.id, JobState.AVAILABLE, error, scheduled_at=at)
    policy = retry_policy if worker is None or worker.retry is None else worker.retry
    return Rescue(job.id, JobState.RETRYABLE, error, scheduled_at=checked_retry_at(policy, job, at))


def num_rescues(count: object) -> float:
    """Return the metadata's count of rescues; a value that is no number counts as 0, as in SQL."""
    return count if isinstance(count, int | float) and not isinstance(count, bool) else 0
