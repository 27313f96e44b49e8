"""Scenarios of River's conformance suite in which both adapters work and lead together."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conformance_pair import SECONDS, Pair, Side
from interop_harness import BOTH_WAYS, LANGUAGES, Language

PERIODIC = {"metadata": {"river:periodic_job_id": "conformance-periodic"}}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def started(side: Side, **settings: Any) -> Side:
    """Start the client of an adapter, whose id is the adapter's name."""
    await side.call("start", **{"client_id": side.name, "max_workers": 2, **settings})
    return side


async def until_listed(side: Side, count: int, **params: Any) -> list[Any]:
    """Return a list of jobs when it has `count` of them."""
    page = await side.until("list", lambda page: len(page["jobs"]) >= count, **params)
    jobs: list[Any] = page["jobs"]
    assert len(jobs) == count
    return jobs


@pytest.mark.parametrize(("inserter", "worker"), BOTH_WAYS)
async def test_adapters_play_directed_work(pair: Pair, inserter: Language, worker: Language) -> None:
    """candidate_insert_reference_work, reference_insert_candidate_work; both read the same row before and after."""
    inserts, works = pair.sides[inserter], pair.sides[worker]
    job = await inserts.insert(message="m")
    assert (job["state"], job["kind"], job["attempt"], job["max_attempts"]) == (
        *("available", "conformance_echo", 0, 25),
    )
    assert await works.call("get", id=job["id"]) == job

    done = await works.call("work", id=job["id"], client_id="w")

    assert (done["state"], done["attempt"], done["attempted_by"]) == ("completed", 1, ["w"])
    assert await inserts.call("get", id=job["id"]) == done


@pytest.mark.parametrize(("inserter", "worker"), BOTH_WAYS)
async def test_adapters_play_unknown_kinds(pair: Pair, inserter: Language, worker: Language) -> None:
    """mixed_unknown_kind_error; a kind without a worker fails with an error that names it, and is retried."""
    inserts, works = pair.sides[inserter], pair.sides[worker]
    kind = "conformance_unregistered"
    last, first = [
        await inserts.call("raw_insert_no_notify", kind=kind, opts={"max_attempts": number})
        for number in (1, 5)
    ]
    await started(works, max_workers=1)

    assert (await works.wait(await inserts.insert()))["state"] == "completed"
    discarded = await works.wait(last)
    retried = await works.until_state(first, "retryable")

    assert (discarded["state"], discarded["attempted_by"]) == ("discarded", [worker])
    assert (retried["attempt"], retried["attempted_by"]) == (2, [worker, worker])
    assert all(kind in one["error"] for one in (*discarded["errors"], *retried["errors"]))


@pytest.mark.parametrize(("controller", "worker"), BOTH_WAYS)
async def test_adapters_play_wakes(pair: Pair, controller: Language, worker: Language) -> None:
    """notification_only_wakeups; an insert wakes a worker that polls once a minute."""
    works = await started(pair.sides[worker], fetch_poll_interval_ms=60_000)

    assert (await works.wait(await pair.sides[controller].insert()))["state"] == "completed"


@pytest.mark.parametrize(("controller", "worker"), BOTH_WAYS)
async def test_adapters_play_pauses(pair: Pair, controller: Language, worker: Language) -> None:
    """pause_resume_notification; a paused queue is not worked, another one is, and the resume continues it."""
    # It does not poll, so no fetch from before the pause can find a job that is inserted after it.
    settings = {"fetch_poll_interval_ms": 60_000, "max_workers": 1}
    controls, works = pair.sides[controller], await started(pair.sides[worker], **settings)
    await works.wait(await controls.insert())
    await works.call("queue_add", name="marker", max_workers=1)
    await controls.call("queue_pause", name="default")
    await works.until_event("queue_paused")
    paused = await controls.insert()
    await works.wait(await controls.insert(opts={"queue": "marker"}))
    assert (await works.call("get", id=paused["id"]))["state"] == "available"

    [before] = await pair.fetch("SELECT clock_timestamp() AS at")  # workers update the queue's own instant

    await controls.call("queue_resume", name="default")

    queue = await controls.call("queue_get", name="default")
    done = await works.wait(paused)
    assert (queue["paused_at"], done["state"]) == (None, "completed")
    assert at(done["attempted_at"]) >= before["at"]
    await works.until_event("queue_resumed")


