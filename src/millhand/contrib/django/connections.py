"""
Manage Django's connections around a job, as Django does around a request.

A plain function uses the connections of its thread, which later jobs of that thread reuse according to `CONN_MAX_AGE`.
A coroutine has a thread of its own for the ORM, as under ASGI, and its connections are closed after the job.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.db import connections

from millhand.driver.django_executor import is_kept_open
from millhand.job import Job
from millhand.worker import Worker

Call = Callable[[Job[Any]], Any]


def with_connections(worker: Worker) -> Worker:
    """Return a worker that closes or reuses Django's connections after each job."""
    around = _around_coroutine if worker.is_async else _around_function
    return msgspec.structs.replace(worker, call=around(worker.call))


def _around_function(work: Call) -> Call:
    def call(job: Job[Any]) -> object:
        _close("close_if_unusable_or_obsolete")
        try:
            return work(job)
        finally:
            _close("close_if_unusable_or_obsolete")

    return call


def _around_coroutine(work: Call) -> Call:
    async def call(job: Job[Any]) -> None:
        async with ThreadSensitiveContext() as context:
            ended_with = await _caught(work, job)  # asgiref would change the traceback in a `finally`
            if context in SyncToAsync.context_to_thread_executor:  # otherwise the job did not use the ORM
                await sync_to_async(_close)("close")
        if ended_with is not None:
            raise ended_with

    return call


def _close(method: str) -> None:
    """Call a closing method of this thread's connections, except of the one of a test."""
    for connection in connections.all(initialized_only=True):
        if not is_kept_open(connection):
            getattr(connection, method)()


async def _caught(work: Call, job: Job[Any]) -> BaseException | None:
    try:
        await work(job)
    except BaseException as error:  # noqa: BLE001 - raised again once the connections are closed
        return error
    return None
