"""Claims about the orphan cleanup of a real worker process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from worker_harness import started_worker

from millhand.db.driver.asyncpg import AsyncpgDriver

NUM_LIVE = 30
LIVE = {f"live/{number:02}.bin": f"the bytes of {number}".encode() for number in range(NUM_LIVE)}

SETTINGS = """
[heartbeat]
enabled = false

[storage]
url = "file:bucket"

[orphans]
interval = "300ms"
mode = "{mode}"
grace = "0s"
quarantine_for = "0s"
allow_short_grace = true
max_share = 1.0

[[orphans.sources]]
name = "uploads"
table = "{schema}.uploads"
created_at = "created_at"
pending = "state = 'pending'"
"""


class Bucket:
    """A project with a directory as its bucket and a table of uploads that differs from it."""

    def __init__(self, directory: Path, driver: AsyncpgDriver, url: str) -> None:
        self.directory = directory
        self._driver = driver
        self.environment = {"DATABASE_URL": url, "MILLHAND_DATABASE_SCHEMA": driver.schema}

    async def fill(self) -> None:
        """Add live pairs, an abandoned row with its object, an orphan object, and a row with a missing object."""
        for key, body in {**LIVE, "abandoned.bin": b"never finished", "orphan.bin": b"an orphan"}.items():
            path = self.directory / "bucket" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        await self.execute(
            """
            CREATE TABLE uploads (
                id bigserial PRIMARY KEY,
                key text NOT NULL,
                state text NOT NULL,
                created_at timestamptz NOT NULL DEFAULT now() - interval '1 day'
            )
            """
        )
        rows = [*((key, "ready") for key in LIVE), ("abandoned.bin", "pending"), ("missing.bin", "ready")]
        values = ", ".join(f"('{key}', '{state}')" for key, state in rows)
        await self.execute(f"INSERT INTO uploads (key, state) VALUES {values}")

    def settings(self, mode: str) -> None:
        (self.directory / "millhand.toml").write_text(SETTINGS.format(mode=mode, schema=self._driver.schema))

    async def execute(self, sql: str) -> None:
        await self._driver.pool.execute_script(f"SET LOCAL search_path TO {self._driver.schema}; {sql}")

    async def keys(self) -> set[str]:
        """The keys that rows reference."""
        rows = await self._driver.pool.fetch(f'SELECT key FROM "{self._driver.schema}".uploads')
        return {row["key"] for row in rows}

    def objects(self) -> dict[str, bytes]:
        """The objects, without Millhand's own."""
        root = self.directory / "bucket"
        files = [path for path in root.rglob("*") if path.is_file()]
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in files
            if not path.relative_to(root).parts[0].startswith(".")
        }


@pytest.fixture
async def bucket(tmp_path: Path, schema_driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[Bucket]:
    bucket = Bucket(tmp_path, schema_driver, postgres_url)
    await bucket.fill()
    yield bucket
    await bucket.execute("DROP TABLE uploads")


async def test_orphan_cleanup_deletes_orphans(bucket: Bucket) -> None:
    """An abandoned row and its object are deleted, and so is an orphan object; live objects stay unchanged."""
    bucket.settings("delete")

    async with started_worker(bucket.directory, environment=bucket.environment) as worker:
        await worker.line("orphan cleanup completed", deleted=2)
        await worker.line("orphan cleanup completed", objects=NUM_LIVE)
        code = await worker.stop()

    first = worker.all_lines("orphan cleanup completed")[0]
    found = (
        "mode",
        "objects",
        "rows",
        "orphan_objects",
        "abandoned_rows",
        "missing",
        "deleted",
        "not_removed",
    )
    assert code == 0
    assert tuple(first[name] for name in found) == ("report", NUM_LIVE + 2, NUM_LIVE + 2, 1, 0, 1, 0, 0)
    assert bucket.objects() == LIVE
    assert await bucket.keys() == {*LIVE, "missing.bin"}
    assert worker.all_lines("job errored") == []


@pytest.mark.slow
async def test_orphan_cleanup_only_reports_by_default(bucket: Bucket) -> None:
    """In mode report each run logs what it finds and changes nothing."""
    bucket.settings("report")
    before = bucket.objects()

    async with started_worker(bucket.directory, environment=bucket.environment) as worker:
        await worker.line("orphan cleanup completed", count=4)
        await worker.stop()

    found = {
        (line["mode"], line["orphan_objects"], line["abandoned_rows"], line["missing"], line["deleted"])
        for line in worker.all_lines("orphan cleanup completed")
    }
    # A pending row is abandoned when its grace has passed since the first run that saw it.
    assert found == {("report", 1, 0, 1, 0), ("report", 1, 1, 1, 0)}
    assert bucket.objects() == before
    assert await bucket.keys() == {*LIVE, "abandoned.bin", "missing.bin"}
