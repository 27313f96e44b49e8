"""
Looks, while this client leads, for clients of another language, and offers them the term.

Nobody tells us of them, so what they do must: an attempt of a client that is none of ours, a queue's row that none of
ours has touched. `decide` says what follows:

    older than this term, and the term was offered before it began ──▶ settled: they could have taken it
    nothing that is not settled ──▶ lead on
    something ──▶ make way, once for it

An offer that nobody takes up settles what it was made for, and the next one has to wait, longer each time: a fleet whose
Go clients never lead has a leader nearly all of the time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.clock import Clock, backoff_seconds, rest_seconds
from millhand.driver.protocol import Executor
from millhand.maintenance.batch import STATEMENT_SECONDS
from millhand.runtime.election_backoff import ElectionBackoff
from millhand.runtime.elector import Term
from millhand.runtime.service import IntervalService
from millhand.store.client import HEARTBEAT_GRACE, Sighting, client_get_foreign

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 20.0
# A client touches its queue's row when it starts, and a moment later bids.
START_MARGIN = timedelta(seconds=2)
FIRST_PAUSE_SECONDS = 60.0
# River's clients touch the rows of their queues as often.
PAUSE_SECONDS_MAX = 600.0
NUM_SETTLED_MAX = 1_000
NUM_NAMED_MAX = 5

# What is settled is settled of this client, and of this touch of a queue: the next touch may be another client's.
Clue = tuple[str, str, datetime | None]


class Suspicion(msgspec.Struct):
    """What was seen of others and is settled, and from when on others may be offered a term again, monotonically."""

    num_unanswered: int = 0
    not_before: float = 0.0
    settled: dict[Clue, None] = msgspec.field(default_factory=dict)

    def settle(self, clues: Sequence[Clue]) -> None:
        """Take note that there was an offer for these; the oldest are forgotten."""
        self.settled.update(dict.fromkeys(clues))
        for clue in list(self.settled)[:-NUM_SETTLED_MAX]:
            del self.settled[clue]

    def put_off(self, now: float) -> float:
        """Have the next offer wait, longer each time that nobody took one up; return how long."""
        self.num_unanswered += 1
        pause = backoff_seconds(self.num_unanswered, first=FIRST_PAUSE_SECONDS, ceiling=PAUSE_SECONDS_MAX)
        self.not_before = now + pause
        return pause


class StepDownWatcher(IntervalService):
    """
    A leader's look around, at once and every `interval_seconds`.

    `term` is the one that is led, `standing` how this client stood back before it, and `step_down` gives it up for others.
    What is settled outlasts the term. While it is not wanted, it does nothing.
    """

    def __init__(
        self,
        pool: Executor,
        *,
        clock: Clock,
        is_wanted: Callable[[], bool],
        step_down: Callable[[], None],
        standing: Callable[[], ElectionBackoff | None],
        term: Callable[[], Term | None],
        interval_seconds: float = INTERVAL_SECONDS,
        report_grace: timedelta = HEARTBEAT_GRACE,
    ) -> None:
        super().__init__()
        self.interval_seconds = interval_seconds
        self._clock = clock
        self._is_wanted = is_wanted
        self._make_way = step_down
        self._offered: tuple[Clue, ...] = ()
        self._pool = pool
        self._report_grace = report_grace
        self._rest_seconds = interval_seconds
        self._seen: Term | None = None
        self._election_backoff = standing
        self._suspicion = Suspicion()
        self._term = term

    def next_pause_seconds(self) -> float:
        return self._rest_seconds

    async def run_once(self) -> None:
        if not self._is_wanted():
            return
        sightings = await self._look()
        term = self._term()
        if term is None:  # it ended meanwhile
            return
        if term != self._seen:
            self._seen = term
            self._on_answer(sightings, term)
        clues = suspicious(sightings, self._suspicion.settled)
        if not clues or self._clock.monotonic() < self._suspicion.not_before:
            self.probe("led on", clues)
            return
        self._offered = tuple(clues)
        self._suspicion.settle(clues)
        logger.info("clients in another language suspected", extra={"reason": named(clues)})
        self._make_way()
        self.probe("made way", clues)

    async def _look(self) -> list[Sighting]:
        began = self._clock.monotonic()
        query = client_get_foreign(report_grace=self._report_grace)
        sightings = await self._pool.run(query.within(STATEMENT_SECONDS))
        self._rest_seconds = rest_seconds(self._clock.monotonic() - began, least=self.interval_seconds)
        return sightings

    def _on_answer(self, sightings: Sequence[Sighting], term: Term) -> None:
        """Settle what was there before a term that others could have had, and wait longer for the next offer."""
        standing, offered = self._election_backoff(), self._offered
        self._offered = ()
        if standing is None:
            return
        self._suspicion.settle(before_term(sightings, term))
        if standing.foreign_id is not None:  # somebody led in between, and has gone
            self._suspicion.num_unanswered = 0
        elif offered:
            pause = self._suspicion.put_off(self._clock.monotonic())
            fields = {"reason": named(offered), "sleep_seconds": round(pause, 1)}
            logger.info("leadership not taken by others", extra=fields)


def suspicious(sightings: Sequence[Sighting], settled: dict[Clue, None]) -> list[Clue]:
    """Return what speaks of others and is not settled."""
    return [clue for clue in map(clue_of, sightings) if clue not in settled]


def before_term(sightings: Sequence[Sighting], term: Term) -> list[Clue]:
    """
    Return what was seen, at the beginning of `term`, of those that could have bid for it.

    Who has begun in this very moment has also touched the row of its queue, later than the term began.
    """
    horizon = term.elected_at - START_MARGIN
    return [clue_of(one) for one in sightings if one.seen_at < horizon or one.what == "client"]


def clue_of(sighting: Sighting) -> Clue:
    return sighting.what, sighting.name, None if sighting.what == "client" else sighting.seen_at


def named(clues: Sequence[Clue]) -> str:
    """Return the clues as a text for the log."""
    names = [f"{what} {name}" for what, name, _ in clues]
    rest = len(names) - NUM_NAMED_MAX
    return ", ".join([*names[:NUM_NAMED_MAX], *([f"{rest} more"] if rest > 0 else [])])
