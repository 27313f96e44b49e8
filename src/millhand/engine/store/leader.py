"""
Statements about a leader's term: a lease in one row, by the database's clock.

There are two leader roles, each with a table of one row: River's, for which clients of every language bid, and Millhand's.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.core.job import ClientId
from millhand.db.query import Query, Row, parse_none


class LeaderRole(enum.StrEnum):
    """
    What the elected client does for all clients; the value is the log's name of the role.

    RIVER maintains River's tables, whatever the leader's language. PERIODIC inserts the periodic jobs of Python clients.
    """

    RIVER = "river"
    PERIODIC = "periodic"


class LeaderRow(msgspec.Struct, frozen=True):
    """The row of a leader role: one term of one client. Instants are aware, to the microsecond."""

    leader_id: ClientId
    elected_at: datetime
    expires_at: datetime


class LeaderView(msgspec.Struct, frozen=True):
    """
    What a follower sees of River's leader role before it bids.

    `leader_id` is None if there is no row. The row of an expired term stays until the next election; `vacant_seconds` is
    the time since it expired. `is_registered` says that the leader has a row in `millhand_client`. `has_stepped_down` says
    that a registered client resigned its term for others, and that they still have time to take it.
    """

    leader_id: ClientId | None
    is_running: bool
    is_registered: bool
    has_stepped_down: bool
    vacant_seconds: float = 0.0


def leader_attempt_elect(
    *,
    leader_id: ClientId,
    ttl: timedelta,
    now: datetime | None = None,
    leader_role: LeaderRole = LeaderRole.RIVER,
) -> Query[LeaderRow | None]:
    """Begin a term of `ttl` unless another term runs; return None if one does. Concurrency: safe to race."""
    params = {"leader_id": leader_id, "ttl": ttl, "now": now}
    return Query("leader_attempt_elect", params, _parse, fragments=_FRAGMENTS[leader_role])


def leader_attempt_reelect(
    *,
    leader_id: ClientId,
    elected_at: datetime,
    ttl: timedelta,
    now: datetime | None = None,
    leader_role: LeaderRole = LeaderRole.RIVER,
) -> Query[LeaderRow | None]:
    """Renew a term to end `ttl` from now; return None if it has expired or another client was elected."""
    params = {"leader_id": leader_id, "elected_at": elected_at, "ttl": ttl, "now": now}
    return Query("leader_attempt_reelect", params, _parse, fragments=_FRAGMENTS[leader_role])


def leader_get(*, leader_role: LeaderRole = LeaderRole.RIVER) -> Query[LeaderRow | None]:
    """Return the term's row, expired or not; None without one."""
    return Query("leader_get", {}, _parse, fragments=_FRAGMENTS[leader_role])


def leader_get_seconds_left(
    *, now: datetime | None = None, leader_role: LeaderRole = LeaderRole.RIVER
) -> Query[float | None]:
    """Return the seconds until the term expires, negative for an expired one; None without a term."""
    return Query(
        "leader_get_seconds_left",
        {"now": now},
        lambda rows: rows[0][0] if rows else None,
        fragments=_FRAGMENTS[leader_role],
    )


def leader_get_view(
    *, client_id: ClientId, patience: timedelta, now: datetime | None = None
) -> Query[LeaderView]:
    """Return what a follower sees of River's leader role; needs the tables of clients."""
    params = {"client_id": client_id, "patience": patience, "now": now}
    return Query("leader_get_view", params, _parse_view, fragments=_FRAGMENTS[LeaderRole.RIVER])


def leader_request_resign(*, leader_role: LeaderRole = LeaderRole.RIVER) -> Query[None]:
    """Ask the leader to resign. Source: River v0.51.2, client.go `requestResignTx`."""
    params = {"payload": '{"action":"request_resign","leader_id":""}'}
    return Query("leader_request_resign", params, parse_none, fragments=_FRAGMENTS[leader_role])


def leader_resign(
    *, leader_id: ClientId, elected_at: datetime, leader_role: LeaderRole = LeaderRole.RIVER
) -> Query[bool]:
    """End a term and announce that; return False, without an announcement, if it is not the current term."""
    params = {"leader_id": leader_id, "elected_at": elected_at}
    return Query("leader_resign", params, bool, fragments=_FRAGMENTS[leader_role])


# Not `millhand_leadership`: with the longest schema the channel's name would be too long.
_FRAGMENTS = {
    LeaderRole.RIVER: (("leader_table", "river_leader"), ("leader_topic", "river_leadership")),
    LeaderRole.PERIODIC: (("leader_table", "millhand_leader"), ("leader_topic", "millhand_leader")),
}


def _parse(rows: Sequence[Row]) -> LeaderRow | None:
    return LeaderRow(*rows[0]) if rows else None


def _parse_view(rows: Sequence[Row]) -> LeaderView:
    leader_id, is_running, is_registered, has_stepped_down, vacant_seconds = rows[0]
    return LeaderView(
        leader_id, bool(is_running), bool(is_registered), has_stepped_down, vacant_seconds or 0.0
    )
