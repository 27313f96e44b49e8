"""Runs over a bucket with versions on a real S3 server: delete markers as the quarantine, and locked objects."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from adversary import ChaosExecutor, ChaosStore, Killed
from stores import bucket_of
from world import DAY, World

from millhand.orphans import RunReport, explain, reconcile, restore
from millhand.storage import ObjectInfo, ObjectNotFound

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


async def test_a_delete_marker_is_the_quarantine_of_a_bucket_with_versions(versioned: World) -> None:
    """An orphan is hidden in place without a copy, restored unchanged, and purged after its time."""
    world = versioned
    await world.pair("live")
    await world.put("orphan", b"12345")
    await world.put("destroyed", b"bytes")

    hidden = await world.runs(2 * HOUR, WEEK)
    explanation = await explain(world.executor, world.store, world.config, "orphan", now=world.now)
    with pytest.raises(ObjectNotFound):
        await world.store.head("orphan")
    back = await restore(world.executor, world.store, key="orphan", now=world.now)
    again = await restore(world.executor, world.store, key="orphan", now=world.now)
    bytes_back = await world.store.get("orphan")
    await world.row("orphan")
    purged = await world.run(after=WEEK)

    kept = [one async for page in world.store.list_versions() for one in page if not one.key.startswith(".")]
    assert (hidden.deleted, back.restored, again.already, bytes_back) == (2, 1, 1, b"12345")
    assert any("behind its delete marker" in line for line in explanation.lines())
    assert await world.keys(".millhand/quarantine/") == []
    assert (purged.purged, purged.state) == (1, "completed")
    assert sorted((one.key, one.is_delete_marker) for one in kept) == [("live", False), ("orphan", False)]


async def test_a_hidden_object_is_unhidden_when_a_row_references_it(versioned: World) -> None:
    """The next run deletes the marker of a referenced object, and leaves a newer object alone."""
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


async def test_an_upload_between_read_and_delete_is_unhidden_at_once(versioned: World) -> None:
    """If a server ignores `If-Match` and the marker hides a new upload, the run deletes the marker at once."""
    world = versioned

    class Ignoring(ChaosStore):
        """A server that ignores conditions, and an upload right before each delete."""

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


async def test_an_upload_that_a_killed_run_hid_is_unhidden_by_the_next_run(versioned: World) -> None:
    """If the process dies before it deletes its marker, the next run unhides the upload."""
    world = versioned

    class Dying(ChaosStore):
        """The same server, and a process that is killed after the delete."""

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
    """Do nothing."""


async def test_rule_23_a_locked_object_is_skipped_and_delays_no_other(
    locked: World, caplog: pytest.LogCaptureFixture
) -> None:
    """
    An object under legal hold stays in place, with its row, and `explain` shows why. One that is locked while hidden stays.

    The run removes the others and completes. Without the hold, the next run purges the hidden object.
    """
    world, bucket = locked, bucket_of(locked.store)

    async def hold(status: str) -> None:
        target = bucket.object_params("held after")
        bucket.client.put_object_legal_hold(**target, LegalHold={"Status": status}, VersionId=str(hidden))
        # Unlike S3, this server gives a held version a new date, so the ledger needs that date too.
        versions = [one async for page in world.store.list_versions(prefix="held after") for one in page]
        [held] = [one for one in versions if not one.is_delete_marker]
        dated = "UPDATE {schema}.millhand_orphan_action SET modified_at = $1 WHERE key = 'held after'"
        await world.sql(dated, held.modified_at)

    await world.pair("live")
    for key in ("held after", "free"):
        await world.put(key)
    hidden = (await world.store.head("held after")).version
    for key in ("held before", "held with a row"):
        target = bucket.object_params(key)
        bucket.client.put_object(**target, Body=key.encode(), ObjectLockLegalHoldStatus="ON")
    await world.row("held with a row", state="pending")

    taken = await world.runs(2 * HOUR, WEEK)
    explanations = [
        await explain(world.executor, world.store, world.config, key, now=world.now)
        for key in ("held before", "held with a row")
    ]
    await hold("ON")
    purged = await world.run(after=WEEK)
    await hold("OFF")
    lifted = await world.run(after=HOUR)

    assert (taken.deleted, taken.deleted_rows, taken.kept) == (2, 0, 2)
    for explanation in explanations:
        assert "the object is under legal hold or retention (rule 23)" in "\n".join(explanation.lines())
    assert await world.row_keys() == ["held with a row", "live"]
    assert await world.store.get("held before") == b"held before"
    assert (purged.state, purged.purged, lifted.purged) == ("completed", 1, 1)
    (warning,) = [one for one in caplog.records if one.levelname == "WARNING"]
    assert warning.msg == "orphan cleanup cannot purge objects"
    assert (warning.key, warning.objects) == ("held after", 1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("step", ["begin", "commit", "committed"])
async def test_restore_of_a_hidden_object_goes_on_where_it_was_killed(versioned: World, step: str) -> None:
    """If a restore was killed once the delete marker is gone, a second one inserts the row and records the end."""
    world = versioned
    await world.pair("live")
    await world.put("up/old", b"12345")
    await world.row("up/old", state="pending", created_at=world.now - 30 * DAY, size=5)
    await world.runs(HOUR, WEEK)

    async def die(operation: str) -> None:
        if operation == step:
            raise Killed

    with pytest.raises(Killed):
        await restore(ChaosExecutor(world.executor, die), world.store, key="up/old", now=world.now)
    report = await restore(world.executor, world.store, key="up/old", now=world.now)

    assert (report.failed, report.kept) == ((), 0)
    assert (await world.row_keys(), await world.store.get("up/old")) == (["live", "up/old"], b"12345")


@contextmanager
def denying(world: World, operation: str) -> Iterator[None]:
    """Let S3 deny an operation: ListObjectVersions, or a DeleteObject of a version."""
    events, name = bucket_of(world.store).client.meta.events, f"before-call.s3.{operation}"

    def deny(params: Mapping[str, Any], **_: object) -> tuple[object, Mapping[str, Any]] | None:
        if operation == "DeleteObject" and "versionId=" not in params["url"]:
            return None
        return SimpleNamespace(status_code=403), {
            "Error": {"Code": "AccessDenied", "Message": ""},
            "ResponseMetadata": {"HTTPStatusCode": 403},
        }

    events.register(name, deny)
    yield
    events.unregister(name, deny)


@pytest.mark.parametrize(
    ("operation", "step"), [("ListObjectVersions", "list versions"), ("DeleteObject", "delete version")]
)
async def test_a_run_hides_nothing_that_its_permissions_could_not_bring_back(
    versioned: World, operation: str, step: str
) -> None:
    """Without the right to list or delete versions, a run removes nothing and names the right. With it, it removes."""
    world = versioned
    await world.pair("live")
    await world.put("orphan")
    await world.run(after=2 * HOUR)

    with denying(world, operation):
        denied = await world.run(after=WEEK)
        keys = await world.keys()
    allowed = await world.run(after=HOUR)

    assert (denied.state, denied.deleted, keys) == ("aborted", 0, ["live", "orphan"])
    [reason] = denied.abort_reasons
    assert reason.startswith("the store must bring back an object that it hid behind a delete marker, got: ")
    assert f"{step} must succeed, got AccessDenied" in reason
    assert (allowed.state, allowed.deleted, await world.keys()) == ("completed", 1, ["live"])


async def test_a_run_logs_an_object_that_it_cannot_restore(
    versioned: World, caplog: pytest.LogCaptureFixture
) -> None:
    """If S3 denies to restore a referenced object, the log has its key and the reason, and the next run restores it."""
    world = versioned
    await world.pair("live")
    await world.put("orphan")
    await world.runs(2 * HOUR, WEEK)
    await world.row("orphan")

    with denying(world, "DeleteObject"):
        denied = await world.run(after=HOUR)
    allowed = await world.run(after=HOUR)

    assert (denied.restored, allowed.restored) == (0, 1)
    (warning,) = [one for one in caplog.records if one.msg == "orphan cleanup cannot restore objects"]
    assert (warning.levelname, warning.key, warning.objects) == ("WARNING", "orphan", 1)  # type: ignore[attr-defined]
    assert "AccessDenied" in warning.reason  # type: ignore[attr-defined]


async def test_a_run_whose_rights_are_revoked_hides_no_more_than_a_wave(versioned: World) -> None:
    """If the right to list versions is gone by the first delete, the run ends with its first wave."""
    world = versioned
    await world.pair("live")
    for number in range(25):
        await world.put(f"orphan/{number:02}")
    await world.run(after=2 * HOUR)
    world.now += WEEK
    with ExitStack() as denials:

        async def revoke(operation: str) -> None:
            if operation == "delete":
                denials.pop_all().close()
                denials.enter_context(denying(world, "ListObjectVersions"))

        report = await reconcile(world.executor, ChaosStore(world.store, revoke), world.config, now=world.now)
        left = await world.keys("orphan/")
    later = await world.run(after=HOUR)

    assert (report.state, report.deleted, len(left)) == ("aborted", 0, 15)
    assert report.abort_reasons[0].startswith("a wave must finish without a failure, got list versions")
    assert (later.state, await world.keys()) == ("completed", ["live"])


@pytest.mark.parametrize("moment", [("run", 3), ("delete version", 1)], ids=["before its claim", "after it"])
async def test_a_restore_and_a_purge_of_one_version_at_once_lose_nothing(
    versioned: World, moment: tuple[str, int]
) -> None:
    """A run purges a version that a restore has read of, or is about to unhide: the object is back, and stays."""
    world = versioned
    await world.pair("live")
    await world.put("orphan", b"12345")
    await world.runs(2 * HOUR, WEEK)
    world.now += WEEK + HOUR
    calls: Counter[str] = Counter()
    is_stalled, goes_on = asyncio.Event(), asyncio.Event()
    purging: list[asyncio.Task[RunReport]] = []

    async def stall_the_purge(operation: str) -> None:
        if operation == "delete version":
            is_stalled.set()
            await goes_on.wait()

    async def begin_the_purge(operation: str) -> None:
        calls[operation] += 1
        if (operation, calls[operation]) != moment:
            return
        store = ChaosStore(world.store, stall_the_purge)
        purging.append(asyncio.create_task(reconcile(world.executor, store, world.config, now=world.now)))
        stalling = asyncio.create_task(is_stalled.wait())
        await asyncio.wait([*purging, stalling], return_when=asyncio.FIRST_COMPLETED)
        stalling.cancel()

    report = await restore(
        ChaosExecutor(world.executor, begin_the_purge),
        ChaosStore(world.store, begin_the_purge),
        key="orphan",
        now=world.now,
    )
    goes_on.set()
    [run] = await asyncio.gather(*purging)

    assert (report.restored, report.failed, run.state) == (1, (), "completed")
    assert await world.store.get("orphan") == b"12345"
    states = await world.sql("SELECT state FROM {schema}.millhand_orphan_action WHERE key = 'orphan'")
    assert states == [{"state": "restored"}]
