"""
Elects one leader for one term; all other clients follow and bid again.

Rule 1: a term is `(leader_id, elected_at)` as in its row. Every statement about a term names both, so no client renews or
        resigns a different term, not even its own next one.
Rule 2: the database's clock decides when a term expires. The leader stops sooner by its own monotonic clock: it trusts its
        term from the moment it sent its last bid or renewal, for the lifetime less a margin.
Rule 3: leadership is a lease, not a lock. A stalled leader may act a moment too long, so two leaders at work do no harm.
Rule 4: for River's role, Millhand lets clients in another language bid first; `election_backoff.py` has the rules.

              bid won                      renewed
    follow ─────────────▶ lead ⟲ ────────────────────────────┐
      ▲ ⟲ bid lost         │                                 │
      │                    ├─ renewal refused ──▶ lost       │ stop · resignation requested · trust ran out
      │                    │                                 ▼
      └────────────────────┴──────────────────────── resigned (the row is deleted, followers are notified)

Each leader role, River's and Millhand's, has an elector of its own.

Model: models/leader.tla, `BidBegin` to `ResignCommit`.
Source: River v0.51.2, internal/leadership/elector.go; river_leader.sql.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from millhand.core.clock import Clock, backoff_seconds
from millhand.core.errors import DriverError, OperationTimeout
from millhand.core.job import ClientId
from millhand.core.log.logger import logger_of
from millhand.db.driver.protocol import Executor
from millhand.engine.election_backoff import ElectionBackoff, after_resignation, after_view, may_bid
from millhand.engine.error_text import error_fields
from millhand.engine.notifier import parse_payload
from millhand.engine.outage import level_of
from millhand.engine.registration import Registration
from millhand.engine.service import Service, WakeReason
from millhand.engine.store.client import client_step_down
from millhand.engine.store.leader import (
    LeaderRole,
    leader_attempt_elect,
    leader_attempt_reelect,
    leader_get_seconds_left,
    leader_get_view,
    leader_resign,
)

logger = logger_of(__name__)

# River's.
INTERVAL_SECONDS = 5.0
JITTER_SECONDS = 1.0
# Two renewals may fail before the term expires.
TTL_SECONDS = 15.0
# A leader stops this long before its term expires in the database.
MARGIN_SECONDS = 1.0
STATEMENT_SECONDS = 5.0
RENEW_BACKOFF_CEILING_SECONDS = 4.0
# A resignation notifies all followers at the same moment. Random waits up to this keep their bids apart.
RESIGNED_SPREAD_SECONDS = 0.05
# A bid at the very instant of expiry would be lost, so it comes this much later.
EXPIRED_SECONDS = 0.02
RESIGN_TIMEOUTS_SECONDS = (1.0, 2.0, 3.0)
# How long a bid may take. A client that has not bid after interval, jitter and this counts as not bidding.
PATIENCE_MARGIN_SECONDS = 0.5


class Term(msgspec.Struct, frozen=True):
    """One client's leadership, from its election to its end."""

    leader_id: ClientId
    elected_at: datetime


