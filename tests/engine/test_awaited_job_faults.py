"""Mistakes of callers who await jobs, and clients that stop or lose their database meanwhile."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from client_harness import GENEROUS, Act, ClientHarness, until
from millhand.core.errors import ConfigError, DriverError, NotFound, NotStarted, OperationTimeout, WaitTimeout
from millhand.core.insert_opts import InsertOpts
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.sync_client import LAST_STATEMENT_SECONDS, SyncClient, _ended
from proxy import proxied

WAIT = timedelta(seconds=GENEROUS)
SHORT = timedelta(seconds=0.3)


def workers() -> Workers:
    made = Workers()

    @made.add(output=True)
    async def act(job: Job[Act]) -> list[str]:
        return [job.args.what]

    return made


async def test_callers_of_one_job_get_values_of_their_own(harness: ClientHarness) -> None:
    """What one caller does with its row or output does not change what another caller of the same job gets."""
    opts = InsertOpts(unique=UniqueOpts(by_args=True))
    async with harness.client(workers()) as client:
        outputs = await asyncio.gather(
            *(client.insert_and_wait(Act("a"), opts, timeout=WAIT) for _ in range(3))
        )
        outputs[0].append("mine")
        id = (await client.insert(Act("a"), opts)).job.id  # not always 1: inserts at once race for the row
        rows = await asyncio.gather(*(client.jobs.wait(id, timeout=WAIT) for _ in range(3)))
        rows[0].metadata.clear()

    assert outputs[1:] == [["a"], ["a"]]
    assert [row.output for row in rows[1:]] == [["a"], ["a"]]


@pytest.mark.slow
async def test_many_callers_of_one_job_are_one_awaited_job(harness: ClientHarness) -> None:
    """Two thousand callers of one job cost one id in each statement, get its output, and none of them waits longer."""
    begun, go_on, made = asyncio.Event(), asyncio.Event(), Workers()

    @made.add(output=True)
    async def act(job: Job[Act]) -> int:
        begun.set()
        await go_on.wait()
        return 7

    async with harness.client(made) as client:
        id = (await client.insert(Act("a"))).job.id
        await asyncio.wait_for(begun.wait(), GENEROUS)
        late = [asyncio.ensure_future(client.jobs.wait(id, timeout=SHORT)) for _ in range(1_000)]
        waits = [asyncio.ensure_future(client.jobs.wait(id, timeout=WAIT)) for _ in range(1_000)]
        ends = await asyncio.gather(*late, return_exceptions=True)
        num_awaited = client._awaited.num_awaited
        go_on.set()
        rows = await asyncio.gather(*waits)

    assert {type(end) for end in ends} == {WaitTimeout}
    assert num_awaited == 1
    assert {row.output for row in rows} == {7}


async def test_wait_for_what_is_no_id_is_an_error(harness: ClientHarness) -> None:
    """A value that is no id, such as the result of an insert, raises TypeError that names the remedy."""
    wait: Any
    async with harness.client(workers()) as client:
        result = await client.insert(Act("a"))
        wait = client.jobs.wait
        with pytest.raises(TypeError) as refused:
            await wait(result, timeout=WAIT)
        with pytest.raises(
            TypeError, match=r"^id must be that of a job, got builtins\.str; write result\.job\.id"
        ):
            await client.jobs.wait_many("12", timeout=WAIT)  # type: ignore[arg-type]

    assert str(refused.value) == (
        "id must be that of a job, got millhand.core.insert_opts.InsertResult; write result.job.id for what insert returns"
    )


async def test_wait_in_another_event_loop_is_refused(harness: ClientHarness) -> None:
    """A wait in a thread with an event loop of its own raises ConfigError at once, and others still wait."""
    async with harness.client(workers(), queues={"other": 1}) as client:
        id = (await client.insert(Act("a"))).job.id
        waiting = asyncio.ensure_future(client.jobs.wait(id, timeout=WAIT))
        await until(lambda: client._awaited.num_awaited)
        with pytest.raises(
            ConfigError, match=r"^client must be used in the event loop in which it was started"
        ):
            await asyncio.to_thread(asyncio.run, client.jobs.wait(id, timeout=WAIT))
        await client.jobs.cancel(id)
        row = await waiting

    assert row.state == "cancelled"


@pytest.mark.slow
async def test_wait_for_a_job_whose_insert_is_not_committed_ends_at_once(harness: ClientHarness) -> None:
    """Before the commit of its insert, the job does not exist for a wait; after it, the wait gets the output."""
    connection = await asyncpg.connect(harness.url)
    async with harness.client(workers()) as client:
        with SyncClient(harness.url) as sync_client:
            async with connection.transaction():
                id = (await client.insert(Act("a"), tx=connection)).job.id
                with pytest.raises(NotFound):
                    await client.jobs.wait(id, timeout=WAIT)
                with pytest.raises(NotFound):
                    await asyncio.to_thread(sync_client.jobs.wait, id, timeout=WAIT)
        row = await client.jobs.wait(id, timeout=WAIT)
    await connection.close()

    assert row.output == ["a"]


async def test_stop_does_not_wait_for_the_answer_to_a_poll(harness: ClientHarness) -> None:
    """A stop while the server does not answer a poll ends the waits with NotStarted, and cancels the poll."""
    connection = await asyncpg.connect(harness.url)
    client = harness.client(workers(), queues={})
    await client.start()
    id = (await client.insert(Act("a"))).job.id
    async with connection.transaction():
        await connection.execute("LOCK TABLE river_job")
        waiting = asyncio.ensure_future(client.jobs.wait(id, timeout=WAIT))
        async with asyncio.timeout(GENEROUS):
            while not await connection.fetch("SELECT FROM pg_locks WHERE NOT granted"):
                pass
        # Less than the ten seconds after which the poll would fail.
        await asyncio.wait_for(client.stop(), 8.0)
    await connection.close()

    with pytest.raises(NotStarted):
        await waiting
    assert (client._awaited.num_awaited, client._awaited._task) == (0, None)


@pytest.mark.slow
async def test_timeout_during_an_outage_has_its_error_as_cause(harness: ClientHarness) -> None:
    """If the last poll failed, WaitTimeout has the error of the database as its cause; else it has none."""
    async with proxied(harness.url) as proxy:
        async with harness.client(workers(), queues={}, database=proxy.url) as client:
            id = (await client.insert(Act("a"))).job.id
            with pytest.raises(WaitTimeout) as unworked:
                await client.jobs.wait(id, timeout=SHORT)
            proxy.cut()
            failing = asyncio.ensure_future(client.jobs.wait(id, timeout=WAIT))
            await until(lambda: client._awaited._away is not None)
            with pytest.raises(WaitTimeout) as cut_off:
                await client.jobs.wait(id, timeout=SHORT)
            failing.cancel()
            await asyncio.wait([failing])
        proxy.restore()
        sync_client = SyncClient(proxy.url)
        await asyncio.to_thread(sync_client.start)
        proxy.cut()
        with pytest.raises(WaitTimeout) as sync_cut_off:
            await asyncio.to_thread(sync_client.jobs.wait, id, timeout=SHORT)
        await asyncio.to_thread(sync_client.stop)

    assert unworked.value.__cause__ is None
    assert isinstance(cut_off.value.__cause__, DriverError)
    assert isinstance(sync_cut_off.value.__cause__, DriverError | OperationTimeout)


@pytest.mark.slow
async def test_sync_wait_ends_soon_after_its_timeout_when_nothing_answers(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the network loses all packets, a wait is late by the cancellation of one statement, not by two timeouts."""
    timeouts: list[float] = []

    def ended(pool: Any, ids: Any, seconds: float) -> Any:
        timeouts.append(seconds)
        return _ended(pool, ids, seconds)

    monkeypatch.setattr("millhand.sync_client._ended", ended)
    async with proxied(harness.url) as proxy:
        client = SyncClient(proxy.url)
        await asyncio.to_thread(client.start)
        result = await asyncio.to_thread(client.insert, Act("a"))
        proxy.stop_up()
        with pytest.raises(WaitTimeout):
            await asyncio.to_thread(client.jobs.wait, result.job.id, timeout=SHORT)
        proxy.restore()
        await asyncio.to_thread(client.stop)

    assert timeouts == [LAST_STATEMENT_SECONDS]
