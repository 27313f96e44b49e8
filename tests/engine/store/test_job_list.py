from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_rows import HOUR, NOW, put_job

from millhand.core.job import JobId, JobRow, JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job_list import (
    JobCursor,
    JobFilters,
    JobListParams,
    SortField,
    decode_cursor,
    job_delete_many,
    job_list,
)
from millhand.engine.store.job_row import GO_ZERO_TIME
from millhand.engine.store.where import Where


async def listed(tx: Executor, **given: Any) -> list[JobId]:
    names = JobFilters.__dataclass_fields__
    filters = JobFilters(**{name: value for name, value in given.items() if name in names})
    rest = {name: value for name, value in given.items() if name not in names}
    return [job.id for job in await tx.run(job_list(JobListParams(filters=filters, **rest)))]


async def test_list_without_filters_returns_all_by_id(tx: Executor) -> None:
    """Jobs in every state come by id, in either direction."""
    jobs = [(await put_job(tx, state)).id for state in JobState]

    assert await listed(tx) == jobs
    assert await listed(tx, descending=True) == jobs[::-1]
    assert await listed(tx, limit=2) == jobs[:2]


@pytest.mark.parametrize(
    "given",
    [
        {"kinds": ["resize", "x"]},
        {"metadata": {"a": {"b": 1}}},
        {"priorities": [2, 3]},
        {"queues": ["images"]},
        {"states": [JobState.RUNNING]},
        {"states": [JobState.RUNNING, JobState.COMPLETED]},
        {"tags_all": ["one", "two"]},
        {"tags_any": ["two", "three"]},
        {"kinds": ["resize"], "queues": ["images"], "priorities": [3], "states": [JobState.RUNNING]},
    ],
)
async def test_filter_returns_what_passes_it(tx: Executor, given: dict[str, Any]) -> None:
    """Of two jobs that differ in everything, each filter and all together return the one that passes."""
    job = await put_job(
        tx,
        JobState.RUNNING,
        kind="resize",
        queue="images",
        priority=3,
        tags="{one,two}",
        metadata='{"a":{"b":1,"c":2}}',
    )
    await put_job(tx, JobState.AVAILABLE, tags="{one}", metadata='{"a": {"c": 2}}')

    assert await listed(tx, **given) == [job.id]
    assert await listed(tx, **given, ids=[JobId(0), job.id]) == [job.id]
    assert await listed(tx, **given, ids=[JobId(0)]) == []


@pytest.mark.parametrize("name", ["ids", "kinds", "priorities", "queues", "states", "tags_any"])
async def test_empty_filter_is_met_by_no_job(tx: Executor, name: str) -> None:
    """An empty list of ids matches no job, not all jobs."""
    await put_job(tx)

    assert await listed(tx, **{name: []}) == []


async def test_metadata_filter_holds_values_that_look_like_sql(tx: Executor) -> None:
    """Filter values are never part of the statement."""
    job = await put_job(tx, metadata=json.dumps({"'; DROP TABLE river_job --": "$1 @x %"}))

    assert await listed(tx, metadata={"'; DROP TABLE river_job --": "$1 @x %"}) == [job.id]


@pytest.mark.parametrize("descending", [False, True])
async def test_list_by_id_of_rare_states_is_that_of_all_states(tx: Executor, descending: bool) -> None:
    """A list by id of some states, with other filters and after a cursor, has the jobs that a list of all states has."""
    for state in [*JobState] * 3:
        await put_job(tx, state, queue="other" if state is JobState.RUNNING else "default")
    states = [JobState.DISCARDED, JobState.RETRYABLE, JobState.RUNNING]
    given: dict[str, Any] = {"descending": descending, "queues": ["default"]}
    every = await tx.run(
        job_list(JobListParams(descending=descending, filters=JobFilters(queues=["default"])))
    )

    listed_ids = await listed(tx, **given, states=states)

    assert listed_ids == [job.id for job in every if job.state in states]
    params = JobListParams(
        descending=descending, filters=JobFilters(queues=["default"], states=states), limit=2
    )
    assert [job.id for page in await pages(tx, params) for job in page] == listed_ids
    where = Where("id % @two = 0 -- even", {"two": 2})
    assert await listed(tx, **given, states=states, where=where) == [id for id in listed_ids if id % 2 == 0]


