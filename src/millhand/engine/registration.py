"""Whether this client stands in `millhand_client`: written by its heartbeat, read by everything that needs the table."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Registration(msgspec.Struct):
    """
    What the last heartbeat of a client found.

    `is_active` says that the tables of line millhand are there and that this client's row was written. `is_alone` says that
    no other client is expected to send heartbeats and none has started or ended within a minute. `steady_since` is the
    instant since which every heartbeat arrived in time; only a client that has one may declare others dead.
    Concurrency: belongs to one event loop. `ClientHeartbeat` is the only writer.
    """

    is_active: bool = False
    is_alone: bool = False
    steady_since: datetime | None = None
