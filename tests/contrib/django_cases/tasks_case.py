from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction
from django.test import TestCase, TransactionTestCase
from django.utils import timezone
from shop.jobs import Confirm

from django_cases.room import empty_tables, work
from django_cases.tasks import (
    SIGNALS,
    Broken,
    InvalidTask,
    TaskResultDoesNotExist,
    add,
    add_later,
    break_again,
    break_once,
    task_backends,
    which_attempt,
)
from millhand.contrib.django import client
from millhand.contrib.django.models import Job


class EnqueueCase(TestCase):
    def test_enqueue_is_part_of_the_transaction(self) -> None:
        """A task is enqueued when the block that it is in is committed, and gone with its rollback."""
        with contextlib.suppress(ZeroDivisionError), transaction.atomic():
            add.enqueue(1)
            raise ZeroDivisionError
        with transaction.atomic():
            kept = add.enqueue(2, b=3)

        job = Job.objects.get()
        assert (job.kind, job.queue, job.priority, job.max_attempts) == ("django_task", "mail", 2, 3)
        assert job.args["task"] == "django_cases.tasks.add"
        assert (kept.id, kept.status, kept.args, kept.kwargs) == (str(job.pk), "READY", [2], {"b": 3})
        assert (kept.attempts, kept.is_finished, kept.enqueued_at) == (0, False, job.created_at)

    def test_options_of_a_task_are_those_of_its_job(self) -> None:
        """Priority, time and queue of a task are its job's, with the nearest of four priorities; its result has them."""
        later = timezone.now() + timedelta(hours=1)
        for priority in (100, 1, 0, -1, -50, -51, -100):
            add.using(priority=priority).enqueue(1)
        result = add.using(run_after=later, queue_name="default", priority=-7).enqueue(1)

        priorities = list(Job.objects.order_by("pk").values_list("priority", flat=True))
        job = Job.objects.latest("pk")
        again = add.get_result(result.id).task
        assert priorities == [1, 1, 2, 3, 3, 4, 4, 3]
        assert (job.state, job.scheduled_at, job.queue) == ("scheduled", later, "default")
        assert (again.priority, again.run_after, again.queue_name) == (-7, later, "default")

    def test_what_cannot_be_is_refused(self) -> None:
        """A queue that the backend has not, or River cannot have, is an InvalidTask; what is none has no result."""
        backend = task_backends["default"]
        backend.queues.add("Not A Queue")
        with self.assertRaisesMessage(InvalidTask, "Queue 'other' is not valid for backend"):
            add.using(queue_name="other")
        with self.assertRaisesMessage(
            InvalidTask, "queue_name must be 1 to 64 lower-case letters and digits"
        ):
            add.using(queue_name="Not A Queue")
        backend.queues.remove("Not A Queue")
        other = client().insert(Confirm(1)).job
        for id in ("999", "x", str(other.id), "-1"):
            with pytest.raises(TaskResultDoesNotExist):
                add.get_result(id)

    def test_coroutines_enqueue_too(self) -> None:
        """The asynchronous words are on the same connection, in the same block."""

        async def go() -> str:
            result = await add.aenqueue(5)
            return str((await add.aget_result(result.id)).status)

        assert (async_to_sync(go)(), Job.objects.count()) == ("READY", 1)


class WorkCase(TransactionTestCase):
    def setUp(self) -> None:
        self.addCleanup(empty_tables)

    def test_results_say_what_came_of_tasks(self) -> None:
        """What a task returned or raised is in its result: plain or a coroutine, with its context, at once or at last."""
        heard: list[tuple[str, str]] = []
        listeners = {}
        for name, signal in SIGNALS.items():
            listeners[name] = lambda task_result, name=name, **_: heard.append((name, task_result.task.name))
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
        of_once = [name for name, task in heard if task == "break_once"]
        of_again = [name for name, task in heard if task == "break_again"]
        assert (of_once, of_again) == (
            ["enqueued", "started", "finished"],
            ["enqueued", "started", "started"],
        )
