"""The outcomes of attempts: the row and the event of each."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from datetime import UTC, datetime, timedelta

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.core.config import Config
from millhand.core.errors import JobCancel, JobSnooze
from millhand.core.event import EventKind
from millhand.core.hooks import AttemptFailure
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState
from millhand.core.retry import ConstantRetryPolicy, RetryPolicy
from millhand.core.worker import Workers
from millhand.core.worker_job import Job


async def test_completed_when_the_worker_returns(harness: ClientHarness) -> None:
    """
    single_implementation_worker_outcomes.

    The job is completed at attempt 1, by this client, without errors.
    """
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        assert job.args == Act("ok")

    async with harness.client(workers) as client:
        event = await harness.work(client, Act("ok"))

    row = event.job
    assert event.kind is EventKind.JOB_COMPLETED
    assert row is not None
    assert (row.state, row.attempt, row.errors, row.attempted_by) == (JobState.COMPLETED, 1, (), (client.id,))
    assert await harness.row(row.id) == row


async def test_completed_by_a_plain_function_in_a_thread_with_its_context(harness: ClientHarness) -> None:
    """A plain function runs in a thread with the context variables of its attempt."""
    seen: list[object] = []
    variable = contextvars.ContextVar("variable", default="unset")
    workers = Workers()

    @workers.add()
    def act(job: Job[Act]) -> None:
        seen.extend([threading.current_thread() is threading.main_thread(), variable.get(), job.args.what])

    variable.set("set")
    async with harness.client(workers) as client:
        event = await harness.work(client, Act("thread"))

    assert event.kind is EventKind.JOB_COMPLETED
    assert seen == [False, "set", "thread"]


async def test_failure_keeps_error_attempt_and_trace_and_is_retried(harness: ClientHarness) -> None:
    """
    single_implementation_worker_outcomes.

    The row keeps the failed attempt with its trace, and a job with a near retry is available at once.
    """
    raised_at: list[datetime] = []
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        raised_at.append(datetime.now(UTC))
        raise ValueError(f"cannot {job.args.what}")

    async with harness.client(workers) as client:
        event = await harness.work(client, Act("sort"))
        seen_at = datetime.now(UTC)

    row = event.job
    assert row is not None
    assert (event.kind, row.state, row.attempt) == (EventKind.JOB_FAILED, JobState.AVAILABLE, 1)
    [error] = row.errors
    assert (error.attempt, error.error) == (1, "ValueError: cannot sort")
    assert error.trace.splitlines()[0] == "Traceback (most recent call last):"
    assert error.trace.splitlines()[1].endswith(", in act")
    # A second, give or take a tenth, from an instant between the error and its event.
    assert row.scheduled_at - raised_at[0] >= timedelta(seconds=0.9)
    assert row.scheduled_at - seen_at <= timedelta(seconds=1.1)


async def test_failure_and_completion_keep_one_error(harness: ClientHarness) -> None:
    """The job ends completed at attempt 2 with one error."""
    workers = Workers()

    @workers.add(retry=AtOnce())
    async def act(job: Job[Act]) -> None:
        if job.attempt == 1:
            raise ValueError("first")

    async with harness.client(workers) as client:
        with client.subscribe() as events:
            await client.insert(Act("twice"))
            kinds = [(await harness.next(events)).kind for _ in range(2)]
        [row] = await harness.rows()

    assert kinds == [EventKind.JOB_FAILED, EventKind.JOB_COMPLETED]
    assert (row.state, row.attempt, [error.error for error in row.errors]) == (
        JobState.COMPLETED,
        2,
        ["ValueError: first"],
    )


async def test_discarded_after_the_last_attempt(harness: ClientHarness) -> None:
    """
    single_implementation_worker_outcomes.

    Each attempt up to max_attempts leaves an error, and the last one discards the job.
    """
    workers = Workers()

    @workers.add(retry=AtOnce())
    async def act(job: Job[Act]) -> None:
        raise ValueError(job.attempt)

    async with harness.client(workers) as client:
        with client.subscribe() as events:
            await client.insert(Act("never"), InsertOpts(max_attempts=3))
            for _ in range(3):
                event = await harness.next(events)

    row = event.job
    assert row is not None
    assert (row.state, row.attempt, [error.attempt for error in row.errors]) == (
        JobState.DISCARDED,
        3,
        [1, 2, 3],
    )
    assert row.finalized_at is not None


async def test_job_cancel_ends_the_job(harness: ClientHarness) -> None:
    """single_implementation_worker_outcomes; JobCancel ends the job and keeps the reason."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        raise JobCancel("no such order")

    async with harness.client(workers) as client:
        event = await harness.work(client, Act("cancel"))

    row = event.job
    assert row is not None
    assert (event.kind, row.state, [e.error for e in row.errors]) == (
        EventKind.JOB_CANCELLED,
        JobState.CANCELLED,
        ["JobCancelError: no such order"],
    )


