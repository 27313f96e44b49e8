"""Events reach those who watch, and nobody waits for them."""

from __future__ import annotations

import logging

import pytest

from millhand.errors import ConfigError
from millhand.event import Event, EventKind
from millhand.runtime.subscription import Subscriptions

PAUSED = Event(kind=EventKind.QUEUE_PAUSED, queue="default")
RESUMED = Event(kind=EventKind.QUEUE_RESUMED, queue="default")


async def test_subscription_gets_the_kinds_it_asked_for_in_order() -> None:
    """A watcher of one kind sees that kind alone; a watcher of none in particular sees all; the end ends the stream."""
    subscriptions = Subscriptions()
    some = subscriptions.subscribe([EventKind.QUEUE_RESUMED])
    everything = subscriptions.subscribe([])

    subscriptions.distribute([PAUSED, RESUMED])
    subscriptions.close()

    assert [event async for event in some] == [RESUMED]
    assert [event async for event in everything] == [PAUSED, RESUMED]


async def test_subscription_drops_what_does_not_fit_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A watcher that does not read keeps the oldest events and counts the lost; the log has one line."""
    subscriptions = Subscriptions()
    slow = subscriptions.subscribe([], buffer_size=1)

    with caplog.at_level(logging.WARNING):
        subscriptions.distribute([PAUSED, RESUMED, RESUMED])
    slow.close()

    assert [event async for event in slow] == [PAUSED]
    assert slow.num_dropped == 2
    assert [record.message for record in caplog.records] == ["event dropped"]


async def test_subscription_that_was_closed_gets_nothing_more() -> None:
    """After close nothing is offered, and the client keeps no reference."""
    subscriptions = Subscriptions()
    with subscriptions.subscribe([]) as closed:
        pass

    subscriptions.distribute([PAUSED])

    assert [event async for event in closed] == []
    assert not subscriptions


def test_subscribe_refuses_what_is_no_kind() -> None:
    """The error names the kinds that there are."""
    with pytest.raises(
        ConfigError, match=r"^event kind must be one of 'job_cancelled', .*, got 'job_started'$"
    ):
        Subscriptions().subscribe(["job_started"])  # type: ignore[list-item]
