"""What a running client observes: hooks, middleware, events, failures and stuck jobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from millhand.core.config import StuckJob
from millhand.core.event import Event, EventKind
from millhand.core.hooks import AttemptFailure, Hook, Middleware
from millhand.core.insert_opts import InsertParams, InsertResult
from millhand.core.job import JobRow, Json
from millhand.core.worker_job import Job
from river_conformance.normalized import Normalized


class Observed:
    """Counters and traces of one client, as `runtime_stats` returns them."""

    def __init__(self) -> None:
        self.cancelled_at_start = 0
        self.error_handler_calls = 0
        self.events: list[str] = []
        self.periodic_starts = 0
        self.resumable_first_runs = 0
        self.resumable_second_runs = 0
        self.stuck_jobs = 0
        self.trace: list[str] = []
        self._called: set[object] = set()

    def record_called(self, row: JobRow) -> None:
        """Record that the worker was called for this attempt."""
        self._called.add((row.id, row.attempted_at))

    def record_event(self, event: Event) -> None:
        """
        Record an event.

        Millhand does not call the worker of a job that was cancelled before its attempt began. Such an attempt has the
        event alone.
        """
        self.events.append(event.kind.value)
        row = event.job
        if event.kind is EventKind.JOB_CANCELLED and row is not None:
            self.cancelled_at_start += (row.id, row.attempted_at) not in self._called

    def record_stuck(self, stuck: StuckJob) -> bool:
        """Count an attempt that continues long after its timeout; it keeps its slot."""
        self.stuck_jobs += 1
        return False

    def normalized(self) -> Normalized:
        """Return the result of `runtime_stats`."""
        return {
            "cancelled_at_start": self.cancelled_at_start,
            "error_handler_calls": self.error_handler_calls,
            "events": list(self.events),
            "periodic_starts": self.periodic_starts,
            "resumable_first_runs": self.resumable_first_runs,
            "resumable_second_runs": self.resumable_second_runs,
            "stuck_jobs": self.stuck_jobs,
            "trace": list(self.trace),
        }


class PeriodicStarts(Hook):
    """Counts how often this client begins to insert periodic jobs."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    async def periodic_jobs_start(self) -> None:
        self._observed.periodic_starts += 1


class TraceHook(Hook):
    """Records each call of a hook."""

    def __init__(self, observed: Observed) -> None:
        self._trace = observed.trace

    async def insert_begin(self, params: InsertParams) -> InsertParams:
        self._trace.append("hook:insert_begin")
        return params

    async def work_begin(self, job: Job[Json]) -> None:
        self._trace.append("hook:work_begin")

    async def work_end(self, job: Job[Json], error: BaseException | None) -> BaseException | None:
        self._trace.append("hook:work_end")
        return error


class TraceMiddleware(Middleware):
    """Records the beginning and the end of each insert and attempt."""

    def __init__(self, observed: Observed) -> None:
        self._trace = observed.trace

    async def insert(
        self,
        params: Sequence[InsertParams],
        call_next: Callable[[Sequence[InsertParams]], Awaitable[Sequence[InsertResult]]],
    ) -> Sequence[InsertResult]:
        self._trace.append("middleware:insert_before")
        results = await call_next(params)
        self._trace.append("middleware:insert_after")
        return results

    async def work(self, job: Job[Json], call_next: Callable[[], Awaitable[None]]) -> None:
        self._trace.append("middleware:work_before")
        try:
            await call_next()
        finally:
            self._trace.append("middleware:work_after")


class CancellingHandler:
    """Cancels every job whose attempt fails, and counts the calls."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    async def handle_error(self, failure: AttemptFailure) -> bool:
        self._observed.error_handler_calls += 1
        return True
