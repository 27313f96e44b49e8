"""Statements about clients that died or stopped, and about the jobs that they left running."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.core.client_row import DEAD_AFTER_HEARTBEATS, DEAD_GRACE, SESSION_GRACE
from millhand.core.job import ClientId, JobId, JobRow
from millhand.db.query import Query, Row
from millhand.engine.store.job import Rescue
from millhand.engine.store.job_row import encode_error, parse_job, parse_jobs

# How long a client's process may still run after its row says that it stopped: it waits half a second for threads.
LEAVING = timedelta(seconds=2)


class End(enum.StrEnum):
    """How the client of a running job ended."""

    LOST = "lost"  # it missed heartbeats and was declared dead
    RESTARTED = "restarted"  # a later process uses its id
    STOPPED = "stopped"  # it stopped as requested, and left the job running


class Stranded(msgspec.Struct, frozen=True):
    """A running job without a living client; `at` is the database's instant of the check."""

    job: JobRow
    end: End
    at: datetime


class Losses(msgspec.Struct, frozen=True):
    """
    The result of one check of the fleet.

    The check declared `lost_ids` dead. The next one declares `suspect_ids` dead, unless their heartbeats come.
    `num_recent` counts the clients that started or ended recently.
    Units: `seconds_left` is how soon the next client may become a suspect; None if there is no other client.
    """

    lost_ids: tuple[ClientId, ...]
    suspect_ids: tuple[ClientId, ...]
    num_recent: int
    seconds_left: float | None


def client_declare_lost(
    *,
    id: ClientId,
    steady_since: datetime,
    suspect_ids: Sequence[ClientId],
    recently: timedelta,
    grace: timedelta = DEAD_GRACE,
    now: datetime | None = None,
) -> Query[Losses]:
    """
    Declare those of `suspect_ids` dead that still miss heartbeats, as client `id` sees it.

    Missed heartbeats count from `steady_since` at the earliest. A client that has missed its own heartbeats declares no
    client dead. A client whose session is still open gets `SESSION_GRACE` more.
    Concurrency: safe to race; a client whose heartbeat comes meanwhile is not declared dead.
    """
    params = {
        "grace": grace,
        "id": id,
        "now": now,
        "num_missed": float(DEAD_AFTER_HEARTBEATS),
        "recently": recently,
        "session_grace": SESSION_GRACE,
        "steady_since": steady_since,
        "suspect_ids": list(suspect_ids),
    }
    return Query("client_declare_lost", params, _parse_losses)


def job_get_stranded(
    *,
    after_id: JobId,
    limit: int,
    grace: timedelta = DEAD_GRACE,
    is_full: bool = True,
    now: datetime | None = None,
) -> Query[list[Stranded]]:
    """
    Return running jobs of registered clients that were declared dead, have stopped, or have restarted since the fetch.

    A restart counts only if no two living clients use the id. A client that stopped gets `LEAVING` to end its process.
    Unless `is_full`, the query relies on no job having been fetched before it was due, and reads fewer index entries.
    Shape: 0 … `limit` jobs with ids above `after_id`, by id.
    """
    params = {
        "after_id": after_id,
        "grace": grace,
        "is_full": is_full,
        "leaving": LEAVING,
        "limit": limit,
        "now": now,
        "num_missed": float(DEAD_AFTER_HEARTBEATS),
    }
    return Query("job_get_stranded", params, _parse_stranded)


def job_rescue_stranded_many(jobs: Sequence[JobRow], rescues: Sequence[Rescue]) -> Query[list[JobId]]:
    """Write `rescues`, one for each of `jobs` in order, to jobs whose row still shows the same attempt; return their ids."""
    return Query(
        "job_rescue_stranded_many",
        {
            "attempted_ats": [job.attempted_at for job in jobs],
            "attempted_bys": [job.attempted_by[-1] for job in jobs],
            "attempts": [job.attempt for job in jobs],
            "errors": [encode_error(rescue.error) for rescue in rescues],
            "finalized_ats": [rescue.finalized_at for rescue in rescues],
            "ids": [rescue.id for rescue in rescues],
            "scheduled_ats": [rescue.scheduled_at for rescue in rescues],
            "states": [rescue.state.value for rescue in rescues],
        },
        lambda rows: [JobId(row[0]) for row in rows],
    )


def job_get_stuck_beside_clients(
    *, stuck_horizon: datetime, after_id: JobId, limit: int, due_before: datetime | None = None
) -> Query[list[JobRow]]:
    """Return what `job_get_stuck` returns, without jobs of registered clients, living or dead."""
    params = {"horizon": stuck_horizon, "after_id": after_id, "due_before": due_before, "limit": limit}
    return Query("job_get_stuck_beside_clients", params, parse_jobs)


def job_get_stuck_of_client(
    *,
    client_id: ClientId,
    stuck_horizon: datetime,
    after_id: JobId,
    limit: int,
    due_before: datetime | None = None,
) -> Query[list[JobRow]]:
    """Return what `job_get_stuck` returns, for the jobs of one client."""
    params = {
        "after_id": after_id,
        "client_id": client_id,
        "due_before": due_before,
        "horizon": stuck_horizon,
        "limit": limit,
    }
    return Query("job_get_stuck_of_client", params, parse_jobs)


def _parse_losses(rows: Sequence[Row]) -> Losses:
    lost_ids, suspect_ids, num_recent, seconds_left = rows[0]
    return Losses(tuple(lost_ids), tuple(suspect_ids), num_recent, seconds_left)


def _parse_stranded(rows: Sequence[Row]) -> list[Stranded]:
    return [Stranded(parse_job(row), End(row[-2]), row[-1]) for row in rows]
