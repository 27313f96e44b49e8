"""The archive in a bucket on a real S3 server."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from stores import bucket_of

from archives import FINISHED, archive_all, archiver_of, file_states, finish
from dead_jobs import delete_row
from factory import get_job
from millhand.archive.control import ArchiveControl
from millhand.core.archive import ARCHIVE_PREFIX, ArchiveFilters
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.storage import Versioning, open_store

ANN = ArchiveFilters(where="args ->> '$.to' = 'ann'")


@pytest.mark.slow
async def test_no_version_of_a_deleted_file_stays(
    schema_driver: AsyncpgDriver, bucket_url: str, tmp_path: Path
) -> None:
    """In a bucket with versions, neither an erased file nor one that the leader deletes leaves a version behind."""
    pool, store = schema_driver.pool, open_store(bucket_url.replace("blobs", "kept"))
    bucket = bucket_of(store)
    bucket.client.create_bucket(Bucket=bucket.name)
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    for to, days in (("ann", 0), ("bob", 1)):
        await finish(pool, args=f'{{"to": "{to}"}}', finalized_at=FINISHED + timedelta(days=days))
    control = ArchiveControl(pool, store)
    await archive_all(archiver_of(pool, tmp_path, store=store))

    async def versions() -> int:
        return sum([len(page) async for page in store.list_versions(prefix=ARCHIVE_PREFIX)])

    kept = [await versions()]
    erasure = await control.begin_erasure()
    for file, _ in await control.find(ANN):
        await control.erase(file, ANN, erasure=erasure)
    kept.append(await versions())
    await archive_all(archiver_of(pool, tmp_path, store=store, keep=timedelta(days=1)))
    kept.append(await versions())
    versioning = await control.versioning()
    await store.aclose()

    assert (kept, versioning) == ([2, 1, 0], Versioning.ENABLED)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["parquet", "jsonl"])
async def test_jobs_in_a_bucket_are_found_restored_and_erased(
    schema_driver: AsyncpgDriver, bucket_url: str, tmp_path: Path, format: str
) -> None:
    """Archive, search, restore and erase; the bucket then has the files that the rows name, and no other."""
    pool, store = schema_driver.pool, open_store(bucket_url.replace("?", f"/{format}?"))
    ann, bob, later = [
        await finish(pool, args=f'{{"to": "{to}"}}', finalized_at=FINISHED + days * timedelta(days=1))
        for to, days in (("ann", 0), ("bob", 0), ("ann", 1))
    ]
    control = ArchiveControl(pool, store)

    await archive_all(archiver_of(pool, tmp_path, store=store, format=format))
    await delete_row(pool, ann.id, bob.id, later.id)
    found = [job["id"] for job in await control.search(ANN, limit=10)]
    await control.restore(later.id)
    restored = await get_job(pool, later.id)
    await delete_row(pool, later.id)
    erasure = await control.begin_erasure()
    for file, _ in await control.find(ANN):
        await control.erase(file, ANN, erasure=erasure)
    left = [job["id"] for job in await control.search(ArchiveFilters(), limit=10)]
    states = await file_states(pool)
    keys = [key async for page in store.list_pages(prefix=ARCHIVE_PREFIX) for key in page.keys]
    await store.aclose()

    assert found == [later.id, ann.id]
    assert restored.state is JobState.AVAILABLE
    assert left == [bob.id]
    assert [num_jobs for state, num_jobs in states if state == "ready"] == [1]
    assert len(keys) == 1
