"""
Sends browsers the names of the regions that have changed.

One task looks into the database every 2.5 seconds while at least one browser listens, and wakes all of them. They fetch
their pages again, and `LivePages` loads each page once a look: ten browsers cost the database hardly more than one.
After a look the task pauses fifty times as long as the database worked for it and for the pages that it woke, so that pages
use 2 % of one of its cores at most. Round trips are not counted. Without a browser nothing is asked.

    database ──▶ Watcher ──▶ Listener (one for each browser) ──▶ server-sent events
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from types import MappingProxyType

from millhand.core.clock import Clock, rest_seconds
from millhand.core.errors import MillhandError
from millhand.engine.service import Service, WakeReason
from millhand.engine.store.audit import audit_get_shape
from millhand.engine.store.bulk_change import bulk_change_get_shape
from millhand.engine.store.client import client_get_shape
from millhand.engine.store.live import live_get_bulk_changes, live_get_clients, live_get_jobs, live_get_queues
from millhand.history.store import history_get
from millhand.limits.report_store import limit_get_changes, limit_get_shape
from millhand.shells.web.database import WebDatabase

# A reader sees a change within three seconds: in the next look, and the page that is fetched then. Where the database works
# long for that, the pause is longer.
INTERVAL_SECONDS = 2.5
PAUSE_SECONDS_MAX = 15.0
# Proxies close a connection without traffic after a minute or less.
KEEP_ALIVE_SECONDS = 15.0
LISTENERS_MAX = 200
UNAVAILABLE = "unavailable"
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Listener:
    """One browser: the regions that changed since its last event."""

    def __init__(self) -> None:
        self._changed: set[str] = set()
        self._event = asyncio.Event()

    def add(self, regions: set[str]) -> None:
        # Of an outage and its end, the later one counts: at the end, all regions have changed.
        is_outage = UNAVAILABLE in regions
        self._changed = {UNAVAILABLE} if is_outage else (self._changed | regions) - {UNAVAILABLE}
        self._event.set()

    async def next(self) -> set[str]:
        """Return the regions that changed; an empty set after `KEEP_ALIVE_SECONDS` without a change."""
        try:
            async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                await self._event.wait()
        except TimeoutError:
            return set()
        changed, self._changed = self._changed, set()
        self._event.clear()
        return changed


class Watcher(Service):
    """
    Finds changes for all browsers of one process. It runs while there are listeners.

    `state` gets the texts of the last look, if it succeeded, and returns a text for each region of the page.
    Raises (of `state`): MillhandError. `busy_seconds` returns how long the database has worked for the page so far.
    `look` names the last look that has ended; it is empty before the first one and without listeners.

    Concurrency: belongs to one event loop.
    """

    def __init__(
        self,
        state: Callable[[dict[str, str]], Awaitable[dict[str, str]]],
        clock: Clock,
        interval_seconds: float = INTERVAL_SECONDS,
        *,
        busy_seconds: Callable[[], float] = float,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._state = state
        self._interval_seconds = interval_seconds
        self._listeners: set[Listener] = set()
        self._first_look_at: datetime | None = None
        self._changed_at: dict[str, datetime] = {}
        self._busy_before = 0.0  # the last look
        self._busy_seconds = busy_seconds
        self._is_available = True
        self.is_closed = False
        self.look = ""

    @property
    def is_full(self) -> bool:
        return len(self._listeners) >= LISTENERS_MAX

    @asynccontextmanager
    async def listener(self, since: datetime | None = None) -> AsyncIterator[Listener]:
        """
        Yield a listener. The first one starts the service.

        `since` is when its page was loaded: the listener begins with the regions that may have changed after it, or in an
        outage with `UNAVAILABLE`.
        """
        listener = Listener()
        self._listeners.add(listener)
        if missed := self._missed(since) if self._is_available else {UNAVAILABLE}:
            listener.add(missed)
        try:
            await self.start()
            yield listener
        finally:
            self._listeners.discard(listener)

    async def run(self, started: Callable[[], None]) -> None:
        started()
        before: dict[str, str] | None = None
        self._is_available = True
        self._first_look_at = None  # the first look wakes all listeners that wait for it
        self.look = ""
        while self._listeners:
            self._busy_before = self._busy_seconds()
            try:
                after = await self._state(before or {})
            except MillhandError:
                if self._is_available:
                    self._wake({UNAVAILABLE})
                self._is_available, before = False, {}
            else:
                now = self._clock.now()
                self.look = secrets.token_hex(8)  # before a browser is woken, and after what it is woken for
                if changed := changes_between(before or {}, after):
                    self._changed_at |= dict.fromkeys(changed, now)
                    self._wake(changed)
                self._first_look_at = self._first_look_at or now
                self._is_available, before = True, after
            if await self._rest() is WakeReason.STOP:
                return
        self.look, self._is_available = "", True
        self.wake_event.stop()  # it ends as intended; nothing is awaited before the task is done

    @property
    def pause_seconds(self) -> float:
        """How long to pause after the last look."""
        rest = min(rest_seconds(self._busy_seconds() - self._busy_before), PAUSE_SECONDS_MAX)
        return max(rest, self._interval_seconds)

    async def _rest(self) -> WakeReason:
        """Pause; pages that are loaded meanwhile make the pause longer."""
        began = self._clock.monotonic()
        while (seconds := began + self.pause_seconds - self._clock.monotonic()) > 0:
            if (reason := await self.wake_event.wait(seconds)) is not WakeReason.TIMEOUT:
                return reason
        return WakeReason.TIMEOUT

    def _missed(self, since: datetime | None) -> set[str]:
        """Return the regions that may have changed between `since` and now."""
        if self._first_look_at is None:
            return set()
        if since is None or since < self._first_look_at:
            return set(self._changed_at)
        return {region for region, at in self._changed_at.items() if at >= since}

    def close(self) -> None:
        """End the events of all browsers."""
        self.is_closed = True
        self._wake(set())

    def _wake(self, regions: set[str]) -> None:
        for listener in self._listeners:
            listener.add(regions)


async def live_state(database: WebDatabase, before: Mapping[str, str] = _NOTHING) -> dict[str, str]:
    """Return a text for each region of the page; `before` is what the last look returned. Raises: MillhandError."""
    jobs = await database.run(live_get_jobs(before.get("jobs", "")))
    queues = await database.run(live_get_queues())
    if await database.has(limit_get_shape):
        queues += await database.run(limit_get_changes())
    state = {"jobs": jobs, "queues": queues}
    if await database.has(client_get_shape):
        state["fleet"] = await database.run(live_get_clients())
    if await database.has(audit_get_shape):  # the history is of the same migration
        history = await database.run(history_get())
        state["history"] = f"{history and history.counted_to}"
    if await database.has(bulk_change_get_shape):
        state["bulk"] = await database.run(live_get_bulk_changes())
    return state


def changes_between(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Return the regions whose texts differ. What waits in the queues changes with the jobs."""
    changed = {region for region, text in after.items() if before.get(region) != text}
    return changed | {"queues"} if "jobs" in changed else changed


def loaded_at(text: str | None) -> datetime | None:
    """Return when a browser says that it loaded its page."""
    try:
        at = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return at if at.tzinfo else None


async def events(watcher: Watcher, since: datetime | None = None) -> AsyncIterator[bytes]:
    """
    Yield server-sent events: `changed` with the names of regions, or `unavailable`; and comments to keep it open.

    The first one names what may have changed after `since`.
    """
    async with watcher.listener(since) as listener:
        yield b"retry: 3000\n\n"
        while not watcher.is_closed:
            regions = await listener.next()
            if UNAVAILABLE in regions:
                yield b"event: unavailable\ndata:\n\n"
            elif regions:
                yield f"id: {watcher.look}\nevent: changed\ndata: {' '.join(sorted(regions))}\n\n".encode()
            else:
                yield b": open\n\n"
