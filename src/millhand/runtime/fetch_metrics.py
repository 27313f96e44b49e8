"""Emits the metrics of fetches to the hooks that override `metric_emit`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from millhand.hooks import FetchMetric, Hook, overrides
from millhand.runtime.error_text import is_task_ending, safe_str

logger = logging.getLogger(__name__)


def fetch_metric_emitter(queue: str, hooks: Sequence[Hook]) -> Callable[[int, float], None] | None:
    """Return what a producer calls after a fetch with the number of jobs and seconds; None if no hook wants metrics."""
    listening = [hook for hook in hooks if overrides(hook, "metric_emit")]
    if not listening:
        return None

    def emit(num_jobs: int, seconds: float) -> None:
        metric = FetchMetric(num_jobs=num_jobs, queue=queue, seconds=seconds)
        for hook in listening:
            try:
                hook.metric_emit(metric)
            except BaseException as error:  # the fetched jobs must be worked, whatever a user's hook raises
                if is_task_ending(error):
                    raise
                fields = {"queue": queue, "error_type": type(error).__name__, "error": safe_str(error)}
                logger.exception("metric hook failed", extra=fields)

    return emit
