"""
Inserts a run of a periodic job before its time: a copy of its last run.

Clients in any language declare periodic jobs in their programs, and store none of it. The last run that a leader inserted
has all that is known: args, options and unique key.

Rule 1: a run is refused while the newest one waits or runs.
Rule 2: the copy has the unique key of its source. So a leader inserts no second run beside it, if the key forbids that.
Rule 3: if a run that has ended holds that key, as with a key by period, the copy gets a key of its own: one such copy waits
        or runs at a time.
Rule 4: a copy is marked in its metadata, and is copied only if no other run is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from millhand.core.errors import MillhandError, NotFound
from millhand.core.insert_opts import InsertParams
from millhand.core.job import CANCEL_REQUESTED_KEY, RESERVED_METADATA_PREFIX, JobId, JobRow, JobState
from millhand.core.near_match import near_match
from millhand.core.schedule import DUE_AT_KEY
from millhand.core.unique import REQUIRED_STATES, states_mask, unique_key
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job import job_get_by_id
from millhand.engine.store.job_insert import job_insert_many
from millhand.engine.store.periodic_job import (
    PERIODIC_KEY,
    RUN_NOW_KEY,
    PeriodicJobId,
    PeriodicRun,
    periodic_job_list_ids,
    periodic_job_list_runs,
)

NUM_RUNS = 24
# What the work of a job writes into its metadata, and the instant of a kept schedule, which has one job.
_WORKED_KEYS = {CANCEL_REQUESTED_KEY, DUE_AT_KEY, "output", "snoozes", "unique_key_conflict"}


class NoRun(NotFound):
    """No run of the periodic job is in the table. `near` is the id of another one that was probably meant."""

    def __init__(self, id: str, near: str | None) -> None:
        super().__init__("periodic job", id)
        remedy = (
            "see: millhand periodic list; if it has not run yet, insert it once: millhand job insert KIND '{…}'"
            if near is None
            else f"did you mean {near!r}?"
        )
        self.args = (f"periodic job must have a run in the table, found none with id {id!r}; {remedy}",)


async def run_periodic_job(
    tx: Executor, id: str, *, is_allowed: Callable[[PeriodicRun | PeriodicJobId], bool] = lambda _source: True
) -> JobRow:
    """
    Insert a run of the periodic job `id` now, and return it.

    `is_allowed` gets the run that is copied, and without one each id that a hint may name.

    Raises: NoRun without a run in the table, or with one that is not allowed; MillhandError if a run waits or runs.
    Concurrency: safe to race; of two calls at once, one inserts.
    """
    runs = await tx.run(periodic_job_list_runs([id], limit=NUM_RUNS))
    if not runs or not is_allowed(source_of(runs)):
        allowed = [one.id for one in await tx.run(periodic_job_list_ids()) if is_allowed(one)]
        raise NoRun(id, near_match(id, allowed))
    if runs[0].state in REQUIRED_STATES:
        raise _still_there(runs[0].id, runs[0].state)
    source = await tx.run(job_get_by_id(source_of(runs).id))
    for params in copies_of(source, id):
        [result] = await tx.run(job_insert_many([params], notify_queues=[params.queue]))
        job = result.job
        if not result.unique_skipped_as_duplicate:
            return job
        if not job.state.is_finalized:
            break
    raise _still_there(job.id, job.state)


def source_of(runs: Sequence[PeriodicRun]) -> PeriodicRun:
    """Return the run that is copied: of runs, newest first, the first one that a leader inserted, or else the first one."""
    return next((run for run in runs if not run.is_run_now), runs[0])


def copies_of(source: JobRow, id: str) -> list[InsertParams]:
    """Return the copies of a run to try in turn: with its unique key, if it has one, and with a key of their own."""
    kept = {
        key: value
        for key, value in source.metadata.items()
        if not key.startswith(RESERVED_METADATA_PREFIX) and key not in _WORKED_KEYS
    }
    metadata = {**kept, "periodic": True, PERIODIC_KEY: id, RUN_NOW_KEY: True}
    copy = InsertParams(
        kind=source.kind,
        encoded_args=source.encoded_args,
        max_attempts=source.max_attempts,
        encoded_metadata=msgspec.json.encode(metadata).decode(),
        priority=source.priority,
        queue=source.queue,
        state=JobState.AVAILABLE,
        tags=source.tags,
        unique_key=unique_key(f"&kind={source.kind}&run_now={id}"),
        unique_states=states_mask(REQUIRED_STATES),
    )
    if source.unique_key is None or source.unique_states is None:
        return [copy]
    as_source = {"unique_key": source.unique_key, "unique_states": source.unique_states}
    return [msgspec.structs.replace(copy, **as_source), copy]


def _still_there(id: JobId, state: JobState) -> MillhandError:
    remedy = "retry it" if state is JobState.RETRYABLE else "wait for its end"
    return MillhandError(f"no run of the periodic job must wait or run, got job {id} {state}; {remedy}")
