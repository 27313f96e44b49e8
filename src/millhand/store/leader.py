"""Statements about the leader's term: a lease in one row, by the database's clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.job import ClientId
from millhand.store.query import Query, Row, parse_none


class LeaderRow(msgspec.Struct, frozen=True):
    """The row of `river_leader`: one term of one client. Instants are aware, to the microsecond."""

    leader_id: ClientId
    elected_at: datetime
    expires_at: datetime


def leader_attempt_elect(
    *, leader_id: ClientId, ttl: timedelta, now: datetime | None = None
) -> Query[LeaderRow | None]:
    """
    Begin a term of `ttl` if none runs, or only an expired one; None if another leads.

    Concurrency: safe to race; one wins.
    Source: River v0.51.2, river_leader.sql `LeaderAttemptElect`, `LeaderDeleteExpired`.
    """
    return Query("leader_attempt_elect", {"leader_id": leader_id, "ttl": ttl, "now": now}, _parse)


def leader_attempt_reelect(
    *, leader_id: ClientId, elected_at: datetime, ttl: timedelta, now: datetime | None = None
) -> Query[LeaderRow | None]:
    """
    Renew a term, which then ends `ttl` from now; None if it has expired or was taken.

    Source: River v0.51.2, river_leader.sql `LeaderAttemptReelect`.
    """
    params = {"leader_id": leader_id, "elected_at": elected_at, "ttl": ttl, "now": now}
    return Query("leader_attempt_reelect", params, _parse)


def leader_delete_expired(*, now: datetime | None = None) -> Query[bool]:
    """Delete a term that has expired, and say whether there was one; `leader_attempt_elect` does not need it."""
    return Query("leader_delete_expired", {"now": now}, bool)


def leader_get() -> Query[LeaderRow | None]:
    """Give the term's row, expired or not; None if nobody leads."""
    return Query("leader_get", {}, _parse)


def leader_request_resign() -> Query[None]:
    """
    Ask whoever leads to resign.

    Source: River v0.51.2, client.go `requestResignTx`.
    """
    return Query(
        "leader_request_resign", {"payload": '{"action":"request_resign","leader_id":""}'}, parse_none
    )


def leader_resign(*, leader_id: ClientId, elected_at: datetime) -> Query[bool]:
    """
    End a term and announce it; False if it was no longer this one, and then nothing is announced.

    Source: River v0.51.2, river_leader.sql `LeaderResign`.
    """
    return Query("leader_resign", {"leader_id": leader_id, "elected_at": elected_at}, bool)


def _parse(rows: Sequence[Row]) -> LeaderRow | None:
    return LeaderRow(*rows[0]) if rows else None
