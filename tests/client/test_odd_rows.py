"""Rows that nobody of ours would write hold up nobody: not the client, not the jobs fetched with them, not themselves."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from client_room import Act, Room

from millhand.errors import JobCancel, JobSnooze
from millhand.event import EventKind
from millhand.job import Job, JobState
from millhand.worker import Workers

ODD = {
    "metadata with a number of 5000 digits": """metadata = ('{"n": ' || repeat('9', 5000) || '}')::jsonb""",
    "metadata nested 1200 deep": """metadata = ('{"n": ' || repeat('[', 1200) || repeat(']', 1200) || '}')::jsonb""",
    "metadata that is no object": "metadata = '[1]'",
    "snoozes beyond all numbers": """metadata = '{"snoozes": 1e300}'""",
    "an error with a number of 5000 digits": """errors = ARRAY[('{"n": ' || repeat('9', 5000) || '}')::jsonb]""",
    "scheduled before all time": "scheduled_at = '-infinity'",
    "scheduled before year one": "scheduled_at = '0044-03-15 BC'",
    "created after all time": "created_at = 'infinity'",
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
async def test_odd_row_is_worked_like_the_others(room: Room, odd: str) -> None:
    """
    claimed_row_decode_isolation.

    A row with odd columns is fetched, snoozed and completed, and so is the one that was fetched with it.
    """
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        if job.args.what == "odd" and job.row.state is JobState.RUNNING and not is_snoozed.is_set():
            is_snoozed.set()
            raise JobSnooze(timedelta(0))

    is_snoozed = asyncio.Event()
    await room.insert_raw("act", '{"what": "good"}')
    await room.insert_raw("act", '{"what": "odd"}')
    await room.execute(f"UPDATE river_job SET {odd} WHERE args ->> 'what' = 'odd'")

    client = room.client(workers)
    with client.subscribe() as events:
        async with client:
            told = [(await room.next(events)).kind for _ in range(3)]

    assert sorted(told) == [EventKind.JOB_COMPLETED, EventKind.JOB_COMPLETED, EventKind.JOB_SNOOZED]
    assert {row.state for row in await room.rows()} == {JobState.COMPLETED}


async def test_instants_beyond_pythons_are_read_as_its_first_and_last(room: Room) -> None:
    """What lies before year 1 or after 9999, endlessly too, is read as the first or last instant of Python's."""
    await room.insert_raw("act", "{}")
    await room.execute("UPDATE river_job SET scheduled_at = '-infinity', created_at = '12000-01-01Z'")

    [row] = await room.rows()

    assert row.scheduled_at == datetime.min.replace(tzinfo=UTC)
    assert row.created_at == datetime.max.replace(tzinfo=UTC)


async def test_snooze_beyond_all_time_lasts_until_its_end(room: Room) -> None:
    """A snooze that no calendar can hold is kept until the last instant that it can."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        raise JobSnooze(timedelta.max)

    async with room.client(workers) as client:
        event = await room.work(client, Act("x"))

    [row] = await room.rows()
    assert event.kind is EventKind.JOB_SNOOZED
    assert (row.state, row.scheduled_at) == (JobState.SCHEDULED, datetime.max.replace(tzinfo=UTC))


async def test_signal_of_a_users_class_that_lacks_its_parts_is_a_failure(room: Room) -> None:
    """A subclass of a signal that forgot to call its base says nothing that can be done: the attempt failed."""

    class Hopeless(JobCancel):
        def __init__(self) -> None: ...

    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        raise Hopeless

    async with room.client(workers) as client:
        event = await room.work(client, Act("x"))

    [row] = await room.rows()
    assert event.kind is EventKind.JOB_FAILED
    assert [error.error for error in row.errors] == ["Hopeless"]
