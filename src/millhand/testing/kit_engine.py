"""
The parts of a client's engine, one step at a time: the fetch, the write of an outcome, and the leader's pass.

Rule 1: these are the parts of production. Only the order is the kit's: one attempt at a time, and a pass of the leader
        before the first one and whenever no job is due.
Rule 2: each pass reads the limits again. An attempt that changes a limit affects the jobs after the next pass.
Rule 3: before the first pass, it writes what the client's code declares, as a worker does when it starts.
Rule 4: a pass runs only the parts for which one statement finds work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from millhand.capabilities import CAPABILITIES
from millhand.client import Client
from millhand.core.event import EventKind
from millhand.core.job import JobRow, JobState
from millhand.core.transition import StateChange
from millhand.dead_jobs.copier import DeadJobCopier
from millhand.dead_jobs.store import dead_job_get_shape
from millhand.engine.attempt import Attempt
from millhand.engine.capability import ClientContext
from millhand.engine.completed_retention import CompletedRetention
from millhand.engine.completer import Completer
from millhand.engine.lock_wait import LockWaits
from millhand.engine.maintenance.job_scheduler import JobScheduler
from millhand.engine.registration import Registration
from millhand.engine.services import end_writers_of
from millhand.engine.store.job import job_get_available, job_get_by_ids
from millhand.engine.subscription import Subscriptions
from millhand.flows.maintainer import FlowMaintainer
from millhand.history.deleted_job_counter import DeletedJobCounter
from millhand.limits.rules import LimitRules
from millhand.schedules.declarer import ScheduleDeclarer
from millhand.schedules.runner import ScheduleRunner
from millhand.testing.client_override import transaction_executor
from millhand.testing.store import LeaderWork, job_get_next_queue, leader_get_work


class KitEngine:
    """
    The engine of an overridden client. `is_idle` says that the last pass found no work, and nothing was written since.

    Concurrency: one step at a time.
    """

    def __init__(self, client: Client) -> None:
        config = client.config
        self._client = client
        self._executor = transaction_executor(client)
        self._kinds = config.workers.kinds if config.fetch_only_known_kinds else None
        self._pool = client._driver.pool  # noqa: SLF001 - the kit uses the client's own parts
        self._retention = CompletedRetention(config)
        self._subscriptions = Subscriptions()
        self.is_idle = False
        self._counter = DeletedJobCounter(self._pool)
        self._has_declared = False
        self._has_tables: bool | None = None  # of all lines; None before the first pass
        self._rules = LimitRules(
            ClientContext(
                client_id=client.id,
                config=dataclasses.replace(config, queues={}),
                locks=LockWaits(self._pool),
                on_rules_changed=lambda _: None,
                pool=self._pool,
                works=lambda _: True,
            )
        )
        self._completer = Completer(
            # A deletion that the database refuses must not end the transaction.
            self._executor if self._retention.keeps_all else self._pool,
            client.id,
            clock=config.clock,
            end_writers=end_writers_of(CAPABILITIES),
            on_available=lambda _: None,
            on_deleted=self._counter.add,
            retention=self._retention,
            rules=self._rules,
            subscriptions=self._subscriptions,
        )

    async def read_limits(self) -> None:
        """Write what the code declares, and read the limits, as a client does when one has changed."""
        await self._declare()
        await self._rules.watcher.read()

    async def _declare(self) -> None:
        """Write what the code declares, once."""
        if self._has_declared:
            return
        self._has_declared, config = True, self._client.config
        limits = {name: one.limit for name, one in config.queue_configs.items() if one.limit is not None}
        if limits:
            await self._rules.watcher.declare(limits)
        if config.schedules:
            await ScheduleDeclarer(self._pool, config.schedules, locks=LockWaits(self._pool)).run_once()

    async def run_leader_pass(self) -> None:
        """Do what the leader does every few seconds: for limits, scheduled jobs, schedules, flows and dead letters."""
        config, pool, work = self._client.config, self._pool, await self._find_work()
        self.is_idle = not any(work)
        inserter = self._client._inserter  # noqa: SLF001 - as above
        if work.has_limits or self._rules.queues:
            await self.read_limits()
        if work.has_flows:
            await FlowMaintainer(pool, clock=config.clock).run_once()
        if work.has_schedules:
            await ScheduleRunner(
                pool,
                inserter,
                default_max_attempts=config.max_attempts,
                monotonic=config.clock.monotonic,
                now=config.clock.now,
            ).run_once()
        if work.has_limits:
            [maintainer] = self._rules.leader_services(pool, config.clock)
            await maintainer.run_once()
        if work.has_due:
            scheduler = JobScheduler(self._executor, inserter, clock=config.clock, interval_seconds=0.0)
            await scheduler.run_once()
        if work.has_discarded:
            await self._copy_dead_jobs()

    async def _find_work(self) -> LeaderWork:
        await self._declare()
        if self._has_tables is None:
            self._has_tables = await self._executor.run(dead_job_get_shape())
        return await self._executor.run(leader_get_work()) if self._has_tables else LeaderWork()

    async def _copy_dead_jobs(self) -> None:
        """Copy discarded jobs, as the leader does within a minute."""
        config = self._client.config
        await DeadJobCopier(
            self._pool,
            clock=config.clock,
            now=config.clock.now,
            registration=Registration(is_active=True),
            retention=config.dead_job_retention,
        ).run_once()

    async def fetch(self, queues: Sequence[str] | None) -> JobRow | None:
        """Fetch the job that has been due for longest and may start now."""
        # Queues whose next jobs another transaction has locked, or a limit does not let start.
        passed: list[str] = []
        while True:
            query = job_get_next_queue(
                kinds=self._kinds, queues=queues, excluded_queues=passed, has_limits=bool(self._rules.queues)
            )
            queue = await self._executor.run(query)
            if queue is None:
                return None
            rows = await self._fetch_of(queue)
            if rows:
                return rows[0]
            passed.append(queue)

    async def _fetch_of(self, queue: str) -> Sequence[JobRow]:
        fetch = self._rules.queue_fetch(queue, kinds=self._kinds, running_ids=tuple)
        if queue not in self._rules.fetched_queues:
            return await self._executor.run(
                job_get_available(queue=queue, limit=1, client_id=self._client.id, kinds=self._kinds)
            )
        fetched = await fetch.fetch(1)
        while not fetched.jobs and fetched.again_in_seconds == 0.0:
            fetched = await fetch.fetch(1)
        return fetched.jobs

    async def write(self, change: StateChange, attempt: Attempt) -> tuple[EventKind | None, JobRow]:
        """
        Write the outcome of an attempt; return its event, and the row after that.

        Raises: AssertionError if the job is gone, or the database refused the outcome.
        """
        self.is_idle = False
        with self._subscriptions.subscribe([]) as events:
            self._completer.hand_over(change, attempt)
            await self._completer.write_backlog()
        await self._counter.run_once()
        if change.state is JobState.DISCARDED:
            await self._copy_dead_jobs()
        event = await anext(events, None)
        if event is not None and (change.metadata or change.state is not JobState.COMPLETED):
            return event.kind, event.job  # as written; of a plain success, the event has the row of the fetch
        rows = await self._executor.run(job_get_by_ids([change.id]))
        if event is not None:
            return event.kind, rows[0] if rows else event.job
        return None, _unwritten(change, rows)


def _unwritten(change: StateChange, rows: Sequence[JobRow]) -> JobRow:
    """Return the row of a job that the attempt itself changed."""
    if not rows:
        raise AssertionError(f"job {change.id} must be there when its attempt has ended, got none")
    if rows[0].state is JobState.RUNNING:
        raise AssertionError(
            f"outcome of job {change.id} must be written, got a job that runs; the log has the reason"
        )
    return rows[0]
