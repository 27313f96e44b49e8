"""The errors: groups of failed attempts whose texts differ only in numbers, ids, addresses and quoted texts."""

from __future__ import annotations

import msgspec

from millhand.web.error_lines import ErrorLine, load_lines
from millhand.web.history_series import RANGES, range_of
from millhand.web.page import PageRequest


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """
    The groups with an error in a range, or with jobs that wait for a retry; those with most waiting jobs first.

    Without `is_recorded`, run `millhand migrate up`: until then there are only jobs that wait. `is_hidden` says that errors
    are not shown, because a rule hides values that they may repeat.
    """

    groups: tuple[ErrorLine, ...]
    ranges: tuple[str, ...]
    range: str
    kind: str | None
    is_recorded: bool
    is_hidden: bool


async def load(request: PageRequest) -> Errors:
    """Load the groups. Raises: ValueError for an unknown range."""
    asked = range_of(request.query.get("range", "24h"))
    kind = request.query.get("kind") or None
    return Errors(
        groups=tuple(await load_lines(request, asked, kind=kind)),
        ranges=tuple(one.name for one in RANGES),
        range=asked.name,
        kind=kind,
        is_recorded=await request.database.has_audit_table(),  # of the same migration
        is_hidden=not request.hide.is_empty,
    )
