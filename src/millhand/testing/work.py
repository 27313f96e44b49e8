"""
Works one job in a transaction of the test's, the whole way but for queue and fetch.

Source: River v0.51.2, rivertest/worker.go `Worker.Work`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from millhand.client import Client
from millhand.event import EventKind
from millhand.hooks import AttemptFailure
from millhand.insert_opts import InsertOpts
from millhand.job import JobRow, Json
from millhand.observe.error_handler import ErrorHandlers, LoggingErrorHandler
from millhand.runtime.attempt import Attempt
from millhand.runtime.job_executor import JobExecutor
from millhand.step import CURSOR_KEY, STEP_KEY
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


async def work(
    client: Client,
    args: object,
    opts: InsertOpts | None = None,
    *,
    tx: object,
    after_step: str | None = None,
    cursors: Mapping[str, Json] | None = None,
) -> Worked:
    """
    Insert a job and work it at once, as the client would: hooks, middleware, decoding, timeout, error handlers, retry.

    All of it is written in the transaction `tx`, so a test that rolls it back leaves nothing. What the worker raises is
    in the result, and is not raised. A scheduled job is worked as well. The client need not be started.

    `after_step` and `cursors` are progress that an earlier attempt is to have made, of a worker that has steps: the last
    step that was done, and how far others had come.

    Raises: what an insert raises; AssertionError if the job is a duplicate of one that is there.
    Source: for the last two, River v0.51.2, rivertest `ResumableStepAfter, ResumableStepAtCursor`.
    """
    inserted = await client.insert(args, opts, tx=tx)
    if inserted.unique_skipped_as_duplicate:
        raise AssertionError(f"job must be a new one to be worked, got a duplicate of job {inserted.job.id}")
    return await _work(client, inserted.job, tx, _progress(after_step, cursors))


async def work_again(client: Client, job: JobRow, *, tx: object) -> Worked:
    """
    Work a job that is there, whatever state it is in; its next attempt, after `work` for example.

    Raises: AssertionError if the job is gone when its attempt has ended.
    """
    return await _work(client, job, tx, {})


def _progress(after_step: str | None, cursors: Mapping[str, Json] | None) -> dict[str, Json]:
    progress: dict[str, Json] = {}
    if after_step is not None:
        progress[STEP_KEY] = after_step
    if cursors is not None:
        progress[CURSOR_KEY] = dict(cursors)
    return progress


async def _work(client: Client, job: JobRow, tx: object, metadata: Mapping[str, Json]) -> Worked:
    executor = client._driver.executor(tx)  # noqa: SLF001 - so the client itself would speak in it
    begin = job_begin(job.id, client_id=client.id, metadata=metadata, now=client.config.clock.now())
    change, error = await _execute(client, await executor.run(begin))
    written = await executor.run(job_set_state_if_running_many([change]))
    if not written:
        raise AssertionError(f"job {job.id} must be there when its attempt has ended, got none")
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
