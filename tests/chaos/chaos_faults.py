"""
The faults of a chaos run and their times, which follow from a seed.

Three lanes run at the same time: processes, connections, and the database. In each lane one fault follows the other, from
a shuffled list, so that every fault comes before any is repeated.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NUM_WORKERS = 4
# The connection of the process that inserts. Those of the workers are numbered from 0.
INSERTER = NUM_WORKERS
DRIVERS = ("asyncpg", "psycopg")
# The time between two faults of a lane, in which jobs are worked that the next fault can affect.
PAUSE_SECONDS = {"process": (2.0, 6.0), "connection": (2.0, 6.0), "database": (7.0, 14.0)}
# A fault that takes more than this share of a run is left out.
SHARE_MAX = 0.3
# A client without heartbeats for longer is declared dead; two minutes later if its session still exists.
GIVEN_UP_SECONDS = 13.0
SESSION_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault and how long it lasts, in seconds."""

    lane: str
    shortest: float
    longest: float


KINDS = {
    "kill": Kind("process", 0.0, 0.0),
    "kill_storm": Kind("process", 3.0, 6.0),
    "kill_leaders": Kind("process", 8.0, 12.0),
    "stop": Kind("process", 0.0, 0.0),
    "rolling_restart": Kind("process", 24.0, 34.0),
    "freeze_short": Kind("process", 2.0, 9.0),
    "freeze_long": Kind("process", GIVEN_UP_SECONDS + 2.0, 22.0),
    "freeze_longest": Kind("process", SESSION_SECONDS + GIVEN_UP_SECONDS + 5.0, 145.0),
    "freeze_half": Kind("process", GIVEN_UP_SECONDS + 2.0, 22.0),
    "older_version": Kind("process", 10.0, 25.0),
    "clock_step": Kind("process", 8.0, 16.0),
    "partition": Kind("connection", 4.0, 20.0),
    "partition_to_server": Kind("connection", 4.0, 20.0),
    "partition_to_client": Kind("connection", 4.0, 20.0),
    "cut": Kind("connection", 1.0, 16.0),
    "forget": Kind("connection", 4.0, 12.0),
    "latency": Kind("connection", 6.0, 12.0),
    "bandwidth": Kind("connection", 6.0, 12.0),
    "database_restart": Kind("database", 0.0, 8.0),
    "database_crash": Kind("database", 0.0, 8.0),
    "database_killed": Kind("database", 0.0, 2.0),
    "backend_kill": Kind("database", 0.0, 3.0),
    "pool_exhaustion": Kind("database", 3.0, 12.0),
    "row_lock": Kind("database", 4.0, 16.0),
    "limit_lock": Kind("database", 3.0, 8.0),
    "partition_lock": Kind("database", 3.0, 8.0),
    "schedule_lock": Kind("database", 3.0, 8.0),
    "migrate_down": Kind("database", 1.0, 6.0),
    "disk_full": Kind("database", 2.0, 8.0),
}
LANES = tuple(PAUSE_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault: when, for how long, on which worker, and how severe, from 0 to 1."""

    at: float
    seconds: float
    name: str
    who: int
    amount: float

    def __str__(self) -> str:
        return f"{self.at:7.1f} s  {self.name} of {self.who} for {self.seconds:.1f} s, {self.amount:.2f}"


def plan_drivers(seed: int) -> tuple[str, ...]:
    """Return the driver of each connection: asyncpg for half of the workers, psycopg for the others, either for inserts."""
    chance = random.Random(f"{seed} drivers")  # noqa: S311 - a seed must give the same drivers again
    of_workers = chance.sample(DRIVERS, NUM_WORKERS, counts=[NUM_WORKERS // 2] * 2)
    return (*of_workers, chance.choice(DRIVERS))


def plan_faults(seed: int, seconds: float, only: Sequence[str] = ()) -> list[Fault]:
    """Return the faults of a seed, by their beginning; the same at each call."""
    faults = [fault for lane in LANES for fault in _lane(f"{seed} {lane}", lane, seconds, only)]
    return sorted(faults, key=lambda fault: (fault.at, fault.name))


def _lane(seed: str, lane: str, seconds: float, only: Sequence[str]) -> Iterator[Fault]:
    chance = random.Random(seed)  # noqa: S311 - a seed must give the same faults again
    names = [
        name
        for name, kind in KINDS.items()
        if kind.lane == lane and (not only or name in only) and kind.longest < SHARE_MAX * seconds
    ]
    at = chance.uniform(*PAUSE_SECONDS[lane])
    while names:
        for name in chance.sample(names, len(names)):
            kind = KINDS[name]
            fault = Fault(
                at=at,
                seconds=chance.uniform(kind.shortest, kind.longest),
                name=name,
                # The inserter has a connection as the workers have, and no separate process.
                who=chance.randrange(NUM_WORKERS + (lane == "connection")),
                amount=chance.random(),
            )
            if fault.at + fault.seconds > seconds:
                return
            yield fault
            at += fault.seconds + chance.uniform(*PAUSE_SECONDS[lane])
