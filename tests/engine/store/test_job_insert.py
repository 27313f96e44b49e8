from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from store_rows import HOUR, NOW, notified, params

from millhand.core.errors import DriverError
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job import job_get_by_ids
from millhand.engine.store.job_insert import job_insert_many, job_notify_insert

if TYPE_CHECKING:
    from topic_recorder import TopicRecorder

FOUR_STATES = 0xD1
SIX_STATES = 0xF5


def unique(number: int, **given: object) -> object:
    return params(unique_key=bytes([number]) * 32, unique_states=SIX_STATES, **given)


async def test_results_have_the_order_of_the_params(tx: Executor) -> None:
    """New rows and duplicates come in the order of the params, and are marked as such."""
    [old] = await tx.run(job_insert_many([unique(9, tags=("old",))]))

    many = [params(kind="a"), unique(1, kind="b"), unique(9, kind="c"), params(kind="d"), unique(2, kind="e")]
    results = await tx.run(job_insert_many(many))

    assert [one.job.kind for one in results] == ["a", "b", "act", "d", "e"]
    assert [one.unique_skipped_as_duplicate for one in results] == [False, False, True, False, False]
    assert results[2].job == old.job
    assert len({one.job.id for one in results}) == 5


def test_deadline_of_an_insert_grows_with_its_args() -> None:
    """An insert has ten seconds, and one second more for each megabyte, of one job or of many."""
    large = f'{{"a":"{"x" * 2_000_000}"}}'
    cases = [
        [params(encoded_args=large)],
        [unique(1, encoded_args=large)],
        [params(encoded_args=large), params()],
        [unique(1, encoded_args=large), params()],
    ]

    assert [job_insert_many(many).timeout_seconds for many in cases] == [12.0] * 4
    assert job_insert_many([params()]).timeout_seconds == 10.0


@pytest.mark.parametrize("how", ["alike", "unlike", "one by one"])
async def test_results_equal_the_rows(tx: Executor, how: str) -> None:
    """Results of jobs with equal and different columns equal the table's rows, in order."""
    given = [
        params(
            encoded_args=f'{{"zz":{n}.50,"a":"é"}}',
            kind=f"kind_{n}",
            max_attempts=n + 1,
            encoded_metadata=f'{{"n":{n},"m":[1.0]}}' if n else "{}",
            priority=n % 4 + 1,
            queue=f"queue_{n}",
            state=JobState.SCHEDULED if n % 2 else JobState.PENDING,
            created_at=NOW + n * HOUR if n % 3 else None,
            scheduled_at=NOW + n * HOUR if n % 2 else None,
            tags=tuple(f"tag{m}" for m in range(n)),
        )
        for n in ([4] * 50 if how == "alike" else range(50))
    ]

    inserts = [given] if how != "one by one" else [[one] for one in given]
    results = [result for some in inserts for result in await tx.run(job_insert_many(some))]

    rows = await tx.run(job_get_by_ids([one.job.id for one in results]))
    assert [one.job for one in results] == rows  # sorted by id
    assert [(row.kind, row.queue, row.tags, row.state) for row in rows] == [
        (one.kind, one.queue, one.tags, one.state) for one in given
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_numbers", "statement"), [(990_000, "job_insert_many_plain"), (4_100_000, "job_insert_many")]
)
async def test_args_of_many_megabytes_are_inserted(tx: Executor, num_numbers: int, statement: str) -> None:
    """Numbers take the most room in a jsonb: an array of all args fits into one, or another statement sends them apart."""
    args = f'{{"a":[{",".join("1" * num_numbers)}]}}'
    query = job_insert_many([params(encoded_args=args), params(encoded_args=args)])

    results = await tx.run(query)

    assert query.name == statement
    assert [one.job.encoded_args.count("1") for one in results] == [num_numbers] * 2


@pytest.mark.parametrize(
    "texts", [('{"a":1},{"b":2}', "{}"), ('{"a":1', "{}"), ("", "{}"), ('"a', 'b","c"'), ("1,2", "[3", "4]")]
)
async def test_args_that_are_no_json_value_insert_nothing(tx: Executor, texts: tuple[str, ...]) -> None:
    """A middleware's invalid args fail the insert in the database; texts that are JSON only together do not become jobs."""
    async with tx.begin() as savepoint:
        with pytest.raises(DriverError, match="invalid input syntax for type json"):
            async with savepoint.begin() as inner:
                await inner.run(job_insert_many([params(encoded_args=text) for text in texts]))
        [row] = await savepoint.fetch("SELECT count(*) AS num_jobs FROM river_job")

    assert row["num_jobs"] == 0


