"""Tells hooks of fetches, if there are any that want to know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from millhand.hooks import FetchMetric, Hook, overrides
from millhand.runtime.failure import is_from_outside, safe_str

logger = logging.getLogger(__name__)


def fetch_listener(queue: str, hooks: Sequence[Hook]) -> Callable[[int, float], None] | None:
    """Return what a producer tells of its fetches, how many jobs in how many seconds; None if nobody wants to know."""
    wanting = [hook for hook in hooks if overrides(hook, "metric_emit")]
    if not wanting:
        return None

    def tell(num_jobs: int, seconds: float) -> None:
        metric = FetchMetric(num_jobs=num_jobs, queue=queue, seconds=seconds)
        for hook in wanting:
            try:
                hook.metric_emit(metric)
            except BaseException as error:  # a hook of a user's, and the fetch has taken its jobs
                if is_from_outside(error):
                    raise
                fields = {"queue": queue, "error_type": type(error).__name__, "error": safe_str(error)}
                logger.exception("metric hook failed", extra=fields)

    return tell
