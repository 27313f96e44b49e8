"""The insert limiter: one announcement per window, and none forgotten."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from millhand.runtime.inserter import InsertLimiter


def test_limiter_admits_the_first_and_swallows_what_follows_in_its_window() -> None:
    """Within a window a queue is announced once; another queue has a window of its own."""
    limiter = InsertLimiter(1.0)

    admitted = [limiter.admit(["a"], 0.0), limiter.admit(["a", "b"], 0.5), limiter.admit(["a"], 0.9)]

    assert admitted == [["a"], ["b"], []]


def test_limiter_announces_what_it_swallowed_when_the_window_closes() -> None:
    """The trailing edge: one announcement for all that was swallowed, and then nothing more is due."""
    limiter = InsertLimiter(1.0)
    limiter.admit(["a"], 0.0)
    limiter.admit(["a"], 0.25)

    assert limiter.next_due_seconds(0.5) == 0.5
    assert limiter.due(0.99) == []
    assert limiter.due(1.0) == ["a"]
    assert limiter.next_due_seconds(1.0) is None


def test_limiter_does_not_announce_again_what_a_later_insert_announced() -> None:
    """An insert after the window closed announces for those that were swallowed too."""
    limiter = InsertLimiter(1.0)
    limiter.admit(["a"], 0.0)
    limiter.admit(["a"], 0.5)

    assert limiter.admit(["a"], 1.5) == ["a"]
    assert limiter.next_due_seconds(1.5) is None


def test_limiter_flushes_whatever_is_remembered() -> None:
    """At the end nothing waits for its window."""
    limiter = InsertLimiter(1.0)
    limiter.admit(["a"], 0.0)
    limiter.admit(["a"], 0.1)
    limiter.remember(["b"])

    assert sorted(limiter.flush()) == ["a", "b"]
    assert limiter.flush() == []


@given(st.lists(st.integers(0, 500), min_size=1, max_size=50))
def test_limiter_never_leaves_an_insert_unannounced_longer_than_a_window(gaps: list[int]) -> None:
    """Whenever inserts come, each is announced at once or within one window, and no two announcements are nearer."""
    limiter, window, at = InsertLimiter(1000), 1000, 0
    announced: list[float] = []
    unannounced: list[float] = []
    for gap in gaps:
        due_in = limiter.next_due_seconds(at)
        if due_in is not None and due_in <= gap:
            when = at + due_in
            assert limiter.due(when) == ["q"]
            assert all(when - inserted <= window for inserted in unannounced)
            announced.append(when)
            unannounced.clear()
        at += gap
        unannounced.append(at)
        if limiter.admit(["q"], at):
            announced.append(at)
            unannounced.clear()

    assert not unannounced or limiter.next_due_seconds(at) is not None
    assert all(later - earlier >= window for earlier, later in itertools.pairwise(announced))
