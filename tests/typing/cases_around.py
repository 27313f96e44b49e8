"""What a type checker sees of hooks, middleware, error handlers, events and control."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, assert_type

from millhand import (
    AttemptFailure,
    Client,
    ClientRow,
    Config,
    DefaultRetryPolicy,
    Event,
    EventKind,
    FetchMetric,
    Hook,
    InsertParams,
    InsertResult,
    Job,
    JobCancel,
    JobEvent,
    JobFilters,
    JobId,
    JobPage,
    JobRow,
    JobSnooze,
    JobState,
    JobStatistics,
    Middleware,
    QueueRow,
    StuckJob,
    Where,
    Workers,
)

workers = Workers()


@dataclass(frozen=True)
class Pay:
    kind: ClassVar[str] = "pay"
    invoice_id: int


# Hooks and middleware: what is overridden must be what it was.


class Counting(Hook, Middleware):
    async def insert_begin(self, params: InsertParams) -> InsertParams:
        assert_type(params.kind, str)
        return params

    async def work_begin(self, job: Job[Any]) -> None:
        assert_type(job.id, JobId)

    async def work_end(self, job: Job[Any], error: BaseException | None) -> BaseException | None:
        return error

    async def work(self, job: Job[Any], call_next: Callable[[], Awaitable[None]]) -> None:
        await call_next()
        await call_next(job)  # type: ignore[call-arg]

    async def insert(
        self,
        params: Sequence[InsertParams],
        call_next: Callable[[Sequence[InsertParams]], Awaitable[Sequence[InsertResult]]],
    ) -> Sequence[InsertResult]:
        return await call_next(params)

    def metric_emit(self, metric: FetchMetric) -> None:
        assert_type((metric.queue, metric.num_jobs, metric.seconds), tuple[str, int, float])


class Wrong(Hook, Middleware):
    async def insert_begin(self, params: InsertParams) -> None: ...  # type: ignore[override]

    def work_begin(self, job: Job[Any]) -> None: ...  # type: ignore[override]

    async def work_end(self, job: Job[Any]) -> BaseException | None: ...  # type: ignore[override]

    async def work(self, job: Job[Any]) -> None: ...  # type: ignore[override]

    async def metric_emit(self, metric: FetchMetric) -> None: ...  # type: ignore[override]


# Error handlers and retry policies.


class Alert:
    async def handle_error(self, failure: AttemptFailure) -> bool | None:
        assert_type(failure.job, JobRow)
        assert_type(failure.error, BaseException)
        assert_type(failure.next_attempt_at, datetime | None)
        return failure.num_attempts > 3  # type: ignore[attr-defined, no-any-return]


class SilentAlarm:
    def handle_error(self, failure: AttemptFailure) -> bool:
        return True


class LoudAlarm:
    async def handle_error(self, failure: AttemptFailure) -> str:
        return failure.trace


class Linear:
    def next_retry_at(self, job: JobRow, *, now: datetime) -> datetime:
        return now + timedelta(minutes=len(job.errors))


class Vague:
    def next_retry_at(self, job: JobRow, *, now: datetime) -> timedelta:
        return timedelta(minutes=1)


def give_slot(stuck: StuckJob) -> bool:
    assert_type(stuck.job, JobRow)
    return stuck.num_stuck < 3


Config(hooks=[Counting()], middleware=[Counting()], error_handlers=[Alert()], job_stuck_handler=give_slot)
Config(retry_policy=Linear())
Config(hooks=[Alert()])  # type: ignore[list-item]
Config(hooks=[Counting])  # type: ignore[list-item]
Config(middleware=Counting())  # type: ignore[arg-type]
Config(error_handlers=[SilentAlarm()])  # type: ignore[list-item]
Config(error_handlers=[LoudAlarm()])  # type: ignore[list-item]
Config(retry_policy=Vague())  # type: ignore[arg-type]
Config(retry_policy=DefaultRetryPolicy)  # type: ignore[arg-type]
Config(job_stuck_handler=lambda: True)  # type: ignore[arg-type, misc]
workers.add(hooks=[Alert()])  # type: ignore[list-item]
workers.add(retry=Vague())  # type: ignore[arg-type]
workers.add("pay")  # type: ignore[arg-type]
workers.add(aliases=[1])  # type: ignore[list-item]


# The job that a worker gets, and its signals.


@workers.add(retry=Linear(), hooks=[Counting()])
async def pay(job: Job[Pay]) -> None:
    assert_type(job.args.invoice_id, int)
    assert_type(job.row, JobRow)
    assert_type(job.fencing_token, int)
    assert_type(job.is_cancel_requested, bool)
    print(job.args.invoice)  # type: ignore[attr-defined]
    job.record_output({"paid": True})
    job.record_output()  # type: ignore[call-arg]
    job.set_metadata(7, "a")  # type: ignore[arg-type]
    if job.args.invoice_id == 0:
        raise JobCancel("nothing to pay")
    if job.args.invoice_id == 1:
        raise JobSnooze(5)  # type: ignore[arg-type]
    if job.args.invoice_id == 2:
        raise JobSnooze(timedelta(minutes=5), hold_partition=True)
    raise JobSnooze(timedelta(minutes=5))


def pay_again(job: Job[Pay]) -> str:
    return str(job.args.invoice_id)


async def pay_row(row: Job[JobRow]) -> None:
    await pay(row)  # type: ignore[arg-type]
    await pay(Pay(1))  # type: ignore[arg-type]
    await pay_again(row)  # type: ignore[arg-type, misc]


# Events and control.


async def watch(client: Client) -> None:
    with client.subscribe(EventKind.JOB_FAILED, EventKind.JOB_SNOOZED, buffer_size=10) as of_jobs:
        async for job_event in of_jobs:
            assert_type(job_event, JobEvent)
            assert_type(job_event.job, JobRow)
            assert_type(job_event.statistics, JobStatistics)
    with client.subscribe(EventKind.JOB_FAILED, EventKind.QUEUE_PAUSED, buffer_size=10) as mixed:
        assert_type(await anext(mixed), Event)
    with client.subscribe() as events:
        async for event in events:
            assert_type(event, Event)
            if isinstance(event, JobEvent):
                assert_type(event.job, JobRow)
            assert_type(event.job, JobRow | None)
            assert_type(event.statistics, JobStatistics | None)
            print(event.job.id)  # type: ignore[union-attr]
            break
        for one in events:  # type: ignore[attr-defined]
            print(one)
    client.subscribe("job_failed")  # type: ignore[call-overload]
    client.subscribe([EventKind.JOB_FAILED])  # type: ignore[call-overload]


async def control(client: Client) -> None:
    page = await client.jobs.list(JobFilters(kinds=["pay"], states=[JobState.DISCARDED]), limit=10)
    assert_type(page, JobPage)
    assert_type(page.jobs, tuple[JobRow, ...])
    assert_type(page.cursor, str | None)
    assert_type(await client.jobs.cancel(page.jobs[0].id), JobRow)
    assert_type(await client.jobs.count_by_state(), Mapping[JobState, int])
    assert_type(await client.queues.list(), Sequence[QueueRow])
    assert_type(await client.clients.list(), Sequence[ClientRow])
    await client.jobs.list(
        JobFilters(where=Where("priority = @priority", {"priority": 1})), after=page.jobs[0]
    )
    await client.jobs.cancel("7")  # type: ignore[arg-type]
    await client.jobs.list(kinds=["pay"])  # type: ignore[call-arg]
    await client.jobs.list(page)  # type: ignore[arg-type]
    await client.queues.pause(page.jobs[0].id)  # type: ignore[arg-type]
    await client.add_queue("mail", "10")  # type: ignore[arg-type]
    await client.stop(soft_stop_timeout=5)  # type: ignore[arg-type]
    JobFilters(["pay"])  # type: ignore[call-arg, list-item]
    JobFilters(states=["discarded"])  # type: ignore[list-item]
    client.jobs.get(7)  # type: ignore[unused-coroutine]
