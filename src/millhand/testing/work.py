"""
Works one job in a transaction of the test's, the whole way but for queue and fetch.

Source: River v0.51.2, rivertest/worker.go `Worker.Work`.
"""

from __future__ import annotations

import asyncio

import msgspec

from millhand.client import Client
from millhand.event import EventKind
from millhand.hooks import AttemptFailure
from millhand.insert_opts import InsertOpts
from millhand.job import JobRow
from millhand.observe.error_handler import ErrorHandlers, LoggingErrorHandler
from millhand.runtime.attempt import Attempt
from millhand.runtime.job_executor import JobExecutor
from millhand.store.job import job_set_state_if_running_many
from millhand.store.job_testing import job_begin
from millhand.transition import StateChange, event_kind_of


class Worked(msgspec.Struct, frozen=True, kw_only=True):
    """
    How an attempt ended: the event that a subscriber would get, the row as it was written, and what was raised.

    `error` is None unless the attempt failed; a snooze and a cancel are no failures.
    """

    error: BaseException | None
    event: EventKind | None
    job: JobRow


async def work(client: Client, args: object, opts: InsertOpts | None = None, *, tx: object) -> Worked:
    """
    Insert a job and work it at once, as the client would: hooks, middleware, decoding, timeout, error handlers, retry.

    All of it is written in the transaction `tx`, so a test that rolls it back leaves nothing. Nothing is raised that the
    worker raises: it is in the result. What waits, a scheduled job or one that is retried, is worked as well.
    The client need not be started.

    Raises: what an insert raises; AssertionError if the job is a duplicate of one that is there.
    """
    inserted = await client.insert(args, opts, tx=tx)
    if inserted.unique_skipped_as_duplicate:
        raise AssertionError(f"job must be a new one to be worked, got a duplicate of job {inserted.job.id}")
    return await work_again(client, inserted.job, tx=tx)


async def work_again(client: Client, job: JobRow, *, tx: object) -> Worked:
    """
    Work a job that is there, whatever state it is in; its next attempt, after `work` for example.

    Raises: AssertionError if the job is gone when its attempt has ended.
    """
    config = client.config
    executor = client._driver.executor(tx)  # noqa: SLF001 - so the client itself would speak in it
    row = await executor.run(job_begin(job.id, client_id=client.id, now=config.clock.now()))
    change, error = await _execute(client, row)
    written = await executor.run(job_set_state_if_running_many([change]))
    if not written:
        raise AssertionError(f"job {row.id} must be there when its attempt has ended, got none")
    return Worked(error=error, event=event_kind_of(written[0].state, change), job=written[0])


async def _execute(client: Client, row: JobRow) -> tuple[StateChange, BaseException | None]:
    """Return what is to become of the job, and what was raised if its attempt failed."""
    config = client.config
    changes: list[StateChange] = []
    failures: list[AttemptFailure] = []
    handlers = ErrorHandlers(config.error_handlers, LoggingErrorHandler(config.clock))

    async def handle(failure: AttemptFailure) -> bool:
        failures.append(failure)
        return await handlers.handle(failure)

    attempt = Attempt(row)
    job_executor = JobExecutor(
        config,
        client=client,
        hand_over=lambda change, _: changes.append(change),
        handle_failure=handle,
        on_stuck=lambda _: None,
    )
    try:
        async with asyncio.TaskGroup() as group:
            attempt.task = group.create_task(job_executor.execute(attempt))
    finally:
        job_executor.close()
    return changes[0], failures[0].error if failures else None