@pytest.mark.parametrize(("controller", "observer"), BOTH_WAYS)
async def test_adapters_play_events_of_queues(pair: Pair, controller: Language, observer: Language) -> None:
    """remote_queue_subscription_events; a pause or resume of all queues is one event, and a second one is none."""
    controls, observes = pair.sides[controller], await started(pair.sides[observer])
    await observes.wait(await controls.insert())
    for methods, paused, resumed in (
        (["queue_pause"], 1, 0),
        (["queue_pause", "queue_resume"], 1, 1),
        (["queue_resume", "queue_pause"], 2, 1),
        (["queue_resume"], 2, 2),
    ):
        for method in methods:
            await controls.call(method, name="*")
        await observes.until_event("queue_paused", paused)
        events = await observes.until_event("queue_resumed", resumed)
        assert (events.count("queue_paused"), events.count("queue_resumed")) == (paused, resumed)


@pytest.mark.parametrize(("worker", "other"), BOTH_WAYS)
async def test_adapters_play_external_ends(pair: Pair, worker: Language, other: Language) -> None:
    """external_terminal_completion_race; a state that another client writes stays, and the metadata is merged."""
    works, ends = await started(pair.sides[worker], max_workers=1), pair.sides[other]
    for number, (behavior, state) in enumerate(
        (("barrier_output", "completed"), ("barrier_output", "discarded"), ("barrier_wait", "completed")), 1
    ):
        await works.call("barrier_create", name=str(number))
        job = await works.wait(await ends.insert(behavior, message=str(number)), "running")
        metadata = {"external": state, "shared": "external"}
        external = await ends.call("raw_finalize", id=job["id"], state=state, metadata=metadata)
        await works.call("barrier_release", name=str(number))
        await works.until("runtime_stats", lambda stats, number=number: len(stats["events"]) == number)

        done = await ends.call("get", id=job["id"])
        output = {"output": {"race": "worker"}} if behavior == "barrier_output" else {}
        assert done == {**external, "metadata": metadata | output}
    stats = await works.call("runtime_stats")
    assert stats["events"] == ["job_completed", "job_failed", "job_completed"]


@pytest.mark.parametrize(("worker", "controller"), BOTH_WAYS)
async def test_adapters_play_reserved_metadata(pair: Pair, worker: Language, controller: Language) -> None:
    """reserved_metadata_cross_engine; both write the same keys beside a user's own."""
    works, controls = await started(pair.sides[worker]), pair.sides[controller]
    opts = {"metadata": {"user": "kept"}}
    jobs = {
        behavior: await controls.insert(behavior, duration_ms=5, message="m", opts=opts)
        for behavior in ("output", "snooze_once", "cooperative_cancel")
    }
    await works.wait(jobs["cooperative_cancel"], "running")
    await controls.call("cancel", id=jobs["cooperative_cancel"]["id"])

    done = {behavior: await controls.wait(job) for behavior, job in jobs.items()}

    assert {behavior: job["metadata"].keys() for behavior, job in done.items()} == {
        "output": {"user", "output"},
        "snooze_once": {"user", "snoozes"},
        "cooperative_cancel": {"user", "cancel_attempted_at"},
    }
    assert all(job["metadata"]["user"] == "kept" for job in done.values())


@pytest.mark.parametrize(("inserter", "worker"), BOTH_WAYS)
async def test_adapters_play_clocks(pair: Pair, inserter: Language, worker: Language) -> None:
    """clock_boundary_scheduling; no job begins before its time, whether it was scheduled or snoozed."""
    inserts, works = pair.sides[inserter], await started(pair.sides[worker])
    later = datetime.now(UTC) + timedelta(seconds=1)
    scheduled = await inserts.insert(opts={"scheduled_at": later.isoformat()})
    snoozed = await inserts.insert("snooze_once", duration_ms=2_000)
    between = await inserts.until("get", lambda row: "snoozes" in row["metadata"], id=snoozed["id"])
    assert scheduled["state"] == "scheduled"
    assert between["state"] == "available"

    for job in (scheduled, between):
        done = await works.until_state(job, "completed")
        assert at(done["attempted_at"]) >= at(job["scheduled_at"])


