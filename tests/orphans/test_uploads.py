"""Multipart uploads that cannot be listed, and the rows that wait for one. Tests on a real server cover the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from adversary import ChaosStore
from world import World

from millhand.orphans import OrphansConfig, reconcile
from millhand.orphans.removal.uploads import waits_for
from millhand.orphans.sources.statements import ReferenceRow
from millhand.storage import StoreError, Upload

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


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


async def test_a_denied_listing_of_uploads_does_not_end_the_run(world: World) -> None:
    """A run without permission to list uploads evaluates all objects; another error ends the run."""
    await world.pair("live")

    report = await reconcile(world.executor, Closed(world.store, nothing), world.config, now=world.now)
    with pytest.raises(StoreError, match="InternalError"):
        await reconcile(world.executor, Broken(world.store, nothing), world.config, now=world.now)

    assert (report.state, report.objects, report.uploads) == ("completed", 1, 0)


@pytest.mark.parametrize(
    ("state", "age", "upload_id", "is_waiting"),
    [
        ("pending", 6 * DAY, "mine", True),
        ("pending", 6 * DAY, None, True),
        ("pending", 7 * DAY, "mine", False),
        ("pending", 7 * DAY, None, False),
        ("pending", 6 * DAY, "another", False),
        ("pending", None, "mine", True),
        ("ready", 70 * DAY, "mine", True),
        ("ready", 1 * DAY, None, False),
        ("other", 70 * DAY, "mine", True),
        ("soft_deleted", 1 * DAY, "mine", False),
    ],
)
def test_rule_21_a_row_waits_for_an_upload(
    state: str, age: timedelta | None, upload_id: str | None, is_waiting: bool
) -> None:
    """A pending row within its grace waits for its own upload, or for any upload of its key if it has no upload id."""
    row = ReferenceRow(
        created_at=None if age is None else NOW - age,
        deleted_at=None,
        etag=None,
        key="k",
        row_id="1",
        size=None,
        source="uploads",
        state=state,
        upload_id=upload_id,
    )
    upload = Upload(key="k", upload_id="mine", initiated_at=NOW - 30 * DAY)

    assert waits_for(row, upload, OrphansConfig(), NOW) is is_waiting
