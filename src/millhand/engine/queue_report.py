"""What waits in each queue, which clients work it, and what limits it; the web page and `millhand queue list` show it."""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec

from millhand.core.job import ClientId, Json
from millhand.engine.fleet import Fleet, Runner
from millhand.engine.store.queue_load import DueKind, QueueLoad, queue_get_due_kinds, queue_get_loads
from millhand.engine.waiting_jobs import WaitingJobs

# Of each queue in a list. Jobs of a kind that no client works collect at the front of their queue.
NUM_DUE_LISTED = 200


UNKNOWN_KINDS_REMEDY = (
    "add a worker with @workers.add(), in the module of the configuration or with workers.include(…) of another module's, "
    "or let a client that knows the kind work the queue"
)
BUILT_IN_ONLY_REMEDY = (
    "name your configuration: millhand worker MODULE:CONFIG; this worker has the built-in kinds alone"
)
BUILT_IN_KINDS = frozenset({"heartbeat", "orphan_cleanup", "orphan_restore"})


class QueueWaitReason(enum.StrEnum):
    """Why the due jobs of a queue wait."""

    PAUSED = "paused"
    NO_CLIENT = "no_client"  # no client, in any language, works the queue
    UNKNOWN_KINDS = "unknown_kinds"  # its clients know none of the kinds among the first due jobs
    SLOTS = "slots"  # all slots of its clients are taken
    LIMIT = "limit"  # its jobs wait for slots of its limit, which all clients share


class QueueReport(msgspec.Struct, frozen=True, kw_only=True):
    """
    One queue. A number of jobs above 10,000 stands for any such number.

    Attributes:
        name: The name of the queue.
        has_row: Whether clients know the queue; else only jobs name it.
        paused_at: When the queue was paused; None if it is not.
        created_at: When the first client worked it.
        updated_at: When its row last changed.
        metadata: The metadata of its row.
        num_available: How many jobs wait for a slot.
        num_retryable: How many failed jobs wait for their next attempt.
        num_running: How many jobs run.
        num_scheduled: How many jobs wait for their time.
        num_waiting: How many due jobs wait for a slot of the queue's limit; None if it has none.
        oldest_available_at: When the oldest available job was due.
        next_scheduled_at: When the next scheduled or retryable job is due.
        clients: The ids of the registered clients that work the queue now; None if no client can register.
        slots: How many jobs these clients run at once; None if no client can register.
        has_other_clients: Whether clients in another language work the queue. Their slots and kinds are unknown.
        limit: Why the due jobs wait; None if none is due, or if nothing that is known holds them.
        unknown_kinds: Kinds among the first due jobs, and those next in partitions of its limit, that no client of the queue
            works; None if other clients may work them.
    """

    name: str
    has_row: bool = True
    paused_at: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    metadata: dict[str, Json] = {}
    num_available: int
    num_retryable: int
    num_running: int
    num_scheduled: int
    num_waiting: int | None = None
    oldest_available_at: datetime | None = None
    next_scheduled_at: datetime | None = None
    clients: tuple[ClientId, ...] | None = None
    slots: int | None = None
    has_other_clients: bool = False
    limit: QueueWaitReason | None = None
    unknown_kinds: tuple[str, ...] | None = None


async def load_reports(
    runner: Runner,
    fleet: Fleet,
    names: Collection[str],
    *,
    num_due: int = NUM_DUE_LISTED,
    waiting: WaitingJobs | None = None,
) -> tuple[QueueReport, ...]:
    """
    Load the reports of the named queues, by name.

    `num_due` is how many due jobs of each are searched for kinds. `waiting` is for a schema with its tables.
    """
    loads = await runner.run(queue_get_loads(names))
    due: defaultdict[str, list[DueKind]] = defaultdict(list)
    for one in await load_due_kinds(runner, names, limit=num_due, waiting=waiting):
        due[one.queue].append(one)
    num_waiting = {} if waiting is None else await runner.run(waiting.count(names))
    return tuple(report(load, fleet, due[load.name], num_waiting.get(load.name)) for load in loads)


async def load_due_kinds(
    runner: Runner, names: Collection[str], *, limit: int, waiting: WaitingJobs | None = None
) -> list[DueKind]:
    """
    Return the kinds among the first due jobs of each queue, and of those of `waiting` that start next.

    A kind may be there twice. `waiting` is for a schema with its tables.
    """
    found = await runner.run(queue_get_due_kinds(names, limit=limit))
    return (
        found if waiting is None else [*found, *await runner.run(waiting.get_due_kinds(names, limit=limit))]
    )


def report(
    load: QueueLoad, fleet: Fleet, due: Sequence[DueKind], num_waiting: int | None = None
) -> QueueReport:
    """Return the report of a queue from its jobs, the fleet, and the kinds among its first due jobs."""
    row, working = load.row, fleet.working(load.name)
    slots = sum(client.queues[load.name] for client in working)
    return QueueReport(
        name=load.name,
        has_row=row is not None,
        paused_at=None if row is None else row.paused_at,
        created_at=None if row is None else row.created_at,
        updated_at=None if row is None else row.updated_at,
        metadata={} if row is None else row.metadata,
        num_available=load.available,
        num_retryable=load.retryable,
        num_running=load.running,
        num_scheduled=load.scheduled,
        num_waiting=num_waiting,
        oldest_available_at=load.oldest_available_at,
        next_scheduled_at=load.next_scheduled_at,
        clients=tuple(client.id for client in working) if fleet.is_registering else None,
        slots=slots if fleet.is_registering else None,
        has_other_clients=load.name in fleet.other_queues,
        limit=_limit(load, fleet, slots, due, has_waiting=bool(num_waiting)),
        unknown_kinds=unknown_kinds(load.name, fleet, due),
    )


def unknown_kinds(queue: str, fleet: Fleet, due: Sequence[DueKind]) -> tuple[str, ...] | None:
    """Return those kinds of a queue's due jobs that no client of the queue works; None if other clients may work them."""
    if not fleet.is_registering or queue in fleet.other_queues:
        return None
    known = {kind for client in fleet.working(queue) for kind in client.kinds}
    return tuple(dict.fromkeys(one.kind for one in due if one.kind not in known))


def _limit(
    load: QueueLoad, fleet: Fleet, slots: int, due: Sequence[DueKind], *, has_waiting: bool
) -> QueueWaitReason | None:
    if not load.available and not has_waiting:
        return None
    if load.row is not None and load.row.is_paused:
        return QueueWaitReason.PAUSED
    at_limit = QueueWaitReason.LIMIT if has_waiting else None
    if load.name in fleet.other_queues:
        return at_limit
    if not fleet.working(load.name):
        return QueueWaitReason.NO_CLIENT
    if due and len(unknown_kinds(load.name, fleet, due) or ()) == len({one.kind for one in due}):
        return QueueWaitReason.UNKNOWN_KINDS
    return QueueWaitReason.SLOTS if load.running >= slots else at_limit
