"""
One client leads, for one term; everybody else follows and bids again.

Rule 1: a term is `(leader_id, elected_at)`, the row as the database dated it. Whatever is done to a term names both, so
        that nobody renews or resigns a term that is not the one he means, not even his own next one.
Rule 2: the database is the judge. Expiry is decided in SQL, by the database's clock; the local monotonic clock only
        ever makes us give up sooner: a term is trusted for its lifetime, less a margin, from the moment its last bid or
        renewal was *begun*.
Rule 3: leadership is a lease, not a lock. A leader whose process stood still may act a moment too long, so what leaders
        do must be safe when two of them do it.
Rule 4: beside clients of another language ours are the last to bid for River's leader_role; standing.py has the rules.

              bid won                      renewed
    follow ─────────────▶ lead ⟲ ────────────────────────────┐
      ▲ ⟲ nobody's turn    │                                 │
      │                    ├─ renewal refused ──▶ lost       │ stop · resignation asked for · trust ran out
      │                    │                                 ▼
      └────────────────────┴───────────────────────────── resigned (the row is deleted, the others are told)

There are two leadership, River's and our own, and an elector for each; of them only River's has strangers to bid for it.

Concurrency: belongs to one event loop. `on_term` is called on it, and must not block.
Source: River v0.51.2, internal/leadership/elector.go; river_leader.sql.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from millhand.clock import Clock, backoff_seconds
from millhand.driver.protocol import Executor
from millhand.errors import DriverError, OperationTimeout
from millhand.job import ClientId
from millhand.runtime.election_backoff import ElectionBackoff, after_resignation, after_sight, may_bid
from millhand.runtime.notifier import parse_payload
from millhand.runtime.outage import level_of
from millhand.runtime.service import Service, WakeReason
from millhand.store.client import client_step_down
from millhand.store.leader import (
    LeaderRole,
    LeaderSight,
    leader_attempt_elect,
    leader_attempt_reelect,
    leader_get_seconds_left,
    leader_get_sight,
    leader_resign,
)

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 5.0
JITTER_SECONDS = 1.0
# Two renewals may fail before the term expires.
TTL_SECONDS = 15.0
# Given up this much before the database would give the term to another.
MARGIN_SECONDS = 1.0
STATEMENT_SECONDS = 5.0
RENEW_BACKOFF_CEILING_SECONDS = 4.0
# All followers hear a resignation at once and must not all bid at once.
RESIGNED_SPREAD_SECONDS = 0.05
# A term counts as long as its last instant does.
EXPIRED_SECONDS = 0.02
RESIGN_TIMEOUTS_SECONDS = (1.0, 2.0, 3.0)
# Whoever bids every so often has bid by then: what a bid may take, beside interval and jitter.
PATIENCE_MARGIN_SECONDS = 0.5


class Term(msgspec.Struct, frozen=True):
    """One client's leadership, from an election to its end. Units: `elected_at` is exact to the microsecond."""

    leader_id: ClientId
    elected_at: datetime


