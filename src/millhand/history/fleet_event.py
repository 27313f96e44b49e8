"""Statements about what happened to clients: starts, stops, deaths, elections and rescues."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from millhand.core.job import ClientId, Json
from millhand.db.query import Query, parse_none
from millhand.engine.store.job_row import encode_json, parse_object
from millhand.history.job_stats import ROWS_MAX


class FleetEventName(enum.StrEnum):
    """What happened. `history_begin` records all but rescues, from the rows of clients and leaders."""

    CLIENT_STARTED = "client_started"
    CLIENT_STOPPED = "client_stopped"
    CLIENT_DECLARED_DEAD = "client_declared_dead"
    LEADER_ELECTED = "leader_elected"
    JOBS_RESCUED = "jobs_rescued"


class FleetEvent(msgspec.Struct, frozen=True):
    """
    An event of a client; `client_id` is empty for rescued jobs of an unknown client.

    `detail` has of a start `language` and `version`, of an election `leader_role`, of a rescue `num_jobs` and `job_ids`.
    """

    at: datetime
    name: str
    client_id: ClientId
    detail: Mapping[str, Json]


def fleet_event_put_many(events: Sequence[FleetEvent]) -> Query[None]:
    """Record events; of a rescue that is recorded again, the one with more jobs stays."""
    params = {
        "ats": [event.at for event in events],
        "client_ids": [event.client_id for event in events],
        "details": [encode_json(dict(event.detail)) for event in events],
        "names": [event.name for event in events],
    }
    return Query("fleet_event_put_many", params, parse_none)


def fleet_event_list(*, since: datetime, until: datetime, limit: int = ROWS_MAX) -> Query[list[FleetEvent]]:
    """Return events from `since` up to `until`, newest first."""
    params = {"limit": min(limit, ROWS_MAX), "since": since, "until": until}
    return Query(
        "fleet_event_list",
        params,
        lambda rows: [FleetEvent(at, name, id, parse_object(detail)) for at, name, id, detail in rows],
    )
