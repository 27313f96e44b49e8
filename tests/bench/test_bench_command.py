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

from millhand.bench.place import SCHEMA_PREFIX
from millhand.bench.run import BenchResult, Figures, Plan
from millhand.cli import bench as command

PROJECT = Path(__file__).parents[2]
BENCH = [sys.executable, "-c", "from millhand.cli import main; main()", "bench"]
GENEROUS_SECONDS = 60.0
SCHEMAS = f"SELECT count(*) FROM pg_namespace WHERE starts_with(nspname, '{SCHEMA_PREFIX}')"


def figures(factor: float) -> Figures:
    return Figures(
        bulk_inserts_per_second=40_000.4 * factor,
        inserts_per_second=1_000.0 * factor,
        jobs_per_second=20_000.0 * factor,
        pickup_p50_ms=0.5 * factor,
        pickup_p99_ms=2.0 * factor,
    )


def result(*, with_floor: bool) -> BenchResult:
    return BenchResult(
        plan=Plan(with_floor=with_floor),
        server_version="18.6",
        millhand=figures(1.0),
        floor=figures(2.0) if with_floor else None,
        ratio=figures(0.0) if with_floor else None,
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
    """Rates are whole numbers, latencies have two places, and the ratio stands beside what it is of."""
    assert command._rows(result(with_floor=True)) == [
        ("inserts/s", "1,000", "2,000", "0.00"),
        ("bulk inserts/s", "40,000", "80,001", "0.00"),
        ("jobs/s", "20,000", "40,000", "0.00"),
        ("pickup p50, ms", "0.50", "1.00", "0.00"),
        ("pickup p99, ms", "2.00", "4.00", "0.00"),
    ]


def test_table_without_floor_shows_none() -> None:
    """Where the floor was not measured there is no figure of it and no ratio."""
    assert command._rows(result(with_floor=False))[0] == ("inserts/s", "1,000", "-", "-")


def test_caption_says_what_was_measured() -> None:
    """Figures without their settings mean nothing, so those stand below."""
    assert command._caption(result(with_floor=True)) == (
        "PostgreSQL 18.6, medians of 3 rounds of 20,000 jobs, 100 at a time; floor: bare asyncpg, 4,000 at a time"
    )
    assert command._caption(result(with_floor=False)) == (
        "PostgreSQL 18.6, medians of 3 rounds of 20,000 jobs, 100 at a time"
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_bench_drops_its_schema_when_it_is_interrupted(
    postgres_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    """A signal in the middle of a round ends it with the exit code of an interruption, and leaves no schema."""
    with running(postgres_url, tmp_path) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "round 1 of 3: millhand\n"
        process.send_signal(number)
        output, errors = process.communicate(timeout=GENEROUS_SECONDS)

    connection = await asyncpg.connect(postgres_url)
    num_schemas = await connection.fetchval(SCHEMAS)
    await connection.close()
    assert (process.returncode, output, errors) == (130, "", "error: interrupted; nothing more was done\n")
    assert num_schemas == 0


@pytest.mark.parametrize("arguments", [["--jobs", "0"], ["--workers", "10001"], ["--jobs", "many"]])
def test_bench_refuses_impossible_numbers(tmp_path: Path, arguments: list[str]) -> None:
    """What cannot be measured is wrong use, said before anything is connected to."""
    with running("postgresql://nobody@127.0.0.1:1/none", tmp_path, *arguments) as process:
        _, errors = process.communicate(timeout=GENEROUS_SECONDS)

    assert process.returncode == 2
    assert arguments[0] in errors


@pytest.mark.slow
def test_bench_prints_json_for_programs(postgres_url: str, tmp_path: Path) -> None:
    """The whole command, from insert to ratio, gives one JSON document and nothing else on standard output."""
    with running(postgres_url, tmp_path, "--jobs", "20", "--workers", "5", "--json") as process:
        output, errors = process.communicate(timeout=GENEROUS_SECONDS)

    assert process.returncode == 0, errors
    document = json.loads(output)
    assert document["plan"] == {"num_jobs": 20, "num_rounds": 3, "slots": 5, "with_floor": True}
    assert (
        set(document["millhand"])
        == set(document["floor"])
        == set(document["ratio"])
        == set(Figures.__struct_fields__)
    )
