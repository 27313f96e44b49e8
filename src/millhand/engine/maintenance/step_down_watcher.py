"""
Finds clients in another language while this client leads River's role, and steps down for them.

Such clients send no heartbeats, so they show only by what they do: an attempt by an unregistered client, or an update of a
queue's row that no registered client declares. Each pass decides:

    the evidence is older than this term, and they could have taken it ──▶ handled
    no evidence that is not handled ──▶ keep leading
    other evidence ──▶ step down, once for it

A step-down without an answer handles the evidence it was made for, and the next one waits longer each time. A fleet whose
Go clients never lead therefore has a leader nearly all of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.core.clock import Clock, backoff_seconds, rest_seconds
from millhand.core.log.logger import logger_of
from millhand.db.driver.protocol import Executor
from millhand.engine.elector import Elector, Term
from millhand.engine.maintenance.batch import STATEMENT_SECONDS
from millhand.engine.registration import Registration
from millhand.engine.service import IntervalService
from millhand.engine.store.client import Sighting, client_get_unregistered

logger = logger_of(__name__)

# A client updates its queue's row when it starts, and bids a moment later.
START_MARGIN = timedelta(seconds=2)
FIRST_PAUSE_SECONDS = 60.0
# As often as River's clients update the rows of their queues.
PAUSE_SECONDS_MAX = 600.0
NUM_HANDLED_MAX = 1_000
NUM_FORMATTED_MAX = 5

# The kind of a sighting, its name and its time. A client counts once; each update of a queue may be by another client.
Evidence = tuple[str, str, datetime | None]


class EvidenceLog(msgspec.Struct):
    """The evidence that is handled, and when the next step-down is allowed, in monotonic seconds."""

    handled: dict[Evidence, None] = msgspec.field(default_factory=dict)
    not_before: float = 0.0
    num_unanswered: int = 0

    def unhandled(self, sightings: Sequence[Sighting]) -> list[Evidence]:
        return [one for one in map(evidence_of, sightings) if one not in self.handled]

    def handle(self, evidence: Sequence[Evidence]) -> None:
        self.handled.update(dict.fromkeys(evidence))
        for one in list(self.handled)[:-NUM_HANDLED_MAX]:
            del self.handled[one]

    def delay(self, now: float) -> float:
        """Delay the next step-down, longer after each one without an answer; return for how many seconds."""
        self.num_unanswered += 1
        pause = backoff_seconds(self.num_unanswered, first=FIRST_PAUSE_SECONDS, ceiling=PAUSE_SECONDS_MAX)
        self.not_before = now + pause
        return pause


class StepDownWatcher(IntervalService):
    """
    Looks for unregistered clients at the start of a term and every `interval_seconds`.

    The log of evidence outlasts a term. Without an active registration a pass does nothing.
    """

    interval_seconds = 20.0

    def __init__(self, pool: Executor, elector: Elector, *, clock: Clock, registration: Registration) -> None:
        super().__init__()
        self._checked_term: Term | None = None
        self._clock = clock
        self._evidence_log = EvidenceLog()
        self._elector = elector
        self._offered: tuple[Evidence, ...] = ()
        self._pool = pool
        self._registration = registration
        self._rest_seconds = self.interval_seconds

    def next_pause_seconds(self) -> float:
        return self._rest_seconds

    async def run_once(self) -> None:
        if not self._registration.is_active:
            return
        sightings = await self._find_unregistered()
        term = self._elector.term
        if term is None:  # it ended during the query
            return
        if term != self._checked_term:
            self._checked_term = term
            self._check_answer(sightings, term)
        evidence = self._evidence_log.unhandled(sightings)
        if not evidence or self._clock.monotonic() < self._evidence_log.not_before:
            self.probe("kept leading", evidence)
            return
        self._offered = tuple(evidence)
        self._evidence_log.handle(evidence)
        logger.info("clients in another language suspected", extra={"reason": format_evidence(evidence)})
        self._elector.step_down()
        self.probe("stepped down", evidence)

    async def _find_unregistered(self) -> list[Sighting]:
        began = self._clock.monotonic()
        query = client_get_unregistered()
        sightings = await self._pool.run(query.within(STATEMENT_SECONDS))
        self._rest_seconds = rest_seconds(self._clock.monotonic() - began, least=self.interval_seconds)
        return sightings

    def _check_answer(self, sightings: Sequence[Sighting], term: Term) -> None:
        """At the start of a term that others could have taken: handle their evidence, and delay the next step-down."""
        backoff, offered = self._elector.backoff_before_term, self._offered
        self._offered = ()
        if backoff is None:
            return
        self._evidence_log.handle(before_term(sightings, term))
        if backoff.other_leader_id is not None:  # another client led in between, and its term ended
            self._evidence_log.num_unanswered = 0
        elif offered:
            pause = self._evidence_log.delay(self._clock.monotonic())
            fields = {"reason": format_evidence(offered), "sleep_seconds": round(pause, 1)}
            logger.info("leadership not taken by others", extra=fields)


def before_term(sightings: Sequence[Sighting], term: Term) -> list[Evidence]:
    """
    Return the evidence of clients that could have bid before `term` began.

    A client that starts at this very moment updates its queue's row after the beginning of the term.
    """
    horizon = term.elected_at - START_MARGIN
    return [evidence_of(one) for one in sightings if one.seen_at < horizon or one.what == "client"]


def evidence_of(sighting: Sighting) -> Evidence:
    return sighting.what, sighting.name, None if sighting.what == "client" else sighting.seen_at


def format_evidence(evidence: Sequence[Evidence]) -> str:
    """Return evidence as a text for the log, at most `NUM_FORMATTED_MAX` items and the number of the others."""
    names = [f"{what} {name}" for what, name, _ in evidence]
    rest = len(names) - NUM_FORMATTED_MAX
    return ", ".join([*names[:NUM_FORMATTED_MAX], *([f"{rest} more"] if rest > 0 else [])])
