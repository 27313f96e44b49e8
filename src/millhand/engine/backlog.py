"""State changes that wait to be written, in the order of their hand-over."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from millhand.core.job import JobId
from millhand.core.log.logger import logger_of
from millhand.engine.pending_change import Pending

logger = logger_of(__name__)


class Backlog(dict[JobId, Pending]):
    """One change for each job. Of two attempts of one job, the one fetched later counts."""

    def add(self, one: Pending) -> None:
        other = self.setdefault(one.change.id, one)
        if other is not one:
            older, newer = sorted((other, one), key=Pending.fetched_at)
            self[one.change.id] = newer
            log_too_late(older)

    def take(self, size: int) -> list[Pending]:
        """Remove and return the first changes, at most `size`."""
        if len(self) > size:
            return [self.pop(id) for id in list(itertools.islice(self, size))]
        batch = list(self.values())
        self.clear()
        return batch

    def put_first(self, batch: Iterable[Pending]) -> None:
        """Add changes before all others."""
        newer = list(self.values())
        self.clear()
        self.update((one.change.id, one) for one in batch)
        for one in newer:
            self.add(one)


def log_too_late(one: Pending) -> None:
    logger.warning("outcome came too late", extra=one.fields())
