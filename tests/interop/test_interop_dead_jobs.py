"""Dead letters of jobs that clients of both languages discard, and that a leader in Go deletes."""

from __future__ import annotations

from interop_harness import LANGUAGES, Harness, Language, Row

from millhand.client import Client
from millhand.core.config import Config


async def discarded(harness: Harness, language: Language, num: int) -> list[Row]:
    """Return jobs that a client of a language has discarded: their only attempt failed."""
    ids = [await harness.control(language).insert(["fail_before", 2], max_attempts=1) for _ in range(num)]
    async with harness.working(language, f"{language}_worker"):
        return [await harness.until_state(id, "discarded") for id in ids]


async def test_what_a_go_leader_deletes_is_a_dead_letter(harness: Harness) -> None:
    """Discards of both languages are copied by Python's leader, deleted by Go's, and a retry runs in Go."""
    rows = [row for language in LANGUAGES for row in await discarded(harness, language, 3)]
    ids = [row["id"] for row in rows]

    async def are_copied() -> bool:
        copies = await harness.fetch("SELECT id FROM /* schema */millhand_dead_job ORDER BY id")
        return [copy["id"] for copy in copies] == ids

    async def are_deleted() -> bool:
        return await harness.rows() == []

    async with harness.working("python", "python", leads=True):
        await harness.until(are_copied, "copies of all discards")
    async with harness.working("go", "go", leads=True, retention_seconds={"discarded": 0.001}):
        await harness.until_leader("go")
        await harness.until(are_deleted, "deletion by Go's leader")
        async with Client(harness.url, Config(schema=harness.schema)) as client:
            found = {one.job.id: one for one in (await client.dead.list()).dead_jobs}
            retried = await client.dead.retry(ids[0])
            await harness.until_state(ids[0], "completed", "discarded")
            left = [one.job.id for one in (await client.dead.list()).dead_jobs]

    assert sorted(found) == ids
    assert {one.current_state for one in found.values()} == {None}
    assert [found[row["id"]].job.errors[-1].error for row in rows] == [
        row["errors"][-1]["error"] for row in rows
    ]
    assert (retried.attempt, retried.max_attempts) == (1, 2)
    assert sorted(left) == ids[1:]
