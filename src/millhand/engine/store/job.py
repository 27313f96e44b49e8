"""Statements about jobs: fetch, complete, control, schedule, rescue and delete them, and write an attempt's own job."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from millhand.core.errors import JobNotRunning, JobRunning, NotFound
from millhand.core.job import AttemptError, ClientId, JobId, JobRow, JobState, Json
from millhand.core.transition import StateChange, last_attempted_by
from millhand.db.query import Query, Row, parse_count
from millhand.engine.store.fetched_job import fetched_parser
from millhand.engine.store.job_row import encode_error, encode_json, parse_job, parse_jobs

MICROSECOND = timedelta(microseconds=1)
# `attempted_by` keeps its newest hundred. Source: River v0.51.2, producer.go `maxAttemptedBy`.
ATTEMPTED_BY_MAX = 100

PRIORITIES = (1, 2, 3, 4)

# With more queues in one state, the search for ranges would cost as much as a sort of all due jobs.
QUEUES_BY_RANGE = 500

_encode_numbers = msgspec.json.Encoder().encode


class FetchStart(NamedTuple):
    """A position in the order of one queue's jobs of one priority; a fetch reads due jobs after it."""

    at: datetime
    id: int


# One for each of PRIORITIES; None is the beginning.
Starts = tuple[FetchStart | None, FetchStart | None, FetchStart | None, FetchStart | None]
START: Starts = (None, None, None, None)


class CountedFetch(msgspec.Struct, frozen=True):
    """Jobs that were fetched, and how many blocks and entries of the index the search for them read."""

    jobs: list[JobRow]
    num_blocks: int
    num_entries: int


class ScheduledJob(msgspec.Struct, frozen=True):
    """A job that the scheduler has made available, or discarded because another job holds its unique key."""

    id: JobId
    queue: str
    scheduled_at: datetime
    is_discarded: bool


class LockedJob(msgspec.Struct, frozen=True):
    """What a change of many jobs looks at; the other columns may be large."""

    id: JobId
    state: JobState
    queue: str
    scheduled_at: datetime


class Rescue(msgspec.Struct, frozen=True):
    """The new state of one stuck job. `scheduled_at` is None where it stays as it is."""

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
    other kinds are not fetched.
    Shape: by priority (1 first), then `scheduled_at`, then id.
    Units: `now` is an aware UTC instant; None means the database's own clock.
    Concurrency: do not cancel it once sent; the rows that it marked would have to wait for a rescue.
    """
    params = {
        "client_id": client_id,
        "kinds": None if kinds is None else list(kinds),
        "limit": limit,
        "max_attempted_by": ATTEMPTED_BY_MAX,
        "now": now,
        "queue": queue,
    }
    return Query("job_get_available", params, fetched_parser(queue=queue, client_id=client_id))


def job_get_available_counted(fetch: Query[list[JobRow]]) -> Query[CountedFetch]:
    """
    Fetch as `fetch`, a query of `job_get_available`, and count what the search reads.

    PostgreSQL's own counters of the session are read before and after, which needs no privilege and no round trip. They
    stay 0 if `track_counts` is off.
    """

    def parse(rows: Sequence[Row]) -> CountedFetch:
        *_, num_blocks, num_entries = rows[0]
        jobs = [] if rows[0][0] is None else fetch.parse(rows)
        return CountedFetch(jobs, num_blocks, num_entries)

    return Query("job_get_available_counted", fetch.params, parse)


def job_get_available_after(
    starts: Starts,
    *,
    queue: str,
    slack_seconds: float = 0.0,
    limit: int,
    client_id: ClientId,
    kinds: Sequence[str] | None = None,
    now: datetime | None = None,
) -> Query[list[JobRow]]:
    """
    Fetch as `job_get_available`, but only jobs after the start of their priority.

    While a transaction keeps an old snapshot, the index keeps the entries of jobs that were fetched long ago. A fetch from
    the beginning reads them all.

    A start later than `slack_seconds` ago counts as that instant: jobs may be committed in another order than that of
    their instants.
    """
    fetch = job_get_available(queue=queue, limit=limit, client_id=client_id, kinds=kinds, now=now)
    params = {
        **fetch.params,
        "start_ats": [None if start is None else start.at for start in starts],
        "start_ids": [None if start is None else start.id for start in starts],
        "slack_seconds": slack_seconds,
    }
    return Query("job_get_available_after", params, fetch.parse)


def job_get_lost(*, queue: str, client_id: ClientId, after: datetime) -> Query[list[JobRow]]:
    """Return the jobs of `queue` that run for a client and have an `attempted_at` above `after`, in the order of a fetch."""
    params = {"after": after, "client_id": client_id, "queue": queue}
    return Query("job_get_lost", params, fetched_parser(queue=queue, client_id=client_id))


def job_complete_many(
    *,
    client_id: ClientId,
    ids: Sequence[JobId],
    attempted_ats: Sequence[datetime],
    finalized_ats: Sequence[datetime],
) -> Query[list[JobId]]:
    """
    Complete jobs that run for `client_id`: for attempts that succeeded and have no metadata to store.

    Return the ids that were written, in any order. A job that no longer runs, or has another attempt than that of
    `attempted_ats`, is not changed. Each id may come once. Concurrency: safe to race.
    """
    triples = sorted(zip(ids, attempted_ats, finalized_ats, strict=True))
    first_end = min(finalized_ats, default=datetime.min.replace(tzinfo=UTC))
    params = {
        **_own_attempt_params(client_id, triples),
        "ends_after": _array_text([(end - first_end) // MICROSECOND for _, _, end in triples]),
        "first_end": first_end,
    }
    return Query("job_complete_many", params, _parse_array)


def job_delete_completed_many(
    *, client_id: ClientId, ids: Sequence[JobId], attempted_ats: Sequence[datetime]
) -> Query[list[JobId]]:
    """
    Delete jobs that run for `client_id` and whose attempts succeeded, where `job_complete_many` would complete them.

    Return the ids that were deleted, in any order. A job that has an output is not deleted.
    Raises: DriverError if a foreign key of another table refers to one of the jobs. Concurrency: safe to race.
    """
    params = _own_attempt_params(client_id, sorted(zip(ids, attempted_ats, strict=True)))
    return Query("job_delete_completed_many", params, _parse_array)


def _own_attempt_params(client_id: ClientId, attempts: Sequence[Sequence[Any]]) -> dict[str, object]:
    """
    Return the parameters of the fragment `own_attempt`. Each attempt begins with its id and the instant of its fetch.

    A driver needs 0.8 µs to encode an instant, and 0.25 µs for a number in a list. The jobs of a fetch share their instant,
    and numbers are sent as the text of an array.
    """
    numbers: dict[datetime, int] = {}
    fetch_numbers = [numbers.setdefault(attempt[1], len(numbers) + 1) for attempt in attempts]
    return {
        "attempted_ats": list(numbers),
        "client_id": client_id,
        "fetch_numbers": _array_text(fetch_numbers),
        "ids": _array_text([*map(itemgetter(0), attempts)]),
    }


def _array_text(numbers: Sequence[int]) -> str:
    """Return the text of PostgreSQL's array of these numbers. asyncpg needs 0.25 µs for each element of a list."""
    return "{" + _encode_numbers(numbers)[1:-1].decode() + "}"


