"""Statements about jobs: insert, fetch, complete, and the commands that a person gives."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter, itemgetter

import msgspec

from millhand.errors import JobRunning, NotFound
from millhand.job import AttemptError, ClientId, JobId, JobRow, JobState, Json
from millhand.store.job_row import encode_error, encode_json, parse_job, parse_jobs
from millhand.store.query import Query, Row, parse_count
from millhand.transition import StateChange

# `attempted_by` keeps its newest hundred. Source: River v0.51.2, producer.go `maxAttemptedBy`.
ATTEMPTED_BY_MAX = 100

_WORKING_ORDER = attrgetter("priority", "scheduled_at", "id")


class ScheduledJob(msgspec.Struct, frozen=True):
    """A job that the scheduler has moved: to available, or to discarded if another job holds its unique key."""

    id: JobId
    queue: str
    scheduled_at: datetime
    is_discarded: bool


class Rescue(msgspec.Struct, frozen=True):
    """What becomes of one stuck job. `scheduled_at` is None where it stays as it is."""

    id: JobId
    state: JobState
    error: AttemptError
    finalized_at: datetime | None = None
    scheduled_at: datetime | None = None


def job_get_available(
    *,
    queue: str,
    limit: int,
    client_id: ClientId,
    kinds: Sequence[str] | None = None,
    now: datetime | None = None,
) -> Query[list[JobRow]]:
    """
    Lock up to `limit` available jobs of `queue`, mark them running and count the attempt.

    Rows locked by others are skipped, so concurrent callers never wait and never share a job. With `kinds`, jobs of
    other kinds stay as they are.

    Shape: 0 … `limit` rows, by priority (1 first), then `scheduled_at`, then id. `attempted_by` keeps its last 100.
    Units: `now` is an aware UTC instant; None means the database's own clock.
    Concurrency: must not be cancelled once sent; rows it marked would be stranded until rescued.
    Source: River v0.51.2, river_job.sql `JobGetAvailable`; PostgreSQL, "The Locking Clause", SKIP LOCKED.
    """
    params = {
        "client_id": client_id,
        "kinds": None if kinds is None else list(kinds),
        "limit": limit,
        "max_attempted_by": ATTEMPTED_BY_MAX,
        "now": now,
        "queue": queue,
    }
    return Query("job_get_available", params, parse_fetched)


def job_get_lost(*, queue: str, client_id: ClientId, after: datetime) -> Query[list[JobRow]]:
    """
    Give the jobs of `queue` that are marked running for a client, and were fetched after the instant `after`.

    Shape: by priority, then `scheduled_at`, then id, as they would have been fetched. `after` is an `attempted_at`.
    """
    return Query("job_get_lost", {"after": after, "client_id": client_id, "queue": queue}, parse_fetched)


def job_complete_many(
    *,
    client_id: ClientId,
    ids: Sequence[JobId],
    attempted_ats: Sequence[datetime],
    finalized_ats: Sequence[datetime],
) -> Query[list[JobId]]:
    """
    Mark jobs completed that run for `client_id`: for attempts that succeeded and have no metadata to store.

    Shape: the ids that were written, in no order; missing are those of jobs that run no longer, or for another attempt
    than that of `attempted_ats`. No id comes twice.
    Concurrency: safe to race; a job that somebody else settled, or was given, is left alone.
    """
    triples = sorted(zip(ids, attempted_ats, finalized_ats, strict=True))
    params = {
        "attempted_ats": [*map(itemgetter(1), triples)],
        "client_id": client_id,
        "finalized_ats": [*map(itemgetter(2), triples)],
        "ids": [*map(itemgetter(0), triples)],
    }
    return Query("job_complete_many", params, _parse_ids)


def job_get_locked(ids: Sequence[JobId]) -> Query[list[JobId]]:
    """
    Give those of the jobs that could not be written now without waiting for whoever has locked them.

    Concurrency: locks the others for a moment, if it is not said in a transaction that goes on.
    Source: PostgreSQL, "The Locking Clause", SKIP LOCKED.
    """
    return Query("job_get_locked", {"ids": list(ids)}, _parse_ids)


def job_set_state_if_running_many(
    changes: Sequence[StateChange], *, now: datetime | None = None
) -> Query[list[JobRow]]:
    """
    Write how attempts ended, for jobs that still run for them; merge metadata into those finalized meanwhile.

    A job whose cancellation was asked for meanwhile ends cancelled instead of being tried again. U+0000 and halves of
    surrogate pairs are stored as U+FFFD.

    Shape: one row for each job that exists, written or not, by id. One change a job.
    Units: `now` dates the forced cancels; None means the database's own clock.
    Concurrency: safe to race; a job that was fetched again, or given back, is left alone.
    Source: River v0.51.2, river_job.sql `JobSetStateIfRunningMany`, but for the fence.
    """
    return Query(
        "job_set_state_if_running_many",
        {
            "attempted_ats": [change.attempted_at for change in changes],
            "attempted_bys": [change.attempted_by for change in changes],
            "attempts": [change.attempt for change in changes],
            "errors": [None if change.error is None else encode_error(change.error) for change in changes],
            "finalized_ats": [change.finalized_at for change in changes],
            "ids": [change.id for change in changes],
            "metadatas": [
                None if not change.metadata else encode_json(change.metadata) for change in changes
            ],
            "now": now,
            "scheduled_ats": [change.scheduled_at for change in changes],
            "states": [change.state.value for change in changes],
        },
        parse_jobs,
    )


def job_get_by_id(id: JobId) -> Query[JobRow]:
    """Give one job. Raises: NotFound."""
    return Query("job_get_by_id", {"id": id}, lambda rows: _parse_one(id, rows))


def job_get_by_ids(ids: Collection[JobId]) -> Query[list[JobRow]]:
    """Give those of the jobs that exist, by id."""
    return Query("job_get_by_ids", {"ids": list(ids)}, parse_jobs)


def job_get_cancel_requested(ids: Collection[JobId]) -> Query[list[JobId]]:
    """Give the ids of those of the jobs that are running and whose cancellation was asked for."""
    return Query("job_get_cancel_requested", {"ids": list(ids)}, _parse_ids)


def job_count_by_state(states: Iterable[JobState] = JobState) -> Query[dict[JobState, int]]:
    """
    Count the jobs in each of `states`.

    Shape: every one of `states` is a key, 0 where there is no job. Reads the whole index of a state: ask for few.
    """
    wanted = tuple(states)

    def parse(rows: Sequence[Row]) -> dict[JobState, int]:
        return dict.fromkeys(wanted, 0) | {JobState(state): count for state, count in rows}

    return Query("job_count_by_state", {}, parse, fragments=(("states", state_literals(wanted)),))


def job_cancel(id: JobId, *, now: datetime) -> Query[JobRow]:
    """
    Cancel a job; a running one is only asked to end, through the client that works it.

    A finalized job is given back as it is.

    Units: `now` is the instant kept as `cancel_attempted_at`, and that of the end of a job that is not running.
    Raises: NotFound.
    Concurrency: safe to race; the later of two gets what the earlier has written.
    Source: River v0.51.2, river_job.sql `JobCancel`.
    """
    at = now.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    params = {"id": id, "cancel_attempted_at": at, "now": now}
    return Query("job_cancel", params, lambda rows: _parse_one(id, rows))


def job_retry(id: JobId, *, now: datetime | None = None) -> Query[JobRow]:
    """
    Make a job available at once, with one attempt more if it has none left.

    A running job, and one that is available and due, is given back as it is.

    Raises: NotFound. A unique key that another job holds is a DriverError with the constraint's name.
    Source: River v0.51.2, river_job.sql `JobRetry`.
    """
    return Query("job_retry", {"id": id, "now": now}, lambda rows: _parse_one(id, rows))


def job_delete(id: JobId) -> Query[JobRow]:
    """
    Delete a job that is not running, and give the row that it was.

    Raises: NotFound, JobRunning.
    Source: River v0.51.2, river_job.sql `JobDelete`.
    """

    def parse(rows: Sequence[Row]) -> JobRow:
        job = _parse_one(id, rows)
        if not rows[0][-1]:
            raise JobRunning(id)
        return job

    return Query("job_delete", {"id": id}, parse)


def job_update_output(id: JobId, output: Json) -> Query[JobRow]:
    """Store a job's output, in whatever state the job is. Raises: NotFound."""
    params = {"id": id, "output": encode_json(output)}
    return Query("job_update_output", params, lambda rows: _parse_one(id, rows))


