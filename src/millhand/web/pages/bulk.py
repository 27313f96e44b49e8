"""Changes of many jobs: the list of them, and one with its progress."""

from __future__ import annotations

import msgspec

from millhand.core.errors import NotFound
from millhand.engine.store.bulk_change import (
    BulkChange,
    bulk_change_get,
    bulk_change_get_shape,
    bulk_change_list,
)
from millhand.shells.web.page import PageRequest
from millhand.web.bulk_changes import TYPED_ABOVE, is_visible, may_change


class BulkPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    One change of many jobs.

    `must_type` says that its start needs the number of jobs. `may_change` says that the user may start and stop it.
    """

    change: BulkChange
    num_left: int
    must_type: bool
    may_change: bool


class BulkList(msgspec.Struct, frozen=True, kw_only=True):
    """The newest changes of many jobs. Without `is_recorded`, run `millhand migrate up`."""

    changes: tuple[BulkChange, ...]
    is_recorded: bool


async def load(request: PageRequest) -> BulkPage:
    """Load one change. Raises: NotFound."""
    id = request.path["id"]
    if not await request.database.has(bulk_change_get_shape):
        raise NotFound("bulk change", id)
    change = await request.database.run(bulk_change_get(id))
    if not is_visible(request.user, change):
        raise NotFound("bulk change", id)
    return BulkPage(
        change=change,
        num_left=change.num_left,
        must_type=change.num_left > TYPED_ABOVE,
        may_change=may_change(request.user, change),
    )


async def load_list(request: PageRequest) -> BulkList:
    """Load the newest changes."""
    if not await request.database.has(bulk_change_get_shape):
        return BulkList(changes=(), is_recorded=False)
    changes = await request.database.run(bulk_change_list())
    return BulkList(
        changes=tuple(change for change in changes if is_visible(request.user, change)), is_recorded=True
    )
