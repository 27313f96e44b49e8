"""Claims about the workers of Django's tasks."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from django.test import TransactionTestCase

from django_cases.tasks import (
    SIGNALS,
    Broken,
    add,
    add_later,
    break_again,
    break_once,
    hang,
    hang_first,
    which_attempt,
)
from django_cases.work_jobs import empty_tables, work
from millhand import Client
from millhand.contrib.django.discovery import whole_config
from millhand.db.driver.django import django_url
from millhand.db.driver.psycopg import PsycopgDriver

GENEROUS = timedelta(seconds=20)


class WorkCase(TransactionTestCase):
    def setUp(self) -> None:
        self.addCleanup(empty_tables)

    def test_results_have_the_outcome_of_tasks(self) -> None:
        """A result has the return value or the errors of its task, for functions, coroutines and tasks with a context."""
        signals: list[tuple[str, str]] = []
        listeners = {}
        for name, signal in SIGNALS.items():
            listeners[name] = lambda task_result, name=name, **_: signals.append(
                (name, task_result.task.name)
            )
            signal.connect(listeners[name])
        results = [one.enqueue(*args) for one, args in ((add, [1]), (add_later, [2, 3]), (which_attempt, []))]
        once, again = break_once.enqueue(), break_again.enqueue()
        work()
        for result in (*results, once, again):
            result.refresh()

        assert [result.return_value for result in results] == [{"sum": 2}, 5, 1]
        assert [result.status for result in (*results, once, again)] == [
            *["SUCCESSFUL"] * 3,
            "FAILED",
            "READY",
        ]
        assert (once.attempts, once.errors[0].exception_class) == (1, Broken)
        assert "raise Broken" in once.errors[0].traceback
        assert [error.exception_class for error in again.errors] == [Broken, Broken]
        assert (again.started_at, again.finished_at) == (again.errors and again.started_at, None)
        assert again.started_at < again.last_attempted_at
        assert all(result.started_at <= result.finished_at for result in (*results, once))
        of_once = [name for name, task in signals if task == "break_once"]
        of_again = [name for name, task in signals if task == "break_again"]
        assert (of_once, of_again) == (
            ["enqueued", "started", "finished"],
            ["enqueued", "started", "started"],
        )

    def test_task_is_finished_only_when_no_attempt_follows(self) -> None:
        """A stop of the worker finishes no task, not even in its last attempt; a cancellation finishes it in any attempt."""
        finished: list[tuple[str, str]] = []

        def on_finished(task_result: Any, **_: object) -> None:
            finished.append((task_result.task.name, str(task_result.status)))

        SIGNALS["finished"].connect(on_finished)
        self.addCleanup(SIGNALS["finished"].disconnect, on_finished)
        hang_first.enqueue()
        cancelled = hang.enqueue()
        asyncio.run(cancel_and_stop(int(cancelled.id), num_tasks=2))
        at_the_stop = list(finished)
        work()

        assert at_the_stop == [("hang", "FAILED")]
        assert finished[1:] == [("hang_first", "SUCCESSFUL")]


async def cancel_and_stop(cancelled: int, num_tasks: int) -> None:
    """Work until all tasks run, cancel one of them, and stop while the others run."""
    num_started = 0
    all_started = asyncio.Event()

    def on_started(**_: object) -> None:
        nonlocal num_started
        num_started += 1
        if num_started == num_tasks:
            all_started.set()

    SIGNALS["started"].connect(on_started)
    client = Client(PsycopgDriver(django_url("default")), whole_config())
    await client.start()
    try:
        async with asyncio.timeout(GENEROUS.total_seconds()):
            await all_started.wait()
        await client.jobs.cancel(cancelled)
        await client.jobs.wait(cancelled, timeout=GENEROUS)
    finally:
        await client.stop(soft_stop_timeout=timedelta(0))
        SIGNALS["started"].disconnect(on_started)
