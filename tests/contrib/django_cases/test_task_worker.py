"""Claims about the workers of Django's tasks."""

from __future__ import annotations

from django.test import TransactionTestCase

from django_cases.tasks import SIGNALS, Broken, add, add_later, break_again, break_once, which_attempt
from django_cases.work_jobs import empty_tables, work


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
