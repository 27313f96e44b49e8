"""
Gives back the jobs of clients that are gone: by their silence, not by the age of what they were at.

    silent for two of its reports, and a second later still ─▶ given up ─▶ its jobs go on, at once
    the same, but its session is there: two minutes more    ─▶ the same
    stopped, and left jobs behind                         ─────────────▶ the same
    back under its name, in another life                  ─────────────▶ the same

What becomes of each job is decided by `decide_stranded`, in this order:

    cancellation was asked for ─────────────────────────▶ cancelled
    no attempts left ───────────────────────────────────▶ discarded
    given back `NUM_AT_ONCE` times already ─────────────▶ retryable, when the worker's policy or else the client's says
    any other ──────────────────────────────────────────▶ available at once

Rule 1: the database's clock alone decides, and the statements say again what they were decided by.
Rule 2: nobody is given up by one who was himself away: silence counts from when this client's own reports began to come
        through, so that a database that is back after a while has heard everybody first.
Rule 3: a living client's job is never touched, however long it takes, and whatever its kind. A client that comes back
        after it was given up learns of that by its report, and its outcomes change nothing.

Two that do this at a time do no harm: each row is given back once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from millhand.clock import Clock, rest_seconds
from millhand.driver.protocol import Executor
from millhand.job import AttemptError, ClientId, JobId, JobState
from millhand.maintenance.batch import STATEMENT_SECONDS, BatchService, BatchSize
from millhand.maintenance.pace import WholeLooks
from millhand.retry import RetryPolicy, checked_retry_at
from millhand.runtime.inserter import Inserter
from millhand.store.client_end import (
    End,
    Losses,
    Stranded,
    client_declare_lost,
    job_get_stranded,
    job_give_back_many,
)
from millhand.store.client_errand import RECENTLY
from millhand.store.job import Rescue
from millhand.transition import is_cancel_requested
from millhand.worker import Worker, Workers

logger = logging.getLogger(__name__)

# Nobody else may be there: who comes now, and reports as we do, cannot be given up sooner than in eleven seconds.
PAUSE_SECONDS_MAX = 5.0
MARGIN_SECONDS = 0.02
# A database that stood still answers all that waited at once: reports that were on their way are given so long to arrive.
CONFIRM_SECONDS = 1.0
# Jobs are looked for when clients have ended of late, and now and then all the same.
LOOK_SECONDS = 30.0
# A crash costs seconds. A job that is there each time, though, may be what the crashes come of.
NUM_AT_ONCE = 3
RESCUE_COUNT = "river:rescue_count"

TEXTS = {
    End.LOST: "stopped reporting",
    End.RESTARTED: "ended, and was started again",
    End.STOPPED: "stopped, and left it behind",
}


class ClientRescuer(BatchService):
    """
    Gives clients up, and their jobs back; `inserter` announces these.

    `steady_since` says since when this client has reported in time; None while it does not, and then nothing is done.
    `is_alone` says that its last report has seen nobody else, and then only jobs are looked for, now and then.
    """

    def __init__(
        self,
        pool: Executor,
        inserter: Inserter,
        *,
        client_id: ClientId,
        clock: Clock,
        retry_policy: RetryPolicy,
        steady_since: Callable[[], datetime | None],
        workers: Workers,
        batch_size: BatchSize | None = None,
        is_alone: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(batch_size or BatchSize(clock))
        self.interval_seconds = PAUSE_SECONDS_MAX
        self._after_id = JobId(0)
        self._client_id = client_id
        self._clock = clock
        self._inserter = inserter
        self._is_alone = is_alone
        self._is_whole = True
        self._look_at = 0.0
        self._num_changed = 0  # as the last pass has found
        self._pause_seconds_next = PAUSE_SECONDS_MAX
        self._pool = pool
        self._rest_until = 0.0
        self._retry_policy = retry_policy
        self._steady_since = steady_since
        self._suspect_ids: tuple[ClientId, ...] = ()
        self._whole_looks = WholeLooks(clock)
        self._workers = workers

    async def run(self, started: Callable[[], None]) -> None:
        self._look_at, self._rest_until, self._suspect_ids = 0.0, 0.0, ()
        self._whole_looks.restart()
        await super().run(started)

    def next_pause_seconds(self) -> float:
        return self._pause_seconds_next

    async def run_once(self) -> None:
        steady_since = self._steady_since()
        self._pause_seconds_next = CONFIRM_SECONDS
        if steady_since is None:
            self._suspect_ids = ()
            return
        if self._is_alone():
            self._pause_seconds_next = PAUSE_SECONDS_MAX
            if self._clock.monotonic() >= self._look_at:
                await self._look()
            return
        losses = await self._declare(steady_since)
        num_changed = len(losses.lost_ids) + losses.num_recent
        is_news = bool(losses.lost_ids) or num_changed > self._num_changed
        self._num_changed = num_changed
        if is_news or self._is_look_due():
            await self._look()
        self.probe("looked", num_changed)

    def _is_look_due(self) -> bool:
        """Return whether it is time to look for jobs of the dead; sooner if clients have ended of late."""
        return self._clock.monotonic() >= (self._rest_until if self._num_changed else self._look_at)

    async def _look(self) -> None:
        self._after_id = JobId(0)
        self._is_whole = self._whole_looks.is_due()
        began = self._clock.monotonic()
        # As if it were quick, in case that it fails.
        self._look_at, self._rest_until = began + LOOK_SECONDS, began
        await super().run_once()
        ended = self._clock.monotonic()
        self._look_at = ended + rest_seconds(ended - began, least=LOOK_SECONDS)
        self._rest_until = ended + rest_seconds(ended - began)

    async def _declare(self, steady_since: datetime) -> Losses:
        """Give up who is silent."""
        query = client_declare_lost(
            id=self._client_id, recently=RECENTLY, steady_since=steady_since, suspect_ids=self._suspect_ids
        )
        losses = await self._pool.run(query.within(STATEMENT_SECONDS))
        for id in losses.lost_ids:
            logger.warning("client declared dead", extra={"client_id": id})
        self._suspect_ids = losses.suspect_ids
        if not losses.suspect_ids:
            self._pause_seconds_next = _pause_seconds(losses.seconds_left)
        return losses

    async def run_batch(self, num_rows: int) -> int:
        query = job_get_stranded(after_id=self._after_id, is_whole=self._is_whole, limit=num_rows)
        found = await self._pool.run(query.within(STATEMENT_SECONDS))
        if not found:
            return 0
        rescues = {one.job.id: (one, self._decide(one)) for one in found}
        write = job_give_back_many([one.job for one in found], [rescue for _, rescue in rescues.values()])
        ids = await self._pool.run(write.within(STATEMENT_SECONDS))
        given_back = [rescues[id] for id in sorted(ids)]
        for one, rescue in given_back:
            self._tell(one, rescue)
        if given_back:
            logger.info("jobs rescued", extra={"num_jobs": len(given_back)})
        self._inserter.announce(
            {one.job.queue for one, rescue in given_back if rescue.state is JobState.AVAILABLE}
        )
        self._after_id = found[-1].job.id
        return len(found)

    def _decide(self, one: Stranded) -> Rescue:
        return decide_stranded(one, self._workers.get(one.job.kind), retry_policy=self._retry_policy)

    def _tell(self, one: Stranded, rescue: Rescue) -> None:
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


def _pause_seconds(seconds_left: float | None) -> float:
    """Return when to look again; `seconds_left` is when the next one may be due, None if nobody is waited for."""
    if seconds_left is None:
        return PAUSE_SECONDS_MAX
    return min(seconds_left + MARGIN_SECONDS, PAUSE_SECONDS_MAX) if seconds_left > 0 else CONFIRM_SECONDS


def decide_stranded(one: Stranded, worker: Worker | None, *, retry_policy: RetryPolicy) -> Rescue:
    """Return what becomes of a job whose client is gone; `worker` is that of its kind, None if there is none here."""
    job, at = one.job, one.at
    text = f"Job rescued by ClientRescuer: client {job.attempted_by[-1]!r} {TEXTS[one.end]}"
    error = AttemptError(at, job.attempt, text)
    if is_cancel_requested(job):
        return Rescue(job.id, JobState.CANCELLED, error, finalized_at=at)
    if job.attempt >= job.max_attempts:
        return Rescue(job.id, JobState.DISCARDED, error, finalized_at=at)
    if num_rescues(job.metadata.get(RESCUE_COUNT)) < NUM_AT_ONCE:
        return Rescue(job.id, JobState.AVAILABLE, error, scheduled_at=at)
    policy = retry_policy if worker is None or worker.retry is None else worker.retry
    return Rescue(job.id, JobState.RETRYABLE, error, scheduled_at=checked_retry_at(policy, job, at))


def num_rescues(count: object) -> float:
    """Return how often a job was rescued, as its metadata say; what is no number counts as none, as for the statement."""
    return count if isinstance(count, int | float) and not isinstance(count, bool) else 0
