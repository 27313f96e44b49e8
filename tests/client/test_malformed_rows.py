"""Job rows that Millhand never writes block neither the client, nor other jobs, nor themselves."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from client_harness import Act, ClientHarness
from millhand.core.errors import JobCancel, JobSnooze
from millhand.core.event import EventKind
from millhand.core.job import JobId, JobState
from millhand.core.retry import ConstantRetryPolicy
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from odd_rows import HUGE, UNDECODABLE, UNREACHABLE, WORKABLE, WORKABLE_ALONE

NOT_NOTIFICATIONS = (
    "not json",
    "",
    "[" * 5000,
    "7",
    "null",
    '["queue"]',
    '{"queue": 7}',
    "{}",
    '{"action": 7, "queue": "default"}',
    '{"action": "dance", "queue": "default"}',
    '{"action": "cancel", "job_id": "x", "queue": "default"}',
    '{"action": "cancel", "job_id": 1e400, "queue": "default"}',
    '{"action": "cancel", "queue": ["default"]}',
    '{"action": "pause", "queue": null}',
    '{"action": "pause", "queue": "default\\n"}',
    '{"action": "resigned", "leader_id": 7}',
    '{"action": ["request_resign"]}',
)
NUM_NO_OBJECTS = 6
LATER = ConstantRetryPolicy(timedelta(hours=1))  # no second attempt within a test


async def insert_malformed(harness: ClientHarness, malformed: Mapping[str, str]) -> dict[JobId, str]:
    """Insert one good job, and then one for each of `malformed`, all available; return their names by id."""
    await harness.insert_raw("act", '{"what": "good"}')
    for number, changes in enumerate(malformed.values(), 2):
        await harness.insert_raw("act", '{"what": "malformed"}')
        await harness.execute(f"UPDATE river_job SET {changes} WHERE id = {number}")
    return dict(enumerate(("good", *malformed), 1))  # type: ignore[arg-type]  # ids begin at 1


@pytest.mark.slow
async def test_malformed_rows_are_worked_like_others(harness: ClientHarness) -> None:
    """
    claimed_row_decode_isolation.

    Rows with malformed columns are fetched in one batch, snoozed and completed, and so is the row fetched with them.
    """
    workers = Workers()
    snoozed = set()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        if job.args.what == "malformed" and job.id not in snoozed:
            snoozed.add(job.id)
            raise JobSnooze(timedelta(0))

    names = await insert_malformed(harness, WORKABLE | WORKABLE_ALONE)
    seen = defaultdict(list)
    client = harness.client(workers, queues={"default": len(names)})
    with client.subscribe() as events:
        async with client:
            for _ in range(2 * len(names) - 1):
                event = await harness.next(events)
                seen[names[event.job.id] if event.job else "none"].append(event.kind)

    both = [EventKind.JOB_SNOOZED, EventKind.JOB_COMPLETED]
    assert seen == {name: both[name == "good" :] for name in names.values()}
    assert {row.state for row in await harness.rows()} == {JobState.COMPLETED}


@pytest.mark.parametrize(
    "malformed",
    ["errors = ARRAY[['{}', '{}'], ['{}', '{}']]::jsonb []", "attempted_by = ARRAY[['a'], ['b']]"],
)
async def test_malformed_row_fails_like_others(harness: ClientHarness, malformed: str) -> None:
    """The error is added to malformed errors, and the errors of other jobs are written in the same batch."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        raise ValueError("no card")

    for what in ("good", "malformed", "good"):
        await harness.insert_raw("act", json.dumps({"what": what}))
    await harness.execute(f"UPDATE river_job SET {malformed} WHERE args ->> 'what' = 'malformed'")

    client = harness.client(workers)
    with client.subscribe() as events:
        async with client:
            actual = [(await harness.next(events)).kind for _ in range(3)]

    assert actual == [EventKind.JOB_FAILED] * 3
    assert [row.errors[-1].error for row in await harness.rows()] == ["ValueError: no card"] * 3


