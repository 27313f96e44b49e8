"""A client that is started, stopped and changed at unusual moments, from other tasks and threads, and concurrently."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.client import Client
from millhand.core.config import Config, QueueConfig
from millhand.core.errors import ConfigError, DriverError, NotStarted
from millhand.core.event import EventKind
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState, Json
from millhand.core.limit import Limit
from millhand.core.periodic import every
from millhand.core.schedule import JobSchedule
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.producer import Producer
from millhand.engine.service import Service, WakeReason
from millhand.engine.store.job_list import JobFilters
from millhand.flows.flow import Flow

DECLARING = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
    "AND query LIKE '%limit_put%'"
)


class Holder:
    """A worker that reports when it runs, and continues on command."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.workers = Workers()
        self.workers.add()(self.act)

    async def act(self, job: Job[Act]) -> None:
        self.started.set()
        await self.go_on.wait()


async def _holding(harness: ClientHarness, **settings: object) -> tuple[Client, Holder]:
    holder = Holder()
    client = harness.client(holder.workers, **settings)
    await client.start()
    await client.insert(Act("x"))
    await asyncio.wait_for(holder.started.wait(), GENEROUS)
    return client, holder


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(GENEROUS):
        while not is_so():  # noqa: ASYNC110 - nobody rings, and it is a matter of a few turns
            await asyncio.sleep(0)


def _producers(client: Client) -> dict[str, Producer]:
    assert client._engine is not None
    return client._engine.queues.producers


async def _is_stopping(client: Client) -> None:
    """Return when the shutdown sequence waits for running attempts."""
    producers = _producers(client)
    await _until(lambda: not any(producer.is_running for producer in producers.values()))


async def test_cancelled_stop_continues(harness: ClientHarness) -> None:
    """A stop continues when its caller is cancelled, and the next caller waits for its end."""
    client, holder = await _holding(harness)
    impatient = asyncio.create_task(client.stop())
    await _is_stopping(client)

    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    patient = asyncio.create_task(client.stop())
    holder.go_on.set()
    await asyncio.wait_for(patient, GENEROUS)

    [row] = await harness.rows()
    assert row.state is JobState.COMPLETED
    assert await harness.driver.pool.fetch("SELECT leader_id FROM river_leader") == []


async def test_services_stop_while_a_last_outcome_is_written(harness: ClientHarness) -> None:
    """A stop asks its services to end together: those that need nothing have ended while an outcome still waits."""
    client, holder = await _holding(harness)
    assert client._engine is not None
    pollers = tuple(client._engine.queues.pollers.values())
    async with harness.driver.pool.begin() as tx:
        await tx.fetch("SELECT FROM river_job FOR UPDATE")
        stop = asyncio.create_task(client.stop())
        holder.go_on.set()

        await _until(lambda: not any(poller.is_running for poller in pollers))
        was_done = stop.done()
    await asyncio.wait_for(stop, GENEROUS)

    assert not was_done
    assert [row.state for row in await harness.rows()] == [JobState.COMPLETED]


async def test_service_runs_until_its_run_returns_after_a_cancelled_stop() -> None:
    """A service is running until its run has returned, although the caller of its stop was cancelled."""

    class Lingerer(Service):
        async def run(self, started: Callable[[], None]) -> None:
            started()
            while await self.wake_event.wait() is not WakeReason.STOP:
                pass
            await linger.wait()

    linger = asyncio.Event()
    service = Lingerer()
    await service.start()
    impatient = asyncio.create_task(service.stop())
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient

    was_running = service.is_running
    linger.set()
    await asyncio.wait_for(service.stop(), GENEROUS)

    assert (was_running, service.is_running) == (True, False)


