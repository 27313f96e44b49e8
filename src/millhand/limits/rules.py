"""
The limits of one client, as its engine obeys them.

Rule 1: a job of a queue with a limit waits for a slot as a pending job. A job that was inserted as available, as by COPY
        or SQL, waits from the next fetch on.
Rule 2: slots are released when outcomes are written. So a fetch asks for half of the workers at most, and the other half
        works meanwhile.
Rule 3: while the tables of limits are gone, jobs are inserted and ended as if there were no limits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from millhand.core.clock import Clock
from millhand.core.config import QueueConfig
from millhand.core.errors import DriverError
from millhand.core.insert_opts import InsertParams, InsertResult
from millhand.core.limit import QueueLimit
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.engine.capability import ClientContext
from millhand.engine.pending_change import Pending
from millhand.engine.queue_rules import EndedByRules, QueueRules, RunningIds
from millhand.engine.store.job_insert import job_insert_many
from millhand.engine.waiting_jobs import WaitingJobs
from millhand.limits.job_store import (
    limited_job_complete_many,
    limited_job_delete_completed_many,
    limited_job_insert_many,
    limited_job_set_state_if_running_many,
)
from millhand.limits.waiting_jobs import WAITING_JOBS
from millhand.limits.watcher import LimitWatcher

if TYPE_CHECKING:
    from millhand.limits.fetch import LimitedFetch
    from millhand.limits.maintainer import LimitMaintainer


class LimitRules(QueueRules):
    """The rules of the queues that have a limit now. Concurrency: belongs to one event loop."""

    def __init__(self, client: ClientContext) -> None:
        config = client.config
        queues = config.queue_configs
        self._client = client
        self._maintainer: LimitMaintainer | None = None
        self._refused: Mapping[str, QueueLimit] | None = None  # limits whose statements lack a table
        self.insert_query = job_insert_many
        self.watcher = LimitWatcher(
            client.pool,
            declared={name: queue.limit for name, queue in queues.items() if queue.limit is not None},
            is_worker=bool(queues),
            listens=bool(queues) and not config.poll_only,
            locks=client.locks,
            on_changed=self._on_changed,
            schema=config.schema,
            works=client.works,
        )
        self.service = self.watcher

    @property
    def can_copy(self) -> bool:
        # Workers in Go, which share a queue, would fetch available jobs without slots.
        return not any(one.limit.shared for one in self.watcher.limits.values())

    @property
    def waiting_jobs(self) -> WaitingJobs | None:
        return WAITING_JOBS if self.watcher.limits else None

    def queue_fetch(
        self, queue: str, *, kinds: Sequence[str] | None, running_ids: RunningIds
    ) -> LimitedFetch:
        from millhand.limits.fetch import LimitedFetch  # noqa: PLC0415 - a client that only inserts does not need it

        return LimitedFetch(
            queue,
            self._client.pool,
            client_id=self._client.client_id,
            kinds=kinds,
            limits=lambda: self.watcher.obeyed,
            running_ids=running_ids,
        )

    def ended_by_rules(self, batch: Sequence[Pending]) -> EndedByRules | None:
        limits = self.watcher.limits
        if not limits or limits is self._refused:
            return None
        limited = [one for one in batch if one.attempt.row.queue in limits]
        if not limited:
            return None
        shared_ids = {one.change.id for one in limited if limits[one.attempt.row.queue].limit.shared}
        return EndedByRules(
            limited,
            [one for one in batch if one.attempt.row.queue not in limits],
            complete=limited_job_complete_many,
            delete=limited_job_delete_completed_many,
            set_state=partial(limited_job_set_state_if_running_many, shared_ids=shared_ids),
        )

    def on_refused(self, error: DriverError) -> None:
        self._refused = self.watcher.limits if error.is_missing else None

    def leader_services(self, pool: Executor, clock: Clock) -> Sequence[LimitMaintainer]:
        from millhand.limits.maintainer import LimitMaintainer  # noqa: PLC0415 - a client that never leads does not need it

        self._maintainer = LimitMaintainer(pool, clock=clock, limits=lambda: self.watcher.limits)
        return [self._maintainer]

    async def add_queue(self, name: str, queue: QueueConfig) -> None:
        if queue.limit is not None:
            await self.watcher.declare({name: queue.limit})

    def on_insert(self, payload: str) -> None:
        if self._maintainer is not None:
            self._maintainer.on_insert(payload)

    def on_queue_changed(self, queue: str | None) -> None:
        self.watcher.request_read(queue)

    def on_migrated(self) -> None:
        self.watcher.declare_again()

    def _on_changed(self, queue: str) -> None:
        self.queues, self.fetched_queues = self.watcher.limits.keys(), self.watcher.obeyed.keys()
        self.insert_query = self._insert_query if self.watcher.limits else job_insert_many
        self._client.on_rules_changed(queue)
        if self._maintainer is not None:  # it idles without limits, and a removed one has jobs to free
            self._maintainer.request_pass()

    def _insert_query(
        self, params: Sequence[InsertParams], *, notify_queues: Collection[str]
    ) -> Query[list[InsertResult]]:
        limits = self.watcher.limits
        is_limited = any(one.queue in limits for one in params)
        query_of = limited_job_insert_many if is_limited else job_insert_many
        return query_of(params, notify_queues=notify_queues)
