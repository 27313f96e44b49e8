"""The queues: what waits in each, which clients work it, and what limits it."""

from __future__ import annotations

import msgspec

from millhand.engine.fleet import load_fleet
from millhand.engine.queue_report import QueueReport, load_reports
from millhand.engine.store.queue_load import COUNTED_MAX, queue_list_names
from millhand.limits.page import waiting_jobs_in
from millhand.shells.settings.web_user import User
from millhand.shells.web.page import PageRequest
from millhand.web.queue_rates import QueueRate, load_rates

PAGE_SIZE = 100


class Queues(msgspec.Struct, frozen=True, kw_only=True):
    """
    Up to 100 queues by name. A number of jobs above `counted_max` stands for any such number.

    `after` is the cursor of the next page, None after the last one. Without `is_registering`, run `millhand migrate up`:
    then the clients in Python register, and their slots and kinds are known. `rates` are those of the last ten minutes, by
    queue; it is empty while the history has less. `has_limits` says that the tables of limits are there.
    """

    queues: tuple[QueueReport, ...]
    rates: dict[str, QueueRate] = msgspec.field(default_factory=dict)
    after: str | None
    counted_max: int = COUNTED_MAX
    is_registering: bool
    has_limits: bool = False


async def load(request: PageRequest) -> Queues:
    """Load a page of queues."""
    after, among = request.query.get("after", ""), request.user.queues
    names = await request.database.run(queue_list_names(after_name=after, limit=PAGE_SIZE, among=among))
    fleet = await load_fleet(request.database, request.now)
    waiting = await waiting_jobs_in(request.database)
    reports = await load_reports(request.database, fleet, names, waiting=waiting)
    queues = tuple(seen_by(request.user, one) for one in reports)
    return Queues(
        queues=queues,
        rates=await load_rates(request.database, queues, request.now),
        after=names[-1] if len(names) == PAGE_SIZE else None,
        is_registering=fleet.is_registering,
        has_limits=waiting is not None,
    )


def seen_by(user: User, report: QueueReport) -> QueueReport:
    """Return a report without the kinds that the user may not see."""
    if report.unknown_kinds is None:
        return report
    kinds = tuple(kind for kind in report.unknown_kinds if user.sees_kind(kind))
    return msgspec.structs.replace(report, unknown_kinds=kinds)
