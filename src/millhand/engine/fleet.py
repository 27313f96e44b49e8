"""The clients of a database, in any language, and the leaders, as rows and traces of work show them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

import msgspec

from millhand.core.client_row import ClientRow, ClientState
from millhand.core.job import ClientId
from millhand.db.query import Query
from millhand.engine.store.client import (
    HEARTBEAT_GRACE,
    client_get_shape,
    client_get_unregistered,
    client_list,
)
from millhand.engine.store.leader import LeaderRole, LeaderRow, leader_get

T = TypeVar("T")

# A leader renews its term to this length, so the end of the term shows when it was last seen.
LEADERSHIP_TERM = timedelta(seconds=15)


class Runner(Protocol):
    """What runs a statement: an executor, or the database of the web page."""

    async def run(self, query: Query[T]) -> T:
        """Run a statement and return what it parsed. Raises: as `Executor.run`."""
        ...


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """
    The clients of a database.

    Attributes:
        clients: The registered clients of the last day by start time, then those that are known only by their work.
        leaders: The term of each leader role that runs, and None for a role that no client leads.
        other_queues: Queues whose row an unregistered client updated lately: clients in another language work them.
        is_registering: Whether Millhand's clients register. Without migrations 2 and 5 of line millhand, all clients
            are known only by their work.
    """

    clients: tuple[ClientRow, ...]
    leaders: dict[LeaderRole, LeaderRow | None]
    other_queues: frozenset[str]
    is_registering: bool

    @property
    def has_others(self) -> bool:
        """Whether there is a trace of a client in another language, which may know any kind."""
        return bool(self.other_queues) or any(row.state is ClientState.UNREGISTERED for row in self.clients)

    def working(self, queue: str) -> tuple[ClientRow, ...]:
        """Return the registered clients that work a queue now."""
        return tuple(row for row in self.clients if row.state is ClientState.WORKING and queue in row.queues)


async def load_fleet(runner: Runner, now: datetime) -> Fleet:
    """Load the clients and the leaders. `now` decides whether a term still runs."""
    is_registering = await runner.run(client_get_shape())
    leaders: dict[LeaderRole, LeaderRow | None] = {LeaderRole.RIVER: None}
    if is_registering:
        leaders[LeaderRole.PERIODIC] = None
    for role in leaders:
        row = await runner.run(leader_get(leader_role=role))
        leaders[role] = row if row is not None and row.expires_at > now else None
    registered = await runner.run(client_list()) if is_registering else []
    grace = HEARTBEAT_GRACE if is_registering else timedelta(0)
    sightings = await runner.run(client_get_unregistered(heartbeat_grace=grace, has_tables=is_registering))
    unregistered = [
        ClientRow(id=ClientId(one.name), state=ClientState.UNREGISTERED, last_seen_at=one.seen_at)
        for one in sightings
        if one.what == "client"
    ]
    return Fleet(
        clients=_mark_leaders([*registered, *unregistered], leaders),
        leaders=leaders,
        other_queues=frozenset(one.name for one in sightings if one.what == "queue"),
        is_registering=is_registering,
    )


def _mark_leaders(
    clients: Sequence[ClientRow], leaders: dict[LeaderRole, LeaderRow | None]
) -> tuple[ClientRow, ...]:
    """Return `clients` with the leaders marked, and River's leader itself if it is none of them."""
    leader, periodic = leaders[LeaderRole.RIVER], leaders.get(LeaderRole.PERIODIC)
    leader_id, periodic_id = (row and row.leader_id for row in (leader, periodic))
    marked = [
        msgspec.structs.replace(row, is_leader=row.id == leader_id, is_periodic_leader=row.id == periodic_id)
        for row in clients
    ]
    if leader is not None and not any(row.is_leader for row in marked):
        seen_at, state = leader.expires_at - LEADERSHIP_TERM, ClientState.UNREGISTERED
        marked.append(ClientRow(id=leader.leader_id, is_leader=True, last_seen_at=seen_at, state=state))
    return tuple(marked)