@pytest.mark.parametrize("deed", ["stop", "remove_queue"])
async def test_job_that_would_wait_for_itself_fails(harness: ClientHarness, deed: str) -> None:
    """A job that stops its own client, or has its queue removed, fails at once instead of waiting forever."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        await (job.client.stop() if deed == "stop" else job.client.remove_queue("default"))

    async with harness.client(workers) as client:
        event = await harness.work(client, Act("x"))

    assert event.kind is EventKind.JOB_FAILED
    assert event.job is not None
    [error] = event.job.errors
    deed_told = {"stop": "stop its client", "remove_queue": "have its queue removed"}[deed]
    assert error.error == (
        f"ConfigError: job must not {deed_told} and wait for that, which waits for the job, got 'act' "
        f"with id {event.job.id}; call it from the program that started the client"
    )


async def test_client_refuses_a_queue_while_it_stops(harness: ClientHarness) -> None:
    """A stopping client refuses a new queue and works none of its jobs."""
    client, holder = await _holding(harness)
    stopping = asyncio.create_task(client.stop())
    await _is_stopping(client)

    with pytest.raises(ConfigError, match=r"started with queues and is not stopping, got 'late'"):
        await client.add_queue("late", 1)

    holder.go_on.set()
    await asyncio.wait_for(stopping, GENEROUS)
    assert await harness.driver.pool.fetch("SELECT name FROM river_queue WHERE name = 'late'") == []


async def test_client_refuses_a_queue_whose_limit_it_declares_when_it_stops(harness: ClientHarness) -> None:
    """A stop while a queue is added ends, and no job of that queue is fetched."""
    client, holder = await _holding(harness)
    waiting = await client.insert(Act("y"), InsertOpts(queue="late"))
    async with harness.driver.pool.begin() as tx:
        await tx.fetch("LOCK TABLE millhand_limit")
        adding = asyncio.create_task(
            client.add_queue("late", QueueConfig(max_workers=1, limit=Limit(at_once=1)))
        )
        async with asyncio.timeout(GENEROUS):
            while not await harness.driver.pool.fetch(DECLARING):
                pass
        stopping = asyncio.create_task(client.stop())
        await _is_stopping(client)

    with pytest.raises(ConfigError, match=r"started with queues and is not stopping, got 'late'"):
        await asyncio.wait_for(adding, GENEROUS)

    holder.go_on.set()
    await asyncio.wait_for(stopping, GENEROUS)
    assert (await harness.row(waiting.job.id)).state is JobState.AVAILABLE
    assert await harness.driver.pool.fetch("SELECT name FROM river_queue WHERE name = 'late'") == []


async def test_client_stops_while_it_removes_a_queue(harness: ClientHarness) -> None:
    """If two removals of a queue and a stop wait for the same job, all of them end and the job completes."""
    client, holder = await _holding(harness, queues={"default": 10, "other": 10})
    waiting = [asyncio.create_task(client.remove_queue("default")) for _ in range(2)]
    await _until(lambda: not _producers(client)["default"].is_running)
    waiting.append(asyncio.create_task(client.stop()))
    await _is_stopping(client)

    holder.go_on.set()
    await asyncio.wait_for(asyncio.gather(*waiting), GENEROUS)

    [row] = await harness.rows()
    assert row.state is JobState.COMPLETED
    assert await harness.driver.pool.fetch("SELECT leader_id FROM river_leader") == []


async def test_client_that_only_inserts_refuses_a_queue(harness: ClientHarness) -> None:
    """A client that was started without queues refuses a queue, because it has no completer."""
    async with harness.client(Holder().workers, queues={}) as client:
        with pytest.raises(ConfigError, match=r"started with queues and is not stopping, got 'default'"):
            await client.add_queue("default", 1)


async def test_added_queue_uses_the_settings_of_its_client(harness: ClientHarness) -> None:
    """A queue uses its client's setting where it has none, whether it is configured or added later."""
    settings = {"fetch_poll_interval": timedelta(seconds=50), "fetch_cooldown": timedelta(seconds=3)}

    async with harness.client(Holder().workers, **settings) as client:
        await client.add_queue("later", QueueConfig(max_workers=1))
        producers = _producers(client).values()
        told = {(producer._poll_seconds, producer._cooldown_seconds) for producer in producers}

    assert told == {(50.0, 3.0)}


async def test_client_adds_a_queue_again_after_a_database_error(harness: ClientHarness) -> None:
    """A database error leaves no part of the queue behind."""
    async with harness.client(Holder().workers) as client:
        await harness.execute("ALTER TABLE river_queue RENAME TO hidden")
        try:
            with pytest.raises(DriverError):
                await client.add_queue("later", 1)
        finally:
            await harness.execute("ALTER TABLE hidden RENAME TO river_queue")

        await client.add_queue("later", 1)

        assert sorted(_producers(client)) == ["default", "later"]


