"""
Fetches jobs of one queue while that has a limit.

Rule 1: a job is fetched by its admission, which gives it a slot. The database counts the slots, so the limit holds for all
        clients together.
Rule 2: a collect comes before an admission when jobs may have arrived: after a notification, and with each poll. It lets
        available jobs wait for slots and opens their partitions. Jobs of kinds that this client does not know stay available
        for workers in other languages, unless these share the queue or the limit is in order.
Rule 3: a collect or an admission that left something, because others had it locked, is repeated after a growing pause. For a
        partition or an arrival, which another client's statement has, it stays short; for a job, which a user's
        transaction has, it does not.
Rule 4: in a queue that Go workers share, jobs that are available and have slots are fetched after a collect, until there are
        none. They come before jobs that wait for slots, so no cooldown delays them: until then no other job starts.
        They are marked running by then, so they start even if the database refuses the admission after them.
Rule 5: a fetch also completes the jobs that the completer has given it, so that jobs which end and those that take their
        slots need one statement. It does so at once, without a collect, and the next fetch collects. That one follows also
        if no worker is free, because each completion may start a job: then it only collects.
Rule 6: in order, an admission starts no job before an available one of its partition. So a fetch collects all available jobs
        before it admits any, and also after an admission that found some.

`models/limits.tla` has these steps: CollectBegin and CollectCommit, AdmitBegin, AdmitLock and AdmitCommit, and Complete.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

from millhand.core.clock import backoff_seconds
from millhand.core.errors import ConnectionLost, DriverError
from millhand.core.job import ClientId, JobId, JobRow
from millhand.core.limit import Limit, QueueLimit
from millhand.db.driver.protocol import Executor
from millhand.engine.pending_change import EndedJobs
from millhand.engine.queue_rules import Fetched, QueueFetch, RunningIds
from millhand.limits.job_store import (
    BATCH_SIZE,
    Admission,
    Collected,
    limited_job_admit,
    limited_job_collect,
    limited_job_complete_and_admit,
    limited_job_get_available,
    limited_job_get_partition_keys,
)

# The pauses of Rule 3.
AGAIN_SECONDS_MIN = 0.002
CONTENDED_SECONDS_MAX = 0.02
LOCKED_SECONDS_MAX = 0.5
# A fetch that completes so many jobs may start as many, although that is more than half of the workers: it takes no longer
# than the jobs need to end, so there is nothing to overlap.
ENDED_MAX = 100
# In place of the key of a partition: a job that was fetched before its queue had a limit has none.
NO_PLACE = ""


class LimitedFetch(QueueFetch):
    """
    Fetches for one producer while its queue is one of `limits`.

    `running_ids` returns the jobs that run here. Concurrency: one fetch at a time.
    """

    def __init__(
        self,
        queue: str,
        pool: Executor,
        *,
        client_id: ClientId,
        kinds: Sequence[str] | None,
        limits: Callable[[], Mapping[str, QueueLimit]],
        running_ids: RunningIds,
    ) -> None:
        self._client_id = client_id
        self._collect_again_in_seconds: float | None = None
        self._completed: asyncio.Future[list[JobId] | None] | None = (
            None  # set while there are ended jobs to complete
        )
        self._ended = EndedJobs([], [], [])
        self._has_left_jobs = False  # at the last collect
        self._is_limit_reached = False  # at the last admission
        self._kinds = kinds
        self._limits = limits
        self._num_again = 0  # how many admissions in a row left something
        self._num_collect_again = 0  # the same of collects
        self._partition_keys: dict[JobId, str] = {}  # of jobs that run here, for a limit of each client
        self._pool = pool
        self._queue = queue
        self._running_ids = running_ids
        self.has_available = False  # whether available jobs may have slots, as far as this client knows
        self.is_collect_due = False  # after a fetch that completed jobs in place of a collect
        self.may_have_arrived = True
        self.num_ended = 0  # jobs that the next fetch completes; if there are any, it must come at once

    @property
    def completes(self) -> bool:
        limit = self._limits().get(self._queue)
        return limit is not None and is_only_at_once(limit.limit)

    def size(self, num_max: int, max_workers: int) -> int:
        return min(num_max, max(max_workers // 2, min(self.num_ended, ENDED_MAX), 1))

    def complete(self, ended: EndedJobs) -> Awaitable[list[JobId] | None]:
        self._ended, self.num_ended = ended, len(ended.ids)
        self._completed = asyncio.get_running_loop().create_future()
        return self._completed

    def give_back(self) -> None:
        if self._completed is not None and not self._completed.done():
            self._completed.set_result(None)
        self._completed, self.num_ended = None, 0
        self.is_collect_due = False
        # A collect leads to the available jobs again, if the queue still has its limit.
        self.may_have_arrived |= self.has_available
        self.has_available = False

    async def fetch(self, num_max: int) -> Fetched:
        """Return up to `num_max` jobs, marked running; 0 only completes or collects. Raises: what the driver raises."""
        queue_limit = self._limits()[self._queue]
        self._collect_again_in_seconds = None
        self.has_available &= queue_limit.limit.shared
        if self._completed is not None:
            # Jobs that have slots come before others: the next fetch takes them.
            admission = await self._complete_and_admit(0 if self.has_available else num_max, self._completed)
            self.is_collect_due = self.may_have_arrived
            return self._limited_jobs(admission, admission.jobs, has_released=True)
        if has_collected := self.may_have_arrived:
            await self._collect()
            self.has_available = queue_limit.limit.shared
        if num_max <= 0 or (self._has_left_jobs and queue_limit.limit.in_order):
            return self._without_admission([], 0.0 if self.may_have_arrived else None)
        available = await self._fetch_available(num_max) if self.has_available else []
        if len(available) >= num_max:
            return self._without_admission(available, 0.0)
        self.has_available = False
        try:
            admission = await self._admit(num_max - len(available), queue_limit)
        except DriverError as error:
            # The search after a lost answer finds all jobs, also those that a lost admission marked.
            if not available or isinstance(error, ConnectionLost):
                raise
            return self._without_admission(available, 0.0)  # the next fetch raises what remains
        # If others have them locked, the collect has said when another may find them.
        self.may_have_arrived |= admission.has_uncollected and not has_collected
        return self._limited_jobs(admission, available + admission.jobs)

    async def _admit(self, limit: int, queue_limit: QueueLimit) -> Admission:
        admission = await self._pool.run(
            limited_job_admit(
                queue=self._queue,
                limit=limit,
                client_id=self._client_id,
                kinds=self._kinds,
                num_running_here=await self._num_running_here(queue_limit),
            )
        )
        if queue_limit.limit.at_once_per_client is not None:
            self._partition_keys.update(admission.partition_keys)
        return admission

    async def _collect(self) -> None:
        self.may_have_arrived = self.is_collect_due = False
        try:
            collected = await self._pool.run(limited_job_collect(self._queue, kinds=self._kinds))
        except BaseException:
            self.may_have_arrived = True
            raise
        # A notification may have come meanwhile.
        self.may_have_arrived |= BATCH_SIZE in (collected.num_jobs, collected.num_arrivals)
        self._has_left_jobs = collected.num_jobs == BATCH_SIZE
        self._is_limit_reached &= not collected.num_partitions
        self._collect_again_in_seconds = self._seconds_to_next_collect(collected)

    def _seconds_to_next_collect(self, collected: Collected) -> float | None:
        if not (collected.is_contended or collected.has_locked_jobs):
            self._num_collect_again = 0
            return None
        self._num_collect_again += 1
        ceiling = CONTENDED_SECONDS_MAX if collected.is_contended else LOCKED_SECONDS_MAX
        return backoff_seconds(self._num_collect_again, first=AGAIN_SECONDS_MIN, ceiling=ceiling)

    async def _complete_and_admit(
        self, limit: int, completed: asyncio.Future[list[JobId] | None]
    ) -> Admission:
        ended = self._ended
        query = limited_job_complete_and_admit(
            queue=self._queue,
            limit=limit,
            client_id=self._client_id,
            ids=ended.ids,
            attempted_ats=ended.attempted_ats,
            finalized_ats=ended.finalized_ats,
            kinds=self._kinds,
        )
        answer = None
        try:
            answer = await self._pool.run(query)
        finally:
            # After a failure the completer writes the jobs: it has its own retries, and the admission may be what failed.
            self._completed, self.num_ended = None, 0
            if not completed.done():
                completed.set_result(answer.completed_ids if answer is not None else None)
        return answer.admission

    def _limited_jobs(
        self, admission: Admission, jobs: list[JobRow], *, has_released: bool = False
    ) -> Fetched:
        self._is_limit_reached = not (admission.has_more or admission.has_open or admission.is_contended)
        return Fetched(
            jobs,
            again_in_seconds=self._again_in_seconds(admission, has_released=has_released),
            needs_release=self._is_limit_reached,
            collect_in_seconds=self._collect_again_in_seconds,
            opens_in_seconds=admission.opens_in_seconds,
        )

    def _without_admission(self, jobs: list[JobRow], again_in_seconds: float | None) -> Fetched:
        return Fetched(
            jobs,
            again_in_seconds=again_in_seconds,
            needs_release=self._is_limit_reached and not jobs,
            collect_in_seconds=self._collect_again_in_seconds,
            opens_in_seconds=None,
        )

    async def _fetch_available(self, limit: int) -> list[JobRow]:
        return await self._pool.run(
            limited_job_get_available(
                queue=self._queue, limit=limit, client_id=self._client_id, kinds=self._kinds
            )
        )

    async def _num_running_here(self, queue_limit: QueueLimit) -> Counter[str]:
        """Return how many jobs of each partition run here, also those that a lost fetch or a fetch before the limit got."""
        if queue_limit.limit.at_once_per_client is None:
            return Counter()
        keys, ids = self._partition_keys, set(self._running_ids())
        if unknown := sorted(ids - keys.keys()):
            found = await self._pool.run(limited_job_get_partition_keys(unknown))
            keys = {**keys, **{id: found.get(id, NO_PLACE) for id in unknown}}
        self._partition_keys = {id: keys[id] for id in ids}
        counted = Counter(self._partition_keys.values())
        del counted[NO_PLACE]
        return counted

    def _again_in_seconds(self, admission: Admission, *, has_released: bool) -> float | None:
        left = admission.has_more or admission.is_contended
        is_next_known = self.may_have_arrived or self.has_available or admission.num_stale
        if is_next_known or (left and (admission.jobs or has_released)):
            self._num_again = 0
            return 0.0
        if not left:
            self._num_again = 0
            return None
        self._num_again += 1
        ceiling = CONTENDED_SECONDS_MAX if admission.is_contended else LOCKED_SECONDS_MAX
        return backoff_seconds(self._num_again, first=AGAIN_SECONDS_MIN, ceiling=ceiling)


def is_only_at_once(limit: Limit) -> bool:
    """Return whether a limit is a number at once for each partition and nothing else, as Rule 5 needs it."""
    has_more = limit.at_once_per_client or limit.total or limit.rate or limit.in_order
    return limit.at_once is not None and not has_more
