from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from millhand.bench.bench_run import BenchResult, Figures, Plan
from millhand.bench.bench_schema import SCHEMA_PREFIX
from millhand.cli import bench as command
from repeats import first_of

BENCH = [sys.executable, "-c", "from millhand.cli import main; main()", "bench"]
GENEROUS_SECONDS = 60.0
SCHEMAS = f"SELECT count(*) FROM pg_namespace WHERE starts_with(nspname, '{SCHEMA_PREFIX}')"
RESULT = BenchResult(
    plan=Plan(),
    server_version="18.6",
    millhand=Figures(
        bulk_inserts_per_second=40_000.4,
        inserts_per_second=1_000.0,
        jobs_per_second=20_000.0,
        pickup_p50_ms=0.5,
        pickup_p99_ms=2.0,
    ),
)


@contextmanager
def running(url: str, directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "DATABASE_URL": url}
    process = subprocess.Popen(
        [*BENCH, *arguments],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_table_has_a_line_for_each_figure() -> None:
    """Rates are whole numbers and latencies have two decimal places."""
    assert command._rows(RESULT) == [
        ("inserts/s", "1,000"),
        ("bulk inserts/s", "40,000"),
        ("jobs/s", "20,000"),
        ("pickup p50, ms", "0.50"),
        ("pickup p99, ms", "2.00"),
    ]


def test_caption_names_the_settings_of_the_run() -> None:
    """The line below the table has server version, rounds, jobs and workers."""
    assert command._caption(RESULT) == ("PostgreSQL 18.6, medians of 3 rounds of 20,000 jobs, 100 at a time")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_bench_drops_its_schema_when_it_is_interrupted(
    postgres_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    """A signal in the middle of a round ends the run with the exit code of an interruption, and leaves no schema."""
    with running(postgres_url, tmp_path) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "round 1 of 3\n"
        process.send_signal(number)
        output, errors = process.communicate(timeout=GENEROUS_SECONDS)

    connection = await asyncpg.connect(postgres_url)
    num_schemas = await connection.fetchval(SCHEMAS)
    await connection.close()
    assert (process.returncode, output, errors) == (130, "", "error: interrupted; nothing more was done\n")
    assert num_schemas == 0


@pytest.mark.slow
@pytest.mark.parametrize("arguments", first_of(["--jobs", "0"], ["--workers", "10001"], ["--jobs", "many"]))
def test_bench_refuses_impossible_numbers(tmp_path: Path, arguments: list[str]) -> None:
    """A number out of range is a usage error, reported before the command connects."""
    with running("postgresql://ann@127.0.0.1:1/none", tmp_path, *arguments) as process:
        _, errors = process.communicate(timeout=GENEROUS_SECONDS)

    assert process.returncode == 2
    assert arguments[0] in errors


@pytest.mark.slow
def test_bench_prints_json_for_programs(postgres_url: str, tmp_path: Path) -> None:
    """The whole command prints one JSON document and nothing else on standard output."""
    with running(postgres_url, tmp_path, "--jobs", "20", "--workers", "5", "--json") as process:
        output, errors = process.communicate(timeout=GENEROUS_SECONDS)

    assert process.returncode == 0, errors
    document = json.loads(output)
    assert document["plan"] == {"num_jobs": 20, "num_rounds": 3, "slots": 5}
    assert set(document["millhand"]) == set(Figures.__struct_fields__)
