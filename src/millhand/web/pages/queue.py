"""One queue: what waits in it, the kinds of its due jobs, the clients that work it, and its newest jobs."""

from __future__ import annotations

from datetime import datetime

import msgspec

from millhand.core.errors import NotFound
from millhand.engine.fleet import load_fleet
from millhand.engine.queue_report import QueueReport, report
from millhand.engine.store.client import client_get_running
from millhand.engine.store.queue_load import (
    COUNTED_MAX,
    NUM_DUE,
    QueueJob,
    queue_get_due_kinds,
    queue_get_loads,
    queue_get_newest_jobs,
)
from millhand.limits.page import LimitPage, load_limit
from millhand.limits.report_store import limit_get_due_kinds, limit_get_shape
from millhand.shells.web.page import PageRequest
from millhand.web.pages.fleet import FleetClient, client_seen_by, clients_of
from millhand.web.pages.queues import seen_by
from millhand.web.queue_rates import QueueRate, load_rates

NUM_NEWEST = 20


class QueueKind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind among the first due jobs. `is_worked` is None if clients in another language may work it."""

    kind: str
    num_due: int
    oldest_at: datetime
    is_worked: bool | None


class QueuePage(msgspec.Struct, frozen=True, kw_only=True):
    """
    One queue. A number of jobs above `counted_max` stands for any such number.

    `kinds` are those among the first `num_due` due jobs. `clients` work the queue now, or run jobs of it. `rate` is that of
    the last ten minutes, None while the history has less. `limit` is None if the queue has none; without
    `has_limits`, the tables of limits are not there.
    """

    queue: QueueReport
    rate: QueueRate | None = None
    kinds: tuple[QueueKind, ...]
    clients: tuple[FleetClient, ...]
    newest: tuple[QueueJob, ...]
    num_due: int = NUM_DUE
    counted_max: int = COUNTED_MAX
    is_registering: bool
    limit: LimitPage | None = None
    has_limits: bool = False


async def load(request: PageRequest) -> QueuePage:
    """Load one queue. Raises: NotFound if neither a client nor a job names it, or the user may not see it."""
    name, run = request.path["name"], request.database.run
    user = request.user
    if not user.sees_queue(name):
        raise NotFound("queue", name)
    [queue_load] = await run(queue_get_loads([name]))
    newest = await run(queue_get_newest_jobs(name, limit=NUM_NEWEST))
    if queue_load.row is None and not newest:
        raise NotFound("queue", name)
    fleet = await load_fleet(request.database, request.now)
    due = await run(queue_get_due_kinds([name], limit=NUM_DUE))
    limit = await load_limit(request, name)
    has_limits = await request.database.has(limit_get_shape)
    next_kinds = await run(limit_get_due_kinds([name], limit=NUM_DUE)) if has_limits else []
    queue = report(queue_load, fleet, [*due, *next_kinds], None if limit is None else limit.limit.num_waiting)
    held = await run(client_get_running())
    return QueuePage(
        queue=seen_by(user, queue),
        rate=(await load_rates(request.database, [queue], request.now)).get(name),
        kinds=tuple(
            QueueKind(
                kind=one.kind,
                num_due=one.num_due,
                oldest_at=one.oldest_at,
                is_worked=None if queue.unknown_kinds is None else one.kind not in queue.unknown_kinds,
            )
            for one in due
            if user.sees_kind(one.kind)
        ),
        clients=tuple(
            client_seen_by(user, client)
            for client in clients_of(fleet, held)
            if name in client.running or client.id in (queue.clients or ())
        ),
        newest=tuple(job for job in newest if user.sees_kind(job.kind)),
        is_registering=fleet.is_registering,
        limit=limit,
        has_limits=has_limits,
    )
