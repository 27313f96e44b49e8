"""
Who lets others go first: the rules by which a follower stands back from River's term.

A leader does for all what it knows of, so River's clients lose their periodic jobs, and some of their stuck ones, under
a leader of another language; ours lose nothing under theirs. So ours are the last to bid.

Rule 1: while a client that is none of ours leads, we stand back.
Rule 2: when its term is over we go on standing back for as long as it takes each of its like to bid, `patience`: one
        interval between two bids, and its jitter. Whoever lives has then bid. Another term in between begins it anew.
Rule 3: when one of ours makes way, so do all of ours.
Rule 4: what we see of a client of ours ends it: among ourselves nobody waits for anybody.

Times are monotonic seconds. Everything here decides and does nothing.
"""

from __future__ import annotations

import msgspec

from millhand.job import ClientId
from millhand.store.leader import LeaderSight


class ElectionBackoff(msgspec.Struct, frozen=True, kw_only=True):
    """
    A follower stands back.

    `foreign_id` leads, or led last; None after one of ours made way. `vacant_since` is None while a term runs.
    """

    foreign_id: ClientId | None
    vacant_since: float | None

    def seconds_left(self, patience: float, now: float) -> float:
        """How long it goes on if nobody takes the term; of a term that runs nobody knows."""
        return patience if self.vacant_since is None else max(self.vacant_since + patience - now, 0.0)


def after_sight(standing: ElectionBackoff | None, sight: LeaderSight, now: float) -> ElectionBackoff | None:
    """Return how a follower stands that stood so and now sees `sight`; None does not stand back."""
    if sight.is_running:
        return None if sight.is_known else ElectionBackoff(foreign_id=sight.leader_id, vacant_since=None)
    vacant_since = now - sight.vacant_seconds
    if standing is not None:
        return (
            standing
            if standing.vacant_since is not None
            else msgspec.structs.replace(standing, vacant_since=vacant_since)
        )
    if sight.has_made_way:
        return ElectionBackoff(foreign_id=None, vacant_since=now)
    if sight.leader_id is not None and not sight.is_known:
        return ElectionBackoff(foreign_id=sight.leader_id, vacant_since=vacant_since)
    return None


def after_resignation(standing: ElectionBackoff | None, now: float) -> ElectionBackoff | None:
    """Return how a follower stands that hears of a term's end: who ended it may have been seen by nobody."""
    return None if standing is None else msgspec.structs.replace(standing, vacant_since=now)


def may_bid(standing: ElectionBackoff | None, sight: LeaderSight, *, now: float, patience: float) -> bool:
    """Return whether a follower that stands so, after `sight`, is to bid."""
    if sight.is_running:
        return False
    return standing is None or standing.seconds_left(patience, now) <= 0.0
