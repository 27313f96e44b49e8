"""
Statements about a leader's term: a lease in one row, by the database's clock.

There are two leadership, each with a row of its own: River's, for which clients of every language bid, and ours.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.job import ClientId
from millhand.store.query import Query, Row, parse_none


class LeaderRole(enum.StrEnum):
    """
    What one client does for all during its term; the value is what the log calls it.

    River's is to sweep its tables, as its clients do too. Ours is to insert the periodic jobs of Python's clients.
    """

    RIVER = "river"
    PERIODIC = "periodic"


class LeaderRow(msgspec.Struct, frozen=True):
    """The row of an leader_role: one term of one client. Instants are aware, to the microsecond."""

    leader_id: ClientId
    elected_at: datetime
    expires_at: datetime


class LeaderSight(msgspec.Struct, frozen=True):
    """
    What a follower sees before it bids.

    `is_known` says that the leader is, or was, a client of ours; `has_made_way` that one of ours gave up a term for
    clients of another language, no longer ago than they are given time to take it. `leader_id` is None if there is no
    row; one whose term is over is there until somebody else is elected, and `vacant_seconds` says since when.
    """

    leader_id: ClientId | None
    is_running: bool
    is_known: bool
    has_made_way: bool
    vacant_seconds: float = 0.0


def leader_attempt_elect(
    *,
    leader_id: ClientId,
    ttl: timedelta,
    now: datetime | None = None,
    leader_role: LeaderRole = LeaderRole.RIVER,
) -> Query[LeaderRow | None]:
    """
    Begin a term of `ttl` if none runs, or only an expired one; None if another leads.

    Concurrency: safe to race; one wins.
    Source: River v0.51.2, river_leader.sql `LeaderAttemptElect`, `LeaderDeleteExpired`.
    """
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
    """
    Renew a term, which then ends `ttl` from now; None if it has expired or was taken.

    Source: River v0.51.2, river_leader.sql `LeaderAttemptReelect`.
    """
    params = {"leader_id": leader_id, "elected_at": elected_at, "ttl": ttl, "now": now}
    return Query("leader_attempt_reelect", params, _parse, fragments=_FRAGMENTS[leader_role])


def leader_delete_expired(
    *, now: datetime | None = None, leader_role: LeaderRole = LeaderRole.RIVER
) -> Query[bool]:
    """Delete a term that has expired, and say whether there was one; `leader_attempt_elect` does not need it."""
    return Query("leader_delete_expired", {"now": now}, bool, fragments=_FRAGMENTS[leader_role])


def leader_get(*, leader_role: LeaderRole = LeaderRole.RIVER) -> Query[LeaderRow | None]:
    """Give the term's row, expired or not; None if nobody leads."""
    return Query("leader_get", {}, _parse, fragments=_FRAGMENTS[leader_role])


def leader_get_seconds_left(
    *, now: datetime | None = None, leader_role: LeaderRole = LeaderRole.RIVER
) -> Query[float | None]:
    """Give how long the term has left, less than nothing if it has expired; None if nobody leads."""
    return Query(
        "leader_get_seconds_left",
        {"now": now},
        lambda rows: rows[0][0] if rows else None,
        fragments=_FRAGMENTS[leader_role],
    )


def leader_get_sight(
    *, client_id: ClientId, patience: timedelta, now: datetime | None = None
) -> Query[LeaderSight]:
    """Give what a follower sees of River's leader_role; needs the tables of clients."""
    params = {"client_id": client_id, "patience": patience, "now": now}
    return Query("leader_get_sight", params, _parse_sight, fragments=_FRAGMENTS[LeaderRole.RIVER])


def leader_request_resign(*, leader_role: LeaderRole = LeaderRole.RIVER) -> Query[None]:
    """
    Ask whoever leads to resign.

    Source: River v0.51.2, client.go `requestResignTx`.
    """
    params = {"payload": '{"action":"request_resign","leader_id":""}'}
    return Query("leader_request_resign", params, parse_none, fragments=_FRAGMENTS[leader_role])


def leader_resign(
    *, leader_id: ClientId, elected_at: datetime, leader_role: LeaderRole = LeaderRole.RIVER
) -> Query[bool]:
    """
    End a term and announce it; False if it was no longer this one, and then nothing is announced.

    Source: River v0.51.2, river_leader.sql `LeaderResign`.
    """
    params = {"leader_id": leader_id, "elected_at": elected_at}
    return Query("leader_resign", params, bool, fragments=_FRAGMENTS[leader_role])


# Not `millhand_leadership`, as River's is called: behind the longest schema a channel's name would be too long.
_FRAGMENTS = {
    LeaderRole.RIVER: (("leader_table", "river_leader"), ("leader_topic", "river_leadership")),
    LeaderRole.PERIODIC: (("leader_table", "millhand_leader"), ("leader_topic", "millhand_leader")),
}


def _parse(rows: Sequence[Row]) -> LeaderRow | None:
    return LeaderRow(*rows[0]) if rows else None


def _parse_sight(rows: Sequence[Row]) -> LeaderSight:
    leader_id, is_running, is_known, has_made_way, vacant_seconds = rows[0]
    return LeaderSight(leader_id, bool(is_running), bool(is_known), has_made_way, vacant_seconds or 0.0)
