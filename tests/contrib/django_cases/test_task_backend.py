"""Claims about Django's tasks as jobs."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction
from django.test import TestCase
from django.utils import timezone

from django_cases.tasks import InvalidTask, TaskResultDoesNotExist, add, task_backends
from millhand.contrib.django import client
from millhand.contrib.django.models import Job
from shop.jobs import Confirm


class EnqueueCase(TestCase):
    def test_enqueue_is_part_of_the_transaction(self) -> None:
        """A task is enqueued with the commit of its transaction, and not after a rollback."""
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
        """A job has the priority, time and queue of its task, and the result has them too."""
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

    def test_wrong_values_are_refused(self) -> None:
        """A queue that the backend or River does not allow is an InvalidTask; an unknown id has no result."""
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
        """The asynchronous methods use the same connection and transaction."""

        async def go() -> str:
            result = await add.aenqueue(5)
            return str((await add.aget_result(result.id)).status)

        assert (async_to_sync(go)(), Job.objects.count()) == ("READY", 1)
