"""Callers await the results of jobs: every ending, timeout and fault."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeVar

import asyncpg
import pydantic
import pytest

from client_harness import GENEROUS, POOL_SIZE, Act, ClientHarness, until
from millhand.client import Client
from millhand.core.config import QueueConfig
from millhand.core.errors import (
    ConfigError,
    InvalidOutput,
    JobCancel,
    JobCancelled,
    JobFailed,
    NotFound,
    NotStarted,
    TooManyWaits,
    WaitTimeout,
)
from millhand.core.insert_opts import InsertOpts, InsertResult
from millhand.core.job import AWAITED_KEY, JobId, JobState
from millhand.core.limit import Limit
from millhand.core.result import result_of
from millhand.core.retry import ConstantRetryPolicy
from millhand.core.transition import Completed, settle
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.executor import DelegatingExecutor
from millhand.db.driver.protocol import Executor
from millhand.db.driver.psycopg import PsycopgDriver
from millhand.db.query import Query
from millhand.engine.awaited_jobs import NUM_AWAITED_MAX, AwaitedJobs
from millhand.engine.store.job import job_set_state_if_running_many
from millhand.engine.store.job_result import job_get_ended
from millhand.engine.store.job_row import parse_job
from millhand.sync_client import SyncClient
from pooler import pgbouncer
from proxy import proxied

T = TypeVar("T")

WAIT = timedelta(seconds=GENEROUS)
FOREVER = timedelta(days=1)  # longer than a test, so that no last poll finds an end


@dataclass(frozen=True)
class Size:
    width: int
    height: int


class Label(pydantic.BaseModel):
    text: str


def workers(**options: Any) -> Workers:
    """Return workers whose job `act` ends as its args say."""
    made = Workers()

    @made.add(output=True, retry=ConstantRetryPolicy(timedelta(0)), **options)
    async def act(job: Job[Act]) -> Any:
        match job.args.what:
            case "size":
                return Size(4, 3)
            case "label":
                return [Label(text="ada")]
            case "fail":
                raise ValueError("bad image")
            case "cancel":
                raise JobCancel("no longer needed")
            case "set":
                return {1, object()}
        return None

    return made


def held() -> tuple[Workers, asyncio.Event, asyncio.Event]:
    """Return workers whose job waits: it has begun, and it may end."""
    begun, go_on, made = asyncio.Event(), asyncio.Event(), Workers()

    @made.add(output=True)
    async def act(job: Job[Act]) -> str:
        begun.set()
        await go_on.wait()
        return "done"

    return made, begun, go_on


def awaited(client: Client) -> AwaitedJobs:
    return client._awaited


async def complete_as_river(harness: ClientHarness, id: int, output: str) -> None:
    """Complete a job with an output by raw SQL, as a worker in another language does."""
    await harness.driver.pool.fetch(
        "UPDATE river_job SET state = 'completed', finalized_at = now(), "
        "metadata = metadata || jsonb_build_object('output', $2::text::jsonb) WHERE id = $1",
        [id, output],
    )


async def test_caller_gets_the_output_decoded(harness: ClientHarness) -> None:
    """What the worker returned comes back as the class that the caller names; without one, as plain JSON."""
    async with harness.client(workers()) as client:
        size = await client.insert_and_wait(Act("size"), returns=Size, timeout=WAIT)
        plain = await client.insert_and_wait(Act("size"), timeout=WAIT)
        labels = await client.insert_and_wait(Act("label"), timeout=WAIT)
        nothing = await client.insert_and_wait(Act("x"), timeout=WAIT)

    assert (size, plain, labels, nothing) == (Size(4, 3), {"width": 4, "height": 3}, [{"text": "ada"}], None)


@pytest.mark.slow
async def test_plain_function_records_what_it_returns(harness: ClientHarness) -> None:
    """A plain function in a thread, and one with plain parameters, record their outputs; a pydantic model decodes."""
    made = Workers()

    @made.add(output=True)
    def shout(text: str) -> Label:
        return Label(text=text.upper())

    async with harness.client(made) as client:
        label = await client.insert_and_wait(shout.args("ada"), returns=Label, timeout=WAIT)

    assert label == Label(text="ADA")


@pytest.mark.slow
async def test_caller_gets_the_error_of_a_job_that_ends_otherwise(harness: ClientHarness) -> None:
    """A discarded job raises JobFailed and a cancelled one JobCancelled, with the last error."""
    async with harness.client(workers()) as client:
        with pytest.raises(JobFailed) as failed:
            await client.insert_and_wait(Act("fail"), InsertOpts(max_attempts=2), timeout=WAIT)
        with pytest.raises(JobCancelled) as cancelled:
            await client.insert_and_wait(Act("cancel"), timeout=WAIT)

    assert str(failed.value) == (
        f"job {failed.value.id} of kind 'act' must complete, got discarded after 2 attempts: ValueError: bad image"
    )
    assert (failed.value.last_error, failed.value.num_attempts) == ("ValueError: bad image", 2)
    assert str(cancelled.value) == (
        f"job {cancelled.value.id} of kind 'act' must complete, got cancelled after 1 attempt: "
        "JobCancelError: no longer needed"
    )


@pytest.mark.slow
async def test_output_that_is_no_json_fails_the_attempt(harness: ClientHarness) -> None:
    """A returned value that does not encode fails the job, with a text that names its type."""
    async with harness.client(workers()) as client:
        with pytest.raises(JobFailed, match=r"output must be encodable as JSON, got set: "):
            await client.insert_and_wait(Act("set"), InsertOpts(max_attempts=1), timeout=WAIT)


async def test_output_of_another_type_is_refused(harness: ClientHarness) -> None:
    """An output that does not decode, or is missing, raises InvalidOutput that names the job and the remedy."""
    made = workers()

    @made.add(kind="silent")
    async def silent(job: Job[Any]) -> None: ...

    async with harness.client(made) as client:
        with pytest.raises(
            InvalidOutput, match=r"^output of job \d+ of kind 'act' must decode as int, got: "
        ):
            await client.insert_and_wait(Act("size"), returns=int, timeout=WAIT)
        with pytest.raises(
            InvalidOutput, match=r"must have an output, got none; write @workers\.add\(output"
        ):
            await client.insert_and_wait(harness.args_of_kind("silent"), returns=int, timeout=WAIT)


async def test_wait_in_a_transaction_is_refused_before_the_insert(harness: ClientHarness) -> None:
    """A transaction, a timeout that is not positive and an undecodable type raise ConfigError, and insert nothing."""
    async with harness.client(workers()) as client, harness.driver.pool.begin() as tx:
        wait: Any = client.insert_and_wait
        with pytest.raises(ConfigError, match=r"^insert_and_wait must be outside of a transaction, got one"):
            await wait(Act("x"), timeout=WAIT, tx=tx)
        with pytest.raises(ConfigError, match=r"^timeout must be a positive timedelta, got 5"):
            await wait(Act("x"), timeout=5)
        with pytest.raises(ConfigError, match=r"^returns must be a type that JSON decodes into, got "):
            await wait(Act("x"), returns=asyncio.Event, timeout=WAIT)

    assert await harness.rows() == []


@pytest.mark.slow
async def test_wait_returns_the_row_of_any_end(harness: ClientHarness) -> None:
    """`jobs.wait` returns completed, discarded and cancelled rows, of jobs that ended before and of later ones."""
    async with harness.client(workers()) as client:
        ids = [
            (await client.insert(Act(what), InsertOpts(max_attempts=1))).job.id
            for what in ("size", "fail", "cancel")
        ]
        later = await client.insert(Act("x"), InsertOpts(scheduled_at=datetime.now(UTC) + timedelta(hours=1)))
        rows = await client.jobs.wait_many([*ids, ids[0]], timeout=WAIT)
        waiting = asyncio.ensure_future(client.jobs.wait(later.job.id, timeout=WAIT))
        await until(lambda: awaited(client).num_awaited)
        await client.jobs.cancel(later.job.id)
        row = await waiting

    assert [one.id for one in rows] == [*ids, ids[0]]
    assert [one.state for one in rows] == ["completed", "discarded", "cancelled", "completed"]
    assert row.state is JobState.CANCELLED
    assert result_of(rows[0], Size) == Size(4, 3)


async def test_wait_for_a_job_that_is_gone_ends_at_once(harness: ClientHarness) -> None:
    """An id without a row raises NotFound, at the start and when the row is deleted, though other jobs still wait."""
    async with harness.client(workers()) as client:
        with pytest.raises(NotFound, match=r"^job must exist, found none with id 999$"):
            await client.jobs.wait(999, timeout=WAIT)
        with pytest.raises(NotFound):
            await client.jobs.wait(2**63, timeout=WAIT)
        opts = InsertOpts(scheduled_at=datetime.now(UTC) + timedelta(hours=1))
        ids = [(await client.insert(Act("x"), opts)).job.id for _ in range(2)]
        waiting = asyncio.ensure_future(client.jobs.wait_many(ids, timeout=WAIT))
        await until(lambda: awaited(client).num_awaited)
        await client.jobs.delete(ids[1])
        with pytest.raises(NotFound):
            await waiting


@pytest.mark.slow
async def test_timeout_leaves_the_job_alone(harness: ClientHarness) -> None:
    """After a timeout the job continues; the error says how to look again, and that works."""
    made, begun, go_on = held()
    async with harness.client(made) as client:
        with pytest.raises(WaitTimeout) as late:
            await client.insert_and_wait(Act("x"), timeout=timedelta(seconds=0.2))
        [id] = late.value.ids
        others = [(await client.insert(Act("x"))).job.id for _ in range(2)]
        with pytest.raises(WaitTimeout) as several:
            await client.jobs.wait_many(others, timeout=timedelta(seconds=0.05))
        await asyncio.wait_for(begun.wait(), GENEROUS)
        go_on.set()
        row = await client.jobs.wait(id, timeout=WAIT)

    assert str(late.value) == (
        f"job {id} must end within 0.2 s, got no end; it continues, so look again with "
        f"client.jobs.wait({id}, timeout=…)"
    )
    assert str(several.value) == (
        f"jobs must end within 0.05 s, got no end of 2 of 2: {others[0]}, {others[1]}; they continue, so look again "
        "with client.jobs.wait_many(error.ids, timeout=…)"
    )
    assert (row.state, row.output) == (JobState.COMPLETED, "done")


async def test_duplicate_awaits_the_job_that_has_the_key(harness: ClientHarness) -> None:
    """The insert of a unique job that exists waits for the existing job, which has no mark."""
    made, begun, go_on = held()
    opts = InsertOpts(unique=UniqueOpts(by_args=True))
    async with harness.client(made) as client:
        first = await client.insert(Act("x"), opts)
        waiting = asyncio.ensure_future(client.insert_and_wait(Act("x"), opts, returns=str, timeout=WAIT))
        await until(lambda: awaited(client).num_awaited)
        await asyncio.wait_for(begun.wait(), GENEROUS)
        go_on.set()
        output = await waiting

    assert output == "done"
    assert [(row.id, AWAITED_KEY in row.metadata) for row in await harness.rows()] == [(first.job.id, False)]


async def test_mark_is_added_to_the_metadata_of_the_options(harness: ClientHarness) -> None:
    """The options' metadata, or else the class's, stay beside the mark."""

    @dataclass(frozen=True)
    class Marked:
        kind: ClassVar[str] = "act"
        insert_opts: ClassVar[InsertOpts] = InsertOpts(metadata={"tenant": 1})
        what: str = "x"

    async with harness.client(workers()) as client:
        await client.insert_and_wait(Marked(), timeout=WAIT)
        await client.insert_and_wait(Marked(), InsertOpts(metadata={"own": 2}), timeout=WAIT)

    assert [row.metadata for row in await harness.rows()] == [
        {"tenant": 1, AWAITED_KEY: True, "output": None},
        {"own": 2, AWAITED_KEY: True, "output": None},
    ]


class PatientPool:
    """A pool whose statements have no deadlines: a thousand at once wait long for two connections of a busy machine."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool

    async def run(self, query: Query[T]) -> T:
        return await self._pool.run(query.within(FOREVER.total_seconds()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class PatientDriver(AsyncpgDriver):
    """A driver with a patient pool."""

    @property
    def pool(self) -> Executor:
        return PatientPool(super().pool)  # type: ignore[return-value]  # it is one, by __getattr__


@pytest.mark.slow
@pytest.mark.parametrize("poll_only", [True, False])
async def test_thousand_callers_wait_at_once(harness: ClientHarness, poll_only: bool) -> None:
    """A thousand waits by notification or by poll get their own outputs, and leave nothing."""
    made = Workers()

    @made.add(output=True)
    async def act(job: Job[Act]) -> str:
        return str(job.args.what)

    driver = PatientDriver(harness.url, pool_size=POOL_SIZE)
    async with harness.client(made, database=driver, queues={"default": 200}, poll_only=poll_only) as client:
        texts = [str(number) for number in range(1_000)]
        async with asyncio.timeout(6 * GENEROUS):
            outputs = await asyncio.gather(
                *(client.insert_and_wait(Act(text), returns=str, timeout=FOREVER) for text in texts)
            )
        await until(lambda: awaited(client)._task is None)
        left = (awaited(client).num_awaited, awaited(client)._early, awaited(client)._urgent)

    assert outputs == texts
    assert left == (0, set(), set())


class CountedPool(DelegatingExecutor):
    """Counts the ids of each statement that was answered."""

    def __init__(self, pool: Executor) -> None:
        self.num_ids: list[int] = []
        self._pool = pool

    async def run(self, query: Query[T]) -> T:
        found = await self._pool.run(query)
        self.num_ids.append(len(query.params["ids"]))
        return found

    def _enter(self, operation: str, timeout_seconds: float | None) -> AbstractAsyncContextManager[Executor]:
        return contextlib.nullcontext(self._pool)


@pytest.mark.slow
async def test_polls_of_many_waits_are_few_statements(harness: ClientHarness) -> None:
    """A thousand jobs that do not end cost some twenty statements a second, not one for each job and poll."""
    pool = CountedPool(harness.driver.pool)
    jobs = AwaitedJobs(pool)
    async with harness.client(workers(), queues={}) as client:
        inserted = await client.insert_many([Act("x")] * 1_000)
        waits = (jobs.wait_many([one.job.id], 1.0) for one in inserted)
        ends = await asyncio.gather(*waits, return_exceptions=True)

    assert {type(end) for end in ends} == {WaitTimeout}
    assert pool.num_ids[0] == 1_000
    assert len(pool.num_ids) <= 50


@pytest.mark.slow
async def test_new_wait_is_polled_soon_beside_an_old_one(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that polls an old job seldom looks for a new one after the first pause, not at the old one's next poll."""
    monkeypatch.setattr("millhand.engine.awaited_jobs.PAUSE_GROWTH", 1e6)
    monkeypatch.setattr("millhand.engine.awaited_jobs.PAUSE_SECONDS_MAX", 1e6)
    jobs = AwaitedJobs(harness.driver.pool)
    async with harness.client(workers(), queues={}) as client:
        old, new = await client.insert_many([Act("x")] * 2)
        waiting = asyncio.ensure_future(jobs.wait_many([old.job.id], 1e6))
        await until(lambda: jobs._poll_at > asyncio.get_running_loop().time() + GENEROUS)
        await complete_as_river(harness, new.job.id, "1")
        async with asyncio.timeout(GENEROUS):
            row = await jobs.insert_and_wait(inserted(new), 1e6)
        waiting.cancel()
        await asyncio.wait([waiting])

    assert row.output == 1


async def inserted(result: InsertResult) -> InsertResult:
    return result


@pytest.mark.slow
@pytest.mark.usefixtures("no_polls")
async def test_jobs_that_are_notified_one_after_the_other_share_a_statement(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a client gathers, each notification adds a job to its next look."""
    monkeypatch.setattr("millhand.engine.awaited_jobs.GATHER_SECONDS", 1e6)
    monkeypatch.setattr("millhand.engine.awaited_jobs.GATHER_SECONDS_MAX", 1e6)
    pool = CountedPool(harness.driver.pool)
    jobs = AwaitedJobs(pool)
    async with harness.client(workers(), queues={}) as client:
        ids = [one.job.id for one in await client.insert_many([Act("x")] * 20)]
        waits = asyncio.gather(*(jobs.wait_many([id], GENEROUS) for id in ids))
        await until(lambda: pool.num_ids)
        for id in ids:
            await complete_as_river(harness, id, "1")
            jobs.on_notification(str(id))
        is_gathering = not waits.done()
        monkeypatch.setattr("millhand.engine.awaited_jobs.GATHER_SECONDS_MAX", 0.0)
        jobs._wake.set()
        ends = await waits

    assert is_gathering
    assert [row.id for [row] in ends] == ids
    assert pool.num_ids == [20, 20]


async def test_client_refuses_more_waits_than_it_keeps(harness: ClientHarness) -> None:
    """Beyond 10,000 awaited jobs, a wait raises TooManyWaits before anything is inserted or read."""
    async with harness.client(workers()) as client:
        with pytest.raises(TooManyWaits, match=r"^a client must await at most 10,000 jobs at once, got more"):
            await client.jobs.wait_many(range(NUM_AWAITED_MAX + 1), timeout=WAIT)

        assert awaited(client).num_awaited == 0


@pytest.mark.slow
async def test_poll_finds_the_end_when_the_notification_is_lost(harness: ClientHarness) -> None:
    """A client that listens finds an end of which it was not notified by its next poll."""
    made, begun, go_on = held()
    async with harness.client(made) as client:
        waiting = asyncio.ensure_future(client.insert_and_wait(Act("x"), returns=str, timeout=WAIT))
        await asyncio.wait_for(begun.wait(), GENEROUS)
        await complete_as_river(harness, 1, '"by another"')
        output = await waiting
        go_on.set()

    assert output == "by another"


@pytest.fixture
def no_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first poll of each job come after the end of the test."""
    monkeypatch.setattr("millhand.engine.awaited_jobs.FIRST_PAUSE_SECONDS", 1e6)


@pytest.mark.slow
@pytest.mark.usefixtures("no_polls")
@pytest.mark.parametrize("limit", [None, Limit(at_once=2)])
async def test_each_end_is_notified(harness: ClientHarness, limit: Limit | None) -> None:
    """Without polls, completed, discarded and cancelled jobs reach their callers, of queues with a limit too."""
    queues = {"default": QueueConfig(max_workers=10, limit=limit)}
    async with harness.client(workers(), queues=queues) as client:
        async with asyncio.timeout(GENEROUS):
            ends = await asyncio.gather(
                *(client.insert_and_wait(Act(what), InsertOpts(max_attempts=1), timeout=FOREVER)
                  for what in ("size", "x", "fail", "cancel")),
                return_exceptions=True,
            )  # fmt: skip

    assert ends[:2] == [{"width": 4, "height": 3}, None]
    assert [type(end) for end in ends[2:]] == [JobFailed, JobCancelled]


@pytest.mark.usefixtures("no_polls")
async def test_job_that_its_worker_completes_in_a_transaction_is_notified(harness: ClientHarness) -> None:
    """Without polls, `job.complete(tx=…)` reaches the caller with its output at the commit, before the attempt ends."""
    go_on, made = asyncio.Event(), Workers()

    @made.add()
    async def act(job: Job[Act]) -> None:
        job.record_output(5)
        async with harness.driver.pool.begin() as tx:
            await job.complete(tx=tx)
        await go_on.wait()

    async with harness.client(made) as client:
        waiting = asyncio.ensure_future(client.insert_and_wait(Act("x"), returns=int, timeout=FOREVER))
        await asyncio.wait([waiting], timeout=GENEROUS)
        go_on.set()
        is_before_the_end = waiting.done()
        output = await asyncio.wait_for(waiting, GENEROUS)

    assert (output, is_before_the_end) == (5, True)


@pytest.mark.slow
async def test_batch_is_notified_in_payloads_that_postgresql_takes(harness: ClientHarness) -> None:
    """A full batch of ids of 19 digits is announced in few notifications, each with fewer than 8,000 bytes."""
    first = 9_000_000_000_000_000_000
    heard: list[str] = []
    connection = await asyncpg.connect(harness.url)
    await connection.add_listener("public.millhand_result", lambda *call: heard.append(call[-1]))
    await harness.driver.pool.fetch(
        "INSERT INTO river_job (id, kind, args, max_attempts, state, attempted_at, attempted_by) "
        "SELECT $1::bigint + n, 'act', '{}', 1, 'running', now(), '{me}' FROM generate_series(1, 5000) AS n",
        [first],
    )
    rows = await harness.rows()
    changes = [settle(row, Completed(), now=datetime.now(UTC), started_at=datetime.now(UTC)) for row in rows]
    await harness.driver.pool.run(
        job_set_state_if_running_many(changes, awaited_ids=[row.id for row in rows])
    )
    await until(lambda: sum(len(payload.split()) for payload in heard) == len(rows))
    await connection.close()

    assert len(heard) == 13
    assert max(map(len, heard)) < 8_000
    assert {int(id) for payload in heard for id in payload.split()} == {row.id for row in rows}


async def test_notifications_of_others_are_ignored(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """Ids that nobody awaits here have no effect, and a payload that is none is logged."""
    jobs = AwaitedJobs(harness.driver.pool)
    jobs.on_notification("7")
    waiting = asyncio.ensure_future(jobs.insert_and_wait(never_inserted(), 1.0))
    await until(lambda: jobs._num_inserting)
    jobs.on_notification("7 8")
    jobs.on_notification("{}")
    early = set(jobs._early)
    waiting.cancel()
    await asyncio.wait([waiting])

    assert (early, jobs._early, jobs._urgent, jobs._task) == ({7, 8}, set(), set(), None)
    assert [record.msg for record in caplog.records] == ["notification ignored"]


async def never_inserted() -> InsertResult:
    await asyncio.Event().wait()
    raise AssertionError


async def test_output_of_another_language_is_awaited(harness: ClientHarness) -> None:
    """A client that only inserts gets the output that a worker in another language recorded."""
    async with harness.client(Workers(), queues={}) as client:
        waiting = asyncio.ensure_future(client.insert_and_wait(Act("x"), returns=Size, timeout=WAIT))
        await until(lambda: awaited(client).num_awaited)
        await complete_as_river(harness, 1, '{"width": 1, "height": 2}')

        assert await waiting == Size(1, 2)


@pytest.mark.slow
async def test_client_that_only_inserts_waits_for_a_worker(harness: ClientHarness) -> None:
    """A client without a listener polls, and gets the output of another client's worker."""
    async with harness.client(workers()), harness.client(workers(), queues={}) as client:
        assert await client.insert_and_wait(Act("size"), returns=Size, timeout=WAIT) == Size(4, 3)


async def test_cancelled_caller_leaves_nothing(harness: ClientHarness) -> None:
    """A cancelled wait has no entry and no task left, and the job continues."""
    made, begun, go_on = held()
    async with harness.client(made) as client:
        waits = [
            asyncio.ensure_future(client.insert_and_wait(Act("x"), timeout=WAIT)),
            asyncio.ensure_future(client.jobs.wait(1, timeout=WAIT)),
        ]
        await asyncio.wait_for(begun.wait(), GENEROUS)
        await until(lambda: awaited(client).num_awaited)
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
        await until(lambda: awaited(client)._task is None)
        left = awaited(client).num_awaited
        go_on.set()

    assert left == 0
    assert [row.state for row in await harness.rows()] == [JobState.COMPLETED]


async def test_stop_of_the_client_ends_its_waits(harness: ClientHarness) -> None:
    """A client that stops ends its waits with NotStarted, not with their timeouts."""
    client = harness.client(workers(), queues={})
    await client.start()
    waiting = asyncio.ensure_future(client.insert_and_wait(Act("x"), timeout=WAIT))
    await until(lambda: awaited(client).num_awaited)
    await client.stop()

    with pytest.raises(NotStarted) as stopped:
        await waiting
    assert str(stopped.value) == (
        "client must run until job 1 ends, got a stop of the client; the job continues, so look again with "
        "client.jobs.wait(1, timeout=…) of another client"
    )
    assert awaited(client)._task is None


@pytest.mark.slow
@pytest.mark.parametrize("queues", [{}, {"other": 1}], ids=["polls", "listens"])
async def test_wait_survives_a_lost_database(harness: ClientHarness, queues: dict[str, int]) -> None:
    """A wait through an outage of the database gets the output of a job that ended meanwhile."""
    async with (
        proxied(harness.url) as proxy,
        harness.client(workers(), queues=queues, database=proxy.url) as client,
    ):
        waiting = asyncio.ensure_future(client.insert_and_wait(Act("x"), returns=int, timeout=WAIT))
        await until(lambda: awaited(client).num_awaited)
        proxy.refuse()
        proxy.cut()
        await complete_as_river(harness, 1, "7")
        proxy.restore()

        assert await waiting == 7


def wait_without_a_loop(url: str) -> Size:
    with SyncClient(url) as client:
        return client.insert_and_wait(Act("size"), returns=Size, timeout=WAIT)


@pytest.mark.slow
async def test_wait_behind_pgbouncer_gets_the_output(harness: ClientHarness) -> None:
    """Through a pooler of transactions, clients that poll and a SyncClient get the outputs."""
    async with pgbouncer(harness.url) as url:
        # asyncpg prepares its statements, which a PgBouncer before 1.21 forgets.
        drivers = [PsycopgDriver(url, pool_size=2) for _ in range(2)]
        worker = harness.client(workers(), database=drivers[0], poll_only=True)
        async with worker, harness.client(workers(), queues={}, database=drivers[1]) as client:
            sizes = [
                await one.insert_and_wait(Act("size"), returns=Size, timeout=WAIT) for one in (worker, client)
            ]
            # In a thread, because the pooler's way to the server is in this event loop.
            sizes.append(await asyncio.to_thread(wait_without_a_loop, url))

    assert sizes == [Size(4, 3)] * 3


@pytest.mark.slow
async def test_awaited_job_is_kept_where_completed_jobs_are_deleted(harness: ClientHarness) -> None:
    """With `keep_completed=False`, an awaited job has its row, with and without an output; another one is deleted."""
    made = workers(keep_completed=False)

    @made.add(kind="silent", keep_completed=False)
    async def silent(job: Job[Any]) -> None: ...

    async with harness.client(made) as client:
        await client.insert_and_wait(Act("size"), returns=Size, timeout=WAIT)
        await client.insert_and_wait(harness.args_of_kind("silent"), timeout=WAIT)
        other = await client.insert(harness.args_of_kind("silent"))
        with pytest.raises(NotFound):
            await client.jobs.wait(other.job.id, timeout=WAIT)

    assert [row.kind for row in await harness.rows()] == ["act", "silent"]


async def test_ended_jobs_are_read_with_those_that_are_gone(harness: ClientHarness) -> None:
    """The statement returns ended rows and missing ids, and nothing of jobs that wait."""
    async with harness.client(Workers(), queues={}) as client:
        ids = [one.job.id for one in await client.insert_many([Act("a"), Act("b")])]
        await complete_as_river(harness, ids[0], "1")
        ended = dict(await harness.driver.pool.run(job_get_ended([*ids, JobId(77)])))

    rows = await harness.rows()
    assert {id: row and parse_job(row) for id, row in ended.items()} == {ids[0]: rows[0], 77: None}