TIMES = {
    JobState.AVAILABLE: "scheduled_at",
    JobState.CANCELLED: "finalized_at",
    JobState.COMPLETED: "finalized_at",
    JobState.DISCARDED: "finalized_at",
    JobState.PENDING: "scheduled_at",
    JobState.RETRYABLE: "scheduled_at",
    JobState.RUNNING: "attempted_at",
    JobState.SCHEDULED: "scheduled_at",
}


@pytest.mark.parametrize("state", list(JobState))
async def test_list_by_time_uses_the_instant_of_the_state(tx: Executor, state: JobState) -> None:
    """By time, jobs are ordered by when they were finalized, attempted, or are due."""
    newest, oldest, middle = [
        (await put_job(tx, state, **{TIMES[state]: NOW - age * HOUR})).id for age in (1, 3, 2)
    ]

    assert await listed(tx, states=[state], order_by=SortField.TIME) == [oldest, middle, newest]
    assert await listed(tx, states=[state], order_by=SortField.TIME, descending=True) == [
        newest,
        middle,
        oldest,
    ]


async def pages(tx: Executor, params: JobListParams) -> list[list[JobRow]]:
    """Return all pages of a list, each after the previous one's cursor as text."""
    result = [await tx.run(job_list(params))]
    while result[-1]:
        after = decode_cursor(params.cursor_of(result[-1][-1]).encode())
        given = {name: getattr(params, name) for name in ("descending", "filters", "limit", "order_by")}
        result.append(await tx.run(job_list(JobListParams(after=after, **given))))
    return result[:-1]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(
    ("order_by", "states"),
    [
        (SortField.ID, None),
        (SortField.SCHEDULED_AT, None),
        (SortField.TIME, None),
        (SortField.FINALIZED_AT, None),
        (SortField.TIME, [JobState.RUNNING, JobState.AVAILABLE]),
        (SortField.TIME, [JobState.COMPLETED, JobState.RETRYABLE]),
    ],
)
async def test_pages_hold_every_job_once_and_in_order(
    tx: Executor, order_by: SortField, states: list[JobState] | None, descending: bool
) -> None:
    """The pages together equal the whole list, with equal and null instants, in either direction."""
    for state in JobState:
        for age in (1, 1, 2):
            attempted_at = NOW - age * HOUR if state in {JobState.RUNNING, JobState.COMPLETED} else None
            finalized = {"finalized_at": NOW - age * HOUR} if state.is_finalized else {}
            await put_job(tx, state, scheduled_at=NOW - age * HOUR, attempted_at=attempted_at, **finalized)
    given: dict[str, Any] = {
        "order_by": order_by,
        "descending": descending,
        "filters": JobFilters(states=states),
    }
    at_once = await tx.run(job_list(JobListParams(limit=100, **given)))

    paged = await pages(tx, JobListParams(limit=4, **given))

    assert [job.id for page in paged for job in page] == [job.id for job in at_once]
    assert len({job.id for job in at_once}) == len(at_once) > 4


def test_cursor_is_river_s() -> None:
    """job_list_cursor_interchange; a cursor is River's text: compact JSON of Go, in padded URL-safe base64."""
    time = NOW.replace(microsecond=120_000)
    cursor = JobCursor(id=JobId(3), kind="a<&>~~~", queue="q~", sort_field="time", time=time)

    text = cursor.encode()

    written = rb'{"id":3,"kind":"a\u003c\u0026\u003e~~~","queue":"q~","sort_field":"time","time":"2026-11-25T12:30:15.12Z"}'
    assert text == base64.urlsafe_b64encode(written).decode()
    assert {"-", "_"} & set(text)


@pytest.mark.slow
@given(
    st.integers(0, 2**63 - 1),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    st.sampled_from(SortField),
    st.datetimes(timezones=st.just(UTC)),
)
def test_cursor_is_read_in_either_alphabet(id: int, kind: str, field: SortField, time: datetime) -> None:
    """A cursor in the alphabet of older Rivers is read too."""
    cursor = JobCursor(id=JobId(id), kind=kind, queue="q", sort_field=field.value, time=time)

    text = cursor.encode()

    assert decode_cursor(text) == cursor
    assert decode_cursor(text.replace("-", "+").replace("_", "/")) == cursor


