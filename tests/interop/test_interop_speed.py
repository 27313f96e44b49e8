"""The script that measures the speed of both languages."""

from __future__ import annotations

from pathlib import Path

import pytest
from river_speed import measure


@pytest.mark.slow
async def test_river_speed_measures_go_and_python(
    postgres_url: str, river_path: Path, tmp_path: Path
) -> None:
    """
    16: release_enqueue_performance, release_worker_performance, release_mixed_performance.

    One run prints inserted and worked jobs a second for Go and Python.
    """
    assert river_path
    speeds = await measure(postgres_url, tmp_path, num_rounds=1, num_jobs=4_000)

    reported = str(speeds).splitlines()
    assert [line.split("|")[1].strip() for line in reported] == [
        "jobs/s",
        "---",
        "inserted one by one",
        "inserted a thousand at a time",
        "worked by one alone",
        "worked by both, the share of each",
    ]
    assert {who for _, who in speeds.by_name} == {"go", "python"}
    assert all(value > 0 for values in speeds.by_name.values() for value in values)
