"""Whole runs on a real S3 server: versions, delete markers and uploads in parts, as no directory has them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from adversary import ChaosStore, Killed
from world import World, uploads_source

from millhand.driver.asyncpg import AsyncpgDriver
from millhand.orphans import explain, list_findings, reconcile, restore
from millhand.storage import ObjectInfo, ObjectNotFound, open_store

sys.path.append(str(Path(__file__).parents[1] / "storage"))  # the servers are that room's
from servers import CREDENTIALS, seaweed
from stores import begin_upload, bucket_of, wait_until_ready

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)
LOCKED, PLAIN, VERSIONED = "orphans-locked", "orphans-plain", "orphans-versions"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server with a plain bucket, one that keeps versions, and one that keeps locks."""
    with pytest.MonkeyPatch.context() as patch, seaweed() as address:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        bucket = bucket_of(open_store(f"s3://{PLAIN}?endpoint_url={address}"))
        for name in (PLAIN, VERSIONED):
            bucket.client.create_bucket(Bucket=name)
        bucket.client.create_bucket(Bucket=LOCKED, ObjectLockEnabledForBucket=True)
        bucket.client.put_bucket_versioning(Bucket=VERSIONED, VersioningConfiguration={"Status": "Enabled"})
        wait_until_ready(bucket)
        bucket.close()
        yield address


