"""
What `job completed` in the log costs: drains of no-op jobs with and without it, in turns.

    .venv/bin/python benchmarks/completed_log.py --jobs 50000 --rounds 5

The log goes to a file, as JSON and as text. DATABASE_URL names the server; without it, an embedded one is started.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from millhand.bench.bench_schema import BenchSchema, bench_schema
from millhand.bench.noop_client import noop_inserter, noop_worker
from millhand.bench.workload import Tally
from millhand.embedded import embedded_postgres
from millhand.observe.log import LogFormat, configure_logging

SECONDS = 900.0
FORMATS: tuple[LogFormat, ...] = ("json", "text")


async def drain(schema: BenchSchema, num_jobs: int, slots: int, *, logs: bool) -> tuple[float, float]:
    """Return the rate of a client in jobs a second, and its CPU time for one job in microseconds."""
    await schema.empty()
    async with noop_inserter(schema.url, schema.name) as inserter:
        for start in range(0, num_jobs, 1_000):
            await inserter.insert_many(range(start, min(start + 1_000, num_jobs)))
    await schema.settle(with_checkpoint=False)
    tally = Tally(num_jobs)
    begun = time.process_time()
    async with noop_worker(schema.url, schema.name, slots, tally, log_completed_jobs=logs):
        await tally.wait_end(SECONDS)
        used = time.process_time() - begun
    await schema.audit(num_jobs)
    return num_jobs / (tally.finished_ns - min(tally.started_ns)) * 1e9, used / num_jobs * 1e6


async def measure(url: str, directory: Path, num_jobs: int, num_rounds: int) -> None:
    with (directory / "log").open("w") as stream:
        configure_logging("json", "info", stream)
        async with bench_schema(url) as schema:
            for slots in (100, 4_000):
                await drain(schema, num_jobs // 5, slots, logs=True)  # a warm-up
                for format in FORMATS:
                    configure_logging(format, "info", stream)
                    pairs = [
                        [await drain(schema, num_jobs, slots, logs=logs) for logs in (False, True)]
                        for _ in range(num_rounds)
                    ]
                    print(f"{slots:>5} slots, {format}: {summary(pairs)}", flush=True)
        logging.getLogger().handlers.clear()


def summary(pairs: Sequence[Sequence[tuple[float, float]]]) -> str:
    ratios = [with_log[0] / without[0] for without, with_log in pairs]
    cpu_us = [statistics.median(pair[side][1] for pair in pairs) for side in (0, 1)]
    return (
        f"rate with ÷ without {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"CPU of a job {cpu_us[0]:.1f} µs without, {cpu_us[1]:.1f} with"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with contextlib.ExitStack() as leaving:
        directory = Path(leaving.enter_context(tempfile.TemporaryDirectory(prefix="millhand-")))
        directory.chmod(0o755)  # for root, the server runs as another user
        url = os.environ.get("DATABASE_URL") or leaving.enter_context(embedded_postgres(directory / "pg")).url
        asyncio.run(measure(url, directory, options.jobs, options.rounds))


if __name__ == "__main__":
    main()
