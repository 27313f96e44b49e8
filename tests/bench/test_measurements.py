from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millhand.bench.bench_schema import AuditFailed, BenchSchema, bench_schema

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from measurements import measure_drain, measure_idle, measure_insert, measure_pickup
from systems import BASELINE_TASKS, MILLHAND, SYSTEMS, System
from worker_process import WorkerDied, WorkOrder, WorkReport, worker_process

SLOTS = 7


@pytest.fixture(scope="module")
async def schema(postgres_url: str) -> AsyncIterator[BenchSchema]:
    async with bench_schema(postgres_url) as schema:
        yield schema


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
async def test_drain_works_each_job_once(schema: BenchSchema, system: System) -> None:
    """Each system works more jobs than it has slots and passes the audit; its process reports time and memory."""
    drain = await measure_drain(system, schema, num_jobs=50, slots=SLOTS)

    assert drain.per_second > 0
    assert drain.bulk_per_second > 0
    assert drain.cpu_us_per_job > 0
    assert 5 < drain.rss_mib < 500


@pytest.mark.slow
@pytest.mark.parametrize("system", [BASELINE_TASKS, MILLHAND], ids=["baseline", "millhand"])
async def test_pickup_has_a_latency_for_each_job(schema: BenchSchema, system: System) -> None:
    """An idle worker starts every job that another process inserts, at about the requested rate."""
    pickup = await measure_pickup(system, schema, num_jobs=9, per_second=100.0, slots=SLOTS)

    assert len(pickup.latencies_ms) == 9
    assert all(-1_000 < latency < 20_000 for latency in pickup.latencies_ms)
    assert 0 < pickup.per_second < 1_000


@pytest.mark.slow
async def test_insert_is_a_rate(schema: BenchSchema) -> None:
    """All jobs are inserted, the ten of the warm-up included."""
    per_second = await measure_insert(MILLHAND, schema, num_jobs=5)

    assert per_second > 0
    with pytest.raises(AuditFailed, match="got 15 jobs, 10 of them distinct, and 0 completed that way"):
        await schema.audit(15)


@pytest.mark.slow
async def test_idle_worker_is_counted(schema: BenchSchema) -> None:
    """An idle worker has a rate of transactions and a share of the CPU."""
    idle = await measure_idle(MILLHAND, schema, seconds=0.1, slots=SLOTS, settle_seconds=0.1)

    assert idle.transactions_per_second >= 0
    assert 0 <= idle.cpu_share < 2


@pytest.mark.slow
async def test_worker_that_cannot_start_is_an_error(
    capfd: pytest.CaptureFixture[str], schema: BenchSchema
) -> None:
    """When its process exits before it is ready, standard error has the reason and the error the exit code."""
    order = WorkOrder(num_jobs=1, schema="not_there", slots=SLOTS, system=MILLHAND.name, url=schema.url)

    with pytest.raises(WorkerDied) as died:
        async with worker_process(order):
            pass

    assert str(died.value).startswith("worker process must report within 30 s, got exit code ")
    assert "SchemaError" in capfd.readouterr().err


@pytest.mark.slow
async def test_stopped_worker_reports(schema: BenchSchema) -> None:
    """A worker that is stopped before any job came returns a report without starts."""
    await schema.empty()
    order = WorkOrder(num_jobs=2, schema=schema.name, slots=SLOTS, system=BASELINE_TASKS.name, url=schema.url)

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
