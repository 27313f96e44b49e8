"""The errors: groups of failed attempts whose texts differ only in numbers, ids, addresses and quoted texts."""

from __future__ import annotations

from datetime import datetime

import msgspec

from millhand.engine.store.audit import audit_get_shape
from millhand.history.series import RANGES, range_of
from millhand.history.store import history_get
from millhand.shells.web.page import PageRequest
from millhand.web.error_lines import ErrorLine, load_lines


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """
    The groups with an error in a range, or with jobs that wait for a retry; those with most waiting jobs first.

    Without `is_recorded`, run `millhand migrate up`: until then there are only jobs that wait. `is_hidden` says that errors
    are not shown, because a rule hides values that they may repeat. Errors are counted up to `counted_to`, and jobs
    that wait are those of now.
    """

    groups: tuple[ErrorLine, ...]
    ranges: tuple[str, ...]
    range: str
    kind: str | None
    is_recorded: bool
    is_hidden: bool
    counted_to: datetime | None


async def load(request: PageRequest) -> Errors:
    """Load the groups. Raises: ValueError for an unknown range."""
    asked = range_of(request.query.get("range", "24h"))
    kind = request.query.get("kind") or None
    is_recorded = await request.database.has(audit_get_shape)  # of the same migration
    history = await request.database.run(history_get()) if is_recorded else None
    return Errors(
        groups=tuple(await load_lines(request, asked, kind=kind)),
        ranges=tuple(one.name for one in RANGES),
        range=asked.name,
        kind=kind,
        is_recorded=is_recorded,
        is_hidden=not request.hide.is_empty,
        counted_to=None if history is None else history.counted_to,
    )
