"""Multipart uploads that cannot be listed, and the rows that wait for one. Tests on a real server cover the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from adversary import ChaosStore
from world import World

from millhand.orphans import OrphansConfig, explain, reconcile
from millhand.orphans.ledger import Finding
from millhand.orphans.removal.uploads import waits_for
from millhand.orphans.rules import Kind, Reference
from millhand.orphans.sources.statements import ReferenceRow
from millhand.storage import ObjectStore, StoreError, Upload

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
ROW = ReferenceRow(
    created_at=NOW - 70 * DAY,
    deleted_at=None,
    etag=None,
    key="k",
    row_id="1",
    size=None,
    source="uploads",
    state="pending",
    upload_id="mine",
    version="1",
)
SEEN = Finding(
    key="k",
    source="uploads",
    row_id="1",
    kind=Kind.WAITING,
    reference=Reference.PENDING,
    rule=3,
    is_present=False,
    first_seen_at=NOW - 7 * DAY,
    last_seen_at=NOW,
    sightings=1,
    row_version="1",
)


class Closed(ChaosStore):
    """A store that denies the listing of uploads."""

    error = StoreError("list uploads", "AccessDenied: no", is_denied=True)

    async def list_uploads(self, **question: Any) -> AsyncIterator[Sequence[Upload]]:
        raise self.error
        yield ()


class Broken(Closed):
    """A store whose listing of uploads fails."""

    error = StoreError("list uploads", "InternalError: oh")


async def nothing(operation: str) -> None:
    """Do nothing."""


@pytest.mark.slow
async def test_a_denied_listing_of_uploads_does_not_end_the_run(world: World) -> None:
    """A run without permission to list uploads evaluates all objects; another error ends the run."""
    await world.pair("live")

    report = await reconcile(world.executor, Closed(world.store, nothing), world.config, now=world.now)
    with pytest.raises(StoreError, match="InternalError"):
        await reconcile(world.executor, Broken(world.store, nothing), world.config, now=world.now)

    assert (report.state, report.objects, report.uploads) == ("completed", 1, 0)


class Guarded(ChaosStore):
    """A store with three uploads: it describes `hidden` never, and `closed` twice, which is once in each scan."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store, nothing)
        self.described = Counter[str]()
        self.aborted: list[str] = []

    async def list_uploads(self, **question: Any) -> AsyncIterator[Sequence[Upload]]:
        yield [Upload(key=key, upload_id=key, initiated_at=NOW) for key in ("hidden", "closed", "plain")]

    async def upload_touched_at(self, upload: Upload) -> datetime:
        self.described[upload.key] += 1
        if self.described[upload.key] > {"hidden": 0, "closed": 2}.get(upload.key, 9):
            raise StoreError("list parts", "AccessDenied: no", key=upload.key, is_denied=True)
        return NOW

    async def abort_upload(self, upload: Upload) -> bool:
        self.aborted.append(upload.key)
        return True


@pytest.mark.slow
async def test_an_upload_that_the_store_does_not_describe_delays_no_other(world: World) -> None:
    """The run keeps it, whether the store declines in the scan or before the abort, and aborts the other one."""
    await world.pair("live")
    store = Guarded(world.store)

    first = await reconcile(world.executor, store, world.config, now=world.now)
    world.now += 7 * DAY
    second = await reconcile(world.executor, store, world.config, now=world.now)

    explanation = await explain(world.executor, world.store, world.config, "closed", now=world.now)
    reason = "list parts of 'closed' must succeed, got AccessDenied: no"
    assert [(one.state, one.uploads, one.aborted_uploads) for one in (first, second)] == [
        ("completed", 2, 0),
        ("completed", 2, 1),
    ]
    assert [(one.state, one.reason) for one in explanation.actions] == [("kept", reason)]
    assert store.aborted == ["plain"]


@pytest.mark.parametrize(
    ("state", "seen", "upload_id", "is_waiting"),
    [
        ("pending", None, "mine", True),
        ("pending", None, None, True),
        ("pending", 6 * DAY, "mine", True),
        ("pending", 6 * DAY, None, True),
        ("pending", 7 * DAY, "mine", False),
        ("pending", 7 * DAY, None, False),
        ("pending", 6 * DAY, "another", False),
        ("ready", None, "mine", True),
        ("ready", None, None, False),
        ("other", None, "mine", True),
        ("soft_deleted", None, "mine", False),
    ],
)
def test_rule_21_a_row_waits_for_an_upload(
    state: str, seen: timedelta | None, upload_id: str | None, is_waiting: bool
) -> None:
    """
    A pending row within its grace waits for its own upload, or for any upload of its key if it has no upload id.

    Its grace begins with the first sighting, however old the row is.
    """
    row = replace(ROW, state=state, upload_id=upload_id)
    prior = None if seen is None else replace(SEEN, first_seen_at=NOW - seen)

    assert is_awaited(row, prior) is is_waiting


@pytest.mark.parametrize("is_present", [True, False])
def test_rule_21_a_pending_row_that_was_touched_waits_for_a_whole_grace(*, is_present: bool) -> None:
    """An update restarts the age of a pending row, and a later time of the row counts, with and without an object."""
    seen = replace(SEEN, is_present=is_present, modified_at=NOW - 30 * DAY if is_present else None)

    waiting = [
        is_awaited(ROW, seen),
        is_awaited(replace(ROW, version="2"), seen),
        is_awaited(replace(ROW, created_at=NOW - DAY), seen),
        is_awaited(ROW, replace(seen, sightings=0)),
    ]

    assert waiting == [False, True, True, True]


def is_awaited(row: ReferenceRow, prior: Finding | None) -> bool:
    upload = Upload(key="k", upload_id="mine", initiated_at=NOW - 30 * DAY)
    return waits_for(row, upload, prior, complete_run_id=None, config=OrphansConfig(), now=NOW)
