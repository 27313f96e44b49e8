"""
Trace which modules a job passes, and write the walks of docs/explanation/architecture.md.

Run `python docs/.writers/walks.py` to write them; tests/architecture/test_walks.py walks again. A module belongs to a walk
if each of several runs calls a function of it, so services that happen to run beside it are left out.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import ClassVar

import millhand
from millhand import Client, Config, EventKind, Job, Limit, QueueConfig, Workers
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import migrate_lines
from millhand.embedded import embedded_postgres
from millhand.orphans import Mode, OrphansConfig, ReferenceSource, reconcile
from millhand.storage import open_store

ROOT = f"{Path(millhand.__file__).parent}/"
PAGE = Path(__file__).parents[1] / "explanation" / "architecture.md"
NUM_RUNS = 6
BEGIN, END = "<!-- walks: begin -->", "<!-- walks: end -->"


@dataclass
class Step:
    """The args of the job that walks."""

    kind: ClassVar[str] = "step"


workers = Workers()


@workers.add()
async def step(job: Job[Step]) -> None:
    """Do nothing."""


class Walk:
    """The modules that each run entered, in the order of the first run."""

    def __init__(self) -> None:
        self.runs: list[dict[str, None]] = []

    async def run(self, act: Callable[[], Awaitable[object]]) -> None:
        """Act once, and record the modules of which a function is called meanwhile."""
        entered: dict[str, None] = {}

        def enter(frame: FrameType, event: str, _argument: object) -> None:
            code = frame.f_code
            if event == "call" and code.co_filename.startswith(ROOT) and code.co_name != "<module>":
                entered.setdefault(code.co_filename.removeprefix(ROOT))

        sys.setprofile(enter)
        try:
            await act()
        finally:
            sys.setprofile(None)
        self.runs.append(entered)

    @property
    def modules(self) -> list[str]:
        first, *others = self.runs
        return [module for module in first if all(module in other for other in others)]


@asynccontextmanager
async def working(url: str, schema: str, limit: Limit | None = None) -> AsyncIterator[Client]:
    """Yield a client that works the queue of the walk, once it is at rest."""
    config = Config(
        queues={"default": QueueConfig(max_workers=4, limit=limit)},
        schema=schema,
        workers=workers,
        heartbeat_interval=None,
    )
    async with Client(AsyncpgDriver(url, schema=schema), config) as client:
        await asyncio.sleep(1.0)
        yield client


async def walk_insert(url: str, schema: str) -> list[str]:
    """Insert a job by a client that works none."""
    walk = Walk()
    async with Client(
        AsyncpgDriver(url, schema=schema), Config(schema=schema, skip_unknown_job_check=True)
    ) as client:
        await client.insert(Step())
        for _ in range(NUM_RUNS):
            await walk.run(lambda: client.insert(Step()))
    return walk.modules


async def walk_job(url: str, schema: str, limit: Limit | None = None) -> list[str]:
    """Insert a job and wait until it is completed, in the same client."""
    walk = Walk()
    async with working(url, schema, limit) as client:
        with client.subscribe(EventKind.JOB_COMPLETED) as events:

            async def work() -> None:
                await client.insert(Step())
                await anext(events)

            await work()
            for _ in range(NUM_RUNS):
                await asyncio.sleep(0.3)
                await walk.run(work)
    return walk.modules


async def walk_orphan_run(url: str, schema: str) -> list[str]:
    """Run the cleanup over a bucket with a referenced object and an orphan."""
    walk, driver = Walk(), AsyncpgDriver(url, schema=schema)
    await driver.open()
    await driver.pool.fetch(
        f'CREATE TABLE IF NOT EXISTS "{schema}".upload (id int PRIMARY KEY, key text)', []
    )
    with tempfile.TemporaryDirectory() as bucket:
        store = open_store(f"file:{bucket}", create=True)
        await store.put("uploads/orphan", b"x")
        source = ReferenceSource(name="upload", table=f"{schema}.upload", min_rows=0)
        config = OrphansConfig(sources=[source], mode=Mode.REPORT)
        for _ in range(2):
            await walk.run(lambda: reconcile(driver.pool, store, config))
    await driver.close()
    return walk.modules


async def walks(url: str, schema: str) -> dict[str, list[str]]:
    """Return the modules of each walk, in a migrated schema."""
    return {
        "insert": await walk_insert(url, schema),
        "job": await walk_job(url, schema),
        "limited job": await walk_job(url, schema, Limit(at_once=2)),
        "orphan run": await walk_orphan_run(url, schema),
    }


def text_of(found: Mapping[str, list[str]]) -> str:
    """Return the walks as the page has them: what each adds to those before it, folder by folder."""
    lines, known = [], set[str]()
    for name, modules in found.items():
        new = [module for module in modules if module not in known]
        known |= {*modules}
        passed = (
            f"{len(modules)} modules"
            if len(new) == len(modules)
            else f"{len(modules)} modules, {len(new)} of them new"
        )
        lines += [
            f"**{name.capitalize()}**, {passed}: " + ", ".join(f"`{module}`" for module in new) + "",
            "",
        ]
    return "\n".join(lines)


def page_with(found: Mapping[str, list[str]], page: str) -> str:
    """Return the page with these walks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{text_of(found)}{END}{after}"


async def _migrate(url: str, schema: str) -> None:
    driver = AsyncpgDriver(url, schema=schema)
    await driver.open()
    await driver.pool.fetch(f'CREATE SCHEMA IF NOT EXISTS "{schema}"', [])
    await migrate_lines(driver)
    await driver.close()


def main() -> None:
    """Write the walks on an embedded PostgreSQL."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # for root, PostgreSQL runs as another user
        with embedded_postgres(Path(directory) / "postgres") as server:
            asyncio.run(_migrate(server.url, "walk"))
            found = asyncio.run(walks(server.url, "walk"))
    PAGE.write_text(page_with(found, PAGE.read_text()))


if __name__ == "__main__":
    main()
