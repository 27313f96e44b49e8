"""The fleet: the clients of all languages, who leads, and kinds that no client works."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.core.client_row import ClientRow, ClientState
from millhand.core.job import ClientId
from millhand.engine.fleet import Fleet, load_fleet
from millhand.engine.queue_report import NUM_DUE_LISTED, load_due_kinds, unknown_kinds
from millhand.engine.store.audit import audit_get_shape
from millhand.engine.store.client import HeldJobs, client_get_running
from millhand.engine.store.leader import LeaderRole
from millhand.engine.store.queue_load import DueKind, queue_list_names
from millhand.history.fleet_event import FleetEvent, FleetEventName, fleet_event_list
from millhand.limits.page import waiting_jobs_in
from millhand.shells.settings.web_user import User
from millhand.shells.web.page import PageRequest

NUM_EVENTS = 50
NUM_UNWORKED = 50
_GONE = (ClientState.STOPPED, ClientState.UNRESPONSIVE)


class FleetClient(ClientRow, frozen=True, kw_only=True):
    """A client and the jobs that it runs. `running` maps queues to numbers of running jobs."""

    running: dict[str, int] = msgspec.field(default_factory=dict)
    oldest_running_at: datetime | None = None

    @property
    def num_running(self) -> int:
        return sum(self.running.values())

    @property
    def num_slots(self) -> int:
        return sum(self.queues.values())


class LeaderTerm(msgspec.Struct, frozen=True, kw_only=True):
    """A leader role. `leader_id` is None if no client leads; `elected_at` is when the leader's term began."""

    role: LeaderRole
    leader_id: ClientId | None = None
    elected_at: datetime | None = None
    expires_at: datetime | None = None


class UnworkedKind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of due jobs that no client of their queue works. `has_clients` is whether the queue has any client."""

    kind: str
    queue: str
    num_due: int
    oldest_at: datetime
    has_clients: bool


class FleetPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    The fleet.

    `clients` work now; `gone` stopped or became unresponsive within the last day. Clients in another language do not
    register: they are known by their work, and `other_queues` are the queues that they work.

    `unworked_kinds` are found among the first `num_due` due jobs of each of the first 100 queues; the 50 that wait longest
    are listed, of `num_unworked_kinds`. In `other_queues` they are unknown.

    `events` are the newest of the last day: starts, stops, deaths, elections, and rescued jobs, which a user with limits
    does not see. Without `is_registering`, run `millhand migrate up`: then the clients in Python register.
    """

    clients: tuple[FleetClient, ...]
    gone: tuple[FleetClient, ...]
    leaders: tuple[LeaderTerm, ...]
    other_queues: tuple[str, ...]
    unworked_kinds: tuple[UnworkedKind, ...]
    num_unworked_kinds: int = 0
    events: tuple[FleetEvent, ...] = ()
    num_due: int = NUM_DUE_LISTED
    is_registering: bool


async def load(request: PageRequest) -> FleetPage:
    """Load the fleet."""
    database = request.database
    fleet = await load_fleet(database, request.now)
    user, held = request.user, await database.run(client_get_running())
    clients = [client_seen_by(user, client) for client in clients_of(fleet, held)]
    names = await database.run(queue_list_names(among=user.queues))
    waiting = await waiting_jobs_in(database)
    due = await load_due_kinds(database, names, limit=NUM_DUE_LISTED, waiting=waiting)
    unworked = [one for one in unworked_kinds(fleet, due) if user.sees_kind(one.kind)]
    return FleetPage(
        clients=tuple(client for client in clients if client.state not in _GONE),
        gone=tuple(client for client in clients if client.state in _GONE),
        leaders=_terms(fleet),
        other_queues=tuple(sorted(filter(user.sees_queue, fleet.other_queues))),
        unworked_kinds=tuple(unworked[:NUM_UNWORKED]),
        num_unworked_kinds=len(unworked),
        events=await _events(request),
        is_registering=fleet.is_registering,
    )


def clients_of(fleet: Fleet, held: Sequence[HeldJobs]) -> tuple[FleetClient, ...]:
    """Return the clients with their running jobs; one that is known by its running jobs only is unregistered."""
    by_client: defaultdict[ClientId, list[HeldJobs]] = defaultdict(list)
    for jobs in held:
        by_client[jobs.client_id].append(jobs)
    rows = {row.id: row for row in fleet.clients}
    for id, by_queue in by_client.items():
        seen = [one.newest_at for one in by_queue if one.newest_at is not None]
        if id not in rows and seen:
            rows[id] = ClientRow(id=id, state=ClientState.UNREGISTERED, last_seen_at=max(seen))
    return tuple(
        FleetClient(
            **msgspec.structs.asdict(row),
            running={one.queue: one.num_running for one in by_client[id]},
            oldest_running_at=min((one.oldest_at for one in by_client[id] if one.oldest_at), default=None),
        )
        for id, row in rows.items()
    )


def unworked_kinds(fleet: Fleet, due: Sequence[DueKind]) -> tuple[UnworkedKind, ...]:
    """Return the kinds of due jobs that no client of their queue works, where that is known; what waits longest is first."""
    by_queue: defaultdict[str, list[DueKind]] = defaultdict(list)
    for one in due:
        by_queue[one.queue].append(one)
    found = (
        UnworkedKind(
            kind=one.kind,
            queue=queue,
            num_due=one.num_due,
            oldest_at=one.oldest_at,
            has_clients=bool(fleet.working(queue)),
        )
        for queue, kinds in by_queue.items()
        for one in kinds
        if one.kind in (unknown_kinds(queue, fleet, kinds) or ())
    )
    return tuple(sorted(found, key=lambda one: one.oldest_at))


def client_seen_by(user: User, client: FleetClient) -> FleetClient:
    """Return a client without the queues and kinds that the user may not see."""
    return msgspec.structs.replace(
        client,
        kinds=tuple(filter(user.sees_kind, client.kinds)),
        queues={name: slots for name, slots in client.queues.items() if user.sees_queue(name)},
        running={name: number for name, number in client.running.items() if user.sees_queue(name)},
    )


async def _events(request: PageRequest) -> tuple[FleetEvent, ...]:
    if not await request.database.has(audit_get_shape):  # of the same migration
        return ()
    since = request.now - timedelta(days=1)
    events = await request.database.run(fleet_event_list(since=since, until=request.now, limit=NUM_EVENTS))
    return tuple(
        event for event in events if event.name != FleetEventName.JOBS_RESCUED or not request.user.is_limited
    )


def _terms(fleet: Fleet) -> tuple[LeaderTerm, ...]:
    return tuple(
        LeaderTerm(role=role)
        if row is None
        else LeaderTerm(
            role=role, leader_id=row.leader_id, elected_at=row.elected_at, expires_at=row.expires_at
        )
        for role, row in fleet.leaders.items()
    )
