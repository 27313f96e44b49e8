"""The insert limiter: one announcement a window, and none lost."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from millhand.engine.inserter import NUM_INSERTING_MAX, NUM_QUEUES_KEPT, InsertLimiter


def test_limiter_admits_one_announcement_a_window() -> None:
    """Another queue has its own window."""
    limiter = InsertLimiter(1.0)

    admitted = [limiter.admit(["a"], 0.0), limiter.admit(["a", "b"], 0.5), limiter.admit(["a"], 0.9)]

    assert admitted == [["a"], ["b"], []]


def _insert(limiter: InsertLimiter, queue: str, at: float) -> list[str]:
    """Do as the inserter does: ask, insert, and hold back what was not announced."""
    admitted = limiter.admit([queue], at)
    if not admitted:
        limiter.hold_back([queue])
    return admitted


def test_limiter_announces_held_back_queues_without_another_insert() -> None:
    """One window after the window a held back queue is due once."""
    limiter = InsertLimiter(1.0)
    _insert(limiter, "a", 0.0)
    _insert(limiter, "a", 0.25)

    assert limiter.next_due_seconds(0.5) == 1.5
    assert limiter.due(1.99) == []
    assert limiter.due(2.0) == ["a"]
    assert limiter.next_due_seconds(2.0) is None


def test_next_insert_announces_a_held_back_queue() -> None:
    """After that no queue is due."""
    limiter = InsertLimiter(1.0)
    _insert(limiter, "a", 0.0)
    _insert(limiter, "a", 0.5)

    assert _insert(limiter, "a", 1.0) == ["a"]
    assert limiter.next_due_seconds(1.0) is None


def test_limiter_flushes_all_held_back_queues() -> None:
    """The flush returns queues within their window too."""
    limiter = InsertLimiter(1.0)
    _insert(limiter, "a", 0.0)
    _insert(limiter, "a", 0.1)
    limiter.hold_back(["b"])

    assert sorted(limiter.flush()) == ["a", "b"]
    assert limiter.flush() == []


def test_limiter_lengthens_the_window_while_several_inserts_are_in_flight() -> None:
    """Three at once make it three times as long, more make it four times, and one makes it one again."""
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
    """For any sequence of inserts, each is announced within two windows, and announcements are at least one window apart."""
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


def test_limiter_forgets_unused_queues() -> None:
    """It remembers about as many queues as are in use."""
    limiter = InsertLimiter(1.0)

    seconds_apart = 2.0 * NUM_INSERTING_MAX + 1.0
    admitted = [limiter.admit([f"queue_{n}"], at=seconds_apart * n) for n in range(3_000)]

    assert all(admitted)
    assert len(limiter._announced_at) <= NUM_QUEUES_KEPT + 1
