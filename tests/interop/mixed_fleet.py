"""
A minute in which leadership moves every second: two clients of each language on one queue, and the result.

Each second is asked to move halfway between two ticks of the periodic jobs, which are due at whole seconds, so that a
hand-over in good time costs none. Beside the jobs that are inserted to be worked there are stuck ones, of the kinds of
either language and of nobody's, for the rescuers of the leader.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from interop_harness import LANGUAGES, Harness, Language, Member, Periodic

from millhand.engine.store.leader import LeaderRole, leader_request_resign

NUM_SECONDS = 60
GO, PYTHON = ("go_1", "go_2"), ("python_1", "python_2")
IDS: dict[Language, tuple[str, str]] = {"go": GO, "python": PYTHON}
KINDS: dict[Language, tuple[str, ...]] = {
    "go": ("go_job", "go_tick", "tick"),
    "python": ("python_job", "python_tick", "tick"),
}
NOBODY = "nobody_job"
STANDSTILL_SECONDS = 1.0
LATE_SECONDS = 1.0  # what was due in a standstill comes that late
STUCK = ("go_job", "python_job", NOBODY)
STUCK_BY = "gone"

_STUCK = """
INSERT INTO /* schema */river_job (state, attempt, max_attempts, attempted_at, attempted_by, args, kind, queue, tags)
SELECT 'running', 2, 25, now() - interval '2 h', '{gone}', '{"do": []}', kind, 'default', '{stuck}'
FROM unnest($1::text[]) AS kind
"""


@dataclass
class Minute:
    """The result. `leaders` has the leader of each second, before it was asked to move."""

    prefer_other_leaders: bool
    leaders: list[str | None] = field(default_factory=list)
    log: list[logging.LogRecord] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    # What is asserted of ticks begins when all clients work, and ends when they begin to stop.
    begun_at: float = 0.0
    ended_at: float = 0.0
    # Times in which the machine stood still: nobody can insert a tick then, or in time.
    standstills: list[tuple[float, float]] = field(default_factory=list)

    def said(self, message: str) -> list[logging.LogRecord]:
        """Return the log records of the Millhand clients with this message."""
        return [record for record in self.log if record.msg == message]

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["kind"] in kinds]

    def ticks(self, kind: str) -> Counter[int]:
        """Return how many jobs there are for each second at which the periodic job was due."""
        instants = (datetime.fromisoformat(row["scheduled_at"]).timestamp() for row in self.of(kind))
        return Counter(
            int(at) for at in instants if self.begun_at < at < self.ended_at and not self._was_standing(at)
        )

    def longest_gap(self, kind: str) -> float:
        """Return the longest time without a tick, in seconds, without standstills."""
        instants = [self.begun_at, *sorted(self.ticks(kind)), self.ended_at]
        return max(after - before - self.stood_seconds(before, after) for before, after in pairwise(instants))

    def stood_seconds(self, since: float, until: float) -> float:
        """Return how long the machine stood still in a time, each standstill with what follows late on it."""
        overlaps = (min(end + LATE_SECONDS, until) - max(begin, since) for begin, end in self.standstills)
        return sum(max(0.0, seconds) for seconds in overlaps)

    def _was_standing(self, at: float) -> bool:
        return any(int(begin) <= at < end + LATE_SECONDS for begin, end in self.standstills)

    def num_moves_between_languages(self) -> int:
        languages = [None if id is None else id.partition("_")[0] for id in self.leaders]
        return sum(1 for before, after in pairwise(languages) if before and after and before != after)


async def lived(harness: Harness, *, prefer_other_leaders: bool, num_seconds: int = NUM_SECONDS) -> Minute:
    """Run the minute. `prefer_other_leaders` is the setting of the Millhand clients."""
    minute = Minute(prefer_other_leaders)
    fleet = _Fleet(harness, prefer_other_leaders)
    with _logged(minute.log), _watched(minute.standstills):
        async with fleet.stack:
            await harness.control("go").insert(kind=NOBODY)  # to be met at the start
            for language in LANGUAGES:
                for id in IDS[language]:
                    await fleet.join(language, id)
            minute.begun_at = time.time() + 1.0
            for _ in range(num_seconds):
                await _until_half_past()
                await fleet.insert()
                minute.leaders.append(await fleet.move())
            await _until_half_past()
            minute.ended_at = time.time()
            await harness.until(lambda: _all_worked(harness), "all that was inserted")
            minute.rows = await harness.rows()
    return minute


class _Fleet:
    def __init__(self, harness: Harness, prefer_other_leaders: bool) -> None:
        self._lead_last = prefer_other_leaders
        self._members: dict[str, Member] = {}
        self._harness = harness
        self.stack = AsyncExitStack()

    async def join(self, language: Language, id: str) -> None:
        opts = {"unique": {"by_period_seconds": 1}}
        periodic = [
            Periodic(id=kind, is_aligned=True, kind=kind, opts=opts, seconds=1)
            for kind in KINDS[language]
            if kind.endswith("tick")
        ]
        member = self._harness.working(
            language,
            id,
            is_quiet=True,
            kinds=KINDS[language],
            prefer_other_leaders=self._lead_last,
            leads=True,
            periodic_jobs=periodic,
            queues={"default": 20},
        )
        self._members[id] = await self.stack.enter_async_context(member)

    async def move(self) -> str | None:
        """
        Move the leadership to another client if possible, and return the previous leader.

        River's clients bid at once when they were asked to resign, and mostly win. Where ours are to lead as well, all of
        River's are therefore stopped, and started again when a Millhand client leads.
        """
        leader = await self._harness.leader()
        if not self._lead_last and leader in GO:
            await self._harness.driver.pool.run(leader_request_resign(leader_role=LeaderRole.PERIODIC))
            others = [id for id in GO if id != leader]
            for id in (*others, leader):  # who leads is the last, or it would resign to another of River's
                await self._members[id].stop()
            await self._harness.until(self._is_led_by_ours, "a leader of ours")
            for id in GO:
                await self.join("go", id)
        else:
            await self._harness.control("python").request_resign()
        return leader

    async def _is_led_by_ours(self) -> bool:
        return await self._harness.leader() in PYTHON

    async def insert(self) -> None:
        for language in LANGUAGES:
            jobs = [{"kind": f"{name}_job", "args": {"do": []}} for name in LANGUAGES for _ in range(3)]
            await self._harness.control(language).insert_many([*jobs, {"kind": NOBODY, "args": {"do": []}}])
        await self._harness.fetch(_STUCK, list(STUCK))


async def _all_worked(harness: Harness) -> bool:
    return not await harness.rows(
        "WHERE kind IN ('go_job', 'python_job') AND tags = '{}' AND finalized_at IS NULL"
    )


async def _until_half_past() -> None:
    """Return in the middle of a second."""
    await asyncio.sleep((0.5 - time.time()) % 1.0 or 1.0)


@contextmanager
def _watched(standstills: list[tuple[float, float]]) -> Iterator[None]:
    """Record when the machine stood still. A client that blocks the event loop does not block this thread."""
    ended = threading.Event()

    def watch() -> None:
        seen_at = time.time()
        while not ended.wait(0.05):
            now = time.time()
            if now - seen_at > STANDSTILL_SECONDS:
                standstills.append((seen_at, now))
            seen_at = now

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _logged(records: list[logging.LogRecord]) -> Iterator[None]:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    ours, handler = logging.getLogger("millhand"), Handler()
    level = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level)