def test_cursor_without_an_instant_has_go_s_zero_time() -> None:
    """A list by id, and a job without the instant, have Go's zero time in the cursor."""
    text = JobCursor(id=JobId(3), kind="a", queue="q", sort_field="id", time=GO_ZERO_TIME).encode()

    assert json.loads(base64.urlsafe_b64decode(text))["time"] == "0001-01-01T00:00:00Z"
    assert decode_cursor(text).time == GO_ZERO_TIME


@pytest.mark.parametrize(
    "text", ["", "x", "é", "eyJpZCI6MX0=", base64.urlsafe_b64encode(b'{"id":"1"}').decode()]
)
def test_invalid_cursor_is_an_error(text: str) -> None:
    """A text that no list returned is an error that contains it."""
    with pytest.raises(ValueError) as refused:
        decode_cursor(text)

    assert str(refused.value) == f"cursor must be one that a list returned, got {text!r}"


@pytest.mark.parametrize("limit", [0, -1, 10_001])
def test_limit_out_of_range_is_an_error(limit: int) -> None:
    """A page has 1 to 10,000 jobs, as in River."""
    with pytest.raises(ValueError, match=r"^limit must be between 1 and 10,000, got "):
        JobListParams(limit=limit)


def test_list_by_finalized_at_of_other_states_is_an_error() -> None:
    """A list by an instant that the jobs do not have is an error."""
    with pytest.raises(ValueError) as refused:
        JobListParams(order_by=SortField.FINALIZED_AT, filters=JobFilters(states=[JobState.RUNNING]))

    assert str(refused.value) == (
        "states must be cancelled, completed or discarded in a list by finalized_at, got running; order it by time"
    )


def test_cursor_of_another_order_is_an_error() -> None:
    """A cursor continues only a list of its own order."""
    cursor = JobCursor(id=JobId(3), kind="a", queue="q", sort_field="id", time=GO_ZERO_TIME)

    with pytest.raises(ValueError, match=r"^cursor must be of a list by time, got one by id$"):
        JobListParams(order_by=SortField.TIME, after=cursor)


async def test_delete_many_returns_what_it_deleted(tx: Executor) -> None:
    """Jobs that pass the filters are deleted by id up to the limit, except running ones."""
    old = [
        await put_job(tx, state, kind="old")
        for state in (JobState.COMPLETED, JobState.AVAILABLE, JobState.PENDING)
    ]
    running = await put_job(tx, JobState.RUNNING, kind="old")
    other = await put_job(tx, JobState.COMPLETED)

    first = await tx.run(job_delete_many(JobFilters(kinds=["old"]), limit=2))
    second = await tx.run(job_delete_many(JobFilters(kinds=["old"]), limit=2))

    assert (first, second) == (old[:2], old[2:])
    assert await listed(tx) == [running.id, other.id]


async def test_delete_many_without_filters_needs_unsafe_all(tx: Executor) -> None:
    """A delete without filters is an error without `unsafe_all`."""
    await put_job(tx)

    with pytest.raises(ValueError) as refused:
        job_delete_many(JobFilters())

    assert str(refused.value) == (
        "filters must select the jobs to delete, got none; write unsafe_all=True to delete all"
    )
    assert len(await tx.run(job_delete_many(JobFilters(), unsafe_all=True))) == 1


@pytest.mark.parametrize("name", ["kinds", "queues", "states", "tags_all", "tags_any"])
def test_text_in_place_of_a_list_is_an_error(name: str) -> None:
    """A text would be a list of its letters, so it is an error."""
    with pytest.raises(TypeError, match=rf"^{name} must be a list, got 'mail'; write \['mail'\]$"):
        JobFilters(**{name: "mail"})  # type: ignore[arg-type]


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.RUNNING])
async def test_delete_many_by_one_state(tx: Executor, state: JobState) -> None:
    """A single state is a filter like any other."""
    jobs = {one: await put_job(tx, one) for one in JobState}

    assert await tx.run(job_delete_many(JobFilters(states=[state]))) == [jobs[state]]


async def test_delete_many_by_no_state_deletes_nothing(tx: Executor) -> None:
    """An empty list of states matches no job."""
    await put_job(tx)

    assert await tx.run(job_delete_many(JobFilters(states=[]))) == []
