"""
Elects one leader for one term; all other clients follow and bid again.

Rule 1: a term is `(leader_id, elected_at)`, the row as the database dated it. Every statement about a term names both, so
        that no client renews or resigns another term than it means, not even its own next one.
Rule 2: expiry is decided in SQL, by the database's clock. The local monotonic clock only ends a term sooner: a client
        trusts its term for the lifetime less a margin, from the moment at which its last bid or renewal was sent.
Rule 3: leadership is a lease, not a lock. A stalled leader may act a moment too long, so everything that leaders do must
        be safe when two do it.
Rule 4: beside clients in another language Millhand bids last for River's role; `election_backoff.py` has the rules.

              bid won                      renewed
    follow ─────────────▶ lead ⟲ ────────────────────────────┐
      ▲ ⟲ bid lost         │                                 │
      │                    ├─ renewal refused ──▶ lost       │ stop · resignation requested · trust ran out
      │                    │                                 ▼
      └────────────────────┴──────────────────────── resigned (the row is deleted, followers are notified)

Each leader role, River's and Millhand's, has an elector of its own.

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
from millhand.runtime.election_backoff import ElectionBackoff, after_resignation, after_view, may_bid
from millhand.runtime.notifier import parse_payload
from millhand.runtime.outage import level_of
from millhand.runtime.registration import Registration
from millhand.runtime.service import Service, WakeReason
from millhand.store.client import client_step_down
from millhand.store.leader import (
    LeaderRole,
    leader_attempt_elect,
    leader_attempt_reelect,
    leader_get_seconds_left,
    leader_get_view,
    leader_resign,
)

logger = logging.getLogger(__name__)

# River's.
INTERVAL_SECONDS = 5.0
JITTER_SECONDS = 1.0
# Two renewals may fail before the term expires.
TTL_SECONDS = 15.0
# A client gives its term up this much before the database would give it to another.
MARGIN_SECONDS = 1.0
STATEMENT_SECONDS = 5.0
RENEW_BACKOFF_CEILING_SECONDS = 4.0
# All followers are notified of a resignation at once and must not bid at once.
RESIGNED_SPREAD_SECONDS = 0.05
# The last instant of a term still belongs to it.
EXPIRED_SECONDS = 0.02
RESIGN_TIMEOUTS_SECONDS = (1.0, 2.0, 3.0)
# The time that a bid may take, beside interval and jitter, before other clients count as not bidding.
PATIENCE_MARGIN_SECONDS = 0.5


class Term(msgspec.Struct, frozen=True):
    """One client's leadership, from an election to its end. Units: `elected_at` is exact to the microsecond."""

    leader_id: ClientId
    elected_at: datetime


