"""Statements about clients: heartbeats, their list, and traces of unregistered ones. For dead ones: `client_end.py`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from millhand.core.client_row import DEAD_AFTER_HEARTBEATS, DEAD_GRACE, LANGUAGE, ClientRow, state_of
from millhand.core.job import ClientId
from millhand.db.query import Query, Row
from millhand.engine.store.job_row import parse_object

# River's producers update the row of their queue every ten minutes, plus jitter.
UNREGISTERED_WITHIN = timedelta(minutes=11)
# A registered client that updated a queue's row declares that in its next heartbeat.
HEARTBEAT_GRACE = timedelta(seconds=10)
# A client that starts or ends changes the fleet for this long: others look for its jobs and are not alone.
RECENTLY = timedelta(minutes=1)
# The newest attempts of each state. A client that works little is among them where no client works much.
NUM_ATTEMPTS = 500
NUM_RUNNING = 10_000


class ClientHeartbeatParams(msgspec.Struct, frozen=True, kw_only=True):
    """
    The contents of a client's heartbeat.

    `queues` maps names to numbers of slots, `queue_updates` maps names to the `updated_at` that this client last gave to the
    queue's row. `has_session` says that the heartbeat's session ends with the client's process.
    """

    id: ClientId
    has_session: bool = False
    hostname: str
    kinds: Sequence[str]
    pid: int
    queue_updates: Mapping[str, datetime]
    queues: Mapping[str, int]
    heartbeat_interval: timedelta
    version: str


class HeartbeatResult(msgspec.Struct, frozen=True):
    """
    A client's row as its heartbeat wrote it.

    `previous_started_at` is the start of the life that wrote the row before, None for a new row. `seen_at` is the time of
    this heartbeat. `lost_at` is the last time that a client of this id was declared dead. `is_alone` says that no other
    client is expected to send heartbeats and that none has started or ended `RECENTLY`. `migrations` is another text after
    each migration.
    """

    started_at: datetime
    queue_updates: dict[str, datetime]
    previous_started_at: datetime | None
    seen_at: datetime
    lost_at: datetime | None = None
    is_alone: bool = False
    migrations: str = ""


class Sighting(msgspec.Struct, frozen=True):
    """An attempt's client, or an update of a queue's row, that belongs to no client in `millhand_client`."""

    what: str  # client, queue
    name: str
    seen_at: datetime


class HeldJobs(msgspec.Struct, frozen=True):
    """The running jobs of one client in one queue, and when the first and the last of them started."""

    client_id: ClientId
    queue: str
    num_running: int
    oldest_at: datetime | None
    newest_at: datetime | None


def client_get_shape() -> Query[bool]:
    """Return whether the tables of clients are there."""
    return Query("client_get_shape", {}, lambda rows: bool(rows[0][0]))


def client_ping() -> Query[bool]:
    """Return True, after a round trip."""
    return Query("client_ping", {}, bool)


def client_heartbeat(
    heartbeat: ClientHeartbeatParams,
    *,
    started_at: datetime | None,
    age: timedelta = timedelta(0),
    now: datetime | None = None,
) -> Query[HeartbeatResult]:
    """
    Write a client's heartbeat; `started_at` is None for its first one, which dates the start of its life `age` before now.

    The first heartbeat keeps the queue updates of an earlier client with this id: no other row declares them.
    """
    params = {
        "age": age,
        "grace": DEAD_GRACE,
        "has_session": heartbeat.has_session,
        "hostname": heartbeat.hostname,
        "id": heartbeat.id,
        "kinds": list(heartbeat.kinds),
        "language": LANGUAGE,
        "now": now,
        "num_missed": float(DEAD_AFTER_HEARTBEATS),
        "pid": heartbeat.pid,
        "queue_updates": _encode({name: _instant(at) for name, at in heartbeat.queue_updates.items()}),
        "queues": _encode(dict(heartbeat.queues)),
        "heartbeat_interval": heartbeat.heartbeat_interval,
        "recently": RECENTLY,
        "started_at": started_at,
        "version": heartbeat.version,
    }
    return Query("client_heartbeat", params, _parse_heartbeat_result)


def client_stop(*, id: ClientId, started_at: datetime, now: datetime | None = None) -> Query[bool]:
    """Mark a client as stopped; False if its row is gone or belongs to another life of the id."""
    return Query("client_stop", {"id": id, "started_at": started_at, "now": now}, bool)


def client_step_down(*, id: ClientId, now: datetime | None = None) -> Query[bool]:
    """Record that a client is about to resign River's term for clients in another language."""
    return Query("client_step_down", {"id": id, "now": now}, bool)