async def test_adapters_play_competition(pair: Pair) -> None:
    """mixed_skip_locked_competition; both clients work one queue, and no job twice."""
    for side in pair.sides.values():
        await started(side, max_workers=8)
    jobs = [{"behavior": "sleep", "duration_ms": 5, "opts": {"tags": ["race"]}}] * 150
    for side in pair.sides.values():
        await side.call("insert_many", jobs=jobs)

    done = await until_listed(pair.sides["go"], 300, limit=300, states=["completed"], tags_all=["race"])

    assert all((job["attempt"], job["errors"]) == (1, []) for job in done)
    assert {client for job in done for client in job["attempted_by"]} == set(LANGUAGES)


async def test_adapters_play_rolling_deployment(pair: Pair) -> None:
    """rolling_deployment_same_protocol; each process is replaced under load, and each job is worked once."""
    fleet = {name: await pair.another(name) for name in LANGUAGES}
    count = 0

    async def insert() -> None:
        nonlocal count
        for number in range(20):
            opts = {"tags": ["rolling"]}
            await list(fleet.values())[number % 2].insert("sleep", duration_ms=20, opts=opts)
        count += 20

    async def insert_until_worked_by(client_id: str) -> None:
        """Insert jobs until a client has taken one: which of two clients does is chance."""
        async with asyncio.timeout(SECONDS):
            while True:
                await insert()
                page = await pair.sides["go"].call("list", limit=count, tags_all=["rolling"])
                if any(client_id in job["attempted_by"] for job in page["jobs"]):
                    return

    for name, side in fleet.items():
        await started(side, client_id=f"{name}-0", max_workers=4)
    await insert()
    for name in LANGUAGES:
        await fleet[name].call("stop")
        await insert()
        fleet[name] = await pair.another(name)
        await started(fleet[name], client_id=f"{name}-1", max_workers=4)
        await insert_until_worked_by(f"{name}-1")

    done = await until_listed(
        pair.sides["go"], count, limit=count, states=["completed"], tags_all=["rolling"]
    )

    assert all((job["attempt"], len(job["attempted_by"])) == (1, 1) for job in done)
    assert {f"{name}-1" for name in LANGUAGES} <= {job["attempted_by"][0] for job in done}


async def test_adapters_play_pool_pressure(pair: Pair) -> None:
    """pool_pressure_completion; far more workers than connections complete each job once."""
    for side in pair.sides.values():
        await started(side, max_workers=100)
    jobs = [{"behavior": "sleep", "duration_ms": 10, "opts": {"tags": ["pressure"]}}] * 300
    for side in pair.sides.values():
        await side.call("insert_many", jobs=jobs)
    peak = 0
    filters = {"limit": 600, "states": ["completed"], "tags_all": ["pressure"]}
    async with asyncio.timeout(SECONDS):
        while len(done := (await pair.sides["go"].call("list", **filters))["jobs"]) < 600:
            for side in pair.sides.values():
                peak = max(peak, (await side.call("connection_count"))["count"])

    assert all((job["attempt"], job["errors"]) == (1, []) for job in done)
    assert peak <= 20


@pytest.mark.parametrize("worker", LANGUAGES)
async def test_adapters_play_batches_of_completions(pair: Pair, worker: Language) -> None:
    """completion_batching; a thousand completions need far fewer transactions."""
    works = await started(pair.sides[worker], max_workers=1_000)
    await works.call("barrier_create", name="b")
    await works.call("insert_many", jobs=[{"behavior": "barrier_wait", "message": "b"}] * 1_000)
    await until_listed(works, 1_000, limit=1_000, states=["running"])

    await works.call("barrier_release", name="b")

    await until_listed(works, 1_000, limit=1_000, states=["completed"])
    # Not all transactions of the server, which other tests use too: those that wrote these rows last.
    [written] = await pair.fetch("SELECT count(DISTINCT xmin::text) AS num FROM river_job")
    assert written["num"] < 250


# Periodic jobs and leaders.