def job_get_locked(ids: Sequence[JobId]) -> Query[list[JobId]]:
    """
    Return those of the jobs that another transaction has locked.

    Concurrency: locks the other jobs until the end of its own transaction.
    """
    return Query("job_get_locked", {"ids": list(ids)}, _parse_ids)


def job_set_state_if_running_many(
    changes: Sequence[StateChange], *, awaited_ids: Collection[JobId] = (), now: datetime | None = None
) -> Query[list[JobRow]]:
    """
    Write the outcomes of attempts to jobs that still run for them; merge metadata into jobs that were finalized meanwhile.

    A job whose cancellation was requested is cancelled where the outcome would retry it. U+0000 and unpaired surrogates
    are stored as U+FFFD. The clients that await jobs of `awaited_ids` are notified of those that ended.
    Shape: one row for each job that exists, changed or not, by id. One change for each job.
    Units: `now` is the `finalized_at` of such a cancel; None means the database's clock.
    Concurrency: safe to race; a job that was fetched again, or made available, is not changed. River has no such fence.
    """
    return Query(
        "job_set_state_if_running_many",
        {
            "attempted_ats": [change.attempted_at for change in changes],
            "attempted_bys": [change.attempted_by for change in changes],
            "attempts": [change.attempt for change in changes],
            "awaited_ids": sorted(awaited_ids),
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
    """Return one job. Raises: NotFound."""
    return Query("job_get_by_id", {"id": id}, lambda rows: _parse_one(id, rows))


def job_lock(id: JobId) -> Query[JobRow]:
    """Lock a job until the end of the transaction, and return it. Raises: NotFound."""
    return Query("job_lock", {"id": id}, lambda rows: _parse_one(id, rows))


def job_lock_many(ids: Collection[JobId]) -> Query[list[LockedJob]]:
    """
    Lock jobs until the end of the transaction, and return them, in any order.

    Concurrency: leaves jobs that another transaction has locked. So it never waits while it holds locks.
    """
    return Query(
        "job_lock_many",
        {"ids": list(ids)},
        lambda rows: [LockedJob(id, JobState(state), queue, at) for id, state, queue, at in rows],
    )


def job_get_by_ids(ids: Collection[JobId]) -> Query[list[JobRow]]:
    """Return those of the jobs that exist, by id."""
    return Query("job_get_by_ids", {"ids": list(ids)}, parse_jobs)


def job_list_states(ids: Collection[JobId]) -> Query[dict[JobId, JobState]]:
    """Return the states of those of the jobs that exist."""
    return Query(
        "job_list_states", {"ids": list(ids)}, lambda rows: {JobId(id): JobState(state) for id, state in rows}
    )


def job_get_cancel_requested(ids: Collection[JobId]) -> Query[list[JobId]]:
    """Return the ids of those of the jobs that are running and whose cancellation was requested."""
    return Query("job_get_cancel_requested", {"ids": list(ids)}, _parse_ids)


def job_count_by_state(states: Iterable[JobState] = JobState) -> Query[dict[JobState, int]]:
    """Count the jobs in each of `states`. It reads a state's whole index, so name few states."""
    wanted = tuple(states)

    def parse(rows: Sequence[Row]) -> dict[JobState, int]:
        return dict.fromkeys(wanted, 0) | {JobState(state): count for state, count in rows}

    return Query("job_count_by_state", {}, parse, fragments=(("states", state_literals(wanted)),))


def job_cancel(id: JobId, *, now: datetime | None = None) -> Query[JobRow]:
    """
    Cancel a job. A running job is marked, and its client, which is notified, ends the attempt.

    A finalized job is returned unchanged.
    Units: `now` is stored as `cancel_attempted_at`, and as `finalized_at` of a job that is not running. None means the
    database's time.
    Raises: NotFound.
    Concurrency: safe to race; the second of two cancels returns what the first has written.
    """
    return Query("job_cancel", {"id": id, "now": now}, lambda rows: _parse_one(id, rows))


def job_retry(id: JobId, *, keeps_pending: bool = False, now: datetime | None = None) -> Query[JobRow]:
    """
    Make a job available now, with one more attempt if it has none left.

    A job that is running, or available and due, is returned unchanged; with `keeps_pending`, a pending one too.
    Raises: NotFound; DriverError with the constraint's name if another job holds the unique key.
    """
    params = {"id": id, "keeps_pending": keeps_pending, "now": now}
    return Query("job_retry", params, lambda rows: _parse_one(id, rows))


def job_delete(id: JobId) -> Query[JobRow]:
    """Delete a job that is not running, and return its row. Raises: NotFound, JobRunning."""

    def parse(rows: Sequence[Row]) -> JobRow:
        job = _parse_one(id, rows)
        if not rows[0][-1]:
            raise JobRunning(id)
        return job

    return Query("job_delete", {"id": id}, parse)


def job_update_output(id: JobId, output: Json) -> Query[JobRow]:
    """Store a job's output, in any state. Raises: NotFound."""
    params = {"id": id, "output": encode_json(output)}
    return Query("job_update_output", params, lambda rows: _parse_one(id, rows))


def job_complete(
    attempt: JobRow, metadata: Mapping[str, Json], *, now: datetime | None = None
) -> Query[JobRow]:
    """
    Complete the job whose row was fetched as `attempt`, and merge `metadata` into its own.

    Units: `now` is the instant of the completion; None means the database's time.
    Raises: NotFound; JobNotRunning if the job does not run, or was fetched again; then nothing was written.
    Concurrency: safe to race; the second of two waits for the first one's transaction.
    Source: River v0.51.2, job_complete_tx.go `JobCompleteTx`.
    """
    params = {**_attempt_params(attempt, metadata), "now": now}
    return Query("job_complete", params, lambda rows: _parse_attempt(attempt, rows))


def job_merge_metadata(attempt: JobRow, metadata: Mapping[str, Json]) -> Query[JobRow]:
    """
    Merge `metadata` into that of the job whose row was fetched as `attempt`.

    Raises: as `job_complete`. Concurrency: as `job_complete`.
    Source: River v0.51.2, resumable_step_tx.go `resumableSetStepTx`.
    """
    params = _attempt_params(attempt, metadata)
    return Query("job_merge_metadata", params, lambda rows: _parse_attempt(attempt, rows))


def job_schedule(
    *,
    now: datetime,
    limit: int,
    excluded_ids: Collection[JobId] = (),
    due_after: datetime | None = None,
    by_range: bool = False,
) -> Query[list[ScheduledJob]]:
    """
    Make scheduled and retryable jobs available that are due by `now` and not before `due_after`, or discard them.

    A job is discarded if another job holds its unique key, or precedes it with the same key in this pass.
    `by_range` is for a backlog: it does not sort all due jobs. It may return fewer jobs than there are.
    Shape: in any order, none of `excluded_ids`; chosen by priority, then `scheduled_at`, then id.
    Units: `now` may be ahead of the clock by one interval of the scheduler; a fetch waits until a job is due.
    Concurrency: safe to race; a row that another transaction has locked waits for the next pass. River's waits for it.
    """
    params = {"due_after": due_after, "now": now, "limit": limit, "excluded_ids": list(excluded_ids)}
    name = "job_schedule"
    if by_range:
        name, params["queues"] = "job_schedule_by_range", QUEUES_BY_RANGE
    return Query(name, params, lambda rows: [ScheduledJob(*row[:4]) for row in rows])


def job_get_schedulable(
    *, now: datetime, limit: int, excluded_ids: Collection[JobId] = (), due_after: datetime | None = None
) -> Query[list[JobId]]:
    """Return the jobs that `job_schedule` would choose, in order; for the search for a row that cannot be written."""
    params = {"due_after": due_after, "now": now, "limit": limit, "excluded_ids": list(excluded_ids)}
    return Query("job_get_schedulable", params, _parse_ids)


def job_get_stuck(
    *, stuck_horizon: datetime, after_id: JobId, limit: int, due_before: datetime | None = None
) -> Query[list[JobRow]]:
    """
    Return jobs that have been running since before `stuck_horizon` and were due before `due_before`; None means any time.

    The page has ids above `after_id`, by id.
    """
    params = {"horizon": stuck_horizon, "after_id": after_id, "due_before": due_before, "limit": limit}
    return Query("job_get_stuck", params, parse_jobs)


def job_rescue_many(rescues: Sequence[Rescue], *, stuck_horizon: datetime) -> Query[list[JobId]]:
    """
    Rescue stuck jobs that are still running, and were neither fetched again nor are to be cancelled meanwhile.

    Return the ids that were written, in any order. `stuck_horizon` is the one that the jobs were chosen by.
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


class Kept(NamedTuple):
    """
    A condition of SQL on a row of `river_job`: only a job for which it holds may be deleted.

    `only_discarded` says that it concerns discarded jobs alone. It is then checked for the rows of a page, named `job`, and
    need not be one whose rows the planner can estimate.
    """

    condition: str
    only_discarded: bool = False


def job_delete_before(
    *,
    cancelled_horizon: datetime | None,
    completed_horizon: datetime | None,
    discarded_horizon: datetime | None,
    kept: Sequence[Kept] = (),
    limit: int,
    within: timedelta | None = None,
) -> Query[int]:
    """
    Delete up to `limit` finalized jobs that are older than their state's horizon, and return how many.

    A horizon of None keeps all jobs of its state. With `within`, jobs that are older than the horizon by more than that
    are not searched. `kept` says which jobs may be deleted.
    """
    params = {
        "cancelled_horizon": cancelled_horizon,
        "completed_horizon": completed_horizon,
        "discarded_horizon": discarded_horizon,
        "limit": limit,
        "within": within,
    }
    of_all = [one.condition for one in kept if not one.only_discarded]
    of_discarded = [one.condition for one in kept if one.only_discarded]
    fragments = (
        ("may_go", " AND ".join(of_all) or "TRUE"),
        ("discarded_may_go", " AND ".join(of_discarded) or "TRUE"),
    )
    return Query("job_delete_before", params, parse_count, fragments=fragments)


def state_literals(states: Iterable[JobState]) -> str:
    """
    Return states as SQL literals for IN; for no states NULL, which matches nothing.

    Not params: the planner cannot estimate how many rows a cast from text to a state matches.
    """
    return ", ".join(f"'{state.value}'" for state in states) or "NULL"


def _parse_ids(rows: Sequence[Row]) -> list[JobId]:
    return [*map(itemgetter(0), rows)]


def _parse_array(rows: Sequence[Row]) -> list[JobId]:
    """Read ids in one array, which is NULL if there are none."""
    return rows[0][0] or []


def _parse_one(id: JobId, rows: Sequence[Row]) -> JobRow:
    if not rows:
        raise NotFound("job", id)
    return parse_job(rows[0])


def _attempt_params(attempt: JobRow, metadata: Mapping[str, Json]) -> dict[str, object]:
    return {
        "attempted_at": attempt.attempted_at,
        "attempted_by": last_attempted_by(attempt),
        "id": attempt.id,
        "metadata": encode_json(dict(metadata)),
    }


def _parse_attempt(attempt: JobRow, rows: Sequence[Row]) -> JobRow:
    job = _parse_one(attempt.id, rows)
    if not rows[0][-1]:
        state = "running again" if job.state == attempt.state else job.state.value
        raise JobNotRunning(attempt.id, attempt.attempt, state)
    return job