def job_schedule(
    *, now: datetime, limit: int, excluded_ids: Collection[JobId] = (), due_after: datetime | None = None
) -> Query[list[ScheduledJob]]:
    """
    Make scheduled and retryable jobs available whose time has come by `now`, and not before `due_after`, or discard them.

    Discarded is a job whose unique key another holds, or which is not the first of its key in this pass.

    Shape: 0 … `limit` jobs, in no order, none of `excluded_ids`; taken by priority, then `scheduled_at`, then id.
    Units: `now` may lie ahead of the clock by one interval of the scheduler; the fetch holds jobs until they are due.
    Concurrency: safe to race; what another transaction holds is left for the next pass.
    Source: River v0.51.2, river_job.sql `JobSchedule`, which waits.
    """
    params = {"due_after": due_after, "now": now, "limit": limit, "excluded_ids": list(excluded_ids)}
    return Query("job_schedule", params, _parse_scheduled)


def job_get_schedulable(
    *, now: datetime, limit: int, excluded_ids: Collection[JobId] = (), due_after: datetime | None = None
) -> Query[list[JobId]]:
    """
    Give the jobs that `job_schedule` would take, and change nothing; for finding one that cannot be written.

    Shape: 0 … `limit` ids, by priority, then `scheduled_at`, then id.
    """
    params = {"due_after": due_after, "now": now, "limit": limit, "excluded_ids": list(excluded_ids)}
    return Query("job_get_schedulable", params, _parse_ids)