@pytest.mark.parametrize("leader", LANGUAGES)
async def test_adapters_play_periodic_jobs(pair: Pair, leader: Language) -> None:
    """periodic_run_on_start, periodic_due_job_available; a new leader inserts its job once, and it is available."""
    await pair.fetch("CREATE TABLE inserted (id bigint, state text)")
    await pair.fetch(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO inserted VALUES (NEW.id, NEW.state); RETURN NEW; END $$"
    )
    await pair.fetch("CREATE TRIGGER note AFTER INSERT ON river_job FOR EACH ROW EXECUTE FUNCTION note()")
    try:
        leads = await started(pair.sides[leader], periodic_run_on_start=True)
        [job] = await until_listed(leads, 1, **PERIODIC)
        done = await leads.wait(job)
        assert (done["state"], done["metadata"]["periodic"]) == ("completed", True)
        await leads.until("runtime_stats", lambda stats: stats["periodic_starts"] == 1)
        assert len((await leads.call("list", **PERIODIC))["jobs"]) == 1
        assert [row["state"] for row in await pair.fetch("SELECT state FROM inserted")] == ["available"]
        await leads.call("stop")
    finally:
        await pair.fetch("DROP TRIGGER note ON river_job")
        await pair.fetch("DROP FUNCTION note")
        await pair.fetch("DROP TABLE inserted")


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_adapters_play_unique_periodic_jobs(pair: Pair, first: Language, second: Language) -> None:
    """periodic_unique_cross_engine; a later leader of the other language skips the duplicate."""
    jobs = []
    for count, name in enumerate((first, second), 1):
        leads = await started(pair.sides[name], periodic_run_on_start=True, periodic_unique=True)
        await leads.until_leader(name)
        marker = {"metadata": {"river:periodic_job_id": "conformance-periodic-marker"}}
        await until_listed(leads, count, **marker)
        jobs.append(await leads.wait((await until_listed(leads, 1, **PERIODIC))[0]))
        await leads.call("stop")

    assert jobs[0] == jobs[1]


@pytest.mark.parametrize(("leader", "requester"), BOTH_WAYS)
async def test_adapters_play_requests_to_resign(pair: Pair, leader: Language, requester: Language) -> None:
    """mixed_request_resign_terms; each request ends a term, and one in a transaction does at its commit."""
    leads, requests = await started(pair.sides[leader]), pair.sides[requester]
    term = await leads.until_leader(leader)

    async def next_term() -> Any:
        return await leads.until(
            "leader", lambda found: found["leader_id"] == leader and found["elected_at"] != term["elected_at"]
        )

    await requests.call("request_resign")
    term = await next_term()
    async with pair.payloads("river_leadership") as leadership:
        for end in ("tx_rollback", "tx_commit"):
            await requests.call("tx_begin", handle="h")
            await requests.call("request_resign", handle="h")
            await requests.call(end, handle="h")
            asked = [one for one in await leadership() if "request_resign" in one]
            assert len(asked) == (end == "tx_commit")
    term = await next_term()


async def test_adapters_play_failover(pair: Pair) -> None:
    """mixed_leader_failover_both_directions; a stop hands leadership over, and both name the same leader."""
    for side in pair.sides.values():
        await started(side)
    first = (await pair.sides["go"].until("leader", lambda term: term["leader_id"]))["leader_id"]
    for leader in (first, *[name for name in LANGUAGES if name != first]):
        follower = next(name for name in LANGUAGES if name != leader)
        await pair.sides[leader].call("stop")
        term = await pair.sides[follower].until_leader(follower)
        assert await pair.sides[leader].call("leader") == term
        await started(pair.sides[leader])


@pytest.mark.parametrize(("disabled", "eligible"), BOTH_WAYS)
async def test_adapters_play_election_disabled(pair: Pair, disabled: Language, eligible: Language) -> None:
    """leader_election_disabled_both_directions; such a client works the leader's periodic job and never leads."""
    off, on = pair.sides[disabled], pair.sides[eligible]
    settings = {"leader_election_disabled": True, "max_workers": 1}
    assert await off.code("start", client_id="c", periodic_run_on_start=True, **settings) == "rejected"
    await started(off, **settings)
    assert (await off.wait(await on.insert()))["attempted_by"] == [disabled]
    assert (await on.call("leader"))["leader_id"] is None

    await started(on, periodic_run_on_start=True, queue="eligible")

    await off.until_leader(eligible)
    [job] = await until_listed(off, 1, **PERIODIC)
    assert (await off.wait(job))["attempted_by"] == [disabled]
    await on.call("stop")
    assert (await off.wait(await on.insert()))["attempted_by"] == [disabled]
    assert (await on.call("leader"))["leader_id"] is None
    assert (await off.call("runtime_stats"))["periodic_starts"] == 0
