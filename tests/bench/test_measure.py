from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from millhand.bench.measure import measure_drain, measure_idle, measure_insert, measure_pickup
from millhand.bench.place import AuditFailed, Place, bench_place
from millhand.bench.process import WorkerDied, WorkOrder, WorkReport, worker_process
from millhand.bench.run import Plan, run_bench
from millhand.bench.system import LIFE, MILL, SYSTEMS, System
from millhand.bench.workload import Tally

SLOTS = 7


@pytest.fixture(scope="module")
async def place(postgres_url: str) -> AsyncIterator[Place]:
    async with bench_place(postgres_url) as place:
        yield place


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
async def test_drain_works_each_job_once(place: Place, system: System) -> None:
    """Each system works more jobs than it has slots and passes the audit; its process reports time and memory."""
    drain = await measure_drain(system, place, num_jobs=50, slots=SLOTS)

    assert drain.per_second > 0
    assert drain.bulk_per_second > 0
    assert drain.cpu_us_per_job > 0
    assert 5 < drain.rss_mib < 500


@pytest.mark.slow
@pytest.mark.parametrize("system", [LIFE, MILL], ids=["floor", "millhand"])
async def test_pickup_has_a_latency_for_each_job(place: Place, system: System) -> None:
    """A worker that idles begins every job that another process inserts, at about the rate that was asked for."""
    pickup = await measure_pickup(system, place, num_jobs=9, per_second=100.0, slots=SLOTS)

    assert len(pickup.latencies_ms) == 9
    assert all(-1_000 < latency < 20_000 for latency in pickup.latencies_ms)
    assert 0 < pickup.per_second < 1_000


async def test_insert_is_a_rate(place: Place) -> None:
    """Jobs are inserted one by one, and are all there."""
    per_second = await measure_insert(MILL, place, num_jobs=5)

    assert per_second > 0
    with pytest.raises(AuditFailed, match="got 15 jobs, 10 of them different, and 0 completed so"):
        await place.audit(15)


@pytest.mark.slow
async def test_idle_worker_is_counted(place: Place) -> None:
    """A worker without jobs is told to stop, and what the database did meanwhile is a rate."""
    idle = await measure_idle(MILL, place, seconds=0.1, slots=SLOTS, settle_seconds=0.1)

    assert idle.transactions_per_second >= 0
    assert 0 <= idle.cpu_share < 2


@pytest.mark.slow
async def test_run_measures_both_and_their_ratio(postgres_url: str) -> None:
    """One small run gives every figure of Millhand, of the floor, and of one by the other, and tells its steps."""
    told: list[str] = []

    result = await run_bench(postgres_url, Plan(num_jobs=3, num_rounds=1), told.append)

    assert told == ["round 1 of 1: millhand", "round 1 of 1: floor"]
    assert result.floor is not None
    assert result.ratio is not None
    assert result.ratio.jobs_per_second == result.millhand.jobs_per_second / result.floor.jobs_per_second


async def test_worker_that_cannot_work_is_told_of(capfd: pytest.CaptureFixture[str], place: Place) -> None:
    """When its process ends before it is ready the reason is on standard error, and the exit code in the error."""
    order = WorkOrder(num_jobs=1, schema="not_there", slots=SLOTS, system=MILL.name, url=place.url)

    with pytest.raises(WorkerDied) as died:
        async with worker_process(order):
            pass

    assert str(died.value).startswith("worker process must report within 30 s, got exit code ")
    assert "SchemaError" in capfd.readouterr().err


async def test_worker_reports_when_it_is_told_to_stop(place: Place) -> None:
    """A worker whose jobs never come reports all the same, and nothing in its report is made up."""
    await place.empty()
    order = WorkOrder(num_jobs=2, schema=place.schema, slots=SLOTS, system=LIFE.name, url=place.url)

    async with worker_process(order) as worker:
        report = await worker.stop()

    nothing = WorkReport(
        cpu_seconds=report.cpu_seconds,
        finished_ns=0,
        num_repeated=0,
        rss_bytes=report.rss_bytes,
        started_ns=[0, 0],
    )
    assert report == nothing


async def test_tally_notices_a_job_that_is_begun_twice() -> None:
    """The second beginning of a job is counted, which the table alone would not show."""
    tally = Tally(2)

    tally.begin(1)
    tally.begin(1)

    assert tally.num_repeated == 1
    assert tally.started_ns[0] == 0
