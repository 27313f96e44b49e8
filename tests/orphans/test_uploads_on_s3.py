"""Runs over multipart uploads on a real S3 server."""

from __future__ import annotations

from datetime import timedelta

import pytest
from stores import begin_upload, bucket_of
from world import World

from millhand.orphans import explain, list_findings, restore

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


async def uploads(world: World) -> list[str]:
    """Return the keys of all open uploads."""
    return sorted([one.key async for page in world.store.list_uploads() for one in page])


async def test_rule_21_an_upload_that_a_row_waits_for_is_kept(plain: World) -> None:
    """A pending row within its grace keeps its upload, by id or by key, however old upload and row are."""
    world = plain
    await world.pair("live")
    upload_id = await begin_upload(world.store, "by id", b"part")
    await begin_upload(world.store, "by key", b"part")
    await begin_upload(world.store, "touched", b"part")
    await world.row("touched", state="pending", created_at=world.now - 30 * WEEK)

    for span in (2 * HOUR, WEEK, WEEK):
        await world.sql("DELETE FROM {schema}.uploads WHERE key LIKE 'by %'")
        await world.sql("UPDATE {schema}.uploads SET note = note WHERE key = 'touched'")
        await world.row("by id", state="pending", created_at=world.now + span, upload_id=upload_id)
        await world.row("by key", state="pending", created_at=world.now + span)
        report = await world.run(after=span)

    assert (report.uploads, report.aborted_uploads) == (0, 0)
    assert await uploads(world) == ["by id", "by key", "touched"]


async def test_rules_22_and_25_an_upload_without_a_row_is_aborted_after_grace_and_two_runs(
    plain: World,
) -> None:
    """
    An upload without a row is a candidate first, and is aborted a grace later.

    That of a pending row is a candidate once the grace of the row is over, whatever time the row holds.
    """
    world = plain
    await world.pair("live")
    await begin_upload(world.store, "dead", b"part")
    expired = await begin_upload(world.store, "expired", b"part")
    await world.row("expired", state="pending", created_at=world.now - 30 * WEEK, upload_id=expired)

    first = await world.run(after=2 * HOUR)
    (candidate,) = await list_findings(world.executor, kind="upload")
    early = await world.run(after=WEEK - HOUR)
    due = await world.run(after=HOUR)

    left = await uploads(world)
    explanation = await explain(world.executor, world.store, world.config, "dead", now=world.now)
    last = await world.run(after=WEEK)
    assert (first.uploads, first.aborted_uploads, candidate.rule) == (1, 0, 25)
    assert (early.aborted_uploads, due.uploads, due.aborted_uploads, due.deleted_rows) == (0, 2, 1, 1)
    assert (left, last.aborted_uploads, await uploads(world)) == (["expired"], 1, [])
    assert any("rule 22" in line and "aborted" in line for line in explanation.lines())
    gone = await restore(world.executor, world.store, key="dead", now=world.now)
    aborted_at = world.now - WEEK
    assert gone.failed == (("dead", f"its multipart upload was aborted at {aborted_at:%Y-%m-%d %H:%M} UTC"),)
    assert (await world.run(after=HOUR)).uploads == 0


async def test_freeframe_251_an_upload_is_as_old_as_its_newest_part(plain: World) -> None:
    """Each part restarts the age of an upload, so a slow upload is never aborted."""
    world = plain
    await world.pair("live")
    upload_id = await begin_upload(world.store, "slow", b"part")
    bucket = bucket_of(world.store)
    await world.run(after=2 * HOUR)
    # The server has the real clock, so parts are sent until one is a second newer.
    (begun,) = [one async for page in world.store.list_uploads() for one in page]
    number = 1
    while True:
        number += 1
        bucket.client.upload_part(
            **bucket.object_params("slow"), UploadId=upload_id, PartNumber=number, Body=b"more"
        )
        (upload,) = [one async for page in world.store.list_uploads() for one in page]
        if await world.store.upload_touched_at(upload) > begun.initiated_at + timedelta(seconds=1):
            break

    report = await world.runs(WEEK, WEEK - HOUR)

    assert (report.uploads, report.aborted_uploads) == (1, 0)
    assert await uploads(world) == ["slow"]


async def test_an_upload_that_gets_a_row_before_its_abort_is_kept(plain: World) -> None:
    """The rows of an upload are read again before the abort."""
    world = plain
    await world.pair("live")
    await begin_upload(world.store, "adopted", b"part")
    await world.runs(2 * HOUR, WEEK - HOUR)
    await world.row("adopted", state="pending", created_at=world.now + HOUR)

    report = await world.run(after=HOUR)

    assert (report.uploads, report.aborted_uploads) == (0, 0)
    assert await uploads(world) == ["adopted"]
