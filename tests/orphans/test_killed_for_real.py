"""A run whose process is killed with SIGKILL."""

from __future__ import annotations

import asyncio
import signal
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from doomed_run import Elsewhere, doomed_config
from world import World

from millhand.orphans import reconcile

PROGRAM = Path(__file__).with_name("doomed_run.py")
TIMEOUT_SECONDS = 30.0


@pytest.mark.slow
async def test_after_sigkill_the_next_run_repeats_one_page_per_partition(
    world: World, postgres_url: str, tmp_path: Path
) -> None:
    """After SIGKILL in two partitions, the next run lists the remaining pages, and at most one page of each again."""
    await world.pair(*[f"{number:03}" for number in range(100)])
    await world.put("030.orphan")
    world.now += timedelta(hours=2)
    words = (str(PROGRAM), postgres_url, world.schema, str(tmp_path / "bucket"), world.now.isoformat())
    process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT_SECONDS):
        assert await process.stdout.readline() == b"at the eighth page\n"
        process.send_signal(signal.SIGKILL)
        await process.wait()
    scanned = await world.sql(
        "SELECT count(*) FROM {schema}.millhand_orphan_partition WHERE cursor_key > low OR is_done"
    )
    pages = []

    async def count(operation: str) -> None:
        if operation == "list":
            pages.append(operation)

    report = await reconcile(
        world.executor,
        Elsewhere(world.store, count),
        doomed_config(world.schema),
        now=world.now + timedelta(minutes=2),
    )

    assert scanned[0]["count"] >= 2
    assert (report.is_resumed, report.state, report.objects, report.rows, report.orphan_objects) == (
        True,
        "completed",
        101,
        100,
        1,
    )
    # At least 6 of 11 pages were scanned: the eighth had arrived, and the other partition may have been at its own page.
    assert len(pages) <= 11 - 6