async def test_trigger_that_skips_a_row_is_an_error(tx: Executor) -> None:
    """An insert fails if a row is missing, instead of returning another job's row."""
    await tx.execute_script(
        """
        CREATE FUNCTION pg_temp.leave_out() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN IF NEW.kind = ''unwanted'' THEN RETURN NULL; END IF; RETURN NEW; END';
        CREATE TRIGGER leave_out BEFORE INSERT ON river_job FOR EACH ROW EXECUTE FUNCTION pg_temp.leave_out();
        """
    )

    with pytest.raises(ValueError, match="check whether a trigger of table river_job leaves any out") as some:
        await tx.run(job_insert_many([params(kind="a"), params(kind="unwanted"), params(kind="b")]))
    for num_jobs in (1, 2):
        with pytest.raises(ValueError, match=f"must be as many as jobs, got 0 of {num_jobs};"):
            await tx.run(job_insert_many([params(kind="unwanted")] * num_jobs))
    assert str(some.value).startswith("rows inserted must be as many as jobs, got 2 of 3; ")


@pytest.mark.parametrize("num_jobs", [1, 2])
async def test_inserted_row_has_every_param(tx: Executor, num_jobs: int) -> None:
    """Each param is in the row, of one job and of several."""
    given = params(
        kind="resize",
        encoded_args='{"n":1}',
        max_attempts=3,
        encoded_metadata='{"a":1}',
        priority=2,
        queue="images",
        state=JobState.SCHEDULED,
        created_at=NOW,
        scheduled_at=NOW + HOUR,
        tags=("one", "two"),
    )

    results = await tx.run(job_insert_many([given] * num_jobs))

    for one in results:
        job = one.job
        assert (job.kind, job.args, job.max_attempts, job.metadata) == ("resize", {"n": 1}, 3, {"a": 1})
        assert (job.priority, job.queue, job.state, job.tags) == (
            2,
            "images",
            JobState.SCHEDULED,
            ("one", "two"),
        )
        assert (job.created_at, job.scheduled_at, job.attempt) == (NOW, NOW + HOUR, 0)
        assert (job.unique_key, job.unique_states, job.attempted_at, job.finalized_at) == (
            None,
            None,
            None,
            None,
        )


@pytest.mark.parametrize("num_jobs", [1, 2])
async def test_unset_instants_are_now_or_the_database_s(tx: Executor, num_jobs: int) -> None:
    """Without instants of its own a row has `now`, and without that the database's clock."""
    brought = await tx.run(job_insert_many([params()] * num_jobs, now=NOW))
    default = await tx.run(job_insert_many([params()] * num_jobs))

    [clock] = await tx.fetch("SELECT now()")
    assert {(one.job.created_at, one.job.scheduled_at) for one in brought} == {(NOW, NOW)}
    assert {(one.job.created_at, one.job.scheduled_at) for one in default} == {(clock["now"], clock["now"])}


async def test_row_without_tags_has_an_empty_array(tx: Executor) -> None:
    """No tags become an empty array, not one empty tag."""
    await tx.run(job_insert_many([params(), params()]))
    await tx.run(job_insert_many([params()]))

    assert await tx.fetch("SELECT DISTINCT tags::text FROM river_job") == [{"tags": "{}"}]


async def test_same_key_twice_in_one_insert_is_an_error(tx: Executor) -> None:
    """Two jobs with one key fail the statement, as in River, and nothing is inserted."""
    with pytest.raises(DriverError) as refused:
        async with tx.begin() as savepoint:
            await savepoint.run(job_insert_many([unique(1), params(), unique(1)]))

    assert refused.value.sqlstate == "21000"
    assert await tx.fetch("SELECT id FROM river_job") == []


