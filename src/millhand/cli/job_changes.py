"""Change jobs one by one, and explain which ones a command left as they were."""

from __future__ import annotations

from collections.abc import Sequence

from millhand.client import Client
from millhand.errors import JobRunning, NotFound, UniqueConflict
from millhand.job import JobId, JobRow
from millhand.limited_change import left_because

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


def joined(refusals: Sequence[str]) -> str:
    """Return refusals as one text: the first ones, and the number of the others."""
    rest = len(refusals) - NUM_EXPLAINED
    return "; ".join([*refusals[:NUM_EXPLAINED], *([f"and {rest:,} more"] if rest > 0 else [])])