def client_list(*, now: datetime | None = None) -> Query[list[ClientRow]]:
    """Return the registered clients by start time; the fields about leadership keep their defaults."""
    return Query("client_list", {"now": now}, lambda rows: [_parse_row(row) for row in rows])


def client_get_unregistered(
    *,
    within: timedelta = UNREGISTERED_WITHIN,
    now: datetime | None = None,
    heartbeat_grace: timedelta = HEARTBEAT_GRACE,
    has_tables: bool = True,
) -> Query[list[Sighting]]:
    """
    Return traces of clients that are not in `millhand_client`, no older than `within`; without tables, of all clients.

    An update of a queue's row that is younger than `heartbeat_grace` is left out: a registered client may declare it in its
    next heartbeat.
    """
    params = {"heartbeat_grace": heartbeat_grace, "limit": NUM_ATTEMPTS, "now": now, "within": within}
    name = "client_get_unregistered" if has_tables else "client_get_seen"
    return Query(name, params, lambda rows: [Sighting(*row) for row in rows])


def client_get_running() -> Query[list[HeldJobs]]:
    """Return how many jobs each client runs in each queue, of up to `NUM_RUNNING` running jobs."""
    return Query("client_get_running", {"limit": NUM_RUNNING}, lambda rows: [HeldJobs(*row) for row in rows])


def client_delete_gone(*, last_seen_horizon: datetime) -> Query[list[ClientId]]:
    """Delete the rows of clients without a heartbeat since the horizon, except of clients that hold running jobs."""
    params = {"last_seen_horizon": last_seen_horizon}
    return Query("client_delete_gone", params, lambda rows: [ClientId(row[0]) for row in rows])


def _parse_heartbeat_result(rows: Sequence[Row]) -> HeartbeatResult:
    started_at, seen_at, lost_at, queue_updates, previous_started_at, is_alone, migrations = rows[0]
    updates = _parse_instants(queue_updates)
    return HeartbeatResult(
        started_at, updates, previous_started_at, seen_at, lost_at, bool(is_alone), migrations
    )


def _encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _instant(at: datetime) -> str:
    """Return an instant in the form in which `client_get_unregistered` compares it."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _parse_instants(text: str) -> dict[str, datetime]:
    """Return the values of an object that are instants; an earlier writer of the row may have written anything."""
    instants = {}
    for name, value in parse_object(text).items():
        with contextlib.suppress(msgspec.ValidationError):
            at = msgspec.convert(value, datetime)
            if at.tzinfo is not None:
                instants[name] = at
    return instants


def _parse_queues(text: str) -> dict[str, int]:
    return {name: value for name, value in parse_object(text).items() if type(value) is int}


def _parse_row(row: Row) -> ClientRow:
    (id, language, version, hostname, pid, kinds, queues) = row[:7]
    (heartbeat_seconds, started_at, last_seen_at, stopped_at, unseen_seconds) = row[7:]
    return ClientRow(
        id=id,
        hostname=hostname,
        kinds=tuple(kinds),
        language=language,
        last_seen_at=last_seen_at,
        pid=pid,
        queues=_parse_queues(queues),
        heartbeat_interval=timedelta(seconds=heartbeat_seconds),
        started_at=started_at,
        state=state_of(
            heartbeat_seconds=heartbeat_seconds,
            is_stopped=stopped_at is not None,
            unseen_seconds=unseen_seconds,
        ),
        stopped_at=stopped_at,
        version=version,
    )