@pytest.fixture
async def versioned(world: World, endpoint: str, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """The same application with its objects below a prefix of a bucket with versions."""
    name = request.node.name.replace("[", "-").rstrip("]")
    store = open_store(f"s3://{VERSIONED}/{name}?endpoint_url={endpoint}")
    yield replace(world, store=store)
    await store.aclose()


@pytest.fixture
async def locked(world: World, endpoint: str, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """The same application with its objects in a bucket whose objects can be locked."""
    store = open_store(f"s3://{LOCKED}/{request.node.name}?endpoint_url={endpoint}")
    yield replace(world, store=store)
    await store.aclose()


@pytest.fixture
async def plain(
    world: World, endpoint: str, request: pytest.FixtureRequest, schema_driver: AsyncpgDriver
) -> AsyncIterator[World]:
    """The same application with uploads in parts, whose ids its rows remember."""
    await schema_driver.pool.fetch(
        f"ALTER TABLE {world.schema}.uploads ADD COLUMN IF NOT EXISTS upload_id text"
    )
    name = request.node.name.replace("[", "-").rstrip("]")
    store = open_store(f"s3://{PLAIN}/{name}?endpoint_url={endpoint}")
    source = uploads_source(world.schema, upload_id="upload_id")
    yield replace(world, store=store, config=replace(world.config, sources=(source,)))
    await store.aclose()


async def uploads(world: World) -> list[str]:
    return sorted([one.key async for page in world.store.list_uploads() for one in page])


async def test_a_delete_marker_is_the_quarantine_of_a_bucket_with_versions(versioned: World) -> None:
    """An orphan is hidden in its place, without a copy, comes back byte for byte, and ends for good in its time."""
    world = versioned
    await world.pair("live")
    await world.put("orphan", b"12345")
    await world.put("destroyed", b"bytes")

    hidden = await world.runs(2 * HOUR, WEEK)
    story = await explain(world.executor, world.store, world.config, "orphan", now=world.now)
    with pytest.raises(ObjectNotFound):
        await world.store.head("orphan")
    back = await restore(world.executor, world.store, key="orphan", now=world.now)
    again = await restore(world.executor, world.store, key="orphan", now=world.now)
    bytes_back = await world.store.get("orphan")
    await world.row("orphan")
    purged = await world.run(after=WEEK)

    kept = [one async for page in world.store.list_versions() for one in page if not one.key.startswith(".")]
    assert (hidden.deleted, back.restored, again.already, bytes_back) == (2, 1, 1, b"12345")
    assert any("behind its delete marker" in line for line in story.lines())
    assert await world.keys(".millhand/quarantine/") == []
    assert (purged.purged, purged.state) == (1, "completed")
    assert sorted((one.key, one.is_delete_marker) for one in kept) == [("live", False), ("orphan", False)]


async def test_a_hidden_object_that_is_referred_to_comes_back_with_the_next_run(versioned: World) -> None:
    """Healing removes the marker, and a newer object on top of it is left alone."""
    world = versioned
    await world.pair("live")
    for key in ("wanted", "replaced"):
        await world.put(key, b"old")
    await world.runs(2 * HOUR, WEEK)
    await world.row("wanted")
    await world.put("replaced", b"new")
    await world.row("replaced")

    report = await world.run(after=HOUR)

    assert (report.restored, report.alerts) == (1, 1)
    assert [await world.store.get(key) for key in ("wanted", "replaced")] == [b"old", b"new"]


async def test_an_upload_between_look_and_delete_lives_where_versions_are_kept(versioned: World) -> None:
    """On a server that ignores `If-Match` the marker hides what was just uploaded, is found out, and goes at once."""
    world = versioned

    class Ignoring(ChaosStore):
        """A server that deletes whatever is there, right after somebody has put something else there."""

        async def delete(self, key: str, *, if_same: ObjectInfo | None = None) -> bool:
            if if_same is not None:
                await world.put(key, b"just uploaded")
            return await super().delete(key)

    await world.pair("live")
    await world.put("orphan", b"old")
    await world.run(after=2 * HOUR)
    world.now += WEEK

    report = await reconcile(world.executor, Ignoring(world.store, nothing), world.config, now=world.now)

    assert (report.state, report.deleted, report.kept) == ("completed", 0, 1)
    assert await world.store.get("orphan") == b"just uploaded"


async def test_an_upload_that_a_killed_run_has_hidden_is_uncovered_by_the_next(versioned: World) -> None:
    """If the process dies before it takes its marker away again, what was just uploaded is back with the next run."""
    world = versioned

    class Dying(ChaosStore):
        """The same server, and a process that is killed by its answer."""

        async def delete(self, key: str, *, if_same: ObjectInfo | None = None) -> bool:
            if if_same is None:
                return await super().delete(key)
            await world.put(key, b"just uploaded")
            await super().delete(key)
            raise Killed

    await world.pair("live")
    await world.put("orphan", b"old")
    await world.run(after=2 * HOUR)
    world.now += WEEK
    with pytest.raises(Killed):
        await reconcile(world.executor, Dying(world.store, nothing), world.config, now=world.now)
    with pytest.raises(ObjectNotFound):
        await world.store.head("orphan")
    await world.row("orphan")

    report = await world.run(after=HOUR)

    assert (report.state, report.deleted, report.missing) == ("completed", 0, 0)
    assert await world.store.get("orphan") == b"just uploaded"


async def nothing(operation: str) -> None:
    """Come between nothing."""


async def test_rule_23_a_locked_object_is_skipped_and_holds_nobody_up(
    locked: World, caplog: pytest.LogCaptureFixture
) -> None:
    """
    An object under legal hold stays in its place, and its story says why; one that is held after it was hidden stays hidden.

    The others go, and the run comes to its end; once the hold is lifted, what is hidden ends too.
    """
    world, bucket = locked, bucket_of(locked.store)

    async def hold(status: str) -> None:
        target = bucket.object_params("held after")
        bucket.client.put_object_legal_hold(**target, LegalHold={"Status": status}, VersionId=str(hidden))
        # This server dates anew what it holds, as S3 does not: the ledger is told.
        versions = [one async for page in world.store.list_versions(prefix="held after") for one in page]
        [held] = [one for one in versions if not one.is_delete_marker]
        dated = "UPDATE {schema}.millhand_orphan_action SET modified_at = $1 WHERE key = 'held after'"
        await world.sql(dated, held.modified_at)

    await world.pair("live")
    for key in ("held after", "free"):
        await world.put(key)
    hidden = (await world.store.head("held after")).version
    target = bucket.object_params("held before")
    bucket.client.put_object(**target, Body=b"held before", ObjectLockLegalHoldStatus="ON")

    taken = await world.runs(2 * HOUR, WEEK)
    story = await explain(world.executor, world.store, world.config, "held before", now=world.now)
    await hold("ON")
    purged = await world.run(after=WEEK)
    await hold("OFF")
    lifted = await world.run(after=HOUR)

    assert (taken.deleted, taken.kept) == (2, 1)
    assert "the object is under legal hold or retention (rule 23)" in "\n".join(story.lines())
    assert await world.store.get("held before") == b"held before"
    assert (purged.state, purged.purged, lifted.purged) == ("completed", 1, 1)
    (warning,) = [one for one in caplog.records if one.levelname == "WARNING"]
    assert warning.getMessage() == "orphan cleanup cannot purge objects"
    assert (warning.key, warning.objects) == ("held after", 1)  # type: ignore[attr-defined]


async def test_rule_21_an_upload_that_a_row_waits_for_is_kept(plain: World) -> None:
    """A pending row within its grace keeps its upload, by id or by key, however old the upload's beginning is."""
    world = plain
    await world.pair("live")
    upload_id = await begin_upload(world.store, "by id", b"part")
    await begin_upload(world.store, "by key", b"part")

    for span in (2 * HOUR, WEEK, WEEK):
        await world.sql("DELETE FROM {schema}.uploads WHERE state = 'pending'")
        await world.row("by id", state="pending", created_at=world.now + span, upload_id=upload_id)
        await world.row("by key", state="pending", created_at=world.now + span)
        report = await world.run(after=span)

    assert (report.uploads, report.aborted_uploads) == (0, 0)
    assert await uploads(world) == ["by id", "by key"]


async def test_rules_22_and_25_an_upload_of_nobody_is_aborted_after_grace_and_two_runs(plain: World) -> None:
    """First a candidate, then aborted and gone; an expired row keeps it no longer, and the key's story tells it."""
    world = plain
    await world.pair("live")
    await begin_upload(world.store, "dead", b"part")
    expired = await begin_upload(world.store, "expired", b"part")
    await world.row("expired", state="pending", created_at=world.now - 30 * WEEK, upload_id=expired)

    first = await world.run(after=2 * HOUR)
    (candidate, _) = await list_findings(world.executor, kind="upload")
    early = await world.run(after=WEEK - HOUR)
    due = await world.run(after=HOUR)

    story = await explain(world.executor, world.store, world.config, "dead", now=world.now)
    assert (first.uploads, first.aborted_uploads, candidate.rule) == (2, 0, 25)
    assert (early.aborted_uploads, due.uploads, due.aborted_uploads) == (0, 2, 2)
    assert await uploads(world) == []
    assert any("rule 22" in line and "aborted" in line for line in story.lines())
    gone = await restore(world.executor, world.store, key="dead", now=world.now)
    assert gone.failed == (("dead", f"its multipart upload was aborted at {world.now:%Y-%m-%d %H:%M} UTC"),)
    assert (await world.run(after=HOUR)).uploads == 0


async def test_freeframe_251_an_upload_that_still_gets_parts_is_not_aged_by_its_beginning(
    plain: World,
) -> None:
    """A part begins its age anew: an upload that is slow for weeks is none that was left."""
    world = plain
    await world.pair("live")
    upload_id = await begin_upload(world.store, "slow", b"part")
    of = bucket_of(world.store)
    await world.run(after=2 * HOUR)
    # The server's clock is the real one: to it, the next part comes a second later.
    (begun,) = [one async for page in world.store.list_uploads() for one in page]
    number = 1
    while True:
        number += 1
        of.client.upload_part(**of.object_params("slow"), UploadId=upload_id, PartNumber=number, Body=b"more")
        (upload,) = [one async for page in world.store.list_uploads() for one in page]
        if await world.store.upload_touched_at(upload) > begun.initiated_at + timedelta(seconds=1):
            break

    report = await world.runs(WEEK, WEEK - HOUR)

    assert (report.uploads, report.aborted_uploads) == (1, 0)
    assert await uploads(world) == ["slow"]


async def test_an_upload_that_gets_a_row_before_its_abort_is_kept(plain: World) -> None:
    """What a row waits for is asked once more right before the abort."""
    world = plain
    await world.pair("live")
    await begin_upload(world.store, "adopted", b"part")
    await world.runs(2 * HOUR, WEEK - HOUR)
    await world.row("adopted", state="pending", created_at=world.now + HOUR)

    report = await world.run(after=HOUR)

    assert (report.uploads, report.aborted_uploads) == (0, 0)
    assert await uploads(world) == ["adopted"]
