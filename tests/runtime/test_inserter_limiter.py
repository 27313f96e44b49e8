"""The insert limiter: one announcement per window, and none forgotten."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from millhand.runtime.inserter import NUM_INSERTING_MAX, NUM_QUEUES_KEPT, InsertLimiter


def test_limiter_admits_the_first_and_swallows_what_follows_in_its_window() -> None:
    """Within a window a queue is announced once; another queue has a window of its own."""
    limiter = InsertLimiter(1.0)

    admitted = [limiter.admit(["a"], 0.0), limiter.admit(["a", "b"], 0.5), limiter.admit(["a"], 0.9)]

    assert admitted == [["a"], ["b"], []]


def _insert(limiter: InsertLimiter, queue: str, at: float) -> list[str]:
    """Do as the inserter: ask, insert, and have what was not announced remembered."""
    admitted = limiter.admit([queue], at)
    if not admitted:
        limiter.hold_back([queue])
    return admitted


def test_limiter_announces_what_it_swallowed_if_no_insert_takes_it_along() -> None:
    """The trailing edge: a window after the window, one announcement for all that was swallowed, and no more."""
    limiter = InsertLimiter(1.0)
    _insert(limiter, "a", 0.0)
    _insert(limiter, "a", 0.25)

    assert limiter.next_due_seconds(0.5) == 1.5
    assert limiter.due(1.99) == []
    assert limiter.due(2.0) == ["a"]
    assert limiter.next_due_seconds(2.0) is None


def test_limiter_has_the_next_insert_announce_for_those_that_were_swallowed() -> None:
    """An insert after the window closed takes them along, and nothing is due any more."""
    limiter = InsertLimiter(1.0)
    _insert(limiter, "a", 0.0)
    _insert(limiter, "a", 0.5)

    assert _insert(limiter, "a", 1.0) == ["a"]
    assert limiter.next_due_seconds(1.0) is None


def test_limiter_flushes_whatever_is_remembered() -> None:
    """At the end nothing waits for its window."""
    limiter = InsertLimiter(1.0)
    _insert(limiter, "a", 0.0)
    _insert(limiter, "a", 0.1)
    limiter.hold_back(["b"])

    assert sorted(limiter.flush()) == ["a", "b"]
    assert limiter.flush() == []


def test_limiter_announces_more_seldom_while_several_inserts_are_on_their_way() -> None:
    """With three at once the window is three times as long, and with many four times; with one it is one again."""
    limiter = InsertLimiter(1.0)
    limiter.num_inserting = 3
    limiter.admit(["a"], 0.0)
    with_three = [bool(limiter.admit(["a"], at)) for at in (2.9, 3.0)]
    limiter.num_inserting = 100
    with_many = [bool(limiter.admit(["a"], at)) for at in (6.9, 7.0)]
    _insert(limiter, "a", 7.5)
    due_with_many = limiter.next_due_seconds(8.0)
    limiter.num_inserting = 0

    assert (with_three, with_many) == ([False, True], [False, True])
    assert due_with_many == 7.0
    assert limiter.next_due_seconds(8.0) == 1.0


@given(st.lists(st.integers(0, 500), min_size=1, max_size=50))
def test_limiter_never_leaves_an_insert_unannounced_longer_than_two_windows(gaps: list[int]) -> None:
    """Whenever inserts come, each is announced within two windows, and no two announcements are nearer than one."""
    window, at = 100, 0
    limiter = InsertLimiter(window)
    announced: list[float] = []
    unannounced: list[float] = []
    for gap in gaps:
        due_in = limiter.next_due_seconds(at)
        if due_in is not None and due_in <= gap:
            assert limiter.due(at + due_in) == ["q"]
            assert all(at + due_in - inserted <= 2 * window for inserted in unannounced)
            announced.append(at + due_in)
            unannounced.clear()
        at += gap
        unannounced.append(at)
        if _insert(limiter, "q", at):
            assert all(at - inserted <= 2 * window for inserted in unannounced)
            announced.append(at)
            unannounced.clear()

    assert not unannounced or limiter.next_due_seconds(at) is not None
    assert all(later - earlier >= window for earlier, later in itertools.pairwise(announced))


def test_limiter_forgets_queues_that_are_used_no_more() -> None:
    """However many queues were announced in a long life, about as many are remembered as are in use."""
    limiter = InsertLimiter(1.0)

    seconds_apart = 2.0 * NUM_INSERTING_MAX + 1.0
    admitted = [limiter.admit([f"queue_{n}"], at=seconds_apart * n) for n in range(3_000)]

    assert all(admitted)
    assert len(limiter._announced_at) <= NUM_QUEUES_KEPT + 1