class Elector(Service):
    """
    Follows until elected, leads until the term ends, and says so to `on_term`.

    `on_term` is called with the term when it begins and with None when it is over, always in turn. `is_last` is asked
    before each bid whether this client lets clients of other languages go first; that needs the tables of clients.
    An elector that is not open does not bid; see `set_open`. One that looks first bids for no term that runs, and is there
    when it expires. `stood` is how it stood back before its last term.
    Units: all constructor parameters are seconds; the defaults are River's and must be the same in all of a fleet. A term
    is renewed `renew_seconds`, if not said as long as between two bids, after it was renewed last, by whomever.
    """

    def __init__(
        self,
        pool: Executor,
        client_id: ClientId,
        *,
        clock: Clock,
        on_term: Callable[[Term | None], None],
        interval_seconds: float = INTERVAL_SECONDS,
        is_last: Callable[[], bool] = lambda: False,
        is_open: bool = True,
        jitter_seconds: float = JITTER_SECONDS,
        looks_first: bool = False,
        margin_seconds: float = MARGIN_SECONDS,
        leader_role: LeaderRole = LeaderRole.RIVER,
        renew_seconds: float | None = None,
        ttl_seconds: float = TTL_SECONDS,
    ) -> None:
        super().__init__()
        self._abstain_seconds = 0.0
        self._clock = clock
        self._guard: asyncio.TimerHandle | None = None
        self._interval_seconds = interval_seconds
        self._is_last = is_last
        self._is_making_way = False
        self._is_open = is_open
        self._jitter_seconds = jitter_seconds
        self._left_seconds: float | None = None
        self._looks_first = looks_first
        self._left_to: ClientId | None = None
        self._leader_role = leader_role
        self._on_term = on_term
        self._patience_seconds = interval_seconds + jitter_seconds + PATIENCE_MARGIN_SECONDS
        self._pool = pool
        self._renew_seconds = interval_seconds if renew_seconds is None else renew_seconds
        self._renewed_at = float("-inf")
        self._resign_asked = False
        self._election_backoff: ElectionBackoff | None = None
        self._term: Term | None = None
        self._trust_seconds = ttl_seconds - margin_seconds
        self._trusted_until = 0.0
        self.client_id = client_id
        self.stood: ElectionBackoff | None = None
        self.ttl_seconds = ttl_seconds

    @property
    def name(self) -> str:
        return f"Elector({self._leader_role})"

    @property
    def term(self) -> Term | None:
        """The term that this client leads, as far as it may trust that."""
        return self._term if self._trust_left() > 0 else None

    @property
    def is_leader(self) -> bool:
        return self.term is not None

    def receive(self, payload: str) -> None:
        """Hear what was said on `river_leadership`: a resignation, or a request for one."""
        parsed = parse_payload(payload)
        if parsed is None:
            return
        match parsed.get("action"):
            case "request_resign" if (
                self._term is not None
            ):  # whoever leads; the leader_id beside it is not looked at
                self._ask_to_resign(self._term, abstain_seconds=2 * RESIGNED_SPREAD_SECONDS)
            case "resigned" if self._term is None and parsed.get("leader_id") != self.client_id:
                self._election_backoff = after_resignation(self._election_backoff, self._clock.monotonic())
                self.wake_event.set()

    def request_resign(self, term: Term) -> None:
        """
        Resign `term` if it is the one being led (a later term is another matter), and let others go first.

        For whoever finds that this client, though elected, cannot do a leader's work.
        """
        self._ask_to_resign(term, abstain_seconds=self._interval_seconds + self._jitter_seconds)

    def step_down(self) -> None:
        """Resign the term for clients of another language to take; lead on if they have not, after a while."""
        if self._term is not None:
            self._is_making_way = True
            self._ask_to_resign(self._term, abstain_seconds=0.0)

    def on_renewed(self, term: Term, begun: float, *, is_renewed: bool) -> None:
        """
        Hear whether a report that was `begun` then has renewed `term`; if not, it is renewed, or lost, right now.

        A term whose trust has run out meanwhile is over all the same.
        """
        if term != self.term:
            return
        if is_renewed:
            self._record_renewed(begun)
        else:
            self.wake_event.set()

    def set_open(self, *, is_open: bool) -> None:
        """Bid from now on, or no more; a term that runs is resigned."""
        self._is_open = is_open
        if not is_open and self._term is not None:
            self._ask_to_resign(self._term, abstain_seconds=0.0)
        self.wake_event.set()

    def _ask_to_resign(self, term: Term, *, abstain_seconds: float) -> None:
        if term == self._term:
            self._abstain_seconds = abstain_seconds
            self._resign_asked = True
            self.wake_event.set()

    async def run(self, started: Callable[[], None]) -> None:
        started()
        while (term := await self._follow()) is not None:
            await self._lead(term)
            await self.wake_event.wait(self._abstain_seconds)

    async def _follow(self) -> Term | None:
        """Bid until elected; None when told to stop."""
        num_failures = 0
        while not self.wake_event.is_stopping:
            if not self._is_open:
                await self.wake_event.wait()
                continue
            try:
                if (term := await self._bid()) is not None:
                    return term
                num_failures = 0
                pause = self._pause_seconds()
            except (DriverError, OperationTimeout) as error:
                num_failures += 1
                pause = backoff_seconds(num_failures)
                self._log_failure(error, pause)
            if await self.wake_event.wait(pause) is WakeReason.SET:
                await self.wake_event.wait(_spread(RESIGNED_SPREAD_SECONDS))
        return None

    def _pause_seconds(self) -> float:
        """How long to sleep after a bid that was lost, or not made."""
        pause = self._interval_seconds + _spread(self._jitter_seconds)
        if self._left_seconds is not None and self._left_seconds > 0:
            pause = min(pause, self._left_seconds + EXPIRED_SECONDS + _spread(RESIGNED_SPREAD_SECONDS))
        if self._election_backoff is None or self._election_backoff.vacant_since is None:
            return pause
        left = self._election_backoff.seconds_left(self._patience_seconds, self._clock.monotonic())
        return left + _spread(RESIGNED_SPREAD_SECONDS)

    async def _bid(self) -> Term | None:
        if self._looks_first:
            look = leader_get_seconds_left(leader_role=self._leader_role)
            self._left_seconds = await self._pool.run(look.within(STATEMENT_SECONDS))
            if self._left_seconds is not None and self._left_seconds > 0:
                self.probe("bid", value=False)
                return None
        if self._is_last():
            if not await self._is_our_turn():
                self.probe("bid", value=False)
                return None
        else:
            self._election_backoff = None
        begun = self._clock.monotonic()
        query = leader_attempt_elect(
            leader_id=self.client_id, ttl=timedelta(seconds=self.ttl_seconds), leader_role=self._leader_role
        )
        row = await self._pool.run(query.within(STATEMENT_SECONDS))
        self.probe("bid", row is not None)
        if row is None:
            return None
        self._record_renewed(begun)
        return Term(self.client_id, row.elected_at)

    async def _is_our_turn(self) -> bool:
        """Look who leads, and return whether to bid."""
        patience = timedelta(seconds=self._patience_seconds)
        query = leader_get_sight(client_id=self.client_id, patience=patience)
        sight = await self._pool.run(query.within(STATEMENT_SECONDS))
        now = self._clock.monotonic()
        self._election_backoff = after_sight(self._election_backoff, sight, now)
        self._tell_left(sight)
        return may_bid(self._election_backoff, sight, now=now, patience=self._patience_seconds)

    async def _lead(self, term: Term) -> None:
        self._begin(term)
        try:
            may_be_ours = await self._renew_until_over(term)
        finally:
            self._end()
        if may_be_ours and self._is_making_way:
            await self._tell_making_way(term)
        if may_be_ours:
            await self._resign(term)
        if self._is_making_way:
            self._election_backoff = ElectionBackoff(foreign_id=None, vacant_since=self._clock.monotonic())

    async def _tell_making_way(self, term: Term) -> None:
        """Have our own clients know that this term is not for them."""
        logger.info("leadership offered to others", extra=self._fields(term))
        try:
            await self._pool.run(client_step_down(id=self.client_id).within(STATEMENT_SECONDS))
        except (DriverError, OperationTimeout) as error:
            self._log_failure(error, 0.0)

    async def _renew_until_over(self, term: Term) -> bool:
        """Return, when the term is over, whether its row may still be there for us to delete."""
        num_failures, pause = 0, self._renew_seconds
        while True:
            renewed_at = self._renewed_at
            wake = await self.wake_event.wait(min(pause, self._trust_left()))
            if self.wake_event.is_stopping or self._resign_asked:
                return True
            if wake is WakeReason.TIMEOUT and self._renewed_at > renewed_at:  # by a report
                num_failures, pause = 0, self._renewed_at + self._renew_seconds - self._clock.monotonic()
                continue
            if self._trust_left() <= 0:
                self._log_lost(term, "no renewal within the time of trust")
                return True
            try:
                if not await self._renew(term):
                    self._log_lost(term, "the renewal was refused")
                    return False
                num_failures, pause = 0, self._renew_seconds
                if self._term is None:  # its end was told while the renewal was on its way, and stands
                    self._log_lost(term, "the renewal came too late")
                    return True
            except (DriverError, OperationTimeout) as error:
                num_failures += 1
                pause = backoff_seconds(num_failures, ceiling=RENEW_BACKOFF_CEILING_SECONDS)
                self._log_failure(error, pause)

    async def _renew(self, term: Term) -> bool:
        begun = self._clock.monotonic()
        query = leader_attempt_reelect(
            leader_id=term.leader_id,
            elected_at=term.elected_at,
            ttl=timedelta(seconds=self.ttl_seconds),
            leader_role=self._leader_role,
        )
        row = await self._pool.run(query.within(min(STATEMENT_SECONDS, self._trust_left())))
        self.probe("renewed", row is not None)
        if row is None:
            return False
        self._record_renewed(begun)
        if self._term is not None:
            self._guard_trust()
        return True

    def _record_renewed(self, begun: float) -> None:
        self._renewed_at = max(self._renewed_at, begun)
        self._trusted_until = self._renewed_at + self._trust_seconds

    async def _resign(self, term: Term) -> None:
        """Delete the term's row, so that the others need not wait for it to expire; if that fails, it expires."""
        for timeout_seconds in RESIGN_TIMEOUTS_SECONDS:
            query = leader_resign(
                leader_id=term.leader_id, elected_at=term.elected_at, leader_role=self._leader_role
            )
            try:
                resigned = await self._pool.run(query.within(timeout_seconds))
            except (DriverError, OperationTimeout) as error:
                self._log_failure(error, 0.0)
                continue
            self.probe("resigned", resigned)
            if resigned:
                logger.info("leadership resigned", extra=self._fields(term))
            return

    def _begin(self, term: Term) -> None:
        self._abstain_seconds = 0.0
        self._is_making_way = False
        self._left_to = None
        self._resign_asked = False
        self.stood, self._election_backoff = self._election_backoff, None
        self._term = term
        self._guard_trust()
        logger.info("leadership gained", extra=self._fields(term))
        self._on_term(term)
        self.probe("gained", term)

    def _end(self) -> None:
        if self._guard is not None:
            self._guard.cancel()
        if self._term is not None:
            self._term = None
            self._on_term(None)
            self.probe("ended")

    def _guard_trust(self) -> None:
        """
        End the term when its trust runs out, even while the loop waits for a database that does not answer.

        The loop sees that too when its statement's deadline has passed, and resigns; this only makes sure of the time.
        """
        if self._guard is not None:
            self._guard.cancel()
        loop = asyncio.get_running_loop()
        self._guard = loop.call_later(max(self._trust_left(), 0.0), self._end_unless_trusted)

    def _end_unless_trusted(self) -> None:
        if self._trust_left() > 0:
            self._guard_trust()
        else:
            self._end()

    def _trust_left(self) -> float:
        return self._trusted_until - self._clock.monotonic()

    def _log_failure(self, error: DriverError | OperationTimeout, pause: float) -> None:
        logger.log(
            level_of(error),
            "leader election failed",
            extra={
                "client_id": self.client_id,
                "error": str(error),
                "error_type": type(error).__name__,
                "leader_role": self._leader_role.value,
                "operation": error.operation,
                "sleep_seconds": pause,
            },
        )
        self.probe("failed", error)

    def _tell_left(self, sight: LeaderSight) -> None:
        """Log, once for each of them, that a client of another language leads and is left to."""
        foreign_id = None if self._election_backoff is None else self._election_backoff.foreign_id
        if foreign_id is None or foreign_id == self._left_to:
            return
        self._left_to = foreign_id
        logger.info("leadership left to others", extra={"client_id": self.client_id, "leader_id": foreign_id})
        self.probe("left", foreign_id)

    def _log_lost(self, term: Term, reason: str) -> None:
        logger.info("leadership lost", extra={**self._fields(term), "reason": reason})

    def _fields(self, term: Term) -> dict[str, str]:
        elected_at = term.elected_at.isoformat()
        return {"client_id": term.leader_id, "leader_role": self._leader_role.value, "elected_at": elected_at}


def _spread(seconds: float) -> float:
    return random.uniform(0.0, seconds)  # noqa: S311 - spreads load, guards nothing
