"""Logs the queues in which jobs wait and that no client works; the history's writer passes what it records each minute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from millhand.core.client_row import ClientState
from millhand.core.log.logger import logger_of
from millhand.core.near_match import near_match
from millhand.db.driver.protocol import Executor
from millhand.engine.fleet import Fleet, load_fleet

logger = logger_of(__name__)

# The clients of a queue restart in less.
WAIT = timedelta(seconds=30)
NUM_LOGGED_MAX = 1_000
REMEDY = "start a worker for the queue, or correct its name where the jobs are inserted"


class UnworkedQueues:
    """Remembers which queues were logged: each is logged once, until its jobs no longer wait."""

    def __init__(self, pool: Executor) -> None:
        self._logged: set[str] = set()
        self._pool = pool

    async def check(self, waits: Mapping[str, timedelta], now: datetime) -> None:
        """Log those queues that no client works, by how long the oldest due job of each queue has waited."""
        late = {queue for queue, wait in waits.items() if wait >= WAIT}
        self._logged &= late
        new = sorted(late - self._logged)[: NUM_LOGGED_MAX - len(self._logged)]
        if not new:
            return
        for queue, remedy in unworked_queues(new, await load_fleet(self._pool, now)):
            self._logged.add(queue)
            seconds = round(waits[queue].total_seconds())
            logger.warning("queue not worked", extra={"queue": queue, "seconds": seconds, "remedy": remedy})


def unworked_queues(queues: Sequence[str], fleet: Fleet) -> Iterator[tuple[str, str]]:
    """Yield each queue that no client works, in any language, with the remedy."""
    working = [client for client in fleet.clients if client.state is ClientState.WORKING]
    worked = {queue for client in working for queue in client.queues} | fleet.other_queues
    for queue in queues:
        if queue not in worked:
            near = near_match(queue, worked)
            yield queue, REMEDY if near is None else f"did you mean {near!r}?"
