"""
Works the jobs that are due as a fleet would, one after the other: the next one, or all until none is left.

Source: Oban 2.19, Oban.Testing `perform_job`, Oban `drain_queue`: the options and the counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from millhand.client import Client
from millhand.errors import ConfigError
from millhand.event import EventKind
from millhand.job import JobRow, JobState
from millhand.maintenance.job_scheduler import JobScheduler
from millhand.store.job import job_get_available
from millhand.store.job_testing import job_due_queue, job_hasten
from millhand.testing.attempt import Worked, work_row
from millhand.testing.client_override import ensure_override, transaction_executor

MAX_JOBS = 10_000


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How many attempts ended how. `failed` are those whose jobs are tried again; the last of a job is `discarded`."""

    cancelled: int = 0
    completed: int = 0
    discarded: int = 0
    failed: int = 0
    snoozed: int = 0


class Drained(msgspec.Struct, frozen=True):
    """The attempts that were made, in their order."""

    worked: tuple[Worked, ...] = ()

    @property
    def counts(self) -> Counts:
        """How many of them ended how: `drained.counts == Counts(completed=2)`."""
        return Counts(**Counter(_ending(one) for one in self.worked))

    def __add__(self, later: Drained) -> Drained:
        return Drained((*self.worked, *later.worked))


async def work_one(
    client: Client, *queues: str, tx: object | None = None, raise_failures: bool = False
) -> Worked | None:
    """
    Fetch the next job that is due and work it, as the client would; None if there is none.

    Due is what a client would fetch from `queues`, of all if none is named: not what waits for its time, is in a queue
    that is paused, or of a kind that only others know. With `tx` it is fetched and worked in that transaction, in which
    the worker's `job.client` speaks as well. With `raise_failures` what the worker raised is raised, after it was
    written what becomes of the job.

    Raises: ConfigError for a client that works by itself at the moment, or has no workers; AssertionError if the job is
    gone when its attempt has ended.
    """
    _require_workers(client)
    async with ensure_override(client, tx):
        await _schedule(client)
        return await _work_next(client, queues or None, raise_failures=raise_failures)


async def drain(
    client: Client,
    *queues: str,
    tx: object | None = None,
    max_jobs: int = MAX_JOBS,
    raise_failures: bool = False,
    with_retryable: bool = False,
    with_scheduled: bool = False,
) -> Drained:
    """
    Work jobs as `work_one` until none is due, those that the worked ones insert included; return how they ended.

    `with_scheduled` has the time come at once of jobs that are scheduled, or were snoozed; `with_retryable` of those
    that failed, so that they are tried until they are completed or discarded. The clock stands meanwhile; to let time
    pass, take `time_travel`. `raise_failures` ends it with the first failure.

    Raises: AssertionError if there is no end after `max_jobs`; else as `work_one`.
    """
    _require_workers(client)
    worked: list[Worked] = []
    async with ensure_override(client, tx):
        await _schedule(client)
        while True:
            one = await _work_next(client, queues or None, raise_failures=raise_failures)
            if one is not None:
                worked.append(one)
                _require_end(worked, max_jobs)
            elif not await _hasten(
                client, queues or None, retryable=with_retryable, scheduled=with_scheduled
            ):
                return Drained(tuple(worked))


async def _work_next(client: Client, queues: Sequence[str] | None, *, raise_failures: bool) -> Worked | None:
    row = await _fetch(client, queues)
    if row is None:
        await _schedule(client)
        row = await _fetch(client, queues)
    if row is None:
        return None
    worked = await work_row(client, row)
    if raise_failures and worked.error is not None:
        raise worked.error
    return worked


async def _fetch(client: Client, queues: Sequence[str] | None) -> JobRow | None:
    config, executor = client.config, transaction_executor(client)
    kinds = config.workers.kinds if config.fetch_only_known_kinds else None
    locked: list[str] = []  # queues whose next jobs are others' at the moment
    while True:
        queue = await executor.run(job_due_queue(kinds=kinds, queues=queues, excluded_queues=locked))
        if queue is None:
            return None
        rows = await executor.run(job_get_available(queue=queue, limit=1, client_id=client.id, kinds=kinds))
        if rows:
            return rows[0]
        locked.append(queue)


async def _schedule(client: Client) -> None:
    """Make available what is due, as a leader does every few seconds."""
    scheduler = JobScheduler(
        transaction_executor(client),
        client._inserter,  # noqa: SLF001 - so the client itself speaks
        clock=client.config.clock,
        interval_seconds=0.0,
    )
    await scheduler.run_once()


async def _hasten(client: Client, queues: Sequence[str] | None, *, retryable: bool, scheduled: bool) -> bool:
    if not (retryable or scheduled):
        return False
    query = job_hasten(queues=queues, retryable=retryable, scheduled=scheduled)
    return await transaction_executor(client).run(query) > 0


def _require_workers(client: Client) -> None:
    if not len(client.config.workers):
        raise ConfigError(
            "client must have workers to work jobs, got none; make it with Config(workers=…) as the worker's process does"
        )


def _require_end(worked: Sequence[Worked], max_jobs: int) -> None:
    if len(worked) <= max_jobs:
        return
    kinds = ", ".join(f"{kind!r} {count:,} times" for kind, count in _most(worked))
    raise AssertionError(f"jobs must come to an end within {max_jobs:,} attempts, got {kinds}")


def _most(worked: Sequence[Worked]) -> list[tuple[str, int]]:
    return Counter(one.job.kind for one in worked).most_common(3)


def _ending(worked: Worked) -> str:
    if worked.job.state is JobState.DISCARDED:
        return "discarded"
    match worked.event:
        case EventKind.JOB_COMPLETED:
            return "completed"
        case EventKind.JOB_CANCELLED:
            return "cancelled"
        case EventKind.JOB_SNOOZED:
            return "snoozed"
    return "failed"
