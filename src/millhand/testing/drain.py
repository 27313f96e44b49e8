"""
Works due jobs one after the other: the next one, or all until none is left.

Source: Oban 2.19, Oban.Testing `perform_job`, Oban `drain_queue`: the options and the counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from millhand.client import Client
from millhand.core.errors import ConfigError
from millhand.core.event import EventKind
from millhand.core.job import JobState
from millhand.testing.client_override import ensure_override, transaction_executor
from millhand.testing.kit_engine import KitEngine
from millhand.testing.store import job_make_due
from millhand.testing.work import Worked, work_row

if TYPE_CHECKING:
    from millhand.core.tx_types import Tx

MAX_JOBS = 10_000


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of attempts by outcome. `failed` counts those that are retried, `discarded` the last ones."""

    cancelled: int = 0
    completed: int = 0
    discarded: int = 0
    failed: int = 0
    snoozed: int = 0


class Drained(msgspec.Struct, frozen=True):
    """The attempts that were made, in order."""

    worked: tuple[Worked, ...] = ()

    @property
    def counts(self) -> Counts:
        return Counts(
            **Counter(
                "discarded" if one.job.state is JobState.DISCARDED else _ENDINGS.get(one.event, "failed")
                for one in self.worked
            )
        )

    def __add__(self, later: Drained) -> Drained:
        return Drained((*self.worked, *later.worked))


async def work_one(
    client: Client, *queues: str, tx: Tx | None = None, raise_failures: bool = False
) -> Worked | None:
    """
    Fetch the next due job and work it as a client does; return None if no job is due.

    Jobs of paused queues, of kinds without a worker here, jobs that are scheduled for later, and jobs that the limit of
    their queue does not let start are not due.

    Args:
        client: It must have workers, and must not work jobs itself.
        queues: The queues to fetch from; all by default.
        tx: A transaction of the test, for the attempt and for the worker's use of `job.client`.
        raise_failures: Raise what the worker raised, after its job's state is written.

    Raises:
        ConfigError: If the client works jobs itself, or has no workers.
        AssertionError: If the job no longer exists after the attempt.
    """
    _require_workers(client)
    with await ensure_override(client, tx):
        engine = KitEngine(client)
        await engine.run_leader_pass()
        return await _work_next(client, engine, queues or None, raise_failures=raise_failures)


async def drain(
    client: Client,
    *queues: str,
    tx: Tx | None = None,
    max_jobs: int = MAX_JOBS,
    raise_failures: bool = False,
    with_retryable: bool = False,
    with_scheduled: bool = False,
) -> Drained:
    """
    Work jobs as `work_one` does until none may start, with those that workers insert, and return the attempts.

    The clock stands still meanwhile. A job that a rate, a hold or a halt does not let start now stays. Use `time_travel`
    to let time pass.

    Args:
        client: As for `work_one`.
        queues: The queues to fetch from; all by default.
        tx: As for `work_one`.
        max_jobs: How many attempts to make at most.
        raise_failures: Raise the first error of a worker, after its job's state is written.
        with_retryable: Make failed jobs due at once, so that they are attempted until they are completed or discarded.
        with_scheduled: Make scheduled and snoozed jobs due at once.

    Raises:
        AssertionError: If jobs are still due after `max_jobs` attempts, and as `work_one`.
        ConfigError: As `work_one`.
    """
    _require_workers(client)
    worked: list[Worked] = []
    with await ensure_override(client, tx):
        engine = KitEngine(client)
        await engine.run_leader_pass()
        while True:
            one = await _work_next(client, engine, queues or None, raise_failures=raise_failures)
            if one is not None:
                worked.append(one)
                _require_end(worked, max_jobs)
            elif not await _hasten(
                client, queues or None, retryable=with_retryable, scheduled=with_scheduled
            ):
                return Drained(tuple(worked))
            else:
                engine.is_idle = False


async def _work_next(
    client: Client, engine: KitEngine, queues: Sequence[str] | None, *, raise_failures: bool
) -> Worked | None:
    row = await engine.fetch(queues)
    if row is None and not engine.is_idle:
        await engine.run_leader_pass()
        row = await engine.fetch(queues)
    if row is None:
        return None
    worked = await work_row(client, row, engine)
    if raise_failures and worked.error is not None:
        raise worked.error
    return worked


async def _hasten(client: Client, queues: Sequence[str] | None, *, retryable: bool, scheduled: bool) -> bool:
    if not (retryable or scheduled):
        return False
    query = job_make_due(queues=queues, retryable=retryable, scheduled=scheduled)
    return await transaction_executor(client).run(query) > 0


def _require_workers(client: Client) -> None:
    if not len(client.config.workers):
        raise ConfigError(
            "client must have workers to work jobs, got none; make it with Config(workers=…) as the worker's process does"
        )


def _require_end(worked: Sequence[Worked], max_jobs: int) -> None:
    if len(worked) <= max_jobs:
        return
    most = Counter(one.job.kind for one in worked).most_common(3)
    kinds = ", ".join(f"{kind!r} {count:,} times" for kind, count in most)
    raise AssertionError(f"jobs must come to an end within {max_jobs:,} attempts, got {kinds}")


_ENDINGS: dict[EventKind | None, str] = {
    EventKind.JOB_COMPLETED: "completed",
    EventKind.JOB_CANCELLED: "cancelled",
    EventKind.JOB_SNOOZED: "snoozed",
}
