"""
Events, to whoever watches.

A watcher that does not keep up loses events rather than holding up the engine; it is told how many.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from millhand.errors import ConfigError
from millhand.event import Event, EventKind

logger = logging.getLogger(__name__)

# River's buffer; more than a second of events of a busy queue is not what a watcher needs.
BUFFER_SIZE = 1000

Event_co = TypeVar("Event_co", bound=Event, covariant=True)


class Subscription(Generic[Event_co]):
    """
    One watcher's stream of events, in the order in which they were written: `async for event in subscription`.

    The stream ends when the client has stopped and everything in the buffer was read, or after `close()`.
    Concurrency: one reader; belongs to the client's event loop.
    """

    def __init__(self, owner: Subscriptions, kinds: frozenset[EventKind], buffer_size: int) -> None:
        self._owner = owner
        self._kinds = kinds
        self._buffer: deque[Any] = deque()
        self._buffer_size = buffer_size
        self._is_closed = False
        self._news = asyncio.Event()
        self.num_dropped = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event_co:
        while not self._buffer:
            if self._is_closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        told: Event_co = self._buffer.popleft()  # of the kinds that were asked for, and no others
        return told

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the stream; idempotent. What is in the buffer can still be read."""
        self._is_closed = True
        self._owner.forget(self)
        self._news.set()

    def offer(self, events: Sequence[Event]) -> None:
        """Take those of `events` that are wanted, as far as there is room."""
        wanted = [event for event in events if event.kind in self._kinds]
        room = self._buffer_size - len(self._buffer)
        self._buffer.extend(wanted[:room])
        if len(wanted) > room:
            if not self.num_dropped:
                logger.warning("event dropped", extra={"event_kind": wanted[room].kind.value})
            self.num_dropped += len(wanted) - room
        self._news.set()


class Subscriptions:
    """All watchers of one client."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription[Event]] = []

    def __bool__(self) -> bool:
        return bool(self._subscriptions)

    def subscribe(self, kinds: Collection[EventKind], *, buffer_size: int = BUFFER_SIZE) -> Subscription[Any]:
        """
        Return a new watcher of `kinds`; of all kinds if none is named.

        Raises: ConfigError for what is not a kind, or a buffer that holds nothing.
        """
        if buffer_size < 1:
            raise ConfigError(f"buffer_size must be at least 1, got {buffer_size!r}")
        subscription: Subscription[Any] = Subscription(
            self, frozenset(map(_event_kind, kinds or EventKind)), buffer_size
        )
        self._subscriptions.append(subscription)
        return subscription

    def distribute(self, events: Sequence[Event]) -> None:
        """Offer events to those who want them; never waits."""
        for subscription in self._subscriptions:
            subscription.offer(events)

    def close(self) -> None:
        """End all streams."""
        for subscription in list(self._subscriptions):
            subscription.close()

    def forget(self, subscription: Subscription[Any]) -> None:
        """Offer nothing to `subscription` any more."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)


def _event_kind(kind: EventKind) -> EventKind:
    try:
        return EventKind(kind)
    except ValueError:
        known = ", ".join(repr(known.value) for known in EventKind)
        raise ConfigError(f"event kind must be one of {known}, got {kind!r}") from None