def job_get_stuck(
    *, stuck_horizon: datetime, after_id: JobId, limit: int, due_before: datetime | None = None
) -> Query[list[JobRow]]:
    """
    Give jobs that have been running since before `stuck_horizon`, of those that were due before `due_before`; None: of all.

    Shape: 0 … `limit` rows with ids above `after_id`, by id.
    Source: River v0.51.2, river_job.sql `JobGetStuck`.
    """
    params = {"horizon": stuck_horizon, "after_id": after_id, "due_before": due_before, "limit": limit}
    return Query("job_get_stuck", params, parse_jobs)


def job_rescue_many(rescues: Sequence[Rescue], *, stuck_horizon: datetime) -> Query[list[JobId]]:
    """
    Write what becomes of stuck jobs, of those that are still running and were not fetched again meanwhile.

    Shape: the ids that were written, in no order. `stuck_horizon` is the one that they were chosen by.
    Source: River v0.51.2, river_job.sql `JobRescueMany`.
    """
    return Query(
        "job_rescue_many",
        {
            "errors": [encode_error(rescue.error) for rescue in rescues],
            "finalized_ats": [rescue.finalized_at for rescue in rescues],
            "horizon": stuck_horizon,
            "ids": [rescue.id for rescue in rescues],
            "scheduled_ats": [rescue.scheduled_at for rescue in rescues],
            "states": [rescue.state.value for rescue in rescues],
        },
        _parse_ids,
    )


def job_delete_before(
    *,
    cancelled_horizon: datetime | None,
    completed_horizon: datetime | None,
    discarded_horizon: datetime | None,
    limit: int,
    within: timedelta | None = None,
) -> Query[int]:
    """
    Delete finalized jobs that are older than the horizon of their state, `within` at most, and say how many.

    Shape: at most `limit` at once. A horizon of None keeps all jobs of its state.
    Source: River v0.51.2, river_job.sql `JobDeleteBefore`.
    """
    params = {
        "cancelled_horizon": cancelled_horizon,
        "completed_horizon": completed_horizon,
        "discarded_horizon": discarded_horizon,
        "limit": limit,
        "within": within,
    }
    return Query("job_delete_before", params, parse_count)


def state_literals(states: Iterable[JobState]) -> str:
    """
    Return states as a statement lists them; NULL, which is no state, for none.

    Literals, not params: a cast of texts to states tells the planner nothing about how many rows there are.
    """
    return ", ".join(f"'{state.value}'" for state in states) or "NULL"


def parse_fetched(rows: Sequence[Row]) -> list[JobRow]:
    """Read the jobs of a fetch, in the order in which they are to be worked."""
    # Here and not in SQL: nearly always they are in order, which costs 0.3 µs a job to see, and a sort there 4 µs.
    jobs = parse_jobs(rows)
    jobs.sort(key=_WORKING_ORDER)
    return jobs


def _parse_ids(rows: Sequence[Row]) -> list[JobId]:
    return [*map(itemgetter(0), rows)]


def _parse_one(id: JobId, rows: Sequence[Row]) -> JobRow:
    if not rows:
        raise NotFound("job", id)
    return parse_job(rows[0])


def _parse_scheduled(rows: Sequence[Row]) -> list[ScheduledJob]:
    return [ScheduledJob(*row) for row in rows]
