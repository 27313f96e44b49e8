"""Statements about clients that are not there any more, and about the jobs that they held."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.client_row import DEAD_AFTER_HEARTBEATS, DEAD_GRACE, SESSION_GRACE
from millhand.job import ClientId, JobId, JobRow
from millhand.store.job import Rescue
from millhand.store.job_row import encode_error, parse_job, parse_jobs
from millhand.store.query import Query, Row

# From when a client has said that it stopped until its process has ended: it waits half a second for threads.
LEAVING = timedelta(seconds=2)


class End(enum.StrEnum):
    """How a client ended, as far as a job that it held is concerned."""

    LOST = "lost"  # it stopped reporting
    RESTARTED = "restarted"  # another life goes by its name
    STOPPED = "stopped"  # in order, and left the job behind


class Stranded(msgspec.Struct, frozen=True):
    """A job that runs for a client which is not at it any more; `at` is when that was seen, by the database's clock."""

    job: JobRow
    end: End
    at: datetime


class Losses(msgspec.Struct, frozen=True):
    """
    What a look at the fleet came to.

    `lost_ids` are the clients that were given up by it, `suspect_ids` those that are to be given up by the next one, if
    they are still silent then; `num_recent` counts all whose life has begun or ended of late.
    Units: `seconds_left` is how soon the next one may have to be suspected; None if there is no other.
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
    Give up those of `suspect_ids` that are silent for too long, as client `id` sees it, which reports since `steady_since`.

    Silence counts from there at the earliest, and nobody is given up by one who is silent himself. Whose session is still
    there has `SESSION_GRACE` more.
    Concurrency: safe to race; a client that reports meanwhile is not given up.
    """
    params = {
        "grace": grace,
        "id": id,
        "now": now,
        "num_reports": float(DEAD_AFTER_HEARTBEATS),
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
    is_whole: bool = True,
    now: datetime | None = None,
) -> Query[list[Stranded]]:
    """
    Give jobs that run for clients of ours which were given up, have stopped or have begun another life since.

    Another life counts once it is certain that the one before is over: that no two clients go by one name.
    One that stopped is given `LEAVING` to end.
    Unless it `is_whole`, it takes for granted that no job was fetched before it was due, and so reads less.
    Shape: 0 … `limit` jobs with ids above `after_id`, by id.
    """
    params = {
        "after_id": after_id,
        "grace": grace,
        "is_whole": is_whole,
        "leaving": LEAVING,
        "limit": limit,
        "now": now,
        "num_reports": float(DEAD_AFTER_HEARTBEATS),
    }
    return Query("job_get_stranded", params, _parse_stranded)


def job_give_back_many(jobs: Sequence[JobRow], rescues: Sequence[Rescue]) -> Query[list[JobId]]:
    """
    Write what becomes of `jobs`, of those that still run for the attempt of which their row tells.

    Shape: the ids that were written, in no order. `rescues` are those of `jobs`, in their order.
    """
    return Query(
        "job_give_back_many",
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
    """Give what `job_get_stuck` gives, but for jobs that run for a client of ours, living or not."""
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
    """Give what `job_get_stuck` gives, of the jobs that run for one client."""
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
