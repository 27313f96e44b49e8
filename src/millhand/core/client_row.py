"""The clients of a fleet: registered ones by their rows in `millhand_client`, others by the jobs they work."""

from __future__ import annotations

import enum
from datetime import datetime, timedelta

import msgspec

from millhand.core.job import ClientId

LANGUAGE = "python"
# The list of clients shows a client as unresponsive after so many intervals: one heartbeat may be lost, one may be late.
NUM_MISSED_HEARTBEATS = 3
# A client is a suspect a little sooner: two heartbeats did not come, and the third is not in time either.
DEAD_AFTER_HEARTBEATS = 2
DEAD_GRACE = timedelta(seconds=1)
# A killed process has no session. If PostgreSQL still has one, the process is stalled, or its host died without a reset.
SESSION_GRACE = timedelta(minutes=2)


class ClientState(enum.StrEnum):
    """The state of a client."""

    WORKING = "working"  # its heartbeats arrive
    UNRESPONSIVE = "unresponsive"  # it missed heartbeats or was declared dead, and did not stop in order
    STOPPED = "stopped"
    UNREGISTERED = "unregistered"  # it sends no heartbeats, as clients in another language; seen by its work


class ClientRow(msgspec.Struct, frozen=True, kw_only=True):
    """
    One client that works, or did recently.

    For an unregistered one only the id, the time of its last work and whether it leads are known. `queues` maps names to
    numbers of slots. Instants are aware.
    """

    id: ClientId
    state: ClientState
    last_seen_at: datetime
    is_leader: bool = False
    is_periodic_leader: bool = False
    language: str | None = None
    version: str | None = None
    hostname: str | None = None
    pid: int | None = None
    kinds: tuple[str, ...] = ()
    queues: dict[str, int] = {}
    heartbeat_interval: timedelta | None = None
    started_at: datetime | None = None
    stopped_at: datetime | None = None


def state_of(*, heartbeat_seconds: float, is_stopped: bool, unseen_seconds: float) -> ClientState:
    """Return the state of a client with this heartbeat interval whose last heartbeat is `unseen_seconds` old."""
    if is_stopped:
        return ClientState.STOPPED
    has_missed = unseen_seconds > NUM_MISSED_HEARTBEATS * heartbeat_seconds
    return ClientState.UNRESPONSIVE if has_missed else ClientState.WORKING
