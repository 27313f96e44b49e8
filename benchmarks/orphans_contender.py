"""
One contender in its own process: read all objects of a bucket once, and print how long that took.

    python benchmarks/orphans_contender.py '{"name": "boto3", "endpoint": "http://…", "bucket": "…", …}'

Each imports only what it needs, so that boto3 and minio may be in another environment than Millhand.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Task = dict[str, Any]


class Watch:
    """Measures from the first request on, without imports and the creation of clients."""

    def __init__(self) -> None:
        self._began = self._cpu_began = 0.0

    def start(self) -> None:
        self._began, self._cpu_began = time.perf_counter(), time.process_time()

    def stop(self) -> tuple[float, float]:
        return time.perf_counter() - self._began, time.process_time() - self._cpu_began


def _boto3_pages(task: Task, watch: Watch) -> Iterator[list[dict[str, Any]]]:
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    config = Config(s3={"addressing_style": "path"})
    client = boto3.client("s3", endpoint_url=task["endpoint"], config=config, region_name="us-east-1")
    watch.start()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=task["bucket"], Prefix=task["prefix"])
    for page in pages:
        yield page.get("Contents", [])


def list_with_boto3(task: Task, watch: Watch) -> int:
    """Read all pages of the paginator."""
    count = 0
    for page in _boto3_pages(task, watch):
        count += len(page)
        if count >= task["limit"]:
            break
    return count


def list_with_minio(task: Task, watch: Watch) -> int:
    """Read all objects of minio-py's generator."""
    import os  # noqa: PLC0415

    from minio import Minio  # noqa: PLC0415

    client = Minio(
        task["endpoint"].partition("://")[2],
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        region="us-east-1",
        secure=False,
    )
    watch.start()
    count = 0
    for _ in client.list_objects(task["bucket"], prefix=task["prefix"], recursive=True):
        count += 1
        if count >= task["limit"]:
            break
    return count


def loop_with_boto3(task: Task, watch: Watch) -> int:
    """Run a hand-written loop: one query per page for the keys that have a row; the rest are orphans."""
    import asyncpg  # noqa: PLC0415

    async def loop() -> int:
        connection = await asyncpg.connect(task["database"])
        statement = await connection.prepare(f"SELECT key FROM {task['table']} WHERE key = ANY($1::text[])")
        count = 0
        orphans: list[str] = []
        for page in _boto3_pages(task, watch):
            keys = [found["Key"] for found in page]
            known = {row[0] for row in await statement.fetch(keys)}
            orphans += [key for key in keys if key not in known]
            count += len(keys)
            if count >= task["limit"]:
                break
        await connection.close()
        return count

    return asyncio.run(loop())


def walk_directory(task: Task, watch: Watch) -> int:
    """Walk a directory with the standard library, and stat each file."""
    import os  # noqa: PLC0415
    from urllib.parse import unquote, urlsplit  # noqa: PLC0415

    watch.start()
    count = 0
    for directory, _, names in os.walk(unquote(urlsplit(task["url"]).path)):
        for name in names:
            os.stat(f"{directory}/{name}")  # noqa: PTH116 - as fast as it goes
            count += 1
    return count


def list_with_millhand(task: Task, watch: Watch) -> int:
    """Read all pages of the store."""
    from millhand.storage import open_store  # noqa: PLC0415

    async def walk() -> int:
        store = open_store(task["url"])
        await _warm(store)
        watch.start()
        count = 0
        async for page in store.list_pages(prefix=task["prefix"]):
            count += len(page.keys)
            if count >= task["limit"]:
                break
        await store.aclose()
        return count

    return asyncio.run(walk())


def scan_with_millhand(task: Task, watch: Watch) -> int:
    """Run once in mode report: listing, comparison, findings, a cursor for each page, all guards."""
    from millhand.db.driver.asyncpg import AsyncpgDriver  # noqa: PLC0415
    from millhand.orphans import OrphansConfig, ReferenceSource, reconcile  # noqa: PLC0415
    from millhand.storage import open_store  # noqa: PLC0415

    async def run() -> int:
        driver = AsyncpgDriver(task["database"], task["schema"])
        await driver.open()
        store = open_store(task["url"])
        source = ReferenceSource(name="objects", table=task["table"])
        config = OrphansConfig(
            sources=(source,), partitions=task["partitions"], split_at=tuple(task["split_at"])
        )
        await _warm(store)
        watch.start()
        report = await reconcile(driver.pool, _ordered(store) if task["is_replayed"] else store, config)
        await store.aclose()
        await driver.close()
        return report.objects

    return asyncio.run(run())


async def _warm(store: Any) -> None:  # noqa: ANN401 - any store
    """Create the client, as the other contenders do before their watch starts."""
    from millhand.storage import ObjectNotFound  # noqa: PLC0415

    try:
        await store.head("no such key")
    except ObjectNotFound:
        return


def _ordered(store: Any) -> Any:  # noqa: ANN401 - a store whose probe says what is known
    """Return the store with its order known: the replay server takes no writes, so a probe cannot find it out."""
    from dataclasses import replace  # noqa: PLC0415

    class Known(type(store)):  # type: ignore[misc]
        async def probe(self) -> Any:  # noqa: ANN401
            return replace(await super().probe(), has_exact_start_after=True, is_ordered=True)

    store.__class__ = Known
    return store


CONTENDERS: dict[str, Callable[[Task, Watch], int]] = {
    "boto3": list_with_boto3,
    "minio": list_with_minio,
    "loop": loop_with_boto3,
    "walk": walk_directory,
    "list": list_with_millhand,
    "scan": scan_with_millhand,
}


def _peak_mib() -> float:
    # Not getrusage: its peak starts with that of the process that forked this one.
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def main() -> None:
    task: Task = json.loads(sys.argv[1])
    watch = Watch()
    count = CONTENDERS[task["name"]](task, watch)
    seconds, cpu_seconds = watch.stop()
    print(
        json.dumps(
            {"objects": count, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": _peak_mib()}
        )
    )


if __name__ == "__main__":
    main()
