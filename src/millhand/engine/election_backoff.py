"""
Decides when a follower lets clients in another language bid for River's leader role first.

River's leader inserts only the periodic jobs that it has itself. Clients in another language therefore lose their periodic
jobs while a client of Millhand leads; Millhand's clients insert them under a role of their own. So Millhand bids last.

Rule 1: while an unregistered client leads, followers back off.
Rule 2: after the end of its term they back off for `patience`: the interval between two bids and its jitter. Every living
        client has bid by then. Another term in between restarts the backoff.
Rule 3: when a registered client steps down, all registered clients back off.
Rule 4: a term of a registered client ends the backoff: registered clients never wait for each other.

Times are monotonic seconds. The functions here decide and have no effects.
"""

from __future__ import annotations

import msgspec

from millhand.core.job import ClientId
from millhand.engine.store.leader import LeaderView


class ElectionBackoff(msgspec.Struct, frozen=True, kw_only=True):
    """
    The backoff of one follower.

    `other_leader_id` is the unregistered client that leads or led last; None after a registered one stepped down.
    `vacant_since` is None while a term runs.
    """

    other_leader_id: ClientId | None
    vacant_since: float | None

    def seconds_left(self, patience: float, now: float) -> float:
        """Return how long the backoff lasts if no client takes the term; `patience` while a term runs."""
        return patience if self.vacant_since is None else max(self.vacant_since + patience - now, 0.0)


def after_view(backoff: ElectionBackoff | None, view: LeaderView, now: float) -> ElectionBackoff | None:
    """Return the backoff of a follower that had `backoff` and now sees `view`; None if it may bid at once."""
    if view.is_running:
        if view.is_registered:
            return None
        return ElectionBackoff(other_leader_id=view.leader_id, vacant_since=None)
    vacant_since = now - view.vacant_seconds
    if backoff is not None:
        if backoff.vacant_since is not None:
            return backoff
        return msgspec.structs.replace(backoff, vacant_since=vacant_since)
    if view.has_stepped_down:
        return ElectionBackoff(other_leader_id=None, vacant_since=now)
    if view.leader_id is not None and not view.is_registered:
        return ElectionBackoff(other_leader_id=view.leader_id, vacant_since=vacant_since)
    return None


def after_resignation(backoff: ElectionBackoff | None, now: float) -> ElectionBackoff | None:
    """Return the backoff after a notification that a term ended, perhaps one that this follower never saw."""
    return None if backoff is None else msgspec.structs.replace(backoff, vacant_since=now)


def may_bid(backoff: ElectionBackoff | None, view: LeaderView, *, now: float, patience: float) -> bool:
    """Return whether a follower with this backoff and this view may bid now."""
    if view.is_running:
        return False
    return backoff is None or backoff.seconds_left(patience, now) <= 0.0