@pytest.mark.parametrize(
    "settings", [{"queues": {}}, {"leader_election": False}], ids=["no queues", "no elections"]
)
async def test_client_that_never_leads_refuses_a_periodic_job(
    harness: ClientHarness, settings: dict[str, object]
) -> None:
    """A client that never leads refuses a periodic job when it is added."""
    async with harness.client(Holder().workers, client_id="me", **settings) as client:
        with pytest.raises(ConfigError) as refused:
            client.add_periodic_job(every(timedelta(hours=1), Act("x")))

    assert str(refused.value) == (
        "periodic job must be added to a client that may lead, with queues and with leader_election, got 'me'"
    )


HOUR = timedelta(hours=1)
USES: dict[str, Callable[[Client], Coroutine[Any, Any, object]]] = {
    "add_queue": lambda client: client.add_queue("q", 1),
    "insert": lambda client: client.insert(Act("x")),
    "insert_and_wait": lambda client: client.insert_and_wait(Act("x"), timeout=HOUR),
    "insert_flow": lambda client: client.insert_flow(Flow("x")),
    "insert_many": lambda client: client.insert_many([Act("x")]),
    "insert_many_fast": lambda client: client.insert_many_fast([Act("x")]),
    "migrate": lambda client: client.migrate(),
    "ping": lambda client: client.ping(),
    "remove_queue": lambda client: client.remove_queue("default"),
    "request_resign": lambda client: client.request_resign(),
    "start": lambda client: client.start(),
    "stop": lambda client: client.stop(),
    "wait_crashed": lambda client: client.wait_crashed(),
    "clients.list": lambda client: client.clients.list(),
    "dead.delete": lambda client: client.dead.delete(1),
    "dead.get": lambda client: client.dead.get(1),
    "dead.list": lambda client: client.dead.list(),
    "dead.retry": lambda client: client.dead.retry(1),
    "flows.cancel": lambda client: client.flows.cancel(1),
    "flows.get": lambda client: client.flows.get(1),
    "flows.list": lambda client: client.flows.list(),
    "flows.retry": lambda client: client.flows.retry(1),
    "flows.tasks": lambda client: client.flows.tasks(1),
    "jobs.cancel": lambda client: client.jobs.cancel(1),
    "jobs.count_by_state": lambda client: client.jobs.count_by_state(),
    "jobs.delete": lambda client: client.jobs.delete(1),
    "jobs.delete_many": lambda client: client.jobs.delete_many(JobFilters(kinds=["act"])),
    "jobs.get": lambda client: client.jobs.get(1),
    "jobs.list": lambda client: client.jobs.list(),
    "jobs.retry": lambda client: client.jobs.retry(1),
    "jobs.snooze": lambda client: client.jobs.snooze(1, datetime.now(UTC) + HOUR),
    "jobs.update_output": lambda client: client.jobs.update_output(1, 1),
    "jobs.wait": lambda client: client.jobs.wait(1, timeout=HOUR),
    "jobs.wait_many": lambda client: client.jobs.wait_many([1], timeout=HOUR),
    "limits.get": lambda client: client.limits.get("q"),
    "limits.halted": lambda client: client.limits.halted(),
    "limits.hold": lambda client: client.limits.hold("q", "a", HOUR),
    "limits.list": lambda client: client.limits.list(),
    "limits.partitions": lambda client: client.limits.partitions("q"),
    "limits.release": lambda client: client.limits.release("q", "a"),
    "limits.remove": lambda client: client.limits.remove("q"),
    "limits.reset": lambda client: client.limits.reset("q"),
    "limits.resume": lambda client: client.limits.resume("q", "a"),
    "limits.set": lambda client: client.limits.set("q", at_once=1),
    "limits.set_partition": lambda client: client.limits.set_partition("q", "a", weight=2),
    "queues.get": lambda client: client.queues.get("q"),
    "queues.list": lambda client: client.queues.list(),
    "queues.pause": lambda client: client.queues.pause("q"),
    "queues.resume": lambda client: client.queues.resume("q"),
    "queues.update": lambda client: client.queues.update("q", metadata={"a": 1}),
    "schedules.get": lambda client: client.schedules.get("s"),
    "schedules.list": lambda client: client.schedules.list(),
    "schedules.next_instants": lambda client: client.schedules.next_instants("s"),
    "schedules.pause": lambda client: client.schedules.pause("s"),
    "schedules.remove": lambda client: client.schedules.remove("s"),
    "schedules.resume": lambda client: client.schedules.resume("s"),
    "schedules.run_now": lambda client: client.schedules.run_now("s"),
    "schedules.set": lambda client: client.schedules.set(
        JobSchedule(id="daily", args=Act("x"), cron="@daily")
    ),
}
CONTROLS = ("clients", "dead", "flows", "jobs", "limits", "queues", "schedules")


