"""One attempt at a running job, as a client makes it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import Executor as Threads

import msgspec

from millhand.client import Client
from millhand.event import EventKind
from millhand.hooks import AttemptFailure
from millhand.job import JobRow
from millhand.observe.error_handler import ErrorHandlers, LoggingErrorHandler
from millhand.runtime.attempt import Attempt
from millhand.runtime.job_executor import JobExecutor
from millhand.store.job import job_set_state_if_running_many
from millhand.testing.attempt_savepoint import attempt_savepoint
from millhand.testing.client_override import transaction_executor
from millhand.transition import StateChange, event_kind_of


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


async def work_row(client: Client, row: JobRow) -> Worked:
    """
    Work a running job and write its state change. `client` must be overridden (`client_override`).

    Raises: AssertionError if the job no longer exists after the attempt.
    """
    driver = client._driver  # noqa: SLF001 - the kit makes the client's own statements
    tx = getattr(driver, "tx", None)
    executor = transaction_executor(client)
    threads: Threads | None = getattr(driver, "threads", None)
    async with attempt_savepoint(executor, tx):
        with contextlib.nullcontext() if threads else _as_if_started(client):
            change, error = await _execute(client, row, threads)
    written = await executor.run(job_set_state_if_running_many([change]))
    if not written:
        raise AssertionError(f"job {row.id} must be there when its attempt has ended, got none")
    return Worked(error=error, event=event_kind_of(written[0].state, change), job=written[0])


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
    client: Client, row: JobRow, threads: Threads | None
) -> tuple[StateChange, BaseException | None]:
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
        threads=threads,
    )
    try:
        async with asyncio.TaskGroup() as group:
            attempt.task = group.create_task(job_executor.execute(attempt))
    finally:
        job_executor.close()
    return changes[0], failures[0].error if failures else None
