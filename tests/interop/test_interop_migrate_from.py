"""The Go program of docs/how_to/migrate_from/river.md runs beside the example program in Python."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from go_build import built
from river_program import GENEROUS_SECONDS

from page_runner import blocks
from user_programs import PROJECT, environment, fresh_database, run_python

PAGES = PROJECT / "docs" / "how_to" / "migrate_from"
MODULE = Path(__file__).parent / "river"
RECEIPT = "receipt for order 1"


@pytest.fixture
async def database_url(postgres_server_url: str) -> AsyncIterator[str]:
    async with fresh_database(postgres_server_url) as url:
        yield url


async def test_programs_of_the_guide_work_each_other_s_jobs(tmp_path: Path, database_url: str) -> None:
    """4, 5: The Python program works what the Go program inserts, and the reverse."""
    for page in ("index", "river"):
        for block in blocks(PAGES / f"{page}.md"):
            if block.title is not None:
                (tmp_path / block.title).write_text(block.text)
    for name in ("go.mod", "go.sum"):
        shutil.copy(MODULE / name, tmp_path)
    shop = built("migrate-from-river", tmp_path)

    await go(shop, "sell", database_url=database_url)
    python = await run_python(
        ["-m", "millhand", "worker", "shop:config", "--until-empty"],
        database_url=database_url,
        directory=tmp_path,
    )
    sold = await run_python(["sell.py"], database_url=database_url, directory=tmp_path)
    output = await go(shop, database_url=database_url, until=RECEIPT)

    assert (python.code, python.stdout.count(RECEIPT), sold.code) == (0, 1, 0), python.stderr + sold.stderr
    assert output.count(RECEIPT) == 1


async def go(program: Path, *arguments: str, database_url: str, until: str | None = None) -> str:
    """Run the Go program and return its output. With `until`, send SIGTERM once it prints that text."""
    process = await asyncio.create_subprocess_exec(
        program, *arguments, env=environment(DATABASE_URL=database_url), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    output = ""
    try:
        async with asyncio.timeout(GENEROUS_SECONDS):
            while line := (await process.stdout.readline()).decode():
                output += line
                if until is not None and until in line:
                    process.send_signal(signal.SIGTERM)
            code = await process.wait()
    finally:
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
    assert code == 0, output
    return output
