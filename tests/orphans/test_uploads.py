"""Uploads in parts where they cannot be listed, and whom an upload waits for; the rest is tried on a real server."""

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
    """A store that does not list uploads."""

    error = StoreError("list uploads", "AccessDenied: no", is_denied=True)

    async def list_uploads(self, **question: Any) -> AsyncIterator[Sequence[Upload]]:
        raise self.error
        yield ()


class Broken(Closed):
    """A store that fails at it."""

    error = StoreError("list uploads", "InternalError: oh")


async def nothing(operation: str) -> None:
    """Come between nothing."""


async def test_uploads_that_may_not_be_listed_are_left_alone(world: World) -> None:
    """Whoever may only list objects still gets everything else judged; an error that is none of permission ends the run."""
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
def test_rule_21_whom_an_upload_waits_for(
    state: str, age: timedelta | None, upload_id: str | None, is_waiting: bool
) -> None:
    """A pending row in its grace waits for its own upload, or for any of its key if it knows none; past it, no more."""
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