class Elector(Service):
    """
    Follows until elected and leads until the term ends.

    `on_term` gets the term when it begins, and None when it ends; it must not block.
    While `registration` is active, clients in another language bid first.
    The elector bids only while `is_enabled`; see `set_enabled`.
    With `bids_on_expiry`, it bids only when no term runs, and as soon as one expires.
    `renew_seconds` is `interval_seconds` by default. The other defaults are River's, and must be equal in a fleet.
    `backoff_before_term` is the backoff that ended with the last election.
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
        is_enabled: bool = True,
        jitter_seconds: float = JITTER_SECONDS,
        leader_role: LeaderRole = LeaderRole.RIVER,
        bids_on_expiry: bool = False,
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
        self._is_enabled = is_enabled
        self._is_stepping_down = False
        self._jitter_seconds = jitter_seconds
        self._leader_role = leader_role
        self._logged_leader_id: ClientId | None = None
        self._bids_on_expiry = bids_on_expiry
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
        self.has_bid = False  # or has seen that another client leads or bids first
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
            case "request_resign" if self._term is not None:  # of any leader; its leader_id is not used
                self._request_resign(self._term, abstain_seconds=2 * RESIGNED_SPREAD_SECONDS)
            case "resigned" if self._term is None and parsed.get("leader_id") != self._client_id:
                self._backoff = after_resignation(self._backoff, self._clock.monotonic())
                self.wake_event.set()

    def request_resign(self, term: Term) -> None:
        """
        Resign `term`, if it is the current one, and let other clients bid first.

        A leader calls this when it cannot do its work.
        """
        self._request_resign(term, abstain_seconds=self._interval_seconds + self._jitter_seconds)

    def step_down(self) -> None:
        """Resign for clients in another language; bid again if none of them takes the term."""
        if self._term is not None:
            self._is_stepping_down = True
            self._request_resign(self._term, abstain_seconds=0.0)

    def set_enabled(self, *, is_enabled: bool) -> None:
        """Bid from now on; or stop bidding, and resign the current term."""
        self._is_enabled = is_enabled
        if not is_enabled and self._term is not None:
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
            if not self._is_enabled:
                await self.wake_event.wait()
                continue
            try:
                term = await self._bid_if_possible()
                self.has_bid = True
                if term is not None:
                    return term
                num_failures = 0
                pause = self._pause_seconds()
            except (DriverError, OperationTimeout) as error:
                num_failures += 1
                pause = backoff_seconds(num_failures)
                self._log_failure(error, pause)
            if await self.wake_event.wait(pause) is WakeReason.SET:
                await self.wake_event.wait(_random_up_to(RESIGNED_SPREAD_SECONDS))
        return None

    def _pause_seconds(self) -> float:
        pause = self._interval_seconds + _random_up_to(self._jitter_seconds)
        if self._seconds_left is not None and self._seconds_left > 0:
            pause = min(pause, self._seconds_left + EXPIRED_SECONDS + _random_up_to(RESIGNED_SPREAD_SECONDS))
        if self._backoff is None or self._backoff.vacant_since is None:
            return pause
        left = self._backoff.seconds_left(self._patience_seconds, self._clock.monotonic())
        return left + _random_up_to(RESIGNED_SPREAD_SECONDS)

    async def _bid_if_possible(self) -> Term | None:
        if await self._is_term_running() or not await self._is_our_turn():
            self.probe("bid", value=False)
            return None
        return await self._bid()

    async def _is_term_running(self) -> bool:
        """Return whether a term runs; always False without `bids_on_expiry`."""
        if not self._bids_on_expiry:
            return False
        query = leader_get_seconds_left(leader_role=self._leader_role)
        self._seconds_left = await self._pool.run(query.within(STATEMENT_SECONDS))
        return self._seconds_left is not None and self._seconds_left > 0

    async def _is_our_turn(self) -> bool:
        """Return whether clients in another language have had the time to bid first."""
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
        self._begin_term(term)
        try:
            may_have_row = await self._renew_until_over(term)
        finally:
            self._end_term()
        if may_have_row and self._is_stepping_down:
            await self._record_step_down(term)
        if may_have_row:
            await self._resign(term)
        if self._is_stepping_down:
            self._backoff = ElectionBackoff(other_leader_id=None, vacant_since=self._clock.monotonic())

    async def _record_step_down(self, term: Term) -> None:
        """Record in this client's row that it steps down, so that no registered client takes the next term."""
        logger.info("leadership offered to others", extra=self._fields(term))
        try:
            await self._pool.run(client_step_down(id=self._client_id).within(STATEMENT_SECONDS))
        except (DriverError, OperationTimeout) as error:
            self._log_failure(error, 0.0)

    async def _renew_until_over(self, term: Term) -> bool:
        """Renew until the term ends. Return whether its row may still exist."""
        num_failures, pause = 0, self._renew_seconds
        while True:
            await self.wake_event.wait(min(pause, self._trust_left()))
            if self.wake_event.is_stopping or self._resign_requested:
                return True
            if self._trust_left() <= 0:
                self._log_lost(term, "it was not renewed in time")
                return True
            try:
                if not await self._renew(term):
                    self._log_lost(term, "the renewal was refused")
                    return False
                num_failures, pause = 0, self._renew_seconds
                if self._term is None:  # the trust timer ended it during the renewal
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
        """Delete the term's row, so that followers can bid at once. If that fails, the term expires."""
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

    def _begin_term(self, term: Term) -> None:
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

    def _end_term(self) -> None:
        if self._trust_timer is not None:
            self._trust_timer.cancel()
        if self._term is not None:
            self._term = None
            self._on_term(None)
            self.probe("ended")

    def _set_trust_timer(self) -> None:
        """
        End the term when its trust runs out, even while the database does not answer.

        The loop sees that only when its statement times out. It then resigns.
        """
        if self._trust_timer is not None:
            self._trust_timer.cancel()
        loop = asyncio.get_running_loop()
        self._trust_timer = loop.call_later(max(self._trust_left(), 0.0), self._end_unless_trusted)

    def _end_unless_trusted(self) -> None:
        if self._trust_left() > 0:
            self._set_trust_timer()
        else:
            self._end_term()

    def _trust_left(self) -> float:
        return self._trusted_until - self._clock.monotonic()

    def _log_failure(self, error: DriverError | OperationTimeout, pause: float) -> None:
        fields = {"client_id": self._client_id, "leader_role": self._leader_role.value, **error_fields(error)}
        fields |= {"operation": error.operation, "sleep_seconds": pause}
        logger.log(level_of(error), "leader election failed", extra=fields)
        self.probe("failed", error)

    def _log_backoff(self) -> None:
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


def _random_up_to(seconds: float) -> float:
    return random.uniform(0.0, seconds)  # noqa: S311 - spreads load, guards nothing
