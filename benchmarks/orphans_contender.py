"""
One contender, in a process of its own: look at all objects of a bucket once, and say how long it took.

    python benchmarks/orphans_contender.py '{"name": "boto3", "endpoint": "http://…", "bucket": "…", …}'

Each imports only what it needs, so that boto3 and minio may live in an environment apart from Millhand's.
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

Question = dict[str, Any]


class Watch:
    """Runs from when a contender is ready to ask its first question: imports and clients are not what is measured."""

    def __init__(self) -> None:
        self._began = self._cpu_began = 0.0

    def start(self) -> None:
        self._began, self._cpu_began = time.perf_counter(), time.process_time()

    def stop(self) -> tuple[float, float]:
        return time.perf_counter() - self._began, time.process_time() - self._cpu_began


def _boto3_pages(question: Question, watch: Watch) -> Iterator[list[dict[str, Any]]]:
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    config = Config(s3={"addressing_style": "path"})
    client = boto3.client("s3", endpoint_url=question["endpoint"], config=config, region_name="us-east-1")
    watch.start()
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=question["bucket"], Prefix=question["prefix"]
    )
    for page in pages:
        yield page.get("Contents", [])


def list_with_boto3(question: Question, watch: Watch) -> int:
    """The paginator, and nothing done with what it yields."""
    count = 0
    for page in _boto3_pages(question, watch):
        count += len(page)
        if count >= question["limit"]:
            break
    return count


def list_with_minio(question: Question, watch: Watch) -> int:
    """minio-py's own generator."""
    import os  # noqa: PLC0415

    from minio import Minio  # noqa: PLC0415

    client = Minio(
        question["endpoint"].partition("://")[2],
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        region="us-east-1",
        secure=False,
    )
    watch.start()
    count = 0
    for _ in client.list_objects(question["bucket"], prefix=question["prefix"], recursive=True):
        count += 1
        if count >= question["limit"]:
            break
    return count


def loop_with_boto3(question: Question, watch: Watch) -> int:
    """What one writes oneself: a page of keys, one query which of them have a row, the rest are orphans."""
    import asyncpg  # noqa: PLC0415

    async def loop() -> int:
        connection = await asyncpg.connect(question["database"])
        statement = await connection.prepare(
            f"SELECT key FROM {question['table']} WHERE key = ANY($1::text[])"
        )
        count = 0
        orphans: list[str] = []
        for page in _boto3_pages(question, watch):
            keys = [found["Key"] for found in page]
            known = {row[0] for row in await statement.fetch(keys)}
            orphans += [key for key in keys if key not in known]
            count += len(keys)
            if count >= question["limit"]:
                break
        await connection.close()
        return count

    return asyncio.run(loop())


def walk_directory(question: Question, watch: Watch) -> int:
    """What the standard library has: names in no order, and a look at each file."""
    import os  # noqa: PLC0415
    from urllib.parse import unquote, urlsplit  # noqa: PLC0415

    watch.start()
    count = 0
    for directory, _, names in os.walk(unquote(urlsplit(question["url"]).path)):
        for name in names:
            os.stat(f"{directory}/{name}")  # noqa: PTH116 - as fast as it goes
            count += 1
    return count


def list_with_millhand(question: Question, watch: Watch) -> int:
    """The store's pages, and nothing done with them."""
    from millhand.storage import open_store  # noqa: PLC0415

    async def walk() -> int:
        store = open_store(question["url"])
        await _warm(store)
        watch.start()
        count = 0
        async for page in store.list_pages(prefix=question["prefix"]):
            count += len(page.keys)
            if count >= question["limit"]:
                break
        await store.aclose()
        return count

    return asyncio.run(walk())


def scan_with_millhand(question: Question, watch: Watch) -> int:
    """A whole run that reports: listing, join, findings, cursor of each page, all guards."""
    from millhand.driver.asyncpg import AsyncpgDriver  # noqa: PLC0415
    from millhand.orphans import OrphansConfig, ReferenceSource, reconcile  # noqa: PLC0415
    from millhand.storage import open_store  # noqa: PLC0415

    async def run() -> int:
        driver = AsyncpgDriver(question["database"], question["schema"])
        await driver.open()
        store = open_store(question["url"])
        source = ReferenceSource(name="objects", table=question["table"])
        config = OrphansConfig(
            sources=(source,), partitions=question["partitions"], split_at=tuple(question["split_at"])
        )
        await _warm(store)
        watch.start()
        report = await reconcile(driver.pool, _ordered(store) if question["is_replayed"] else store, config)
        await store.aclose()
        await driver.close()
        return report.objects

    return asyncio.run(run())


async def _warm(store: Any) -> None:  # noqa: ANN401 - any store
    """Have the client made, which the others do before their watch starts."""
    from millhand.storage import ObjectNotFound  # noqa: PLC0415

    try:
        await store.head("no such key")
    except ObjectNotFound:
        return


def _ordered(store: Any) -> Any:  # noqa: ANN401 - a store whose probe says what is known
    """The replay server cannot be written to, so no probe can find out that it is in order."""
    from dataclasses import replace  # noqa: PLC0415

    class Known(type(store)):  # type: ignore[misc]
        async def probe(self) -> Any:  # noqa: ANN401
            return replace(await super().probe(), has_exact_start_after=True, is_ordered=True)

    store.__class__ = Known
    return store


CONTENDERS: dict[str, Callable[[Question, Watch], int]] = {
    "boto3": list_with_boto3,
    "minio": list_with_minio,
    "loop": loop_with_boto3,
    "walk": walk_directory,
    "list": list_with_millhand,
    "scan": scan_with_millhand,
}


def _peak_mib() -> float:
    # Not what getrusage says, which begins with the peak of the process that this one was forked from.
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def main() -> None:
    question: Question = json.loads(sys.argv[1])
    watch = Watch()
    count = CONTENDERS[question["name"]](question, watch)
    seconds, cpu_seconds = watch.stop()
    print(
        json.dumps(
            {"objects": count, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": _peak_mib()}
        )
    )


if __name__ == "__main__":
    main()
