from __future__ import annotations

import asyncio
from typing import Any

try:
    from django.tasks import task, task_backends
    from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
    from django.tasks.signals import task_enqueued, task_finished, task_started
except ImportError:
    from django_tasks import task, task_backends
    from django_tasks.exceptions import InvalidTaskError as InvalidTask
    from django_tasks.exceptions import TaskResultDoesNotExist
    from django_tasks.signals import task_enqueued, task_finished, task_started

SIGNALS = {"enqueued": task_enqueued, "started": task_started, "finished": task_finished}

__all__ = ["SIGNALS", "InvalidTask", "TaskResultDoesNotExist", "task_backends"]


class Broken(Exception):
    pass


@task(queue_name="mail")
def add(a: int, b: int = 1) -> dict[str, int]:
    return {"sum": a + b}


@task()
async def add_later(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


@task(takes_context=True)
def which_attempt(context: Any) -> int:
    return int(context.attempt)


@task(backend="once")
def break_once() -> None:
    raise Broken("no")


@task()
async def break_again() -> None:
    raise Broken("again")


hung: set[str] = set()


@task(backend="once", takes_context=True)
async def hang_first(context: Any) -> str:
    """Wait for ever in the first attempt."""
    id = context.task_result.id
    if id not in hung:
        hung.add(id)
        await asyncio.Event().wait()
    return "done"


@task()
async def hang() -> None:
    await asyncio.Event().wait()
