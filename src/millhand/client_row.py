"""The clients of a fleet, as their rows in `millhand_client` tell, and those of other languages by what they leave."""

from __future__ import annotations

import enum
from datetime import datetime, timedelta

import msgspec

from millhand.job import ClientId

LANGUAGE = "python"
# A client that was silent for so many of its reports is taken for dead: one may be lost, one may be late.
NUM_MISSED_HEARTBEATS = 3
# And its jobs are given to others a little sooner: two reports did not come, and the third is not in time either.
DEAD_AFTER_HEARTBEATS = 2
DEAD_GRACE = timedelta(seconds=1)
# A process that was killed has no session left. One that has is held up, or its host is gone and nobody said so.
SESSION_GRACE = timedelta(minutes=2)


class ClientState(enum.StrEnum):
    """What is known of a client."""

    WORKING = "working"  # it said so a moment ago
    SILENT = "silent"  # it has said nothing for longer than it should, and not that it stops
    STOPPED = "stopped"
    FOREIGN = "foreign"  # it says nothing to us, and was recognised by what it did


class ClientRow(msgspec.Struct, frozen=True, kw_only=True):
    """
    One client, living or of late.

    Of a foreign one nothing is known but its id, when it was seen last, and whether it leads. `queues` are the names
    with how many jobs at once. Instants are aware.
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


def state_of(*, is_stopped: bool, report_seconds: float, silent_seconds: float) -> ClientState:
    """Return the state of a client that reports every `report_seconds` and did last `silent_seconds` ago."""
    if is_stopped:
        return ClientState.STOPPED
    is_silent = silent_seconds > NUM_MISSED_HEARTBEATS * report_seconds
    return ClientState.SILENT if is_silent else ClientState.WORKING
