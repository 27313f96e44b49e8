"""The archive of jobs that clients of both languages finish, beside a leader in Go that deletes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from interop_harness import LANGUAGES, Harness
from scripted_worker import ScriptedWorkers

from millhand.archive.control import opened_archive
from millhand.client import Client
from millhand.core.archive import Archive, ArchiveFilters
from millhand.core.config import Config
from millhand.storage import open_store

# The last five minutes are not archived yet, and each state is kept for a day.
DAYS_AGO = "UPDATE /* schema */river_job SET finalized_at = finalized_at - $1::interval"
DAY_SECONDS = 86_400.0
KEPT_FOR_A_DAY = dict.fromkeys(("cancelled", "completed", "discarded"), DAY_SECONDS)
SAME = ("id", "kind", "state", "attempt", "attempted_by", "max_attempts", "queue", "tags")


@asynccontextmanager
async def archiving(harness: Harness, url: str) -> AsyncIterator[None]:
    """Run a Millhand client that leads and archives, and works no job."""
    archive = Archive(url=url, every=timedelta(seconds=1))
    config = Config(
        archive=archive,
        cancelled_job_retention=None,
        completed_job_retention=None,
        discarded_job_retention=None,
        heartbeat_interval=None,
        queues={"nothing_here": 1},
        schema=harness.schema,
        workers=ScriptedWorkers("leader", harness.events, is_quiet=True).workers(("act",), {}),
    )
    async with Client(harness.url, config):
        yield


def num_archived(harness: Harness, num: int) -> Callable[[], Any]:
    """Return a condition: the files hold so many outcomes."""

    async def is_met() -> bool:
        sql = "SELECT coalesce(sum(num_jobs), 0) AS num FROM /* schema */millhand_archive_file WHERE state = 'ready'"
        return int((await harness.fetch(sql))[0]["num"]) == num

    return is_met


async def finished(harness: Harness) -> list[dict[str, Any]]:
    """Return jobs that each language worked two days ago: one completed, one discarded, one cancelled."""
    for language in LANGUAGES:
        control = harness.control(language)
        cancelled = await control.insert(scheduled_at="2100-01-01T00:00:00Z")
        await control.cancel(cancelled)
        async with harness.working(language, f"{language}_worker"):
            completed = await control.insert(["output", {"by": language}], tags=["blue", "green"])
            discarded = await control.insert(["fail", "no"], max_attempts=1)
            await harness.until_state(completed, "completed")
            await harness.until_state(discarded, "discarded")
    await harness.fetch(DAYS_AGO, timedelta(days=2))
    return await harness.rows()


async def test_what_a_go_leader_deletes_is_in_the_archive(harness: Harness, tmp_path: Path) -> None:
    """Outcomes of both languages are archived by our leader, deleted by Go's, found, and one is restored and runs in Go."""
    rows = await finished(harness)
    url = (tmp_path / "archive").as_uri()

    async def are_deleted() -> bool:
        return await harness.rows() == []

    async with archiving(harness, url):
        await harness.until(num_archived(harness, len(rows)), "the archive")
    async with harness.working("go", "go", leads=True, retention_seconds=KEPT_FOR_A_DAY):
        await harness.until_leader("go")
        await harness.until(are_deleted, "deletion by Go's leader")
        async with opened_archive(harness.driver.pool, open_store(url)) as control:
            found = {one["id"]: one for one in await control.search(ArchiveFilters(), limit=100)}
            restored = await control.restore(rows[1]["id"])
        assert restored is not None
        again = await harness.until_state(restored.id, "completed")

    assert {id: {name: one[name] for name in SAME} for id, one in found.items()} == {
        row["id"]: {name: row[name] for name in SAME} for row in rows
    }
    assert again["attempted_by"][-1] == "go"
