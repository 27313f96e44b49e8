"""The rules by which a follower lets clients in another language bid first."""

from __future__ import annotations

import pytest

from millhand.core.job import ClientId
from millhand.engine.election_backoff import ElectionBackoff, after_resignation, after_view, may_bid
from millhand.engine.store.leader import LeaderView

GO, OURS = ClientId("go"), ClientId("ours")
PATIENCE = 6.5

VACANT = LeaderView(None, is_running=False, is_registered=False, has_stepped_down=False)
WAY = LeaderView(None, is_running=False, is_registered=False, has_stepped_down=True)
GO_LEADS = LeaderView(GO, is_running=True, is_registered=False, has_stepped_down=False)
GO_LED = LeaderView(GO, is_running=False, is_registered=False, has_stepped_down=False, vacant_seconds=2.0)
OURS_LEADS = LeaderView(OURS, is_running=True, is_registered=True, has_stepped_down=True)
OURS_LED = LeaderView(OURS, is_running=False, is_registered=True, has_stepped_down=False)

HELD = ElectionBackoff(other_leader_id=GO, vacant_since=None)
ENDED = ElectionBackoff(other_leader_id=GO, vacant_since=3.0)
OFFERED = ElectionBackoff(other_leader_id=None, vacant_since=3.0)


@pytest.mark.parametrize(
    ("before", "sight", "after"),
    [
        (None, VACANT, None),
        (None, OURS_LEADS, None),
        (None, OURS_LED, None),
        (None, GO_LEADS, HELD),
        (None, GO_LED, ElectionBackoff(other_leader_id=GO, vacant_since=3.0)),
        (None, WAY, ElectionBackoff(other_leader_id=None, vacant_since=5.0)),
        (HELD, GO_LEADS, HELD),
        (HELD, VACANT, ElectionBackoff(other_leader_id=GO, vacant_since=5.0)),
        (HELD, GO_LED, ElectionBackoff(other_leader_id=GO, vacant_since=3.0)),
        (HELD, OURS_LEADS, None),
        (ENDED, VACANT, ENDED),
        (ENDED, GO_LEADS, HELD),
        (ENDED, OURS_LEADS, None),
        (OFFERED, VACANT, OFFERED),
        (OFFERED, WAY, OFFERED),
        (OFFERED, GO_LEADS, HELD),
    ],
)
def test_backoff_follows_the_view(
    before: ElectionBackoff | None, sight: LeaderView, after: ElectionBackoff | None
) -> None:
    """It begins while an unregistered client leads, lasts after its term, and ends with a registered leader."""
    assert after_view(before, sight, 5.0) == after


def test_resignation_restarts_the_backoff() -> None:
    """A follower without a backoff stays without one."""
    assert after_resignation(OFFERED, 7.0) == ElectionBackoff(other_leader_id=None, vacant_since=7.0)
    assert after_resignation(HELD, 7.0) == ElectionBackoff(other_leader_id=GO, vacant_since=7.0)
    assert after_resignation(None, 7.0) is None


@pytest.mark.parametrize(
    ("standing", "sight", "now", "expected"),
    [
        (None, VACANT, 3.0, True),
        (None, OURS_LED, 3.0, True),
        (None, OURS_LEADS, 3.0, False),
        (HELD, GO_LEADS, 100.0, False),
        (ENDED, VACANT, 3.0 + PATIENCE - 0.01, False),
        (ENDED, VACANT, 3.0 + PATIENCE, True),
        (OFFERED, WAY, 3.0, False),
    ],
)
def test_follower_bids_when_the_backoff_allows(
    standing: ElectionBackoff | None, sight: LeaderView, now: float, expected: bool
) -> None:
    """At once without a backoff, after the patience with one, and never during a term."""
    assert may_bid(standing, sight, now=now, patience=PATIENCE) is expected