async def test_error_handler_that_returns_true_cancels_the_job(harness: ClientHarness) -> None:
    """
    error_handler_cancel_override.

    The handler gets the attempt and the outcome without the cancel.
    """
    emitted: list[AttemptFailure] = []

    class Handler:
        async def handle_error(self, failure: AttemptFailure) -> bool:
            emitted.append(failure)
            return True

    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        raise ValueError("hopeless")

    async with harness.client(workers, error_handlers=[Handler()]) as client:
        event = await harness.work(client, Act("x"))

    [failure] = emitted
    assert (event.kind, event.job and event.job.state) == (EventKind.JOB_CANCELLED, JobState.CANCELLED)
    assert (failure.job.attempt, str(failure.error), failure.state) == (1, "hopeless", JobState.AVAILABLE)
    assert failure.next_attempt_at is not None


async def test_error_handler_that_raises_is_logged(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """The job is retried as without a handler."""

    class Broken:
        async def handle_error(self, failure: AttemptFailure) -> bool:
            raise RuntimeError("handler is broken")

    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        raise ValueError("oops")

    with caplog.at_level(logging.WARNING):
        async with harness.client(workers, error_handlers=[Broken()]) as client:
            event = await harness.work(client, Act("x"))

    assert event.kind is EventKind.JOB_FAILED
    assert [record.msg for record in caplog.records] == ["error handler failed", "job errored"]


async def test_snooze_is_no_attempt(harness: ClientHarness) -> None:
    """
    snooze_once_metadata_transition.

    A snooze is counted in the metadata and leaves no error; a long one waits for the scheduler.
    """
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        raise JobSnooze(timedelta(minutes=1))

    async with harness.client(workers) as client:
        event = await harness.work(client, Act("later"))

    row = event.job
    assert row is not None
    assert (event.kind, row.state, row.attempt, row.errors, row.metadata) == (
        EventKind.JOB_SNOOZED,
        JobState.SCHEDULED,
        0,
        (),
        {"snoozes": 1},
    )


@pytest.mark.slow
async def test_timeout_is_a_failure(harness: ClientHarness) -> None:
    """
    timeout_cancellation.

    An attempt that outlasts its worker's timeout fails with JobTimeout, without a trace.
    """
    workers = Workers()

    @workers.add(timeout=timedelta(milliseconds=20))
    async def act(job: Job[Act]) -> None:
        await asyncio.Event().wait()

    async with harness.client(workers) as client:
        event = await harness.work(client, Act("slow"))

    row = event.job
    assert row is not None
    assert event.kind is EventKind.JOB_FAILED
    assert [(e.error, e.trace) for e in row.errors] == [
        ("JobTimeout: attempt must end within 0.02 s, got its timeout", "")
    ]


async def test_worker_that_returns_after_its_timeout_is_completed(harness: ClientHarness) -> None:
    """A worker that catches the cancellation and returns completes the job."""
    workers = Workers()

    @workers.add(timeout=timedelta(milliseconds=20))
    async def act(job: Job[Act]) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    async with harness.client(workers) as client:
        event = await harness.work(client, Act("slow"))

    assert event.kind is EventKind.JOB_COMPLETED


async def test_function_in_a_thread_can_check_its_timeout(harness: ClientHarness) -> None:
    """check_cancel_requested raises after the timeout, and the attempt has timed out."""
    workers = Workers()
    pause = threading.Event()

    @workers.add(timeout=timedelta(milliseconds=20))
    def act(job: Job[Act]) -> None:
        while True:
            job.check_cancel_requested()
            pause.wait(0.005)

    async with harness.client(workers) as client:
        event = await harness.work(client, Act("slow"))

    assert event.kind is EventKind.JOB_FAILED
    assert event.job is not None
    assert event.job.errors[0].error.startswith("JobTimeout")


async def test_remote_cancel_ends_a_running_job(harness: ClientHarness) -> None:
    """
    cooperative_remote_cancellation.

    The cancel reaches the attempt through the database, and the job ends cancelled with River's text.
    """
    workers = Workers()
    started = asyncio.Event()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        started.set()
        await asyncio.Event().wait()

    async with harness.client(workers) as client:
        with client.subscribe() as events:
            inserted = await client.insert(Act("endless"))
            await asyncio.wait_for(started.wait(), GENEROUS)
            await client.jobs.cancel(inserted.job.id)
            event = await harness.next(events)

    row = event.job
    assert row is not None
    assert (event.kind, row.state, [e.error for e in row.errors]) == (
        EventKind.JOB_CANCELLED,
        JobState.CANCELLED,
        ["JobCancelError: job cancelled remotely"],
    )
    assert "cancel_attempted_at" in row.metadata


@pytest.mark.slow
async def test_unknown_kind_fails_when_all_kinds_are_fetched(harness: ClientHarness) -> None:
    """
    mixed_unknown_kind_error.

    The error names the kinds of the client.
    """
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    config = {"fetch_only_known_kinds": False, "skip_unknown_job_check": True}
    async with harness.client(workers, **config) as client:
        event = await harness.work(client, harness.args_of_kind("foreign"))

    assert event.job is not None
    assert [(e.error, e.trace) for e in event.job.errors] == [
        ("UnknownKind: no worker is registered for kind 'foreign'; known kinds: 'act'", "")
    ]


async def test_unknown_kind_is_left_alone_by_default(harness: ClientHarness) -> None:
    """A job without a worker stays available with attempt 0, and known kinds behind it are worked."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    async with harness.client(workers, skip_unknown_job_check=True) as client:
        foreign = await client.insert(harness.args_of_kind("foreign"))
        await harness.work(client, Act("known"))

    row = await harness.row(foreign.job.id)
    assert (row.state, row.attempt) == (JobState.AVAILABLE, 0)


async def test_args_that_do_not_decode_fail_with_the_field(harness: ClientHarness) -> None:
    """The worker is not called."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        raise AssertionError("must not be called")

    async with harness.client(workers) as client:
        with client.subscribe() as events:
            await harness.insert_raw("act", '{"what": 1}')
            event = await harness.next(events)

    assert event.kind is EventKind.JOB_FAILED
    assert event.job is not None
    assert "what" in event.job.errors[0].error


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
async def test_base_exception_of_a_worker_is_a_failure(
    harness: ClientHarness, kind: type[BaseException]
) -> None:
    """panic_attempt_trace; SystemExit and others fail the attempt with a trace, and the client continues."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        if job.args.what == "exit":
            raise kind("3")

    async with harness.client(workers) as client:
        failed = await harness.work(client, Act("exit"))
        completed = await harness.work(client, Act("go on"))

    assert failed.job is not None
    assert failed.job.errors[0].error == f"{kind.__name__}: 3"
    assert kind.__name__ in failed.job.errors[0].trace
    assert completed.kind is EventKind.JOB_COMPLETED


async def test_output_and_metadata_are_kept_with_any_outcome(harness: ClientHarness) -> None:
    """Staged metadata is merged after a success and after a failure."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        job.record_output({"n": 1})
        job.set_metadata("note", job.args.what)
        if job.args.what == "fail":
            raise ValueError("after all")

    async with harness.client(workers) as client:
        completed = await harness.work(client, Act("win"))
        failed = await harness.work(client, Act("fail"))

    assert [event.job and event.job.metadata for event in (completed, failed)] == [
        {"output": {"n": 1}, "note": "win"},
        {"output": {"n": 1}, "note": "fail"},
    ]
    assert completed.job is not None
    assert completed.job.output == {"n": 1}


async def test_nul_in_an_error_blocks_no_other_job(harness: ClientHarness) -> None:
    """Characters that jsonb cannot store are replaced, and the jobs of the same batch are written."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        if job.args.what == "poison":
            job.set_metadata("bad", "\x00 and \ud800")
            raise ValueError("NUL \x00 here")

    async with harness.client(workers) as client:
        with client.subscribe() as events:
            await client.insert_many([Act("good"), Act("poison"), Act("good")])
            emitted = [await harness.next(events) for _ in range(3)]

    kinds = sorted(event.kind for event in emitted)
    assert kinds == [EventKind.JOB_COMPLETED, EventKind.JOB_COMPLETED, EventKind.JOB_FAILED]
    [poisoned] = [event.job for event in emitted if event.kind is EventKind.JOB_FAILED]
    assert poisoned is not None
    assert poisoned.errors[0].error == "ValueError: NUL \ufffd here"
    assert poisoned.metadata["bad"] == "\ufffd and \ufffd"


async def test_deleted_job_emits_no_event(harness: ClientHarness) -> None:
    """A row that is gone at the end of its attempt causes neither an error nor an event."""
    workers = Workers()
    started, go_on = asyncio.Event(), asyncio.Event()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        if job.args.what == "gone":
            started.set()
            await go_on.wait()

    async with harness.client(workers) as client:
        with client.subscribe() as events:
            await client.insert(Act("gone"))
            await asyncio.wait_for(started.wait(), GENEROUS)
            await harness.execute("DELETE FROM river_job")
            go_on.set()
            await client.insert(Act("next"))
            event = await harness.next(events)

    assert event.job is not None
    assert event.job.args == {"what": "next"}


async def test_retry_policy_of_a_worker_is_not_used_for_args_that_do_not_decode(
    harness: ClientHarness,
) -> None:
    """As in River, such a job is retried by the policy of the client: here in a second and not in an hour."""
    workers = Workers()

    @workers.add(retry=ConstantRetryPolicy(timedelta(hours=1)))
    async def act(job: Job[Act]) -> None:
        raise AssertionError("must not be called")

    async with harness.client(workers) as client:
        with client.subscribe() as events:
            await harness.insert_raw("act", '{"what": 1}')
            event = await harness.next(events)

    assert event.job is not None
    assert event.job.attempted_at is not None
    assert event.job.scheduled_at - event.job.attempted_at < timedelta(minutes=1)


@pytest.mark.slow
async def test_worker_retry_that_lies_in_the_past_falls_back_to_the_default(harness: ClientHarness) -> None:
    """A retry policy that returns an instant before now is not used."""

    class Past:
        def next_retry_at(self, job: object, *, now: datetime) -> datetime:
            return datetime(2000, 1, 1, tzinfo=UTC)

    policy: RetryPolicy = Past()
    workers = Workers()

    @workers.add(retry=policy)
    async def act(job: Job[Act]) -> None:
        raise ValueError("x")

    async with harness.client(workers) as client:
        event = await harness.work(client, Act("x"))

    assert event.job is not None
    assert event.job.attempted_at is not None
    assert event.job.scheduled_at > event.job.attempted_at


class AtOnce:
    """Retries without delay."""

    def next_retry_at(self, job: object, *, now: datetime) -> datetime:
        return now


def test_config_has_rivers_defaults() -> None:
    """The settings that these tests rely on have River's defaults."""
    config = Config()

    assert (config.max_attempts, config.job_timeout) == (25, timedelta(minutes=1))
