"""
What traces of jobs cost: drains of no-op jobs with the middleware of OpenTelemetry and without it, in turns.

    .venv/bin/python benchmarks/traces.py --jobs 30000 --rounds 5

Sampled spans go to a batch processor whose exporter drops them. DATABASE_URL names the server; without it, an embedded one
is started.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import DEFAULT_OFF, DEFAULT_ON, ParentBasedTraceIdRatio, Sampler

from millhand.bench.bench_schema import BenchSchema, bench_schema
from millhand.bench.noop_client import noop_inserter, noop_worker
from millhand.bench.workload import Tally
from millhand.contrib.opentelemetry import OpenTelemetry
from millhand.core.hooks import Middleware
from millhand.embedded import embedded_postgres

SECONDS = 900.0
SLOTS = 1_000
SAMPLERS: Mapping[str, Sampler] = {
    "nothing sampled": DEFAULT_OFF,
    "1 % sampled": ParentBasedTraceIdRatio(0.01),
    "all sampled": DEFAULT_ON,
}


class DroppingExporter(SpanExporter):
    """Drops what it gets: the cost of a network is not measured."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def traced(sampler: Sampler) -> OpenTelemetry:
    provider = TracerProvider(sampler)
    provider.add_span_processor(BatchSpanProcessor(DroppingExporter()))
    return OpenTelemetry(tracer_provider=provider)


async def drain(schema: BenchSchema, num_jobs: int, middleware: Sequence[Middleware]) -> tuple[float, float]:
    """Return the rate of a client in jobs a second, and its CPU time for one job in microseconds."""
    await schema.empty()
    async with noop_inserter(schema.url, schema.name) as inserter:
        for start in range(0, num_jobs, SLOTS):
            await inserter.insert_many(range(start, min(start + SLOTS, num_jobs)))
    await schema.settle(with_checkpoint=False)
    tally = Tally(num_jobs)
    begun = time.process_time()
    async with noop_worker(schema.url, schema.name, SLOTS, tally, middleware=middleware):
        await tally.wait_end(SECONDS)
        used = time.process_time() - begun
    await schema.audit(num_jobs)
    return num_jobs / (tally.finished_ns - min(tally.started_ns)) * 1e9, used / num_jobs * 1e6


async def measure(url: str, num_jobs: int, num_rounds: int) -> None:
    async with bench_schema(url) as schema:
        await drain(schema, num_jobs // 5, [])  # a warm-up
        cases = {name: [traced(sampler)] for name, sampler in SAMPLERS.items()}
        rounds = []
        for number in range(1, num_rounds + 1):
            plain = await drain(schema, num_jobs, [])
            rounds.append(
                {name: (plain, await drain(schema, num_jobs, made)) for name, made in cases.items()}
            )
            print(f"round {number} of {num_rounds}: {plain[0]:,.0f} jobs/s without", flush=True)
        for name in cases:
            print(f"{name:<16} {summary([one[name] for one in rounds])}", flush=True)


def summary(pairs: Sequence[tuple[tuple[float, float], tuple[float, float]]]) -> str:
    rates = [with_traces[0] / without[0] for without, with_traces in pairs]
    cpus = [with_traces[1] / without[1] for without, with_traces in pairs]
    cpu_us = [statistics.median(pair[side][1] for pair in pairs) for side in (0, 1)]
    return (
        f"rate with ÷ without {statistics.median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f}), "
        f"CPU {statistics.median(cpus):.2f} ({min(cpus):.2f} to {max(cpus):.2f}), "
        f"a job {cpu_us[0]:.1f} µs without, {cpu_us[1]:.1f} with"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with contextlib.ExitStack() as leaving:
        directory = Path(leaving.enter_context(tempfile.TemporaryDirectory(prefix="millhand-")))
        directory.chmod(0o755)  # for root, the server runs as another user
        url = os.environ.get("DATABASE_URL") or leaving.enter_context(embedded_postgres(directory / "pg")).url
        asyncio.run(measure(url, options.jobs, options.rounds))


if __name__ == "__main__":
    main()