async def test_args_that_do_not_decode_fail_their_own_job(harness: ClientHarness) -> None:
    """claimed_row_decode_isolation; each error names the reason, and the other job of the fetch is worked."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    names = await insert_malformed(harness, UNDECODABLE)
    client = harness.client(workers, retry_policy=LATER)
    with client.subscribe() as events:
        async with client:
            ended = [await harness.next(events) for _ in names]

    good, *bad = await harness.rows()
    failed = EventKind.JOB_FAILED
    assert {names[event.job.id]: event.kind for event in ended if event.job} == {
        name: EventKind.JOB_COMPLETED if name == "good" else failed for name in names.values()
    }
    assert good.state is JobState.COMPLETED
    assert {(row.state, row.attempt, len(row.errors)) for row in bad} == {(JobState.RETRYABLE, 1, 1)}
    message = "InvalidJob: args of kind 'act' must decode as Act, got: "
    assert [row.errors[0].error for row in bad if not row.errors[0].error.startswith(message)] == []


@pytest.mark.slow
async def test_rows_that_cannot_be_fetched_block_no_other(harness: ClientHarness) -> None:
    """A job with an impossible queue or kind stays available, also for clients that fetch all kinds."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    await insert_malformed(harness, UNREACHABLE)
    await harness.insert_raw("act", '{"what": "last"}')

    client = harness.client(workers)
    with client.subscribe() as events:
        async with client:
            ended = [await harness.next(events) for _ in range(2)]

    first, *bad, last = await harness.rows()
    assert {event.job.id for event in ended if event.job} == {first.id, last.id}
    assert {(row.state, row.attempt) for row in bad} == {(JobState.AVAILABLE, 0)}
    assert (first.state, last.state) == (JobState.COMPLETED, JobState.COMPLETED)


async def test_queue_with_a_malformed_row_is_worked_paused_and_listed(harness: ClientHarness) -> None:
    """Its client starts, works and pauses, and lists show it beside other queues."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    await harness.execute(
        "INSERT INTO river_queue (name, metadata, created_at, updated_at, paused_at) VALUES "
        "('default', '[1]', '0044-03-15 BC', 'infinity', NULL), "
        r"""(E'default\n', ('{"n": ' || repeat('9', 5000) || '}')::jsonb, '-infinity', now(), '-infinity')"""
    )

    client = harness.client(workers)
    with client.subscribe() as events:
        async with client:
            worked = await harness.work(client, Act("x"))
            await client.queues.pause("default\n")
            await client.queues.pause("default")
            while (paused := await harness.next(events)).job is not None:
                pass
            listed = await client.queues.list()

    assert (worked.kind, paused.kind, paused.queue) == (
        EventKind.JOB_COMPLETED,
        EventKind.QUEUE_PAUSED,
        "default",
    )
    assert [(queue.name, queue.metadata, queue.is_paused) for queue in listed] == [
        ("default", {}, True),
        ("default\n", {}, True),
    ]


@pytest.mark.slow
async def test_row_with_an_output_of_40_mib_is_worked_like_others(harness: ClientHarness) -> None:
    """A row larger than any valid output is fetched, worked and completed, and its event is emitted, as for other jobs."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        job.set_metadata("seen", len(job.row.output or ""))

    for what in ("good", "malformed", "good"):
        await harness.insert_raw("act", json.dumps({"what": what}))
    await harness.execute(f"UPDATE river_job SET {HUGE} WHERE args ->> 'what' = 'malformed'")

    client = harness.client(workers)
    with client.subscribe() as events:
        async with client:
            actual = [await harness.next(events) for _ in range(3)]

    assert [event.kind for event in actual] == [EventKind.JOB_COMPLETED] * 3
    assert [row.metadata["seen"] for row in await harness.rows()] == [0, 40 * 1024 * 1024, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param(
            "x" * (40 * 1024 * 1024), "output must be at most 33,554,432 bytes, got 41,943,042", id="40 MiB"
        ),
        pytest.param(
            {"mean": math.nan},
            "output must be encodable as JSON, got dict: Out of range float values are not JSON compliant",
            id="NaN",
        ),
    ],
)
async def test_invalid_output_fails_its_own_job(harness: ClientHarness, output: object, message: str) -> None:
    """Recording more than 32 MiB, or an invalid number, raises in the worker, and the other job completes."""
    workers = Workers()

    @workers.add(retry=LATER)
    async def act(job: Job[Act]) -> None:
        if job.args.what == "malformed":
            job.record_output(output)

    await harness.insert_raw("act", '{"what": "malformed"}')
    await harness.insert_raw("act", '{"what": "good"}')

    client = harness.client(workers)
    with client.subscribe() as events:
        async with client:
            await harness.next(events)
            await harness.next(events)

    bad, good = await harness.rows()
    assert good.state is JobState.COMPLETED
    [error] = bad.errors
    assert error.error.startswith(f"ValueError: {message}")
    assert bad.metadata == {}


