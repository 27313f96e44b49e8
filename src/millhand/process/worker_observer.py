"""Answers probes about one worker process, and reports to systemd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from types import TracebackType
from typing import Self

from millhand.client import Client
from millhand.core.log.logger import logger_of
from millhand.core.metrics import definitions
from millhand.core.metrics.points import Points, number, of_databases
from millhand.engine.loop_watch import LoopWatch
from millhand.observe import health
from millhand.observe.health import WorkerHealth, WorkerState
from millhand.observe.http_server import Answer, HttpServer
from millhand.observe.process_link import answer_supervisor
from millhand.process.metrics_page import worker_routes
from millhand.process.observer import ObserveSettings, Reporter, answer_of
from millhand.process.supervisor import LINK_VARIABLE

logger = logger_of(__name__)


class WorkerObserver:
    """
    Observes a worker process: answers from the moment it is made, and reports inside its `async with` block.

    `routes` has the function of each path. With a supervisor that asks, this process answers it alone. `databases` are the
    names of several; the process works as soon as one of their clients does.
    Raises: ConfigError if it cannot listen.
    Concurrency: other threads call `routes`; everything else belongs to the event loop of the client.
    """

    def __init__(self, settings: ObserveSettings, databases: Sequence[str] = ()) -> None:
        self._clients: dict[str, Client] = {}
        self._databases = databases
        self._is_started = False
        self._live_seconds = settings.live_seconds
        self._reporter = Reporter(settings)
        self._server: HttpServer | None = None
        self._state = WorkerState.STARTING
        self.watch = LoopWatch(self._turn, settings.turn_seconds)
        self.routes: dict[str, Callable[[], Answer]] = {
            "/healthz": self._live,
            "/livez": self._live,
            "/readyz": lambda: answer_of(health.ready(self._health())),
            "/startupz": lambda: answer_of(health.startup(self._health())),
            **worker_routes(self._read_metrics),
        }
        answer_supervisor(LINK_VARIABLE, self.routes)
        if settings.address is not None:
            self._server = HttpServer(settings.address, self.routes)
            logger.info("health listening", extra={"address": self._server.address.text})

    async def __aenter__(self) -> Self:
        await self.watch.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.watch.stop()
        if self._server is not None:
            self._server.close()

    def on_working(self, client: Client) -> None:
        """Record that a client has started."""
        self._clients = self._clients | {
            client.config.database: client
        }  # other threads may read the one before
        self._is_started = True
        self._change(WorkerState.WORKING)

    def on_stopping(self) -> None:
        """Record that the process stops, also before its client has started."""
        self._change(WorkerState.STOPPING)

    def _change(self, state: WorkerState) -> None:
        self._state = state
        self._turn()

    def _turn(self) -> None:
        """Report while the loop runs, so the process is live by that."""
        status, clients = self._state.value, [*self._clients.values()]
        if clients:
            configs = clients[0].config.queue_configs.items()
            queues = ", ".join(f"{name}:{queue.max_workers}" for name, queue in configs)
            num_running = sum(client.num_running for client in clients)
            status = f"{status} {queues}; running jobs: {num_running}"
        self._reporter.turn(self._state, is_live=True, status=status)

    def _health(self) -> WorkerHealth:
        clients = self._clients
        return WorkerHealth(
            state=self._state,
            is_started=self._is_started,
            is_database_reachable=not clients or any(one.is_database_reachable for one in clients.values()),
            loop_seconds=self.watch.seconds,
            away=[
                name
                for name in self._databases
                if name not in clients or not clients[name].is_database_reachable
            ],
        )

    def _read_metrics(self) -> list[Points]:
        lag = number(definitions.EVENT_LOOP_LAG, self.watch.worst_seconds)
        pages = {name: client.read_metrics() for name, client in self._clients.items()}
        if not self._databases:
            return [*chain.from_iterable(pages.values()), lag]
        away = {name: [number(definitions.DATABASE_UP, 0)] for name in self._databases if name not in pages}
        return [*of_databases(pages | away), lag]

    def _live(self) -> Answer:
        now = self._health()
        position = self.watch.position() if health.is_hung(now, self._live_seconds) else ""
        return answer_of(health.live(now, self._live_seconds, position))
