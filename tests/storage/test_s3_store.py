"""An orphan run over an S3 server that lists by directory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.orphans import Mode, OrphansConfig, ReferenceSource, reconcile, restore
from millhand.storage import ObjectStore


@pytest.mark.slow
async def test_a_run_over_an_unordered_bucket_removes_the_orphans_only(
    s3_store: ObjectStore, schema_driver: AsyncpgDriver
) -> None:
    """On a server that lists by directory, a run removes the orphans, keeps live objects, and a restore undoes it."""
    executor, schema = schema_driver.pool, schema_driver.schema
    await executor.execute_script(f"CREATE TABLE {schema}.files (key text PRIMARY KEY)")
    live = [
        f"{stem}{end}" for stem in ("a", "b", "é") for end in ("/x", ".x", "-x", "0x", "/y/z", " x", "+x")
    ]
    for key in [*live, "a/orphan", "z.orphan"]:
        await s3_store.put(key, key.encode())
    await executor.fetch(f"INSERT INTO {schema}.files SELECT unnest($1::text[])", [[*live, "missing"]])
    config = OrphansConfig(
        sources=(ReferenceSource(name="files", table=f"{schema}.files"),),
        mode=Mode.DELETE,
        max_share=1.0,
        min_overlap=0.5,
        page_size=4,
    )
    now = datetime.now(UTC) + timedelta(hours=2)

    first = await reconcile(executor, s3_store, config, now=now)
    second = await reconcile(executor, s3_store, config, now=now + timedelta(days=7))
    left = [key async for found in s3_store.list_pages() for key in found.keys]
    restored = await restore(executor, s3_store, run=second.run_id)
    again = await s3_store.get("a/orphan")

    await executor.execute_script(f"DROP TABLE {schema}.files")
    assert (first.objects, first.rows, first.orphan_objects, first.missing) == (23, 22, 2, 1)
    assert (second.deleted, second.not_removed) == (2, 0)
    assert sorted(left) == sorted(live)
    assert (restored.restored, again) == (2, b"a/orphan")