@pytest.mark.parametrize("num_jobs", [1, 2])
async def test_duplicate_of_another_kind_keeps_the_row_s_kind(tx: Executor, num_jobs: int) -> None:
    """A skipped duplicate does not change the existing row, not even its kind."""
    [old] = await tx.run(job_insert_many([unique(1)]))

    results = await tx.run(
        job_insert_many([unique(1, kind="other", queue="q", tags=("x-y",)), params()][:num_jobs])
    )

    assert results[0].job == old.job
    assert results[0].unique_skipped_as_duplicate


@pytest.mark.parametrize("state", list(JobState))
async def test_key_is_held_in_the_states_of_its_mask(tx: Executor, state: JobState) -> None:
    """A job holds its key while its state is in its mask; the index decides, not the insert."""
    [old] = await tx.run(job_insert_many([params(unique_key=b"k" * 32, unique_states=FOUR_STATES)]))
    finalized_at = NOW if state.is_finalized else None
    await tx.fetch(
        "UPDATE river_job SET state = $2::text::river_job_state, finalized_at = $3 WHERE id = $1",
        [old.job.id, state.value, finalized_at],
    )

    [new] = await tx.run(job_insert_many([params(unique_key=b"k" * 32, unique_states=FOUR_STATES)]))

    holds = state in {JobState.AVAILABLE, JobState.PENDING, JobState.RUNNING, JobState.SCHEDULED}
    assert new.unique_skipped_as_duplicate is holds
    assert (new.job.id == old.job.id) is holds


async def test_key_without_mask_holds_nothing(tx: Executor) -> None:
    """A row of an old River with a key but no mask is not unique."""
    old = params(unique_key=b"k" * 32)
    await tx.run(job_insert_many([old]))

    [new] = await tx.run(job_insert_many([unique(ord("k"))]))

    assert not new.unique_skipped_as_duplicate


async def test_notification_is_river_s_byte_for_byte(
    schema_driver: AsyncpgDriver, topics: TopicRecorder
) -> None:
    """Queues are notified on River's topic with River's payload, each once, in order."""
    run = schema_driver.pool.run

    await run(job_insert_many([params()], notify_queues=["default"]))
    one = await topics.received()
    await run(
        job_insert_many([params(queue=name) for name in ("q1", "q2", "q3")], notify_queues=["q1", "q2", "q3"])
    )
    many = await topics.received()
    await run(job_insert_many([params()], notify_queues=["q1", "q2", "q3"]))
    one_for_many = await topics.received()
    await run(job_notify_insert(["a_b-c"]))
    trailing = await topics.received()

    assert one == notified("insert, default queue")
    assert many == one_for_many == notified("insert many into three queues")
    assert trailing == notified("insert into a queue")


async def test_insert_without_queues_notifies_nothing(
    schema_driver: AsyncpgDriver, topics: TopicRecorder
) -> None:
    """An insert without `notify_queues` sends no notification."""
    await schema_driver.pool.run(job_insert_many([params()]))
    await schema_driver.pool.run(job_insert_many([params(), params()]))

    assert await topics.received() == []


async def test_notification_is_rolled_back_with_its_insert(
    schema_driver: AsyncpgDriver, topics: TopicRecorder
) -> None:
    """A rollback sends no notification."""
    with contextlib.suppress(ZeroDivisionError):
        async with schema_driver.pool.begin() as tx:
            await tx.run(job_insert_many([params()], notify_queues=["default"]))
            raise ZeroDivisionError

    assert await topics.received() == notified("insert in a rolled-back transaction") == []


@pytest.mark.parametrize("commits", [True, False])
async def test_duplicate_waits_for_the_first_insert(schema_driver: AsyncpgDriver, commits: bool) -> None:
    """The second insert of a key waits for the first transaction: after its commit it is skipped, after a rollback not."""
    with contextlib.suppress(ZeroDivisionError):
        async with schema_driver.pool.begin() as tx:
            await tx.run(job_insert_many([unique(1, kind="first")]))
            later = asyncio.ensure_future(schema_driver.pool.run(job_insert_many([unique(1, kind="second")])))
            await wait_blocked(schema_driver)
            if not commits:
                raise ZeroDivisionError

    [result] = await later

    assert (result.job.kind, result.unique_skipped_as_duplicate) == (
        "first" if commits else "second",
        commits,
    )


async def wait_blocked(driver: AsyncpgDriver) -> None:
    """Return when a session waits for another's lock in this database."""
    sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
    async with asyncio.timeout(20.0):
        while not await driver.pool.fetch(sql):
            pass
