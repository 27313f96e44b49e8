"""Deletes the rows of clients that are gone."""

from __future__ import annotations

import logging
from datetime import timedelta

from millhand.clock import Clock
from millhand.driver.protocol import Executor
from millhand.maintenance.batch import STATEMENT_SECONDS
from millhand.runtime.registration import Registration
from millhand.runtime.service import IntervalService
from millhand.store.client import client_delete_gone

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 3600.0
# The jobs of yesterday name their clients.
RETENTION = timedelta(hours=24)


class ClientCleaner(IntervalService):
    """
    Deletes the row of each client without a heartbeat for `retention` that holds no running job.

    Without an active registration a pass does nothing.
    """

    def __init__(
        self,
        pool: Executor,
        *,
        clock: Clock,
        registration: Registration,
        interval_seconds: float = INTERVAL_SECONDS,
        retention: timedelta = RETENTION,
    ) -> None:
        super().__init__()
        self.interval_seconds = interval_seconds
        self._clock = clock
        self._pool = pool
        self._registration = registration
        self._retention = retention

    async def run_once(self) -> None:
        if not self._registration.is_active:
            return
        query = client_delete_gone(last_seen_horizon=self._clock.now() - self._retention)
        ids = await self._pool.run(query.within(STATEMENT_SECONDS))
        if ids:
            logger.debug("clients deleted", extra={"num_clients": len(ids)})
        self.probe("cleaned", ids)
