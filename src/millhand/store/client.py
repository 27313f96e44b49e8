"""Statements about clients: that they are there, who they are, and who else is. Of their end: `client_end.py`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from millhand.client_row import DEAD_AFTER_HEARTBEATS, DEAD_GRACE, LANGUAGE, ClientRow, state_of
from millhand.job import ClientId
from millhand.store.job_row import parse_object
from millhand.store.query import Query, Row

# River's producers touch the row of their queue every ten minutes, and a little more.
FOREIGN_WITHIN = timedelta(minutes=11)
# A client of ours that has touched the row of a queue says so with its next report.
HEARTBEAT_GRACE = timedelta(seconds=10)
# Of each state the newest attempts: who works much is among them, and who works little is so where nobody works much.
NUM_ATTEMPTS = 500
NUM_DUE = 1_000


class ClientHeartbeatParams(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a client says of itself.

    `queues` are the names with how many jobs at once; `queue_updates` the names with the `updated_at` that this client
    gave to the queue's row last. `has_session` says that the report comes by a session that ends with the client's process.
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
    A report as it was written.

    `before_at` is the start of whoever wrote the row before, this client or another one of the name; None if nobody.
    `seen_at` is when it was written, and `lost_at` when a client of the name was given up last; None if never.
    """

    started_at: datetime
    queue_updates: dict[str, datetime]
    before_at: datetime | None
    seen_at: datetime
    lost_at: datetime | None = None


class Sighting(msgspec.Struct, frozen=True):
    """A client, or the touch of a queue's row, that speaks of somebody who is no client of ours."""

    what: str  # client, queue
    name: str
    seen_at: datetime


def client_get_shape() -> Query[bool]:
    """Say whether the tables of clients are there."""
    return Query("client_get_shape", {}, lambda rows: bool(rows[0][0]))


def client_heartbeat(
    report: ClientHeartbeatParams,
    *,
    started_at: datetime | None,
    age: timedelta = timedelta(0),
    now: datetime | None = None,
) -> Query[HeartbeatResult]:
    """
    Say that a client is there; `started_at` is None for its first report, which begins its life, `age` ago.

    The first report adds the queues that a client of that name touched before; nobody else would own up to them.
    """
    params = heartbeat_params(report, started_at=started_at, age=age, now=now)
    return Query("client_heartbeat", params, parse_heartbeat_result)


def heartbeat_params(
    report: ClientHeartbeatParams, *, started_at: datetime | None, age: timedelta, now: datetime | None
) -> dict[str, object]:
    """Return what a report is written with."""
    return {
        "age": age,
        "grace": DEAD_GRACE,
        "has_session": report.has_session,
        "hostname": report.hostname,
        "id": report.id,
        "kinds": list(report.kinds),
        "language": LANGUAGE,
        "now": now,
        "num_reports": float(DEAD_AFTER_HEARTBEATS),
        "pid": report.pid,
        "queue_updates": _encode({name: _instant(at) for name, at in report.queue_updates.items()}),
        "queues": _encode(dict(report.queues)),
        "heartbeat_interval": report.heartbeat_interval,
        "started_at": started_at,
        "version": report.version,
    }


def parse_heartbeat_result(rows: Sequence[Row]) -> HeartbeatResult:
    """Return a report as its row says, whatever other columns come after it."""
    started_at, seen_at, lost_at, queue_updates, before_at = rows[0][:5]
    return HeartbeatResult(started_at, _parse_instants(queue_updates), before_at, seen_at, lost_at)


def client_stop(*, id: ClientId, started_at: datetime, now: datetime | None = None) -> Query[bool]:
    """Say that a client has stopped; False if its row is gone, or that of another one of its name."""
    return Query("client_stop", {"id": id, "started_at": started_at, "now": now}, bool)


def client_step_down(*, id: ClientId, now: datetime | None = None) -> Query[bool]:
    """Say that a client is about to give up River's term for clients of another language."""
    return Query("client_step_down", {"id": id, "now": now}, bool)


def client_list(*, now: datetime | None = None) -> Query[list[ClientRow]]:
    """Give the clients of ours that are known, by the time of their start; who leads is not looked at."""
    return Query("client_list", {"now": now}, lambda rows: [_parse_row(row) for row in rows])


def client_get_foreign(
    *,
    within: timedelta = FOREIGN_WITHIN,
    now: datetime | None = None,
    report_grace: timedelta = HEARTBEAT_GRACE,
) -> Query[list[Sighting]]:
    """
    Give what was seen, `within` of now, of clients that are not ours.

    A touch of a queue's row that is not older than `report_grace` is left out: one of ours may be about to own up to it.
    """
    params = {"limit": NUM_ATTEMPTS, "now": now, "report_grace": report_grace, "within": within}
    return Query("client_get_foreign", params, lambda rows: [Sighting(*row) for row in rows])


def client_get_unknown_kinds(
    *, kinds: Sequence[str], queues: Sequence[str], now: datetime | None = None
) -> Query[list[str]]:
    """Give kinds that are not among `kinds` and have jobs due in `queues`, as far as the first of each queue tell."""
    params = {"kinds": list(kinds), "limit": NUM_DUE, "now": now, "queues": list(queues)}
    return Query("client_get_unknown_kinds", params, lambda rows: [row[0] for row in rows])


def client_delete_gone(*, last_seen_horizon: datetime) -> Query[list[ClientId]]:
    """Delete clients that have been silent since the horizon, but for those that hold jobs which run."""
    params = {"last_seen_horizon": last_seen_horizon}
    return Query("client_delete_gone", params, lambda rows: [ClientId(row[0]) for row in rows])


def _encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _instant(at: datetime) -> str:
    """Return an instant as `client_get_foreign` writes the one that it looks for."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _parse_instants(text: str) -> dict[str, datetime]:
    """Return what are instants of an object; whose row it was before may have written anything."""
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
    (report_seconds, started_at, last_seen_at, stopped_at, silent_seconds) = row[7:]
    return ClientRow(
        id=id,
        hostname=hostname,
        kinds=tuple(kinds),
        language=language,
        last_seen_at=last_seen_at,
        pid=pid,
        queues=_parse_queues(queues),
        heartbeat_interval=timedelta(seconds=report_seconds),
        started_at=started_at,
        state=state_of(
            is_stopped=stopped_at is not None, report_seconds=report_seconds, silent_seconds=silent_seconds
        ),
        stopped_at=stopped_at,
        version=version,
    )
