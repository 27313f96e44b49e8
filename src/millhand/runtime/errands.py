"""
What a client's report does on its way while the client leads, so that at rest one statement does what five would.

    renew River's term and our own ─────▶ the electors; each renews by itself what a report has not renewed in time
    look whether a job will be due ─────▶ the scheduler, which passes when one will be, or when nobody has looked
    look whether other clients are there ▶ the client rescuer, which looks after them when there are any

Rule 1: nobody depends on a report: each goes on by itself as soon as reports do not come, or come too late.
Rule 2: a report must not fail of its errands: after one that failed, or was slow, reports go without for a while. What
        stands in the way may be a lock on a table of an errand, and who does not report is given up.

Concurrency: belongs to one event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from millhand.clock import Clock
from millhand.runtime.elector import Elector, Term
from millhand.store.client_errand import Errand, ErrandDone

# Between two reports of whoever leads: sooner than each of the electors would renew.
BEAT_SECONDS = 4.0
# After a report that failed, or was slow.
REST_SECONDS = 60.0
SLOW_SECONDS = 0.5


class Errands:
    """
    The errands of one client's reports: for `river` and `periodic`, its electors, and for who looks for jobs that are due.

    `look_ahead` says until when to look, None if nobody wants to know; `on_looked` is told that, and whether there is any.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        look_ahead: Callable[[], datetime | None],
        on_looked: Callable[[datetime, bool], None],
        periodic: Elector,
        river: Elector,
    ) -> None:
        self._clock = clock
        self._look_ahead = look_ahead
        self._on_looked = on_looked
        self._periodic = periodic
        self._rest_until = 0.0
        self._river = river
        self.is_alone = False

    def wanted(self) -> Errand | None:
        """Return what the next report is to do; None if there is nothing."""
        river, periodic = self._river.term, self._periodic.term
        if self._clock.monotonic() < self._rest_until or (river is None and periodic is None):
            self.is_alone = False  # for all that is known
            return None
        return Errand(
            due_before=None if river is None else self._look_ahead(),
            periodic_elected_at=None if periodic is None else periodic.elected_at,
            periodic_ttl=timedelta(seconds=self._periodic.ttl_seconds),
            river_elected_at=None if river is None else river.elected_at,
            river_ttl=timedelta(seconds=self._river.ttl_seconds),
        )

    def hear(self, errand: Errand, done: ErrandDone, begun: float) -> None:
        """Tell everybody what came of an errand whose report was `begun` at that monotonic time."""
        self.is_alone = done.is_alone
        if self._clock.monotonic() - begun > SLOW_SECONDS:
            self.rest()
        _tell(self._river, errand.river_elected_at, begun, is_renewed=done.is_river_renewed)
        _tell(self._periodic, errand.periodic_elected_at, begun, is_renewed=done.is_periodic_renewed)
        if errand.due_before is not None and done.is_anything_due is not None:
            self._on_looked(errand.due_before, done.is_anything_due)

    def rest(self) -> None:
        """Leave it to everybody to go themselves, for a while."""
        self.is_alone = False
        self._rest_until = self._clock.monotonic() + REST_SECONDS


def _tell(elector: Elector, elected_at: datetime | None, begun: float, *, is_renewed: bool) -> None:
    if elected_at is not None:
        elector.on_renewed(Term(elector.client_id, elected_at), begun, is_renewed=is_renewed)
