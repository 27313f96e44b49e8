"""
What a capability changes about jobs of some queues: how they are inserted, fetched and ended.

Rule 1: at most one capability of a client has rules. The classes here are those of a client without any: all jobs are
        inserted, fetched and ended by the engine's own statements.
Rule 2: rules may begin or end to be for a queue at any time. They then call `on_rules_changed` of the `ClientContext`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import NamedTuple

import msgspec

from millhand.core.clock import Clock
from millhand.core.config import QueueConfig
from millhand.core.errors import DriverError
from millhand.core.insert_opts import InsertResult
from millhand.core.job import JobId, JobRow
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.engine.pending_change import EndedJobs, Pending
from millhand.engine.service import Service
from millhand.engine.store.job_insert import job_insert_many
from millhand.engine.waiting_jobs import WaitingJobs

RunningIds = Callable[[], Collection[JobId]]


class Fetched(msgspec.Struct, frozen=True):
    """
    The jobs of a fetch by rules, marked running.

    In `again_in_seconds` another fetch may find more jobs, in `collect_in_seconds` those that others had locked, and in
    `opens_in_seconds` those that this fetch has closed for a time. None, if that is unknown.
    `needs_release` says that no job can start before another has ended, so a free worker is no reason for a fetch.
    """

    jobs: list[JobRow]
    again_in_seconds: float | None
    collect_in_seconds: float | None
    opens_in_seconds: float | None
    needs_release: bool


class EndedByRules(NamedTuple):
    """The jobs of a batch whose ends rules write, the other jobs, and the statements in place of the engine's own."""

    jobs: Sequence[Pending]
    others: Sequence[Pending]
    complete: Callable[..., Query[list[JobId]]]
    delete: Callable[..., Query[list[JobId]]]
    set_state: Callable[..., Query[list[JobRow]]]


class QueueFetch:
    """
    How one producer fetches while rules are for its queue.

    The next fetch must come at once if it completes jobs, `num_ended` of them, and else if `has_available` and a worker is
    free. `is_collect_due` asks for a fetch also if none is. The producer sets `may_have_arrived` when jobs may have come.
    Concurrency: one fetch at a time.
    """

    has_available = False
    is_collect_due = False
    may_have_arrived = True
    num_ended = 0

    @property
    def completes(self) -> bool:
        """Whether a fetch can also complete jobs, as `complete` says."""
        return False

    def size(self, num_max: int, max_workers: int) -> int:
        """Return how many jobs the next fetch asks for, up to `num_max`."""
        raise NotImplementedError

    async def fetch(self, num_max: int) -> Fetched:
        """Return up to `num_max` jobs; 0 only does what else a fetch does. Raises: what the driver raises."""
        raise NotImplementedError

    def complete(self, ended: EndedJobs) -> Awaitable[list[JobId] | None]:
        """
        Complete jobs with the next fetch, and return the ids that it completed.

        None, if it was not sent or failed: its answer may be lost. Concurrency: one call at a time.
        """
        raise NotImplementedError

    def give_back(self) -> None:
        """Let the caller of `complete` complete the jobs itself."""


class QueueRules:
    """
    The rules of one client.

    `service` starts before the first fetch, and also in a client without queues. `insert_query` makes the statement that
    inserts jobs; it has the tables that the engine's own needs not, so an insert that misses one is tried with that.

    There are rules for `queues` now. A fetch from one of `fetched_queues` obeys rules, also rules that are not written yet.
    """

    fetched_queues: Collection[str] = ()
    insert_query: Callable[..., Query[list[InsertResult]]] = staticmethod(job_insert_many)
    queues: Collection[str] = ()
    service: Service | None = None

    @property
    def can_copy(self) -> bool:
        """Whether jobs may be inserted by COPY, as available jobs."""
        return True

    @property
    def waiting_jobs(self) -> WaitingJobs | None:
        """The jobs that wait by these rules, while there are any rules."""
        return None

    def queue_fetch(self, queue: str, *, kinds: Sequence[str] | None, running_ids: RunningIds) -> QueueFetch:
        """Return how the producer of a queue fetches; `running_ids` returns the jobs that run here."""
        del queue, kinds, running_ids
        return QueueFetch()

    def ended_by_rules(self, batch: Sequence[Pending]) -> EndedByRules | None:
        """Return what of a batch these rules end; None if nothing is. Called while there are `queues`."""
        del batch
        return None

    def on_refused(self, error: DriverError) -> None:
        """Record that the database refused the statements of `ended_by_rules`. Concurrency: never waits."""

    def leader_services(self, pool: Executor, clock: Clock) -> Sequence[Service]:
        """Return what the leader of the periodic role runs for these rules."""
        del pool, clock
        return ()

    async def add_queue(self, name: str, queue: QueueConfig) -> None:
        """Declare the rules of a queue that the client will work."""

    def on_insert(self, payload: str) -> None:
        """Handle a notification of an insert; called while there are `queues`. Concurrency: never waits."""

    def on_queue_changed(self, queue: str | None) -> None:
        """Read the rules again soon: a queue's metadata changed, or None if that may have been missed."""

    def on_migrated(self) -> None:
        """Declare the rules again soon: tables may have come or gone, with their rows."""
