"""
Logs code that blocks the event loop, with its line.

A blocked loop looks like an outage from outside: statements time out and heartbeats do not come. One line for each hang
when it is over, and one before for a hang that lasts; a line of code that blocks again and again is logged once a minute.

Concurrency: a thread of its own looks for the line about once a second, and only if the loop is late.
"""

from __future__ import annotations

import threading
import time

import msgspec

from millhand.core.log.logger import logger_of
from millhand.engine.loop_watch import LoopWatch, is_waiting, position_of

logger = logger_of(__name__)

BLOCKED_SECONDS = 1.0
# Logged while it lasts: clients are unresponsive, and leaders lose their terms, after about this time.
LASTING_SECONDS = 10.0
LOOK_SECONDS = 0.9
# A loop that is late by less may just be busy.
LATE_SECONDS = 0.1
AGAIN_SECONDS = 60.0
REMEDY = "write the job as a plain function, which runs in a thread, or await asyncio.to_thread(…) for the blocking call"


class Sight(msgspec.Struct, frozen=True):
    """What the thread saw: when the loop last ran, the line at which it hangs, and whether that was logged."""

    ran_at: float
    at: str
    is_logged: bool


class HangCounts:
    """Counts hangs by place, so that each place is logged once a minute."""

    def __init__(self, again_seconds: float = AGAIN_SECONDS) -> None:
        self._again_seconds = again_seconds
        self._counts: dict[str, tuple[float, int]] = {}

    def add(self, at: str, now: float) -> int:
        """Count a hang; return how many to log, with those that were not logged before, or 0."""
        logged_at, num_unlogged = self._counts.get(at, (float("-inf"), 0))
        if now - logged_at < self._again_seconds:
            self._counts[at] = (logged_at, num_unlogged + 1)
            return 0
        self._counts[at] = (now, 0)
        return num_unlogged + 1


class LoopGuard(LoopWatch):
    """Watches the loop that it is started in, and logs what blocks it. Times are monotonic seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._counts = HangCounts()
        self._over = threading.Event()
        self._sight: Sight | None = None

    async def start(self) -> None:
        await super().start()
        threading.Thread(target=self._look_until, args=(self._over,), name="loop guard", daemon=True).start()

    async def stop(self) -> None:
        self._over.set()
        await super().stop()

    async def run_once(self) -> None:
        late, ran_at, sight = self.seconds, self._ran_at, self._sight
        await super().run_once()
        if sight is None or sight.ran_at != ran_at or late < BLOCKED_SECONDS:
            return
        if sight.is_logged:
            logger.info("event loop runs again", extra={"seconds": round(late, 1), "at": sight.at})
        else:
            self._log(sight.at, late)

    def _look_until(self, ended: threading.Event) -> None:
        while not ended.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        """Note the line at which the loop hangs, if it does."""
        ran_at, late, sight = self._ran_at, self.seconds, self._sight
        if late < LATE_SECONDS or (sight is not None and sight.ran_at == ran_at and sight.is_logged):
            return
        frame = self.frame()
        if is_waiting(frame):
            return
        is_lasting = late >= LASTING_SECONDS
        self._sight = sight = Sight(ran_at, position_of(frame), is_lasting)
        if is_lasting:
            self._log(sight.at, late)

    def _log(self, at: str, late: float) -> None:
        num_hangs = self._counts.add(at, time.monotonic())
        if num_hangs:
            fields = {"seconds": round(late, 1), "at": at, "num_hangs": num_hangs, "remedy": REMEDY}
            logger.warning("event loop blocked", extra=fields)
