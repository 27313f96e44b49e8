"""Conditions in SQL: what they may say, how their parameters travel, and what they cannot get out of."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from store_rows import NOW, put_job

from millhand.core.job import JobId, JobState
from millhand.db.driver.protocol import Executor
from millhand.db.sql import compile_statement
from millhand.engine.store.job_list import JobFilters, JobListParams, job_delete_many, job_list
from millhand.engine.store.where import Where

UNDERSTOOD: list[tuple[str, dict[str, Any]]] = [
    ("args ->> 'to' = @to", {"to": "o'ps@example.com; --"}),
    ("args @> @document", {"document": {"to": "o'ps@example.com; --"}}),
    ("args @> @document::jsonb", {"document": '{"n": 7}'}),
    ("id = @id", {"id": 7}),
    ("id = ANY(@ids)", {"ids": [5, 7]}),
    ("NOT id = ANY(@ids)", {"ids": ()}),
    ("id = ANY(@ids::bigint [])", {"ids": {7}}),
    ("(args ->> 'n')::float > @least", {"least": 6.5}),
    ("state = @state", {"state": JobState.COMPLETED}),
    ("state = ANY(@states)", {"states": [JobState.COMPLETED, JobState.RUNNING]}),
    ("state::text LIKE @state", {"state": "compl%"}),
    ("finalized_at <= @at AND finalized_at > @at - @age", {"at": NOW, "age": timedelta(days=1)}),
    ("unique_key = @key", {"key": b"\x00\xff"}),
    ("(priority = 2) = @is_second", {"is_second": True}),
    ("tags && @tags::varchar []", {"tags": ["one", "x"]}),
    ("metadata @> ANY(@any)", {"any": [{"a": 1}, {"b": 2}]}),
    ("queue = 'a@b' -- @nothing, and ( nothing", {}),
    ("/* @nothing ( */ kind = $$k@x)$$ OR priority = 2", {}),
    ("priority = 1 OR priority = 2", {}),
    (
        "EXISTS (SELECT FROM /* schema */river_job AS other WHERE other.id = job.id AND other.priority = 2)",
        {},
    ),
    ("kind = @kind AND queue = @queue AND priority = ANY(@ids)", {"kind": "k", "queue": "a@b", "ids": [2]}),
]


async def put_two(tx: Executor) -> JobId:
    """Insert a job that every condition above matches, and a running one."""
    job = await put_job(
        tx,
        JobState.COMPLETED,
        id=7,
        kind="k",
        args='{"to": "o\'ps@example.com; --", "n": 7}',
        metadata='{"a": 1}',
        priority=2,
        queue="a@b",
        tags="{one,two}",
        unique_key="\\x00ff",
    )
    await put_job(tx, JobState.RUNNING, id=8, priority=1)
    return job.id


@pytest.mark.parametrize(("sql", "params"), UNDERSTOOD)
async def test_condition_lists_and_deletes_what_matches(
    tx: Executor, sql: str, params: dict[str, Any]
) -> None:
    """bulk_delete_safety; a condition with params of any type lists and deletes a job, beside other filters."""
    id = await put_two(tx)
    filters = JobFilters(states=[JobState.COMPLETED], ids=[JobId(7), JobId(8)], where=Where(sql, params))

    listed = await tx.run(job_list(JobListParams(filters=filters)))
    deleted = await tx.run(job_delete_many(filters))

    assert [job.id for job in listed] == [job.id for job in deleted] == [id]


async def test_condition_cannot_delete_running_jobs(tx: Executor) -> None:
    """bulk_delete_safety; an OR stays inside its condition: running jobs and other queues' jobs stay."""
    await put_two(tx)
    filters = JobFilters(queues=["a@b"], where=Where("TRUE OR TRUE -- all of them"))

    deleted = await tx.run(job_delete_many(filters))
    everything = await tx.run(job_delete_many(JobFilters(where=Where("TRUE"))))

    assert ([job.id for job in deleted], everything) == ([7], [])


@pytest.mark.parametrize(
    ("sql", "params", "message"),
    [
        (" ", {}, "where must be a condition in SQL, got ' '"),
        ("id = $1", {}, "where must name its parameters, got 'id = $1'; write @name for $1"),
        ("a) OR (b", {}, "where must have balanced parentheses, got 'a) OR (b'"),
        ("(a", {}, "where must have balanced parentheses, got '(a'"),
        (
            "id = @id",
            {},
            (
                "where must have a value for each of its parameters, got none for @id in 'id = @id'; "
                "write a space after an operator @"
            ),
        ),
        (
            "id = 1",
            {"id": 1},
            "where must use each of its parameters, got 'id', which 'id = 1' does not; write @id",
        ),
        (
            "id = @id",
            {"id": None},
            "where parameter 'id' must not be None, which equals nothing; write IS NULL",
        ),
        ("id = @id", {"id": 2**63}, "where parameter 'id' must fit into 64 bits, got 9223372036854775808"),
        (
            "created_at < @at",
            {"at": datetime(2024, 5, 1)},  # noqa: DTZ001 - is refused for that
            "where parameter 'at' must be an aware instant, got datetime.datetime(2024, 5, 1, 0, 0); give it a tzinfo",
        ),
        (
            "id = ANY(@ids)",
            {"ids": [1, "2"]},
            "where parameter 'ids' must have values of one type, got [1, '2']",
        ),
        (
            "id = @id",
            {"id": object},
            (
                "where parameter 'id' must be a text, number, boolean, bytes, instant, timedelta, job state or mapping, "
                "or a list of such, got type"
            ),
        ),
    ],
)
def test_invalid_condition_is_an_error_when_made(sql: str, params: dict[str, Any], message: str) -> None:
    """A condition that would fail or change its meaning in the database is an error before."""
    with pytest.raises(ValueError) as refused:
        Where(sql, params)

    assert str(refused.value) == message


def test_values_of_a_condition_are_never_part_of_the_statement() -> None:
    """The statement is the same for all values; they are params, separate from those of filters."""
    texts = []
    for value in ("x", "'; DROP TABLE river_job; --"):
        query = job_list(
            JobListParams(filters=JobFilters(kinds=["k"], where=Where("kind = @kinds", {"kinds": value})))
        )
        compiled = compile_statement(query.name, "s", fragments=query.fragments)
        texts.append(compiled.sql)
        assert (query.params["kinds"], query.params["where_kinds"]) == (["k"], value)
        assert set(compiled.params) == set(query.params)

    assert texts[0] == texts[1]


async def test_unsafe_all_with_filters_is_an_error(tx: Executor) -> None:
    """bulk_delete_safety; `unsafe_all` together with filters is an error, and nothing is deleted."""
    with pytest.raises(
        ValueError, match=r"^unsafe_all must be used without filters, got JobFilters\(.*kinds=\['k'\]"
    ):
        job_delete_many(JobFilters(kinds=["k"]), unsafe_all=True)
    with pytest.raises(
        ValueError, match=r"^filters must select the jobs to delete, got none; write unsafe_all"
    ):
        job_delete_many(JobFilters())

    assert [job.id for job in await tx.run(job_delete_many(JobFilters(), unsafe_all=True))] == []
