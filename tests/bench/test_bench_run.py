from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from millhand.bench.bench_run import Plan, run_bench
from millhand.bench.bench_schema import AuditFailed, BenchSchema, bench_schema
from millhand.bench.noop_client import noop_inserter
from millhand.bench.rates import insert_at_rate, insert_singly, latencies_ms, percentile
from millhand.bench.workload import Tally


@pytest.fixture(scope="module")
async def schema(postgres_url: str) -> AsyncIterator[BenchSchema]:
    async with bench_schema(postgres_url) as schema:
        yield schema


@pytest.mark.slow
async def test_run_measures_every_figure(postgres_url: str) -> None:
    """One small run reports its round and returns figures that are all above zero."""
    lines: list[str] = []

    result = await run_bench(postgres_url, Plan(num_jobs=3, num_rounds=1), lines.append)

    millhand = result.millhand
    assert lines == ["round 1 of 1"]
    assert min(millhand.inserts_per_second, millhand.bulk_inserts_per_second, millhand.jobs_per_second) > 0
    assert millhand.pickup_p50_ms <= millhand.pickup_p99_ms


@pytest.mark.slow
async def test_insert_at_rate_returns_a_time_for_each_job(schema: BenchSchema) -> None:
    """Jobs are inserted at the requested rate at most, and all of them are in the table."""
    await schema.empty()
    async with noop_inserter(schema.url, schema.name) as inserter:
        await insert_singly(inserter, range(2))
        began_ns = time.monotonic_ns()
        returned_ns = await insert_at_rate(inserter, range(2, 6), 100.0)

    assert max(returned_ns) - began_ns >= 0.03e9
    with pytest.raises(AuditFailed, match="got 6 jobs, 6 of them distinct, and 0 completed that way"):
        await schema.audit(7)


def test_latency_is_the_time_from_insert_to_start() -> None:
    """Latencies are in milliseconds, and negative for a job that started before its insert returned."""
    assert latencies_ms([1_000_000, 5_000_000], [3_000_000, 4_500_000]) == [2.0, -0.5]


async def test_tally_counts_a_job_that_starts_twice() -> None:
    """The second start of a job is counted; the table alone would not show it."""
    tally = Tally(2)

    tally.begin(1)
    tally.begin(1)

    assert tally.num_repeated == 1
    assert tally.started_ns[0] == 0


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 3.0), (0.99, 5.0), (1.0, 5.0)])
def test_percentile_is_one_of_the_values(share: float, expected: float) -> None:
    """Percentiles are not interpolated: with few values the highest percentile is the largest of them."""
    assert percentile([5.0, 1.0, 4.0, 2.0, 3.0], share) == expected
