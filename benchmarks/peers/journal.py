"""When each limited job began and ended, and in which process: three numbers on the board that all processes map."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import harness

FIELDS = 3
NEVER = 2**63 - 1


@dataclass(frozen=True)
class Ran:
    """A job that has begun, in nanoseconds of the monotonic clock; one that has not ended has the end NEVER."""

    began: int
    ended: int
    pid: int
    key: int


_boards: list[harness.Board] = []


def key_of(n: int) -> int:
    """Return the key of a job: keys take turns."""
    return n % int(harness.settings()["keys"])


async def work(n: int) -> None:
    """Be a job: record the process, the begin and the end."""
    if not _boards:
        _boards.append(harness.Board(os.environ["BENCH_BOARD"]))
    _boards[0].slots[FIELDS * n + 2] = os.getpid()
    harness.mark(FIELDS * n)
    await asyncio.sleep(harness.settings()["wait_ms"] / 1000)
    harness.mark(FIELDS * n + 1)


def journal(slots: Sequence[int], num_jobs: int, num_keys: int) -> list[Ran]:
    """
    Return the jobs that have begun.

    Raises: Failed if a job was begun again, because its first begin is lost.
    """
    begun = [n for n in range(num_jobs) if slots[FIELDS * n]]
    if repeated := sum(slots[FIELDS * n] & 1 for n in begun):
        raise harness.Failed(f"each job must be begun once, got {repeated:,} that were begun again")
    return [
        Ran(slots[FIELDS * n], slots[FIELDS * n + 1] or NEVER, slots[FIELDS * n + 2], n % num_keys)
        for n in begun
    ]


def most_at_once(ran: Iterable[Ran], since: int, until: int) -> int:
    """Return the greatest number of jobs that ran at one instant from `since` until `until`."""
    events = sorted(
        event
        for one in ran
        if one.began < until and one.ended > since
        for event in ((max(one.began, since), 1), (one.ended, -1))
    )
    running = most = 0
    for at, change in events:  # at one instant, ends come first
        if at >= until:
            break
        running += change
        most = max(most, running)
    return most


def most_of_a_key(ran: Sequence[Ran], since: int, until: int) -> int:
    """Return the greatest number of jobs of one key that ran at one instant."""
    by_key: dict[int, list[Ran]] = {}
    for one in ran:
        by_key.setdefault(one.key, []).append(one)
    return max((most_at_once(some, since, until) for some in by_key.values()), default=0)


def mean_at_once(ran: Iterable[Ran], since: int, until: int) -> float:
    """Return how many jobs ran from `since` until `until`, on average."""
    return sum(max(min(one.ended, until) - max(one.began, since), 0) for one in ran) / (until - since)


def num_ended(ran: Iterable[Ran], since: int, until: int) -> int:
    """Return how many jobs ended from `since` until `until`."""
    return sum(since <= one.ended < until for one in ran)