class Elector(Service):
    """
    Follows until elected and leads until the term ends.

    `on_term` is called on the event loop with the term when it begins and with None when it ends, always in turn; it must
    not block. With a `registration` clients in another language bid first while that is active. An elector that is not
    `is_open` does not bid; see `set_open`. With `looks_first` it bids only when no term runs, at the moment of expiry.
    `backoff_before_term` is the backoff that ended with the last election.
    Units: constructor parameters are seconds. The defaults are River's and must be equal in a fleet. A term is renewed every
    `renew_seconds`, by default as often as bids are made.
    Concurrency: belongs to one event loop.
    """

    def __init__(
        self,
        pool: Executor,
        client_id: ClientId,
        *,
        clock: Clock,
        on_term: Callable[[Term | None], None],
        interval_seconds: float = INTERVAL_SECONDS,
        is_open: bool = True,
        jitter_seconds: float = JITTER_SECONDS,
        leader_role: LeaderRole = LeaderRole.RIVER,
        looks_first: bool = False,
        margin_seconds: float = MARGIN_SECONDS,
        registration: Registration | None = None,
        renew_seconds: float | None = None,
        ttl_seconds: float = TTL_SECONDS,
    ) -> None:
        super().__init__()
        self._abstain_seconds = 0.0
        self._backoff: ElectionBackoff | None = None
        self._client_id = client_id
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._is_open = is_open
        self._is_stepping_down = False
        self._jitter_seconds = jitter_seconds
        self._leader_role = leader_role
        self._logged_leader_id: ClientId | None = None
        self._looks_first = looks_first
        self._on_term = on_term
        self._patience_seconds = interval_seconds + jitter_seconds + PATIENCE_MARGIN_SECONDS
        self._pool = pool
        self._registration = registration
        self._renew_seconds = interval_seconds if renew_seconds is None else renew_seconds
        self._resign_requested = False
        self._seconds_left: float | None = None
        self._term: Term | None = None
        self._trust_seconds = ttl_seconds - margin_seconds
        self._trust_timer: asyncio.TimerHandle | None = None
        self._trusted_until = 0.0
        self._ttl = timedelta(seconds=ttl_seconds)
        self.backoff_before_term: ElectionBackoff | None = None

    @property
    def name(self) -> str:
        return f"Elector({self._leader_role})"

    @property
    def term(self) -> Term | None:
        """The term that this client leads, while it may trust it."""
        return self._term if self._trust_left() > 0 else None

    @property
    def is_leader(self) -> bool:
        return self.term is not None

    def on_notification(self, payload: str) -> None:
        """Handle a notification of this role's channel: a resignation, or a request for one."""
        parsed = parse_payload(payload)
        if parsed is None:
            return
        match parsed.get("action"):
            case "request_resign" if self._term is not None:  # it asks any leader; its leader_id is not used
                self._request_resign(self._term, abstain_seconds=2 * RESIGNED_SPREAD_SECONDS)
            case "resigned" if self._term is None and parsed.get("leader_id") != self._client_id:
                self._backoff = after_resignation(self._backoff, self._clock.monotonic())
                self.wake_event.set()

    def request_resign(self, term: Term) -> None:
        """
        Resign `term`, if it is the current one, and let other clients bid first.

        For a leader that cannot do a leader's work.
        """
        self._request_resign(term, abstain_seconds=self._interval_seconds + self._jitter_seconds)

    def step_down(self) -> None:
        """Resign for clients in another language; bid again if none of them takes the term."""
        if self._term is not None:
            self._is_stepping_down = True
            self._request_resign(self._term, abstain_seconds=0.0)

    def set_open(self, *, is_open: bool) -> None:
        """Bid from now on, or stop bidding and resign a term that runs."""
        self._is_open = is_open
        if not is_open and self._term is not None:
            self._request_resign(self._term, abstain_seconds=0.0)
        self.wake_event.set()

    def _request_resign(self, term: Term, *, abstain_seconds: float) -> None:
        if term == self._term:
            self._abstain_seconds = abstain_seconds
            self._resign_requested = True
            self.wake_event.set()

    async def run(self, started: Callable[[], None]) -> None:
        started()
        while (term := await self._follow()) is not None:
            await self._lead(term)
            await self.wake_event.wait(self._abstain_seconds)

    # Following.

    async def _follow(self) -> Term | None:
        """Bid until elected; return None when the elector stops."""
        num_failures = 0
        while not self.wake_event.is_stopping:
            if not self._is_open:
                await self.wake_event.wait()
                continue
            try:
                if (term := await self._bid_if_possible()) is not None:
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
        """Return how long to wait after a lost or omitted bid."""
        pause = self._interval_seconds + _spread(self._jitter_seconds)
        if self._seconds_left is not None and self._seconds_left > 0:
            pause = min(pause, self._seconds_left + EXPIRED_SECONDS + _spread(RESIGNED_SPREAD_SECONDS))
        if self._backoff is None or self._backoff.vacant_since is None:
            return pause
        left = self._backoff.seconds_left(self._patience_seconds, self._clock.monotonic())
        return left + _spread(RESIGNED_SPREAD_SECONDS)

    async def _bid_if_possible(self) -> Term | None:
        if await self._is_term_running() or not await self._is_our_turn():
            self.probe("bid", value=False)
            return None
        return await self._bid()

    async def _is_term_running(self) -> bool:
        """Return whether another term runs, if this elector looks before it bids."""
        if not self._looks_first:
            return False
        query = leader_get_seconds_left(leader_role=self._leader_role)
        self._seconds_left = await self._pool.run(query.within(STATEMENT_SECONDS))
        return self._seconds_left is not None and self._seconds_left > 0

    async def _is_our_turn(self) -> bool:
        """Return whether the backoff beside clients in another language allows a bid."""
        if self._registration is None or not self._registration.is_active:
            self._backoff = None
            return True
        patience = timedelta(seconds=self._patience_seconds)
        query = leader_get_view(client_id=self._client_id, patience=patience)
        view = await self._pool.run(query.within(STATEMENT_SECONDS))
        now = self._clock.monotonic()
        self._backoff = after_view(self._backoff, view, now)
        self._log_backoff()
        return may_bid(self._backoff, view, now=now, patience=self._patience_seconds)

    async def _bid(self) -> Term | None:
        begun = self._clock.monotonic()
        query = leader_attempt_elect(leader_id=self._client_id, ttl=self._ttl, leader_role=self._leader_role)
        row = await self._pool.run(query.within(STATEMENT_SECONDS))
        self.probe("bid", row is not None)
        if row is None:
            return None
        self._trusted_until = begun + self._trust_seconds
        return Term(self._client_id, row.elected_at)

    # Leading.

    async def _lead(self, term: Term) -> None:
        self._begin(term)
        try:
            may_have_row = await self._renew_until_over(term)
        finally:
            self._end()
        if may_have_row and self._is_stepping_down:
            await self._record_step_down(term)
        if may_have_row:
            await self._resign(term)
        if self._is_stepping_down:
            self._backoff = ElectionBackoff(other_leader_id=None, vacant_since=self._clock.monotonic())

    async def _record_step_down(self, term: Term) -> None:
        """Record that registered clients must not take this term."""
        logger.info("leadership offered to others", extra=self._fields(term))
        try:
            await self._pool.run(client_step_down(id=self._client_id).within(STATEMENT_SECONDS))
        except (DriverError, OperationTimeout) as error:
            self._log_failure(error, 0.0)

    async def _renew_until_over(self, term: Term) -> bool:
        """Renew until the term is over; return whether its row may still be there to delete."""
        num_failures, pause = 0, self._renew_seconds
        while True:
            await self.wake_event.wait(min(pause, self._trust_left()))
            if self.wake_event.is_stopping or self._resign_requested:
                return True
            if self._trust_left() <= 0:
                self._log_lost(term, "no renewal within the time of trust")
                return True
            try:
                if not await self._renew(term):
                    self._log_lost(term, "the renewal was refused")
                    return False
                num_failures, pause = 0, self._renew_seconds
                if (
                    self._term is None
                ):  # the trust timer ended the term during the renewal, and `on_term` was called
                    self._log_lost(term, "the renewal came too late")
                    return True
            except (DriverError, OperationTimeout) as error:
                num_failures += 1
                pause = backoff_seconds(num_failures, ceiling=RENEW_BACKOFF_CEILING_SECONDS)
                self._log_failure(error, pause)

    async def _renew(self, term: Term) -> bool:
        begun = self._clock.monotonic()
        query = leader_attempt_reelect(
            leader_id=term.leader_id, elected_at=term.elected_at, ttl=self._ttl, leader_role=self._leader_role
        )
        row = await self._pool.run(query.within(min(STATEMENT_SECONDS, self._trust_left())))
        self.probe("renewed", row is not None)
        if row is None:
            return False
        self._trusted_until = begun + self._trust_seconds
        if self._term is not None:
            self._set_trust_timer()
        return True

    async def _resign(self, term: Term) -> None:
        """Delete the term's row, so that followers need not wait for its expiry; if that fails, it expires."""
        for timeout_seconds in RESIGN_TIMEOUTS_SECONDS:
            query = leader_resign(
                leader_id=term.leader_id, elected_at=term.elected_at, leader_role=self._leader_role
            )
            try:
                is_resigned = await self._pool.run(query.within(timeout_seconds))
            except (DriverError, OperationTimeout) as error:
                self._log_failure(error, 0.0)
                continue
            self.probe("resigned", is_resigned)
            if is_resigned:
                logger.info("leadership resigned", extra=self._fields(term))
            return

    def _begin(self, term: Term) -> None:
        self._abstain_seconds = 0.0
        self._is_stepping_down = False
        self._logged_leader_id = None
        self._resign_requested = False
        self.backoff_before_term, self._backoff = self._backoff, None
        self._term = term
        self._set_trust_timer()
        logger.info("leadership gained", extra=self._fields(term))
        self._on_term(term)
        self.probe("gained", term)

    def _end(self) -> None:
        if self._trust_timer is not None:
            self._trust_timer.cancel()
        if self._term is not None:
            self._term = None
            self._on_term(None)
            self.probe("ended")

    def _set_trust_timer(self) -> None:
        """
        End the term when its trust runs out, even while the loop waits for a database that does not answer.

        The loop notices that too, but only when its statement times out; it then resigns.
        """
        if self._trust_timer is not None:
            self._trust_timer.cancel()
        loop = asyncio.get_running_loop()
        self._trust_timer = loop.call_later(max(self._trust_left(), 0.0), self._end_unless_trusted)

    def _end_unless_trusted(self) -> None:
        if self._trust_left() > 0:
            self._set_trust_timer()
        else:
            self._end()

    def _trust_left(self) -> float:
        return self._trusted_until - self._clock.monotonic()

    def _log_failure(self, error: DriverError | OperationTimeout, pause: float) -> None:
        logger.log(
            level_of(error),
            "leader election failed",
            extra={
                "client_id": self._client_id,
                "error": str(error),
                "error_type": type(error).__name__,
                "leader_role": self._leader_role.value,
                "operation": error.operation,
                "sleep_seconds": pause,
            },
        )
        self.probe("failed", error)

    def _log_backoff(self) -> None:
        """Log, once for each of them, that a client in another language leads."""
        leader_id = None if self._backoff is None else self._backoff.other_leader_id
        if leader_id is None or leader_id == self._logged_leader_id:
            return
        self._logged_leader_id = leader_id
        logger.info("leadership left to others", extra={"client_id": self._client_id, "leader_id": leader_id})
        self.probe("left", leader_id)

    def _log_lost(self, term: Term, reason: str) -> None:
        logger.info("leadership lost", extra={**self._fields(term), "reason": reason})

    def _fields(self, term: Term) -> dict[str, str]:
        elected_at = term.elected_at.isoformat()
        return {"client_id": term.leader_id, "leader_role": self._leader_role.value, "elected_at": elected_at}


def _spread(seconds: float) -> float:
    return random.uniform(0.0, seconds)  # noqa: S311 - spreads load, guards nothing
