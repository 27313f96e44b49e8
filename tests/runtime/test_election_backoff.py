"""Who goes first: the rules by which a follower stands back."""

from __future__ import annotations

import pytest

from millhand.job import ClientId
from millhand.runtime.election_backoff import ElectionBackoff, after_resignation, after_view, may_bid
from millhand.store.leader import LeaderView

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
def test_follower_stands_as_it_sees(
    before: ElectionBackoff | None, sight: LeaderView, after: ElectionBackoff | None
) -> None:
    """Back while a stranger leads, and from when his term is over; a leader of ours ends it."""
    assert after_view(before, sight, 5.0) == after


def test_follower_that_hears_of_an_end_begins_anew() -> None:
    """A term that nobody saw is as good as one that was seen; who does not stand back goes on so."""
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
def test_follower_bids_in_its_turn(
    standing: ElectionBackoff | None,
    sight: LeaderView,
    now: float,
    expected: bool,
) -> None:
    """Among ourselves at once; beside others when they have had their time; never against a term that runs."""
    assert may_bid(standing, sight, now=now, patience=PATIENCE) is expected
