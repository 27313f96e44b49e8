"""
Listens for PostgreSQL notifications on one connection and calls the receiver of each topic.

Rule 1: the receivers are fixed before the start.
Rule 2: a lost connection is opened again, with growing pauses and without an end. The outage detector logs the loss.
Rule 3: `on_connected` is called after each connect, because notifications sent in between were missed.

Source: River v0.51.2, internal/notifier/notifier.go.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Mapping

from millhand.core.clock import backoff_seconds
from millhand.core.errors import MillhandError
from millhand.core.job import Json
from millhand.core.log.logger import logger_of
from millhand.db.driver.protocol import Driver, Listener
from millhand.engine.service import Service, WakeReason

logger = logger_of(__name__)

# A network that drops packets looks like a quiet server. A ping after this time shows which it is.
PING_SECONDS = 20.0


class Topic(enum.StrEnum):
    """
    The channels, without the prefix of the schema: `public.river_insert`.

    PERIODIC_LEADERSHIP is Millhand's own, for its leader role, and RESULT, for awaited jobs. The others are River's.
    """

    INSERT = "river_insert"
    CONTROL = "river_control"
    LEADERSHIP = "river_leadership"
    PERIODIC_LEADERSHIP = "millhand_leader"
    RESULT = "millhand_result"


class Notifier(Service):
    """Listens for one client."""

    def __init__(
        self,
        driver: Driver,
        receivers: Mapping[Topic, Callable[[str], None]],
        on_connected: Callable[[], None],
    ) -> None:
        super().__init__()
        self._driver = driver
        self._num_failures = 0
        self._on_connected = on_connected
        self._receivers = receivers

    async def run(self, started: Callable[[], None]) -> None:
        # The first connect must succeed: a worker that cannot connect does not start.
        listener = await self._connect()
        started()
        while True:
            is_stopping = await self._wait_lost(listener)
            await listener.close()
            if is_stopping:
                return
            logger.debug("listener lost", extra={"operation": "listen"})
            reconnected = await self._reconnect()
            if reconnected is None:
                return
            listener = reconnected
            logger.debug("listener reconnected", extra={"num_failures": self._num_failures})
            self._num_failures = 0

    async def _connect(self) -> Listener:
        listener = self._driver.listener()
        listener.on_lost(self.wake_event.set)
        try:
            await listener.connect()
            for topic, receive in self._receivers.items():
                await listener.listen(topic, receive)
        except BaseException:
            await listener.close()
            raise
        self.probe("connected")
        self._on_connected()
        return listener

    async def _reconnect(self) -> Listener | None:
        while not self.wake_event.is_stopping:
            try:
                return await self._connect()
            except MillhandError as error:
                self._num_failures += 1
                logger.debug("listener not connected", extra={"error": str(error)})
            if (
                await self.wake_event.wait(backoff_seconds(self._num_failures, first=0.1, ceiling=15.0))
                is WakeReason.STOP
            ):
                break
        return None

    async def _wait_lost(self, listener: Listener) -> bool:
        """Wait until the connection is lost; return True if the notifier stops before that."""
        while not listener.is_lost:
            wake = await self.wake_event.wait(PING_SECONDS)
            if wake is WakeReason.STOP:
                return True
            if wake is WakeReason.TIMEOUT and not listener.is_lost:
                try:
                    await listener.ping()
                except MillhandError as error:
                    logger.debug("listener did not answer", extra={"error": str(error)})
                    return False
        return False


def parse_payload(payload: str) -> dict[str, Json] | None:
    """Return a notification's JSON object; log anything else and return None."""
    try:
        parsed = json.loads(payload)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        logger.warning("notification ignored", extra={"error": "payload must be a JSON object"})
        return None
    return parsed
