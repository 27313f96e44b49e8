"""Subscriptions get events, and no publisher waits for them."""

from __future__ import annotations

import logging

import pytest

from millhand.core.errors import ConfigError
from millhand.core.event import Event, EventKind
from millhand.engine.subscription import Subscriptions

PAUSED = Event(kind=EventKind.QUEUE_PAUSED, queue="default")
RESUMED = Event(kind=EventKind.QUEUE_RESUMED, queue="default")


async def test_subscription_gets_its_kinds_in_order() -> None:
    """A subscription to one kind gets only that; one without kinds gets all; closing ends the stream."""
    subscriptions = Subscriptions()
    some = subscriptions.subscribe([EventKind.QUEUE_RESUMED])
    everything = subscriptions.subscribe([])

    subscriptions.distribute([PAUSED, RESUMED])
    subscriptions.close()

    assert [event async for event in some] == [RESUMED]
    assert [event async for event in everything] == [PAUSED, RESUMED]


async def test_full_subscription_drops_events_and_logs_once(caplog: pytest.LogCaptureFixture) -> None:
    """It keeps the oldest events and counts the dropped ones."""
    subscriptions = Subscriptions()
    slow = subscriptions.subscribe([], buffer_size=1)

    with caplog.at_level(logging.WARNING):
        subscriptions.distribute([PAUSED, RESUMED, RESUMED])
    slow.close()

    assert [event async for event in slow] == [PAUSED]
    assert slow.num_dropped == 2
    assert [record.msg for record in caplog.records] == ["event dropped"]


async def test_closed_subscription_gets_no_more_events() -> None:
    """The client keeps no reference to it."""
    subscriptions = Subscriptions()
    with subscriptions.subscribe([]) as closed:
        pass

    subscriptions.distribute([PAUSED])

    assert [event async for event in closed] == []
    assert not subscriptions


def test_subscribe_refuses_an_unknown_kind() -> None:
    """The error names the kinds."""
    with pytest.raises(
        ConfigError, match=r"^event kind must be one of 'job_cancelled', .*, got 'job_started'$"
    ):
        Subscriptions().subscribe(["job_started"])  # type: ignore[list-item]
