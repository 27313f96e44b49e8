"""Change jobs one by one, and explain which ones a command left as they were."""

from __future__ import annotations

from collections.abc import Sequence

from millhand.client import Client
from millhand.errors import JobRunning, NotFound, UniqueConflict
from millhand.job import FINALIZED_STATES, JobId, JobRow, JobState

NUM_EXPLAINED = 10


async def change_jobs(client: Client, verb: str, ids: Sequence[JobId]) -> tuple[list[JobRow], list[str]]:
    """Cancel, retry or delete jobs. Return the changed ones, and why others were left."""
    done: list[JobRow] = []
    refusals: list[str] = []
    for id in ids:
        try:
            before = await client.jobs.get(id)
            after = await getattr(client.jobs, verb)(id)
        except (JobRunning, NotFound, UniqueConflict) as error:
            refusals.append(str(error))
            continue
        reason = left_because(verb, before, after)
        if reason is None:
            done.append(after)
        else:
            refusals.append(reason)
    return done, refusals


def left_because(verb: str, before: JobRow, after: JobRow) -> str | None:
    """Return why the job was left as it was; None if it was changed. The rows are those around the change."""
    got = f"got job {after.id} {after.state}"
    if verb == "cancel" and before.state in FINALIZED_STATES:
        return f"job must not be finalized to be cancelled, {got}"
    if verb == "retry" and after.state is JobState.RUNNING:
        return f"job must not be running to be retried, {got}; wait until its attempt ends, or cancel it"
    if verb == "retry" and before.state is JobState.AVAILABLE and after.scheduled_at == before.scheduled_at:
        return f"job must not be due to be retried, {got}; it runs when a client works queue {after.queue!r}"
    if verb == "retry" and after.state is JobState.PENDING and after.scheduled_at == before.scheduled_at:
        return f"job must not wait for a slot to be retried, {got}; see millhand limit show {after.queue}"
    return None


def joined(refusals: Sequence[str]) -> str:
    """Return refusals as one text: the first ones, and the number of the others."""
    rest = len(refusals) - NUM_EXPLAINED
    return "; ".join([*refusals[:NUM_EXPLAINED], *([f"and {rest:,} more"] if rest > 0 else [])])
