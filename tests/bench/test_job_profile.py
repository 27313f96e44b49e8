"""A small profile of a job: its stages exist and add up; their cost is not checked."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "job_profile.py"
TIMEOUT_SECONDS = 180.0


@pytest.mark.slow
async def test_profile_divides_a_job_into_stages(postgres_url: str, tmp_path: Path) -> None:
    """The table has every stage, their sum is the total, no stage of a job is empty, and the drawing exists."""
    document = tmp_path / "benchmarks" / "figures.md"
    for name in ("docs/assets", "benchmarks"):
        (tmp_path / name).mkdir(parents=True)
    document.write_text(
        "before\n<!-- profile: written by benchmarks/job_profile.py -->\n<!-- end of profile -->\nafter\n"
    )

    process = await asyncio.create_subprocess_exec(
        sys.executable, PROGRAM, "--jobs", "10000", "--write", document, "--database-url", postgres_url,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(TIMEOUT_SECONDS):
        _, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()
    text = document.read_text()
    rows = re.findall(r"^\| ([a-z' ]+) \| ([0-9.]+) \| ([0-9.]+) \|$", text, re.MULTILINE)
    figures = {name: float(defaults) + float(wide) for name, defaults, wide in rows}
    assert (text.startswith("before"), text.endswith("after\n")) == (True, True)
    assert list(figures) == [
        "fetch", "begin", "execute", "complete", "events", "event loop", "garbage",
        "the worker's process", "server's processes",
    ]  # fmt: skip
    stages = [*figures.values()][:7]
    assert sum(stages) == pytest.approx(figures["the worker's process"], abs=1.0)
    assert min(stages[:4]) > 0.0
    assert (tmp_path / "docs" / "assets" / "profile.svg").read_text().count("<title>") == 15
