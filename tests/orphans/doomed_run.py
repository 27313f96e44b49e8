"""A run in its own process that prints a line at its eighth page and waits there until it is killed."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime
from pathlib import Path

from adversary import ChaosStore
from world import uploads_source

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.orphans import OrphansConfig, reconcile
from millhand.storage import open_store


class Elsewhere(ChaosStore):
    """A directory that has the URL of a bucket, because only buckets are listed in partitions."""

    @property
    def url(self) -> str:
        return "s3://elsewhere/"


def doomed_config(schema: str) -> OrphansConfig:
    """The configuration of the run. The run that continues it must have the same."""
    return OrphansConfig(
        sources=(uploads_source(schema),),
        partitions=2,
        page_size=10,
        split_at=("025", "060"),
        min_overlap=0.0,
    )


async def main(url: str, schema: str, root: Path, now: datetime) -> None:
    driver = AsyncpgDriver(url, schema)
    await driver.open()
    num_pages = 0

    async def stay_at_the_eighth_page(operation: str) -> None:
        nonlocal num_pages
        num_pages += operation == "list"
        if num_pages == 8:
            print("at the eighth page", flush=True)
        if num_pages >= 8:
            await asyncio.Event().wait()

    store = Elsewhere(open_store(str(root)), stay_at_the_eighth_page)
    await reconcile(driver.pool, store, doomed_config(schema), now=now)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), datetime.fromisoformat(sys.argv[4])))