@pytest.mark.slow
@pytest.mark.parametrize("topic", ["river_insert", "river_control", "river_leadership"])
async def test_malformed_notification_is_logged_and_ignored(
    harness: ClientHarness, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A payload that is no JSON, or has no known action, leaves the client working, leading and listening."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    client = harness.client(workers, fetch_poll_interval=timedelta(minutes=1), leader_election=True)
    with client.subscribe() as events:
        async with client:
            await client.insert(Act("first"))  # the fetch with which it started is over
            await harness.next(events)
            for payload in NOT_NOTIFICATIONS:
                await harness.driver.pool.fetch("SELECT pg_notify($1, $2)", [f"public.{topic}", payload])
            await client.insert(Act("second"))
            event = await harness.next(events)
            warnings = [record for record in caplog.records if record.msg == "notification ignored"]

    assert event.kind is EventKind.JOB_COMPLETED
    assert len(warnings) >= NUM_NO_OBJECTS


async def test_instants_outside_pythons_calendar_are_clamped(harness: ClientHarness) -> None:
    """Instants before year 1, after 9999, and infinite ones are read as Python's first or last instant."""
    await harness.insert_raw("act", "{}")
    await harness.execute("UPDATE river_job SET scheduled_at = '-infinity', created_at = '12000-01-01Z'")

    [row] = await harness.rows()

    assert row.scheduled_at == datetime.min.replace(tzinfo=UTC)
    assert row.created_at == datetime.max.replace(tzinfo=UTC)


async def test_snooze_beyond_the_calendar_is_clamped(harness: ClientHarness) -> None:
    """A snooze beyond the calendar lasts until its last instant."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        raise JobSnooze(timedelta.max)

    async with harness.client(workers) as client:
        event = await harness.work(client, Act("x"))

    [row] = await harness.rows()
    assert event.kind is EventKind.JOB_SNOOZED
    assert (row.state, row.scheduled_at) == (JobState.SCHEDULED, datetime.max.replace(tzinfo=UTC))


@pytest.mark.slow
@pytest.mark.parametrize("delay", [timedelta(seconds=-1), "soon"])
async def test_subclass_of_snooze_with_an_invalid_delay_fails(harness: ClientHarness, delay: Any) -> None:
    """The attempt fails with an error and is not lost."""

    class Backwards(JobSnooze):
        def __init__(self) -> None:
            self.delay = delay

    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        raise Backwards

    async with harness.client(workers) as client:
        event = await harness.work(client, Act("x"))

    [row] = await harness.rows()
    assert event.kind is EventKind.JOB_FAILED
    assert [error.error for error in row.errors] == ["Backwards"]


async def test_subclass_of_a_signal_without_its_attributes_fails(harness: ClientHarness) -> None:
    """A subclass that does not call its base's constructor fails the attempt."""

    class Hopeless(JobCancel):
        def __init__(self) -> None: ...

    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        raise Hopeless

    async with harness.client(workers) as client:
        event = await harness.work(client, Act("x"))

    [row] = await harness.rows()
    assert event.kind is EventKind.JOB_FAILED
    assert [error.error for error in row.errors] == ["Hopeless"]
