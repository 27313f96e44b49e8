"""
Run a client as a worker process: start, work until there is a reason to stop, stop gracefully.

    starting ──signal──────────────▶ the start is aborted                    exit 0
    working  ──signal──────────────▶ client.stop: waits for running jobs     exit 0
             ──empty───────────────▶ client.stop, with --until-empty         exit 0
             ──a service crashed───▶ client.stop, as far as it gets          exit 1
    stopping ──signal──────────────▶ client.cancel_attempts: stops waiting

Concurrency: belongs to one event loop, on which `on_signal` must be called.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from millhand.client import Client
from millhand.core.errors import MillhandError, error_type
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState
from millhand.core.log.logger import logger_of
from millhand.core.transition import SCHEDULER_INTERVAL
from millhand.engine.error_handler import error_text
from millhand.engine.fleet import load_fleet
from millhand.engine.maintenance.unworked_queues import unworked_queues
from millhand.engine.store.job_list import JobFilters, SortField
from millhand.engine.store.queue_load import queue_get_loads, queue_list_names
from millhand.limits.job_store import limited_job_is_due
from millhand.process.signals import StopRequested, StopSignals
from millhand.process.supervisor import stop_with_supervisor
from millhand.shells.exit_code import DONE, NOT_DONE

if TYPE_CHECKING:
    from millhand.process.worker_observer import WorkerObserver

logger = logger_of(__name__)

# The polling interval of `--until-empty`: short for a script, and still cheap.
EMPTY_POLL_SECONDS = 0.2
CURRENT_LIMIT = 1_000
# Tasks and threads that are left after a graceful stop were already abandoned, so the wait is short.
LEFTOVER_SECONDS = 0.5

T = TypeVar("T")
# Starts a client; resources that it pushes onto the stack are closed after the client.
Start = Callable[[AsyncExitStack], Awaitable[Client]]
# Works until there is a reason to stop, and returns whether the end was graceful.
Work = Callable[[StopSignals], Coroutine[object, object, bool]]


class WorkerProcess:
    """Runs a client until a signal, a crash or, with `until_empty`, until its queues are empty."""

    def __init__(self, *, until_empty: bool, observer: WorkerObserver | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._client: Client | None = None
        self._ending: asyncio.Future[str | BaseException | None] = loop.create_future()
        self._observer = observer
        self._start_task = asyncio.current_task()
        self._until_empty = until_empty

    def on_signal(self, signal: str, num_signals: int) -> None:
        """Stop, and cancel the attempts at the second signal."""
        if not self._ending.done():
            self.stop(signal)
        elif self._client is not None:
            self._client.cancel_attempts()

    def stop(self, signal: str | None = None) -> None:
        """Stop gracefully, also a start that is under way; idempotent."""
        if self._ending.done():
            return
        self._ending.set_result(signal)
        self._record_stopping()
        if self._client is None and self._start_task is not None:
            self._start_task.cancel()

    async def run(self, start: Callable[[], Awaitable[Client]]) -> bool:
        """Start a client, work and stop; return False after a crash."""
        try:
            self._client = client = await start()
        except asyncio.CancelledError:
            if self._start_task is None or not self._ending.done():
                raise
            self._start_task.uncancel()
            logger.info(
                "worker stopped", extra={"signal": self._ending.result(), "completed": 0, "failed": 0}
            )
            return True
        finally:
            # What is left of a failed start is closing, and a stop must not cancel that.
            self._start_task = None
        _log_declared_queues(client)
        _freeze_start()
        if self._observer is not None and not self._ending.done():
            self._observer.on_working(client)
        ending = await self._wait(client)
        self._record_stopping()
        if isinstance(ending, BaseException):
            fields = {"client_id": client.id, "error": error_text(ending), "error_type": error_type(ending)}
            logger.error("worker crashed", extra=fields)
        await client.stop(signal=ending if isinstance(ending, str) else None)
        return not isinstance(ending, BaseException)

    def _record_stopping(self) -> None:
        if self._observer is not None:
            self._observer.on_stopping()

    async def _wait(self, client: Client) -> str | BaseException | None:
        """Return the reason to stop: a signal's name, a service's error, or None if the queues are empty."""
        async with asyncio.TaskGroup() as group:
            watchers = [group.create_task(self._watch_crash(client))]
            if self._until_empty:
                watchers.append(group.create_task(self._watch_empty(client)))
            ending = await self._ending
            for watcher in watchers:
                watcher.cancel()
        return ending

    async def _watch_crash(self, client: Client) -> None:
        self._end(await client.wait_crashed())

    async def _watch_empty(self, client: Client) -> None:
        while not await self._is_empty(client):  # noqa: ASYNC110 - other programs insert, too, so no event exists
            await asyncio.sleep(EMPTY_POLL_SECONDS)
        await self.end_empty()

    @property
    def is_away(self) -> bool:
        """Whether the database of the started client does not answer, and none of its jobs runs here."""
        client = self._client
        return client is not None and not client.is_database_reachable and not client.num_running

    async def is_empty(self) -> bool:
        """Return whether the client has started and its queues are empty."""
        return self._client is not None and await self._is_empty(self._client)

    async def end_empty(self) -> None:
        """Stop because the queues are empty, and log the jobs that are left."""
        if self._client is not None:
            with contextlib.suppress(MillhandError):  # the log line is no reason to fail
                await self._log_left_queues(self._client)
        self._end(None)

    async def _log_left_queues(self, client: Client) -> None:
        """Log the jobs that are left: those for later, and those in queues that this worker does not work."""
        pool = client.driver.pool
        own = await pool.run(queue_get_loads(client.config.queues))
        later, running = sum(one.retryable + one.scheduled for one in own), sum(one.running for one in own)
        if later or running:
            next_at = min((one.next_scheduled_at for one in own if one.next_scheduled_at), default=None)
            own_fields = {"num_jobs": later, "next_at": next_at, "running": running}
            logger.info("jobs left for later", extra={"client_id": client.id, **own_fields})
        names = await pool.run(queue_list_names())
        others = [name for name in names if name not in client.config.queues]
        loads = await pool.run(queue_get_loads(others)) if others else []
        left = {load.name: load.available for load in loads if load.available}
        if not left:
            return
        unworked = dict(unworked_queues([*left], await load_fleet(pool, client.config.clock.now())))
        for queue, remedy in unworked.items():
            fields = {"client_id": client.id, "queue": queue, "num_jobs": left.pop(queue), "remedy": remedy}
            logger.warning("queue not worked", extra=fields)
        if left:
            fields = {"client_id": client.id, "queues": ",".join(left), "num_jobs": sum(left.values())}
            logger.info("queues left to others", extra=fields)

    def _end(self, ending: BaseException | None) -> None:
        if not self._ending.done():
            self._ending.set_result(ending)

    async def _is_empty(self, client: Client) -> bool:
        """
        Return whether no job of the client's active queues runs here or is due within five seconds.

        A client that may lead is not empty until it has inserted its periodic jobs with `run_on_start`. This is read before
        the database is: a run that was inserted meanwhile is then found there.
        """
        engine = client._engine  # noqa: SLF001 - reads it
        awaits_first_runs = engine is not None and engine.awaits_first_runs
        try:
            paused = {queue.name for queue in await client.queues.list() if queue.is_paused}
            queues = [name for name in client.config.queues if name not in paused]
            return not (await self._has_work(client, queues) or client.num_running or awaits_first_runs)
        except MillhandError as error:
            logger.warning(
                "emptiness unknown", extra={"error": error_text(error), "error_type": error_type(error)}
            )
            return False

    async def _has_work(self, client: Client, queues: list[str]) -> bool:
        """
        Return whether a job of `queues` that this worker can fetch is due, or runs here.

        Waiting jobs are queried before current ones. In the reverse order, a job that fails and is retried between the
        two queries would be missed.
        """
        if not queues:
            return False
        config = client.config
        # This worker never fetches jobs of other kinds.
        kinds = config.workers.kinds if config.fetch_only_known_kinds else None
        waiting = JobFilters(kinds=kinds, queues=queues, states=[JobState.RETRYABLE, JobState.SCHEDULED])
        first = (await client.jobs.list(waiting, limit=1, order_by=SortField.SCHEDULED_AT)).jobs
        if first and first[0].scheduled_at <= datetime.now(UTC) + SCHEDULER_INTERVAL:
            return True
        current = JobFilters(kinds=kinds, queues=queues, states=[JobState.AVAILABLE, JobState.RUNNING])
        jobs = (await client.jobs.list(current, limit=CURRENT_LIMIT)).jobs
        if any(job.state is JobState.AVAILABLE or job.attempted_by[-1:] == (client.id,) for job in jobs):
            return True
        limited = [name for name in queues if name in client.limited_queues]
        query = limited_job_is_due(limited, until=datetime.now(UTC) + SCHEDULER_INTERVAL)
        return bool(limited) and await client.driver.pool.run(query)


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a worker: gracefully or by a crash, and whether all its tasks and threads have ended."""

    is_graceful: bool
    has_all_ended: bool

    def exit_code(self) -> int:
        """Return the exit code; exit at once if a thread still runs, because Python cannot interrupt it."""
        code = DONE if self.is_graceful else NOT_DONE
        if not self.has_all_ended:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code


