"""Adapts a blocking driver to the conformance tests: each method runs in a thread, without an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec

from millhand.db.driver.protocol import Driver, Executor
from millhand.db.driver.run_sync import run_sync
from millhand.db.query import Copy, CopyOut, Query

T = TypeVar("T")


async def threaded(coroutine: Coroutine[Any, Any, T]) -> T:
    return await asyncio.to_thread(run_sync, coroutine)


class ThreadedExecutor:
    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    async def run(self, query: Query[T]) -> T:
        return await threaded(self.executor.run(query))  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[ThreadedExecutor]:
        block = self.executor.begin()
        inner = await threaded(block.__aenter__())  # type: ignore[arg-type]
        try:
            yield ThreadedExecutor(inner)
        except BaseException as error:
            await threaded(block.__aexit__(type(error), error, None))  # type: ignore[arg-type]
            raise
        await threaded(block.__aexit__(None, None, None))  # type: ignore[arg-type]

    async def copy(self, copy: Copy) -> int:
        loop = asyncio.get_running_loop()

        async def chunks() -> AsyncIterator[bytes]:
            source = aiter(copy.chunks)
            while chunk := asyncio.run_coroutine_threadsafe(anext(source, b""), loop).result():  # type: ignore[arg-type]
                yield chunk

        return await threaded(self.executor.copy(msgspec.structs.replace(copy, chunks=chunks())))  # type: ignore[arg-type]

    async def copy_out(self, copy: CopyOut) -> int:
        loop = asyncio.get_running_loop()

        async def write(piece: bytes) -> None:
            asyncio.run_coroutine_threadsafe(copy.write(piece), loop).result()  # type: ignore[arg-type]

        return await threaded(self.executor.copy_out(msgspec.structs.replace(copy, write=write)))  # type: ignore[arg-type]

    async def fetch(self, sql: str, params: Sequence[Any] = (), **options: Any) -> list[dict[str, Any]]:
        return await threaded(self.executor.fetch(sql, params, **options))  # type: ignore[arg-type]

    async def execute_script(self, sql: str, **options: Any) -> None:
        await threaded(self.executor.execute_script(sql, **options))  # type: ignore[arg-type]


class ThreadedDriver:
    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.address = driver.address
        self.pool_size = driver.pool_size
        self.schema = driver.schema

    @property
    def pool(self) -> ThreadedExecutor:
        return ThreadedExecutor(self.driver.pool)

    def executor(self, tx: object) -> ThreadedExecutor:
        inner = tx.executor if isinstance(tx, ThreadedExecutor) else tx
        return ThreadedExecutor(self.driver.executor(inner))

    def listener(self) -> Any:
        return self.driver.listener()

    async def open(self) -> None:
        await threaded(self.driver.open())  # type: ignore[arg-type]

    async def close(self) -> None:
        await threaded(self.driver.close())  # type: ignore[arg-type]
