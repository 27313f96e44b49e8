"""
How long a producer waits after a full fetch before it fetches again.

With jobs shorter than a fetch, only a part of the slots is free at its answer; the rest is free a moment later.
A fetch that does not wait for them leaves them empty until it is answered, and the next one finds only them:

    no pause     fetch 50 ··········▶ 50 jobs run ▏fetch 50 ··········▶ …    50 of 100 slots at a time
    pause        fetch 100 ·········▶ 100 jobs run ▏fetch 100 ·········▶ …   all slots, for a fetch that starts a job later

Rule 1: a pause needs jobs that wait, and recent jobs that took less than half of the wait for a fetch. While jobs are
        longer, the next fetch is under way when their slots become free, and a pause would cost time.
Rule 2: the CPU time that the process used during a fetch is no wait: a busy process needs its next jobs early. It counts
        `BUSY_WEIGHT` times, because other programs may have kept it waiting for that CPU time.
Rule 3: a pause ends when as many slots are free as before the fetch's jobs started, at the latest after a fifth more than
        the longest of the recent jobs took. So a long job costs others less than one fetch.

No job is fetched ahead of a free slot: it would wait here while another client might have a slot.
Times are monotonic seconds. Everything here decides and has no effects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf

# One short job proves nothing if the durations vary. With six instead of four, the gain came later, and was no larger.
NUM_RECENT = 4
# A pause gains below 1.0 if durations are equal, and below 0.8 if they vary. The rest is for a busy machine.
SHARE = 0.5
PATIENCE = 1.2
# In a model, 1 was enough on an idle machine. Where each process gets a quarter of the CPU, it took up to 6 % of the rate.
BUSY_WEIGHT = 3


def pause_seconds(
    recent: Sequence[float], *, num_jobs: int, num_free: int, fetch_seconds: float, busy_seconds: float
) -> float:
    """
    Return the longest pause after a fetch of `num_jobs` that left `num_free` slots free.

    `recent` are the seconds for which jobs had their slots. The fetch took `fetch_seconds`, and the process worked for
    `busy_seconds` of them. Waiting for `num_jobs` slots more pays if they are free before so many would be fetched.
    """
    longest = max(recent, default=inf)
    share = SHARE * min(num_jobs / num_free, 1.0) if num_free else SHARE
    waited = fetch_seconds - BUSY_WEIGHT * busy_seconds
    is_short = len(recent) >= NUM_RECENT and longest < waited * share
    return longest * PATIENCE if is_short else 0.0


class RefetchPause:
    """
    The pause of one producer, from one job of each full fetch. It may last until `until`.

    Concurrency: belongs to one producer, whose fetches come one after the other.
    """

    def __init__(self) -> None:
        self._began = -inf
        self._recent: deque[float] = deque(maxlen=NUM_RECENT)
        self._seconds = inf  # of the job that began at `_began`; infinite while it runs
        self.until = -inf

    def begin(
        self, began: float, *, num_jobs: int, num_free: int, fetch_seconds: float, busy_seconds: float
    ) -> None:
        """Begin the pause after a full fetch, whose jobs began at `began`. The other values are those of `pause_seconds`."""
        self._recent.append(self._seconds)
        self._began, self._seconds = began, inf
        pause = pause_seconds(
            self._recent,
            num_jobs=num_jobs,
            num_free=num_free,
            fetch_seconds=fetch_seconds,
            busy_seconds=busy_seconds,
        )
        self.until = began + pause

    def record_ended(self, now: float) -> None:
        """Record that the last job of the last full fetch has left its slot."""
        self._seconds = now - self._began
