"""Claims about the flow of a running job: `job.flow`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from flow_harness import ended
from millhand.client import Client
from millhand.core.errors import ConfigError, FlowCancelled, InvalidJob, InvalidOutput, JobNotRunning
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobId
from millhand.core.retry import ConstantRetryPolicy
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.protocol import Executor
from millhand.flows.flow import Flow, FlowRow, FlowState

Script = Callable[[Job[Act]], Awaitable[None]]


@dataclass(frozen=True)
class Number:
    """The args of jobs whose output is their number."""

    kind: ClassVar[str] = "number"
    number: int


@dataclass(frozen=True)
class Audit:
    """The args of another kind of job."""

    kind: ClassVar[str] = "audit"


async def run(harness: ClientHarness, flow: Flow, script: Any) -> tuple[list[str], FlowRow]:
    """
    Work a flow to its end, and return its jobs in the order of their starts.

    `script` works those of kind `act`, a coroutine function or a plain one.
    """
    workers, started = Workers(), list[str]()

    @workers.add(output=True)
    async def number(job: Job[Number]) -> int:
        started.append(f"number {job.args.number}")
        return job.args.number

    @workers.add()
    async def audit(job: Job[Audit]) -> None:
        started.append("audit")

    def note(job: Job[Act]) -> Any:
        started.append(job.args.what)
        return script(job)

    workers.add(retry=ConstantRetryPolicy(timedelta(0)))(_named(script, note))
    async with asyncio.timeout(GENEROUS), harness.client(workers) as client:
        inserted = await client.insert_flow(flow)
        row = await ended(harness, inserted.id)
    return started, row


def _named(script: Any, note: Callable[[Job[Act]], Any]) -> Any:
    """Return a worker function of the same type as `script`."""
    if inspect.iscoroutinefunction(script):

        async def act(job: Job[Act]) -> None:
            await note(job)

        return act

    def plain(job: Job[Act]) -> None:
        note(job)

    return plain


def adder_and_last() -> Flow:
    """A flow of a task that adds others, and of one that waits for it."""
    flow = Flow("growing")
    flow.add(Act("last"), after=flow.add(Act("adder")))
    return flow


@pytest.mark.slow
async def test_tasks_wait_for_what_a_task_that_they_wait_for_adds(harness: ClientHarness) -> None:
    """The last task starts after all added ones, and reads their outputs in order, decoded and by kind."""
    outputs: dict[str, object] = {}
    ids: list[JobId] = []

    async def script(job: Job[Act]) -> None:
        if job.args.what == "adder":
            ids.append(await job.flow.add(Number(0), name="zero"))
            ids.extend(await job.flow.add_many(Number(number) for number in range(1, 1_200)))
            assert await job.flow.add_many([]) == []
            await job.flow.add(Audit())
            job.record_output("added")
            return
        outputs["all"] = len(await job.flow.outputs())
        outputs["strings"] = await job.flow.outputs("act", returns=str)
        outputs["numbers"] = await job.flow.outputs(Number, returns=int)
        with pytest.raises(InvalidOutput) as refused:
            await job.flow.outputs(Number, returns=str)
        outputs["error"] = str(refused.value)

    started, row = await run(harness, adder_and_last(), script)

    assert (started[0], started[-1], len(started)) == ("adder", "last", 1_203)
    assert (row.state, row.num_tasks, row.num_open) == (FlowState.COMPLETED, 1_203, 0)
    assert outputs == {
        "all": 1_201,
        "strings": ["added"],
        "numbers": [*range(1_200)],
        "error": f"output of job {ids[0]} must decode as str, got: Expected `str`, got `int`",
    }
    names = {job.id: job.metadata["task"] for job in await harness.rows()}
    assert [names[id] for id in ids[:3]] == ["zero", "number.1.2", "number.1.3"]


@pytest.mark.slow
async def test_outputs_of_a_task_whose_job_was_deleted_are_an_error(harness: ClientHarness) -> None:
    """A leader in another language deletes completed jobs after a day. The list would be too short without a word."""
    errors: list[str] = []

    async def script(job: Job[Act]) -> None:
        if job.args.what == "adder":
            await job.flow.add(Number(1))
            return
        await harness.execute("DELETE FROM river_job WHERE kind = 'number'")
        for kind in (None, Number, "act"):
            with pytest.raises(InvalidOutput) as refused:
                await job.flow.outputs(kind)
            errors.append(str(refused.value))

    _, row = await run(harness, adder_and_last(), script)

    assert row.state is FlowState.COMPLETED
    assert [error.split(";")[0] for error in errors] == [
        "job 3 must exist to have its output read, got none"
    ] * 3


@pytest.mark.slow
async def test_attempt_adds_nothing_that_an_earlier_one_added(harness: ClientHarness) -> None:
    """An attempt that fails after its adds leaves them, and the next one gets the same jobs and adds the rest."""
    attempts: list[list[JobId]] = []

    async def script(job: Job[Act]) -> None:
        if job.args.what == "adder":
            count = 2 if job.attempt == 1 else 4
            attempts.append(
                [
                    await job.flow.add(Audit()),
                    *await job.flow.add_many(map(Number, range(count)), name="part"),
                ]
            )
            if job.attempt == 1:
                raise ValueError("after the adds")

    started, row = await run(harness, adder_and_last(), script)

    assert [len(ids) for ids in attempts] == [3, 5]
    assert attempts[1][:3] == attempts[0]
    assert sorted(started) == [
        "adder", "adder", "audit", "last", "number 0", "number 1", "number 2", "number 3",
    ]  # fmt: skip
    assert (row.state, row.num_tasks) == (FlowState.COMPLETED, 7)


@pytest.mark.slow
async def test_attempt_that_adds_in_another_order_is_refused(harness: ClientHarness) -> None:
    """Another kind or another name where an earlier attempt added a task is an error, and adds nothing."""
    errors: list[str] = []

    async def script(job: Job[Act]) -> None:
        if job.args.what != "adder":
            return
        if job.attempt == 1:
            await job.flow.add(Audit())
            await job.flow.add(Number(1), name="one")
            raise ValueError("after the adds")
        with pytest.raises(InvalidJob) as another_kind:
            await job.flow.add(Number(1))
        await job.flow.add(Audit())
        with pytest.raises(InvalidJob) as another_name:
            await job.flow.add(Number(1), name="two")
        errors.extend(str(refused.value) for refused in (another_kind, another_name))

    _, row = await run(harness, adder_and_last(), script)

    assert errors == [
        (
            "tasks that a job adds must be the same in each attempt, got 'number' named 'number.1.1' where an earlier "
            "attempt of job 1 added 'audit' named 'audit.1.1'; add the same tasks in the same order"
        ),
        (
            "tasks that a job adds must be the same in each attempt, got 'number' named 'two' where an earlier "
            "attempt of job 1 added 'number' named 'one'; add the same tasks in the same order"
        ),
    ]
    assert row.num_tasks == 4


@pytest.mark.slow
async def test_plain_function_adds_and_reads_in_its_thread(harness: ClientHarness) -> None:
    """The `_sync` twins do the same in a thread."""
    outputs: list[int] = []

    def script(job: Job[Act]) -> None:
        if job.args.what == "adder":
            job.flow.add_sync(Number(1))
            job.flow.add_many_sync([Number(2), Number(3)], name="more")
        else:
            outputs.extend(job.flow.outputs_sync(Number, returns=int))

    started, row = await run(harness, adder_and_last(), script)

    assert (started[0], started[-1], outputs) == ("adder", "last", [1, 2, 3])
    assert row.state is FlowState.COMPLETED


@pytest.mark.slow
async def test_adds_at_once_keep_their_order(harness: ClientHarness) -> None:
    """Adds that one attempt awaits together are numbered in the order of the calls."""
    ids: list[JobId] = []

    async def script(job: Job[Act]) -> None:
        if job.args.what == "adder":
            ids.extend(await asyncio.gather(*[job.flow.add(Number(number)) for number in range(5)]))

    await run(harness, adder_and_last(), script)

    args = {job.id: (job.metadata["task"], job.args) for job in await harness.rows()}
    assert [args[id] for id in ids] == [(f"number.1.{n + 1}", {"number": n}) for n in range(5)]


@pytest.mark.slow
@pytest.mark.parametrize("is_repeated", [True, False])
async def test_calls_that_are_cancelled_add_once_or_not_at_all(
    harness: ClientHarness, *, is_repeated: bool
) -> None:
    """
    Calls are cancelled at random moments of their transactions.

    If each is repeated, each task is added once. If none is, no later call gets the task of a cancelled one.
    """
    chosen = random.Random(7)  # noqa: S311 - a test
    answered: dict[JobId, int] = {}
    ends: set[bool] = set()

    async def script(job: Job[Act]) -> None:
        if job.args.what != "adder":
            return
        for number in range(40):
            call = asyncio.ensure_future(job.flow.add(Number(number)))
            for _ in range(chosen.randrange(60)):
                await asyncio.sleep(0)
            call.cancel()
            [end] = await asyncio.gather(call, return_exceptions=True)
            ends.add(isinstance(end, asyncio.CancelledError))
            if is_repeated and isinstance(end, asyncio.CancelledError):
                end = await job.flow.add(Number(number))
            if not isinstance(end, BaseException):
                answered[end] = number

    _, row = await run(harness, adder_and_last(), script)

    added = {job.id: job.args["number"] for job in await harness.rows() if job.kind == "number"}
    numbers = sorted(added.values())
    assert {id: added[id] for id in answered} == answered
    assert len(set(numbers)) == len(numbers) == row.num_tasks - 2
    assert numbers == [*range(40)] if is_repeated else len(answered) <= len(numbers) <= 40
    assert True in ends


@pytest.mark.slow
async def test_another_call_after_a_lost_answer_adds_its_own_tasks(harness: ClientHarness) -> None:
    """If the answer to a commit is lost, the same call again returns its tasks, and another one adds after them."""
    ids: list[JobId] = []

    async def script(job: Job[Act]) -> None:
        if job.args.what != "adder":
            return
        for number in (1, 2):
            with pytest.raises(ConnectionError), _lost_answer(job):
                await job.flow.add(Number(number))
        ids.append(await job.flow.add(Number(2)))
        ids.extend(await job.flow.add_many([Number(3), Number(4)]))

    _, row = await run(harness, adder_and_last(), script)

    added = {job.id: (job.metadata["task"], job.args) for job in await harness.rows() if job.kind == "number"}
    assert [added[id] for id in ids] == [(f"number.1.{n}", {"number": n}) for n in (2, 3, 4)]
    assert ([args["number"] for _, args in added.values()], row.num_tasks) == ([1, 2, 3, 4], 6)


@contextlib.contextmanager
def _lost_answer(job: Job[Act]) -> Iterator[None]:
    """Let transactions of `job.flow` raise after their commit."""
    flow = job.flow
    pool = flow._pool
    flow._pool = _Lossy(pool)  # type: ignore[assignment]  # it only begins transactions
    try:
        yield
    finally:
        flow._pool = pool


class _Lossy:
    def __init__(self, pool: Executor) -> None:
        self._pool = pool

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Executor]:
        async with self._pool.begin() as tx:
            yield tx
        raise ConnectionError


@pytest.mark.slow
async def test_mistakes_are_refused(harness: ClientHarness) -> None:
    """A twin for threads in an event loop, a unique task, an empty name and a job that is no task have errors."""
    errors: list[str] = []

    async def script(job: Job[Act]) -> None:
        if job.args.what != "adder":
            return
        with pytest.raises(ConfigError) as in_loop:
            job.flow.add_sync(Audit())
        with pytest.raises(InvalidJob) as unique:
            await job.flow.add(Audit(), InsertOpts(unique=UniqueOpts(by_args=True)))
        with pytest.raises(InvalidJob) as unnamed:
            await job.flow.add_many([Audit()], name="")
        with pytest.raises(InvalidJob) as no_list:
            await job.flow.add_many(Audit())  # type: ignore[arg-type]
        with pytest.raises(ConfigError) as no_type:
            await job.flow.outputs(returns=object())  # type: ignore[type-var]
        alone = Job(await harness.row(JobId(1)), None, job.client)
        alone.row.metadata.clear()
        with pytest.raises(ConfigError) as no_task:
            _ = alone.flow
        all_refused = (in_loop, unique, unnamed, no_list, no_type, no_task)
        errors.extend(str(refused.value) for refused in all_refused)

    _, row = await run(harness, adder_and_last(), script)

    assert row.num_tasks == 2
    assert errors[0] == (
        "add_sync must be called by a plain function in its thread, got a call in an event loop; write await "
        "job.flow.add(…)"
    )
    assert errors[1].startswith("a task must not be unique, got kind 'audit'")
    assert errors[2:4] == [
        "name of a task must be 1 to 255 characters, got ''",
        "jobs must be a list of args, got Audit; write [Audit(…)]",
    ]
    assert errors[4].startswith("returns must be a type that JSON decodes into, got <object object")
    assert errors[5] == (
        "job.flow must be used in a task of a flow, got Job(id=1, kind='act', attempt=1/25), which is none; insert it "
        "with client.insert_flow"
    )


async def _adder_while(
    harness: ClientHarness, change: Callable[[Client, FlowRow], Awaitable[object]], error: type[Exception]
) -> tuple[str, FlowRow, int]:
    """
    Change the flow or the job while its worker runs, and add a task.

    Return the error, and the flow with its number of jobs. Another task adds, because the attempt may be cancelled.
    """
    workers, is_over = Workers(), asyncio.Event()
    running: asyncio.Future[Job[Act]] = asyncio.get_running_loop().create_future()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        running.set_result(job)
        await is_over.wait()

    flow = Flow("changed")
    flow.add(Act("adder"))
    async with asyncio.timeout(GENEROUS), harness.client(workers) as client:
        inserted = await client.insert_flow(flow)
        job = await running
        await change(client, inserted)
        with pytest.raises(error) as refused:
            await job.flow.add(Act("added"))
        row = await client.flows.get(inserted.id)
        is_over.set()
    return str(refused.value), row, len(await harness.rows())


@pytest.mark.slow
async def test_cancelled_flow_refuses_adds(harness: ClientHarness) -> None:
    """A job that runs on after the flow was cancelled adds nothing."""
    text, row, num_jobs = await _adder_while(
        harness, lambda client, flow: client.flows.cancel(flow.id), FlowCancelled
    )

    assert text == (
        f"flow must not be cancelled while a job adds tasks, got flow {row.id} cancelled; return, or raise JobCancel"
    )
    assert (row.num_tasks, num_jobs) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "state"),
    [
        ("UPDATE river_job SET state = 'available', queue = 'other' WHERE id = 1", "available"),
        ("UPDATE river_job SET attempted_at = now() WHERE id = 1", "running again"),
        ("DELETE FROM river_job WHERE id = 1", "deleted"),
    ],
)
async def test_attempt_that_lost_its_job_adds_nothing(
    harness: ClientHarness, change: str, state: str
) -> None:
    """A job that was rescued, fetched again or deleted meanwhile is another attempt's."""
    text, row, num_jobs = await _adder_while(harness, lambda *_: harness.execute(change), JobNotRunning)

    assert text == (
        f"attempt must be running to write its job, got attempt 1 of job 1, which is {state}; end this attempt; another "
        "one adds the tasks"
    )
    assert (row.num_tasks, num_jobs) == (1, 0 if state == "deleted" else 1)