def run_worker(
    open_start: Callable[[], AbstractContextManager[Start]],
    *,
    until_empty: bool,
    unblocks: bool = False,
    observer: WorkerObserver | None = None,
    signals: StopSignals | None = None,
) -> Ended:
    """
    Run a client as a worker until a signal, a crash or, with `until_empty`, until its queues are empty.

    `open_start` yields the function that starts the client; what it pushes onto the stack is closed at the end.
    `unblocks` takes the signals that a supervisor blocked for the start of this process. `observer` answers probes.
    `signals` are those that the caller has taken already. Call it in the main thread.
    Raises: the errors of the start.
    """

    @contextlib.contextmanager
    def opened() -> Iterator[Work]:
        with open_start() as start:
            yield lambda signals: _work(start, signals, observer, until_empty=until_empty)

    return run_until_signal(opened, unblocks=unblocks, signals=signals)


def run_until_signal(
    open_work: Callable[[], AbstractContextManager[Work]],
    *,
    unblocks: bool,
    signals: StopSignals | None = None,
) -> Ended:
    """
    Run the work of a process, which returns whether its end was graceful, and handle signals of the time before it.

    `signals` are those that the caller has taken already.
    """
    with StopSignals() if signals is None else contextlib.nullcontext(signals) as taken:
        try:
            if unblocks:
                taken.unblock()
            with open_work() as work:
                is_graceful, has_all_ended = run_to_the_end(lambda: work(taken))
        except StopRequested as stop:
            logger.info("worker stopped", extra={"signal": stop.name, "completed": 0, "failed": 0})
            return Ended(is_graceful=True, has_all_ended=True)
    return Ended(is_graceful=is_graceful, has_all_ended=has_all_ended)


