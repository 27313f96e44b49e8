"""The audit: who changed what on the page."""

from __future__ import annotations

import msgspec

from millhand.engine.store.audit import LIMIT_MAX, AuditEntry, audit_get_shape, audit_list
from millhand.shells.web.page import PageRequest


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """
    Changes, newest first.

    `before` is the cursor of the next page, None after the last one. Without `is_recorded`, run `millhand migrate up`:
    until then only the log has the changes. A user with limits sees their own changes only.
    """

    entries: tuple[AuditEntry, ...]
    before: int | None
    is_recorded: bool


async def load(request: PageRequest) -> Audit:
    """Load a page of changes. Raises: ValueError for an invalid cursor."""
    if not await request.database.has(audit_get_shape):
        return Audit(entries=(), before=None, is_recorded=False)
    before = request.query.get("before", "")
    if before and (not before.isdecimal() or int(before[:20]) >= 2**63):
        raise ValueError(f"before must be a cursor of this page, got {before!r}")
    # The subject of another user's change may be outside the limits.
    actor = request.user.name if request.user.is_limited else None
    query = audit_list(before_id=int(before) if before else None, actor=actor)
    entries = await request.database.run(query)
    is_last = len(entries) < LIMIT_MAX
    return Audit(entries=tuple(entries), before=None if is_last else entries[-1].id, is_recorded=True)
