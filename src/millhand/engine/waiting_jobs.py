"""The pending jobs of a capability: due jobs of a queue that wait for something else than a free worker."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from millhand.core.job import JobId, JobRow
from millhand.db.query import Query
from millhand.engine.fleet import Runner
from millhand.engine.store.queue_load import DueKind


class WaitingJobs:
    """How such jobs are counted and changed. Where `are_there` is false, no statement may run."""

    async def are_there(self, runner: Runner) -> bool:
        """Return whether the schema has their tables, and this role may read them."""
        raise NotImplementedError

    def count(self, names: Collection[str]) -> Query[Mapping[str, int]]:
        """Return how many jobs wait in those of the queues in which jobs may; above 10,000 for any such number."""
        raise NotImplementedError

    def get_due_kinds(self, names: Collection[str], *, limit: int) -> Query[list[DueKind]]:
        """Return the kinds of the jobs that start next in the queues; `limit` bounds how many are read of each."""
        raise NotImplementedError

    def retry_many(self, ids: Sequence[JobId], *, now: datetime | None = None) -> Query[list[JobRow]]:
        """Let those of the jobs wait for no instant; return those that wait without one now."""
        raise NotImplementedError

    def snooze(self, id: JobId, until: datetime) -> Query[JobRow]:
        """Let a job wait until an instant. Raises: NotFound, JobNotWaiting."""
        raise NotImplementedError