def _public_coroutines(value: object, prefix: str = "") -> set[str]:
    methods = inspect.getmembers(type(value), inspect.iscoroutinefunction)
    return {f"{prefix}{name}" for name, _ in methods if not name.startswith("_")}


@pytest.mark.slow
async def test_client_refuses_to_be_used_in_another_event_loop(harness: ClientHarness) -> None:
    """Each call of a started client raises an error in another event loop, which names the call to use instead."""
    async with harness.client(Holder().workers, client_id="me") as client:

        async def errors() -> dict[str, str]:
            found = {}
            for name, use in USES.items():
                with pytest.raises(ConfigError) as refused:
                    await use(client)
                found[name] = str(refused.value)
            return found

        found = await asyncio.to_thread(asyncio.run, errors())
        public = _public_coroutines(client).union(
            *[_public_coroutines(getattr(client, name), f"{name}.") for name in CONTROLS]
        )

    words = (
        "client must be used in the event loop in which it was started, got 'me' in another; from a thread "
        "write asyncio.run_coroutine_threadsafe(client.insert(…), client.loop).result()"
    )
    assert found == dict.fromkeys(public, words)


@pytest.mark.slow
async def test_function_in_a_thread_inserts_through_the_clients_loop(harness: ClientHarness) -> None:
    """A plain function inserts through the event loop of its client."""
    workers = Workers()

    @workers.add()
    def act(job: Job[Act]) -> None:
        if job.args.what == "first":
            insert = job.client.insert(Act("second"))
            asyncio.run_coroutine_threadsafe(insert, job.client.loop).result()

    async with harness.client(workers) as client:
        with client.subscribe() as events:
            await client.insert(Act("first"))
            told = [(await harness.next(events)).job for _ in range(2)]

    assert sorted(row.args["what"] for row in told if row is not None) == ["first", "second"]


def test_client_has_no_loop_before_it_is_started() -> None:
    """A client that was not started raises an error for its event loop."""
    client = Client("postgresql://nobody@localhost/nothing", Config(client_id="me"))

    with pytest.raises(NotStarted):
        _ = client.loop


@pytest.mark.slow
async def test_client_can_be_started_in_one_loop_after_another(harness: ClientHarness) -> None:
    """A client that was stopped may be started again in another event loop, and awaits jobs there."""
    workers = Workers()

    @workers.add(output=True)
    async def act(job: Job[Act]) -> str:
        return job.args.what

    client = harness.client(workers)

    async def once() -> tuple[EventKind, Json]:
        await asyncio.gather(*[client.start() for _ in range(3)])  # they wait for each other
        worked = await harness.work(client, Act("x"))
        output = await client.insert_and_wait(Act("y"), timeout=timedelta(seconds=GENEROUS))
        await asyncio.gather(*[client.stop() for _ in range(3)])
        return worked.kind, output

    told = [await asyncio.to_thread(asyncio.run, once()) for _ in range(2)]

    assert told == [(EventKind.JOB_COMPLETED, "y")] * 2


@pytest.mark.slow
async def test_first_job_sees_all_queues_of_its_client(harness: ClientHarness) -> None:
    """Waiting jobs start when all queues are added, and may change them."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        await job.client.remove_queue("queue_29")
        await job.client.add_queue("one_more", 1)

    await harness.insert_raw("act", '{"what": "x"}')
    client = harness.client(workers, queues={"default": 1, **{f"queue_{n}": 1 for n in range(30)}})
    with client.subscribe() as events:
        async with client:
            event = await harness.next(events)

    assert event.kind is EventKind.JOB_COMPLETED