async def _work(
    start: Start, signals: StopSignals, observer: WorkerObserver | None, *, until_empty: bool
) -> bool:
    process = WorkerProcess(until_empty=until_empty, observer=observer)
    async with listening(signals, process.on_signal, observer) as stack:
        return await process.run(lambda: start(stack))


@contextlib.asynccontextmanager
async def listening(
    signals: StopSignals, on_signal: Callable[[str, int], None], observer: WorkerObserver | None
) -> AsyncIterator[AsyncExitStack]:
    """Handle signals and answer probes in the block, and yield a stack that is closed at its end."""
    signals.listen(on_signal)
    stop_with_supervisor()
    try:
        async with AsyncExitStack() as stack:
            if observer is not None:
                await stack.enter_async_context(observer)
            yield stack
    finally:
        signals.end()


def run_to_the_end(main: Callable[[], Coroutine[object, object, T]]) -> tuple[T, bool]:
    """
    Run a coroutine on a loop of its own; return its result, and whether all its tasks and threads have ended.

    If an abandoned attempt still runs, closing the loop would wait for it without limit. The loop then stays open, and
    the caller must exit the process.
    """
    runner = asyncio.Runner()
    try:
        result, is_all_ended = runner.run(_with_leftovers_cancelled(main))
    except BaseException:
        runner.close()
        raise
    if is_all_ended:
        runner.close()
    return result, is_all_ended


async def _with_leftovers_cancelled(main: Callable[[], Coroutine[object, object, T]]) -> tuple[T, bool]:
    executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
    loop = asyncio.get_running_loop()
    loop.set_default_executor(executor)
    loop.set_exception_handler(on_stray)
    result = await main()
    executor.shutdown(wait=False, cancel_futures=True)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        _, tasks = await asyncio.wait(tasks, timeout=LEFTOVER_SECONDS)
    return result, not tasks and _have_threads_ended()


def on_stray(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """
    Handle an exception that no task awaits; log a lost connection at DEBUG.

    After a stalled process resumes, a statement's deadline can pass at the moment its connection turns out to be lost.
    The caller gets the timeout, and the driver's future keeps the connection error that is never awaited.
    """
    error = context.get("exception")
    is_task = isinstance(context.get("future"), asyncio.Task)
    if isinstance(error, ConnectionError) and "future" in context and not is_task:
        logger.debug("connection lost", extra={"error": str(error), "error_type": type(error).__name__})
        return
    loop.default_exception_handler(context)


def _have_threads_ended() -> bool:
    """Wait briefly for the threads that were asked to end; return whether all have."""
    deadline = time.monotonic() + LEFTOVER_SECONDS
    threads = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    for thread in threads:
        if not thread.daemon:
            thread.join(max(deadline - time.monotonic(), 0.0))
    return not any(thread.is_alive() and not thread.daemon for thread in threads)


@functools.cache
def _freeze_start() -> None:
    """
    Leave modules, settings and pools, which live as long as the process, out of full garbage collections.

    With thousands of jobs at once, these collections were an eighth of the CPU time of a job. Once in a process: at the
    start of a second client, garbage of the first one's jobs would be frozen too.
    """
    gc.freeze()


def _log_declared_queues(client: Client) -> None:
    """Log the kinds whose args name a queue that this worker does not work: perhaps no client does."""
    opts = [
        (worker.kinds[0], getattr(worker.args_type, "insert_opts", None)) for worker in client.config.workers
    ]
    declared = {kind: one.queue for kind, one in opts if isinstance(one, InsertOpts) and one.queue}
    left = {kind: queue for kind, queue in declared.items() if queue not in client.config.queues}
    if left:
        fields = {"kinds": ",".join(sorted(left)), "queues": ",".join(sorted(set(left.values())))}
        logger.info("kinds go into other queues", extra={"client_id": client.id, **fields})
