"""A report that does on its way what whoever leads would otherwise ask of the database in statements of their own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.store.client import (
    ClientHeartbeatParams,
    HeartbeatResult,
    heartbeat_params,
    parse_heartbeat_result,
)
from millhand.store.query import Query, Row

# Clients that have come or gone so lately are looked after by whoever gives back their jobs.
RECENTLY = timedelta(minutes=1)


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a report is to do on its way: renew the terms that began at these instants, and look for jobs due by `due_before`.

    None leaves a part of it out.
    """

    due_before: datetime | None = None
    periodic_elected_at: datetime | None = None
    periodic_ttl: timedelta
    river_elected_at: datetime | None = None
    river_ttl: timedelta


class ErrandDone(msgspec.Struct, frozen=True, kw_only=True):
    """
    What came of an errand.

    A term that is not renewed is over, or somebody holds its row just now. `is_anything_due` is None if that was not asked.
    `is_alone` says that no other client of ours is expected to report, and that none has come or gone `RECENTLY`.
    """

    is_alone: bool
    is_anything_due: bool | None
    is_periodic_renewed: bool
    is_river_renewed: bool


def client_report_on_errands(
    report: ClientHeartbeatParams,
    errand: Errand,
    *,
    started_at: datetime | None,
    age: timedelta = timedelta(0),
    now: datetime | None = None,
) -> Query[tuple[HeartbeatResult, ErrandDone]]:
    """
    Say that a client is there, as `client_heartbeat` does, and do its errand in the same statement.

    Concurrency: waits for nobody who holds the row of an leader_role; that term is then not renewed.
    """
    params = heartbeat_params(report, started_at=started_at, age=age, now=now) | {
        "due_before": errand.due_before,
        "periodic_elected_at": errand.periodic_elected_at,
        "periodic_ttl": errand.periodic_ttl,
        "recently": RECENTLY,
        "river_elected_at": errand.river_elected_at,
        "river_ttl": errand.river_ttl,
    }
    return Query("client_report_on_errands", params, _parse)


def _parse(rows: Sequence[Row]) -> tuple[HeartbeatResult, ErrandDone]:
    is_river_renewed, is_periodic_renewed, is_anything_due, is_alone = rows[0][5:]
    done = ErrandDone(
        is_alone=is_alone,
        is_anything_due=is_anything_due,
        is_periodic_renewed=is_periodic_renewed,
        is_river_renewed=is_river_renewed,
    )
    return parse_heartbeat_result(rows), done
