"""
Distributes events to subscriptions.

A subscription whose reader is too slow drops events, so that it cannot block the engine, and counts them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from millhand.core.errors import ConfigError
from millhand.core.event import Event, EventKind
from millhand.core.log.logger import logger_of

logger = logger_of(__name__)

# River's.
BUFFER_SIZE = 1000

Event_co = TypeVar("Event_co", bound=Event, covariant=True)


class Subscription(Generic[Event_co]):
    """
    A stream of events in the order in which outcomes were written: `async for event in subscription`.

    The stream ends when the client has stopped, or after `close()`, and the buffer is empty. `num_dropped` counts the
    events that did not fit into the buffer.
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
        event: Event_co = self._buffer.popleft()  # `offer` takes only the kinds subscribed to
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the stream; idempotent. Events in the buffer can still be read."""
        self._is_closed = True
        self._owner.forget(self)
        self._news.set()

    def offer(self, events: Sequence[Event]) -> None:
        """Buffer the events of the subscribed kinds; drop and count those that do not fit."""
        wanted = [event for event in events if event.kind in self._kinds]
        num_free = self._buffer_size - len(self._buffer)
        self._buffer.extend(wanted[:num_free])
        if len(wanted) > num_free:
            if not self.num_dropped:
                logger.warning("event dropped", extra={"event_kind": wanted[num_free].kind.value})
            self.num_dropped += len(wanted) - num_free
        self._news.set()


class Subscriptions:
    """The subscriptions of one client."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription[Event]] = []

    def __bool__(self) -> bool:
        return bool(self._subscriptions)

    def subscribe(self, kinds: Collection[EventKind], *, buffer_size: int = BUFFER_SIZE) -> Subscription[Any]:
        """
        Return a new subscription to `kinds`; to all kinds if none is named.

        Raises: ConfigError for an unknown kind, and for a `buffer_size` below 1.
        """
        if buffer_size < 1:
            raise ConfigError(f"buffer_size must be at least 1, got {buffer_size!r}")
        subscription: Subscription[Any] = Subscription(
            self, frozenset(map(_event_kind, kinds or EventKind)), buffer_size
        )
        self._subscriptions.append(subscription)
        return subscription

    def distribute(self, events: Sequence[Event]) -> None:
        for subscription in self._subscriptions:
            subscription.offer(events)

    def close(self) -> None:
        for subscription in list(self._subscriptions):
            subscription.close()

    def forget(self, subscription: Subscription[Any]) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)


def _event_kind(kind: EventKind) -> EventKind:
    try:
        return EventKind(kind)
    except ValueError:
        known = ", ".join(repr(known.value) for known in EventKind)
        raise ConfigError(f"event kind must be one of {known}, got {kind!r}") from None
