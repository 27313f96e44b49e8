"""The queues: what waits in each, which clients work it, and what limits it."""

from __future__ import annotations

import msgspec

from millhand.fleet import load_fleet
from millhand.queue_report import QueueReport, load_reports
from millhand.store.queue_load import COUNTED_MAX, queue_list_names
from millhand.web.page import PageRequest

PAGE_SIZE = 100


class Queues(msgspec.Struct, frozen=True, kw_only=True):
    """
    Up to 100 queues by name. A number of jobs above `counted_max` stands for any such number.

    `after` is the cursor of the next page, None after the last one. Without `is_registering`, run `millhand migrate up`:
    then the clients in Python register, and their slots and kinds are known.
    """

    queues: tuple[QueueReport, ...]
    after: str | None
    counted_max: int = COUNTED_MAX
    is_registering: bool


async def load(request: PageRequest) -> Queues:
    """Load a page of queues."""
    after = request.query.get("after", "")
    listed = await request.database.run(queue_list_names(after_name=after, limit=PAGE_SIZE))
    visible = request.user.queues
    names = listed if visible is None else [name for name in listed if name in visible]
    fleet = await load_fleet(request.database, request.now)
    return Queues(
        queues=await load_reports(request.database, fleet, names),
        after=listed[-1] if len(listed) == PAGE_SIZE else None,
        is_registering=fleet.is_registering,
    )
