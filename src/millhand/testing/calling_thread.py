"""
Runs asynchronous code for a synchronous test: the event loop in a second thread, statements in the test's own thread.

A transaction of Django belongs to one thread, and the test uses those of psycopg and SQLAlchemy in its own. Statements
and workers that are plain functions are therefore passed to the calling thread, which waits for them. Asynchronous
workers run in the second thread; their calls of asgiref's `sync_to_async`, which Django's asynchronous methods use, go
to the calling thread too.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import queue
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Executor as Threads
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import msgspec

from millhand.client import Client
from millhand.core.errors import ConfigError
from millhand.db.driver.protocol import Executor
from millhand.db.driver.run_sync import run_sync
from millhand.db.query import TIMEOUT_SECONDS, Copy, CopyOut, Query
from millhand.testing.client_override import OverrideDriver, SavepointPool

T = TypeVar("T")
P = ParamSpec("P")


class CallingThread(Threads):
    """The calling thread as an executor of calls while it waits in `run`. The event loop calls `submit`."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._cancel: Callable[[], object] = lambda: None
        self._interrupt: KeyboardInterrupt | None = None
        self._runner = asyncio.Runner()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="millhand-testing")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the second thread, and its submitted calls here; return or raise what it does."""
        context = contextvars.copy_context()
        ended = self._thread.submit(self._runner.run, self._main(main), context=context)
        ended.add_done_callback(lambda _: self._calls.put(None))
        try:
            self._do_calls()
        except BaseException:  # Ctrl-C during the wait
            self._cancel()
            self._do_calls()
            raise
        if self._interrupt is not None:  # Ctrl-C in a worker, which failed its attempt
            raise self._interrupt
        return ended.result()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - the caller of `submit` gets it
                future.set_exception(error)
            else:
                if isinstance(result, KeyboardInterrupt):  # the executor returns what a worker raised
                    self._interrupt = result
                future.set_result(result)

        self._calls.put(call)
        return future

    async def run_here(self, coroutine: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine of a blocking driver in the calling thread, and return its result."""
        return await asyncio.wrap_future(self.submit(lambda: run_sync(coroutine())))

    def _do_calls(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    async def _main(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        task = asyncio.current_task()
        if task is not None:
            loop, cancel = asyncio.get_running_loop(), task.cancel
            self._cancel = lambda: loop.call_soon_threadsafe(cancel)
        if (asgiref := sys.modules.get("asgiref.sync")) is not None:
            asgiref.AsyncToSync.executors.current = self  # in this context only
        return await main()


class SyncTestClient(Client):
    """The `job.client` of a synchronous test."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Raise ConfigError, because a plain function that waited for the loop would block the calling thread for ever."""
        raise ConfigError(
            "a plain function that a synchronous test works must not wait for an event loop, got one that asks for that "
            "of job.client; insert with a SyncClient, or write the worker as a coroutine"
        )


class CallingThreadDriver(OverrideDriver):
    """Runs the statements of a blocking driver in the calling thread; `threads` is the executor of plain functions."""

    def __init__(self, driver: OverrideDriver, caller: CallingThread) -> None:
        super().__init__(driver, driver.now, None)
        self.threads = caller
        self.tx = driver.tx
        executor = driver.pool if driver.tx is None else driver.executor(driver.tx)
        self.pool = CallingThreadExecutor(executor, caller)
        if driver.tx is not None:
            self.pool = SavepointPool(self.pool)

    def executor(self, tx: object) -> Executor:
        return CallingThreadExecutor(super().executor(tx), self.threads)


class CallingThreadExecutor:
    """Runs the statements of a blocking executor in the calling thread."""

    __slots__ = ("_caller", "_executor")

    def __init__(self, executor: Executor, caller: CallingThread) -> None:
        self._caller = caller
        self._executor = executor

    async def run(self, query: Query[T]) -> T:
        return await self._caller.run_here(lambda: self._executor.run(query))

    async def copy(self, copy: Copy) -> int:
        """Copy rows into a table, after reading all of them from their source."""
        chunks = [chunk async for chunk in copy.chunks]

        async def iterate() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        whole = msgspec.structs.replace(copy, chunks=iterate())
        return await self._caller.run_here(lambda: self._executor.copy(whole))

    async def copy_out(self, copy: CopyOut) -> int:
        """Copy rows to a function, after reading all of them from the database."""
        pieces: list[bytes] = []

        async def keep(piece: bytes) -> None:
            pieces.append(piece)

        whole = msgspec.structs.replace(copy, write=keep)
        num_rows = await self._caller.run_here(lambda: self._executor.copy_out(whole))
        for piece in pieces:
            await copy.write(piece)
        return num_rows

    async def fetch(
        self, sql: str, params: Sequence[Any] = (), *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        return await self._caller.run_here(
            lambda: self._executor.fetch(sql, params, timeout_seconds=timeout_seconds)
        )

    async def execute_script(self, sql: str, *, timeout_seconds: float | None = None) -> None:
        await self._caller.run_here(
            lambda: self._executor.execute_script(sql, timeout_seconds=timeout_seconds)
        )

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Executor]:
        block = self._executor.begin()

        async def enter() -> Executor:
            return await block.__aenter__()

        inside = await self._caller.run_here(enter)
        try:
            yield CallingThreadExecutor(inside, self._caller)
        except BaseException as error:
            await self._caller.run_here(functools.partial(_left, block, error))
            raise
        await self._caller.run_here(functools.partial(_left, block, None))


async def _left(block: AbstractAsyncContextManager[Any], error: BaseException | None) -> None:
    """Leave a block; if it raises `error` again, return, because the caller raises it itself."""
    try:
        await block.__aexit__(
            None if error is None else type(error), error, None if error is None else error.__traceback__
        )
    except BaseException as raised:
        if raised is not error:
            raise
