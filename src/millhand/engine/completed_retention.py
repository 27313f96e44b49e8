"""
Decides which jobs a client deletes when they complete.

Rule 1: the worker's setting counts, else the queue's, else the client's.
Rule 2: a row that may yet be read is kept: one with errors, with an output or other metadata of its attempts, of a job
        that a caller awaits, of a periodic job, of a workflow of River Pro, or with a unique key that completed jobs hold.
"""

from __future__ import annotations

from millhand.core.config import Config
from millhand.core.job import AWAITED_KEY, OUTPUT_KEY, JobRow, JobState
from millhand.core.unique import states_mask

# The leader finds the last run of a periodic job by its row, and a workflow of River Pro its jobs.
KEPT_KEYS = frozenset({AWAITED_KEY, OUTPUT_KEY, "periodic", "river:periodic_job_id", "workflow_id"})
_COMPLETED = states_mask([JobState.COMPLETED])


class CompletedRetention:
    """Which completed jobs of one client are kept. Concurrency: belongs to one event loop."""

    def __init__(self, config: Config) -> None:
        self._by_queue = {name: queue.keep_completed for name, queue in config.queue_configs.items()}
        self._config = config
        self._kept: dict[tuple[str, str], bool] = {}  # by kind and queue
        settings = {config.keep_completed, *self._by_queue.values()}
        # Whether no setting lets a job be deleted.
        self.keeps_all = False not in settings | {worker.keep_completed for worker in config.workers}

    def add_queue(self, name: str, *, keep_completed: bool | None) -> None:
        self._by_queue[name] = keep_completed
        self._kept.clear()
        self.keeps_all &= keep_completed is not False

    def keeps(self, row: JobRow) -> bool:
        """Return whether the row stays in the table when its job completes; `row` is as it was fetched."""
        key = (row.kind, row.queue)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = self._setting(*key)
        return kept or bool(row.errors) or _holds_key(row) or not KEPT_KEYS.isdisjoint(row.metadata)

    def _setting(self, kind: str, queue: str) -> bool:
        worker = self._config.workers.get(kind)
        given = None if worker is None else worker.keep_completed
        for setting in (given, self._by_queue.get(queue)):
            if setting is not None:
                return setting
        return self._config.keep_completed


def _holds_key(row: JobRow) -> bool:
    """Return whether the job would hold its unique key when it is completed; one without a mask holds it in every state."""
    return row.unique_key is not None and (row.unique_states is None or bool(row.unique_states & _COMPLETED))
