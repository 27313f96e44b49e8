"""
Works one job as a client does, without queue and fetch.

Source: River v0.51.2, rivertest/worker.go `Worker.Work`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor as Threads
from typing import TYPE_CHECKING

import msgspec

from millhand.client import Client
from millhand.core.args.codec import JobArgs
from millhand.core.event import EventKind
from millhand.core.hooks import AttemptFailure
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobRow, Json
from millhand.core.step import CURSOR_KEY, STEP_KEY
from millhand.core.transition import StateChange
from millhand.engine.attempt import Attempt
from millhand.engine.error_handler import ErrorHandlers, LoggingErrorHandler
from millhand.engine.job_executor import JobExecutor
from millhand.testing.attempt_savepoint import attempt_savepoint
from millhand.testing.client_override import ensure_override, transaction_executor
from millhand.testing.kit_engine import KitEngine
from millhand.testing.store import job_begin

if TYPE_CHECKING:
    from millhand.core.tx_types import Tx


class Worked(msgspec.Struct, frozen=True, kw_only=True):
    """
    How an attempt ended.

    Attributes:
        error: What the worker raised; None unless the attempt failed. Snoozes and cancels are no failures.
        event: The event that a subscriber would get.
        job: The row as written.
    """

    error: BaseException | None
    event: EventKind | None
    job: JobRow


async def work(
    client: Client,
    args: JobArgs,
    opts: InsertOpts | None = None,
    *,
    tx: Tx | None = None,
    after_step: str | None = None,
    cursors: Mapping[str, Json] | None = None,
) -> Worked:
    """
    Insert a job and work it at once, with hooks, middleware, decoding, timeout, error handlers and retry.

    An error of the worker is returned in the result and not raised. A scheduled job is worked at once, too.

    Args:
        client: It need not be started if `tx` is given, and must not work jobs itself.
        args: The args of the job.
        opts: Options of the insert.
        tx: A transaction of the test, for the attempt and for the worker's use of `job.client`. A rollback then leaves
            nothing behind.
        after_step: The last step that an earlier attempt completed, for a worker with resumable steps.
        cursors: The cursors of steps that an earlier attempt left unfinished.

    Raises:
        AssertionError: If the job is a duplicate of an existing one.
        Exception: What an insert raises.

    Source: River v0.51.2, rivertest `ResumableStepAfter, ResumableStepAtCursor`, for the last two parameters.
    """
    with await ensure_override(client, tx):
        inserted = await client.insert(args, opts)
        if inserted.unique_skipped_as_duplicate:
            raise AssertionError(
                f"job must be a new one to be worked, got a duplicate of job {inserted.job.id}"
            )
        progress: dict[str, Json] = {}
        if after_step is not None:
            progress[STEP_KEY] = after_step
        if cursors is not None:
            progress[CURSOR_KEY] = dict(cursors)
        return await _work(client, inserted.job, progress)


async def work_again(client: Client, job: JobRow, *, tx: Tx | None = None) -> Worked:
    """
    Work an existing job in any state, for example the next attempt after `work`.

    The parameters are those of `work`. Raises: AssertionError if the job no longer exists after the attempt.
    """
    with await ensure_override(client, tx):
        return await _work(client, job, {})


async def _work(client: Client, job: JobRow, metadata: Mapping[str, Json]) -> Worked:
    begin = job_begin(job.id, client_id=client.id, metadata=metadata, now=client.config.clock.now())
    engine = KitEngine(client)
    await engine.read_limits()
    row = await client._driver.pool.run(begin)  # noqa: SLF001 - as the client itself
    return await work_row(client, row, engine)


async def work_row(client: Client, row: JobRow, engine: KitEngine) -> Worked:
    """Work a running job of an overridden client, and write its outcome. Raises: as `KitEngine.write`."""
    driver = client._driver  # noqa: SLF001 - the kit makes the client's own statements
    tx = getattr(driver, "tx", None)
    threads: Threads | None = getattr(driver, "threads", None)
    attempt = Attempt(row)
    async with attempt_savepoint(transaction_executor(client), tx):
        with contextlib.nullcontext() if threads else _as_if_started(client):
            change, error = await _execute(client, attempt, threads)
    event, job = await engine.write(change, attempt)
    return Worked(error=error, event=event, job=job)


@contextlib.contextmanager
def _as_if_started(client: Client) -> Iterator[None]:
    """Set the loop of a client that was not started, so that plain functions can use `job.client.loop`."""
    before = client._loop  # noqa: SLF001 - a client that was started has one
    client._loop = before or asyncio.get_running_loop()  # noqa: SLF001 - as above
    try:
        yield
    finally:
        client._loop = before  # noqa: SLF001 - as above


async def _execute(
    client: Client, attempt: Attempt, threads: Threads | None
) -> tuple[StateChange, BaseException | None]:
    config = client.config
    changes: list[StateChange] = []
    failures: list[AttemptFailure] = []
    handlers = ErrorHandlers(config.error_handlers, LoggingErrorHandler(config.clock))

    async def handle(failure: AttemptFailure) -> bool:
        failures.append(failure)
        return await handlers.handle(failure)

    job_executor = JobExecutor(
        config,
        client=client,
        hand_over=lambda change, _: changes.append(change),
        handle_failure=handle,
        on_stuck=lambda _: None,
        threads=threads,
    )
    try:
        async with asyncio.TaskGroup() as group:
            attempt.task = group.create_task(job_executor.execute(attempt))
    finally:
        job_executor.close()
    return changes[0], failures[0].error if failures else None
