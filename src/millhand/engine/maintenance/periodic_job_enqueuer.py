"""
Inserts each periodic job at the times of its schedule.

Rule 1: due times are kept in memory only. A new leader starts afresh: jobs with `run_on_start` are due at once, the others
        at their next time after now. Runs that fell due while no client led are not inserted.
Rule 2: each job is inserted on its own. A job that cannot be inserted does not affect the others.
Rule 3: a run that fails for a transient reason is tried again with backoff until it is inserted. If only the answer was
        lost, the run is in the table already: for a job with an id the enqueuer checks that first, and a job without one
        may be inserted twice. A run that can never be inserted (its constructor raises, its args are invalid) is skipped.
Rule 4: the next run is counted from the one before, not from now, so a schedule does not drift. Of the runs that fell due
        during a stall (a stopped process, an outage) one is inserted and the others are skipped.

River differs in this: it inserts all due jobs in one statement, skips the run of all of them if that fails, and inserts
every run that a stall missed.

Source: River v0.51.2, internal/maintenance/periodic_job_enqueuer.go.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from millhand.core.clock import Clock, backoff_seconds
from millhand.core.errors import ConfigError, DriverError, OperationTimeout
from millhand.core.hooks import Hook, overrides
from millhand.core.insert_opts import InsertParams
from millhand.core.log.logger import logger_of
from millhand.core.periodic import PeriodicJob
from millhand.db.driver.protocol import Executor
from millhand.engine.client_metrics import ClientMetrics
from millhand.engine.error_text import error_fields, is_task_ending
from millhand.engine.inserter import Inserter
from millhand.engine.outage import level_of
from millhand.engine.service import Service, WakeReason
from millhand.engine.store.job_insert import periodic_run_exists

logger = logger_of(__name__)

# A timer does not notice that the date was set or that the machine slept.
PAUSE_SECONDS_MAX = 60.0

# After a stall of more runs than this the next one is computed from now.
NUM_MISSED_MAX = 1_000


class PeriodicJobEnqueuer(Service):
    """
    Inserts the periodic jobs of one client; `add` and `remove` work at any time, leader or not.

    `pool` finds runs that were inserted though the answer was lost.
    Raises: ConfigError, in the constructor and in `add`, for two jobs with one id. `start` raises what a hook's
    `periodic_jobs_start` raises.
    """

    def __init__(
        self,
        inserter: Inserter,
        periodic_jobs: Sequence[PeriodicJob] = (),
        *,
        clock: Clock,
        hooks: Sequence[Hook] = (),
        metrics: ClientMetrics | None = None,
        pool: Executor | None = None,
    ) -> None:
        super().__init__()
        self._agendas: list[_Agenda] = []
        self._clock = clock
        self._hooks = [hook for hook in hooks if overrides(hook, "periodic_jobs_start")]
        self._inserter = inserter
        self._metrics = ClientMetrics() if metrics is None else metrics
        self._pool = pool
        self._has_passed = False
        for job in periodic_jobs:
            self.add(job)

    @property
    def periodic_jobs(self) -> tuple[PeriodicJob, ...]:
        return tuple(agenda.job for agenda in self._agendas)

    @property
    def awaits_first_runs(self) -> bool:
        """Whether runs of jobs with `run_on_start` are still to come: in the first pass, or after a failure."""
        started = [agenda for agenda in self._agendas if agenda.job.run_on_start]
        return any(not self._has_passed or agenda.num_failures for agenda in started)

    def add(self, job: PeriodicJob) -> None:
        """Insert `job` from now on, while this client leads. Raises: ConfigError if its id is taken."""
        if job.id is not None and any(agenda.job.id == job.id for agenda in self._agendas):
            raise ConfigError(f"id of a periodic job must be the only one, got {job.id!r} twice")
        agenda = _Agenda(job)
        if self.is_running:
            agenda.begin(self._clock.now())
        self._agendas.append(agenda)
        self.wake_event.set()

    def remove(self, job: PeriodicJob | str) -> None:
        """Stop inserting `job`, or the job with this id. Raises: ConfigError if there is none."""
        for agenda in self._agendas:
            if agenda.job is job or (isinstance(job, str) and agenda.job.id == job):
                self._agendas.remove(agenda)
                return
        raise ConfigError(f"periodic job must be one that was added, or its id, got {job!r}")

    async def begin(self) -> None:
        """Start afresh, as a new leader does. Raises: what a hook raises."""
        for hook in self._hooks:
            try:
                await hook.periodic_jobs_start()
            except BaseException as error:
                if isinstance(error, Exception) or is_task_ending(error):
                    raise
                # The exception itself, SystemExit for example, would end the process.
                raise RuntimeError(f"periodic_jobs_start raised {error!r}") from error
        for agenda in self._agendas:
            agenda.begin(self._clock.now())

    def next_due_at(self) -> datetime | None:
        """Return when the next run is due, for tests that move the clock; None for never."""
        return min((agenda.due_at for agenda in self._agendas if agenda.due_at is not None), default=None)

    async def run(self, started: Callable[[], None]) -> None:
        await self.begin()
        started()
        while True:
            await self.run_once()
            self._has_passed = True
            if await self.wake_event.wait(self._next_due_seconds()) is WakeReason.STOP:
                return

    async def run_once(self) -> None:
        """Insert what is due."""
        due = [
            (agenda.due_at, agenda)
            for agenda in self._agendas
            if agenda.due_at is not None and self._due_seconds(agenda) <= 0
        ]
        for due_at, agenda in sorted(due, key=operator.itemgetter(0)):
            if not await self._insert(agenda, due_at) and self.wake_event.is_stopping:
                break  # during an outage each further job would delay the stop by its timeout
        self.probe("passed", len(due))

    async def _insert(self, agenda: _Agenda, due_at: datetime) -> bool:
        """Insert or skip the due run and advance to the next one; return False if the run is tried again later."""
        fields: dict[str, object] = {"periodic_job_id": agenda.job.id}
        try:
            await self._insert_run(agenda.job, due_at, is_again=agenda.num_failures > 0)
        except (DriverError, OperationTimeout) as error:
            if _is_transient(error):
                pause = agenda.put_off(self._clock.monotonic())
                logger.log(
                    level_of(error),
                    "periodic job put off",
                    extra=fields | {"error": str(error), "sleep_seconds": pause},
                )
                return False
            logger.error("periodic job not inserted", extra=fields | error_fields(error))  # noqa: TRY400 - one line is enough
        except BaseException as error:  # a user's constructor, hook or middleware
            if is_task_ending(error):
                raise
            logger.exception("periodic job not inserted", extra=fields | error_fields(error))
        num_missed = agenda.advance(self._clock.now())
        if num_missed:
            logger.warning("periodic runs missed", extra=fields | {"num_jobs": num_missed})
        return True

    async def _insert_run(self, job: PeriodicJob, due_at: datetime, *, is_again: bool) -> None:
        made = job.construct()
        if made is None:
            return
        params = periodic_params(self._inserter.resolve(*made, now=due_at), job.id, due_at)
        if is_again and await self._is_in(params, job.id):
            return
        for result in await self._inserter.insert_params([params]):
            logger.debug(
                "periodic job inserted",
                extra={"job_id": result.job.id, "kind": result.job.kind, "queue": result.job.queue},
            )
            self.probe("run", result)
        if job.id is not None:
            self._metrics.add_periodic(job.id)

    async def _is_in(self, params: InsertParams, id: str | None) -> bool:
        """Return whether a run is in the table although its insert failed."""
        if id is None or self._pool is None:
            return False
        return await self._pool.run(periodic_run_exists(params, id))

    def _next_due_seconds(self) -> float:
        return min((self._due_seconds(agenda) for agenda in self._agendas), default=PAUSE_SECONDS_MAX)

    def _due_seconds(self, agenda: _Agenda) -> float:
        if agenda.due_at is None:
            return PAUSE_SECONDS_MAX
        due_seconds = (agenda.due_at - self._clock.now()).total_seconds()
        return min(max(due_seconds, agenda.not_before - self._clock.monotonic()), PAUSE_SECONDS_MAX)


class _Agenda(msgspec.Struct, eq=False):
    """
    The next run of one periodic job.

    Units: `due_at` is an aware instant, None for never; `not_before` is in monotonic seconds and applies after a failure.
    """

    job: PeriodicJob
    due_at: datetime | None = None
    not_before: float = -math.inf
    num_failures: int = 0

    def begin(self, now: datetime) -> None:
        """Start afresh, as a new leader does."""
        self.due_at = now if self.job.run_on_start else _next_due(self.job, now)
        self._forget_failures()

    def put_off(self, now: float) -> float:
        """Delay the due run after a failure; return for how many seconds."""
        self.num_failures += 1
        pause = backoff_seconds(self.num_failures)
        self.not_before = now + pause
        return pause

    def advance(self, now: datetime) -> int:
        """Advance to the next run after now, and return how many runs are skipped."""
        num_missed = 0
        due_at = self.due_at
        while due_at is not None:
            due_at = _next_due(self.job, due_at)
            if due_at is None or due_at > now:
                break
            num_missed += 1
            if num_missed == NUM_MISSED_MAX:
                due_at = _next_due(self.job, now)
                break
        self.due_at = due_at
        self._forget_failures()
        return num_missed

    def _forget_failures(self) -> None:
        self.not_before = -math.inf
        self.num_failures = 0


def _next_due(job: PeriodicJob, after: datetime) -> datetime | None:
    """Return the next run of `job`'s schedule; a schedule that raises is logged and has no further run in this term."""
    try:
        due_at = job.schedule.next(after)
        if due_at is None or due_at > after:
            return due_at
        raise ValueError(f"next run must be after {after!r}, got {due_at!r}")
    except BaseException as error:  # a user's schedule must not stop the other periodic jobs
        if is_task_ending(error):
            raise
        logger.exception(
            "periodic job not inserted", extra={"periodic_job_id": job.id, **error_fields(error)}
        )
        return None


def periodic_params(params: InsertParams, periodic_job_id: str | None, due_at: datetime) -> InsertParams:
    """
    Return `params` with the metadata of a periodic job, scheduled for the instant at which it was due.

    A `scheduled_at` set by the constructor is kept.
    """
    marks: dict[str, object] = {"periodic": True}
    if periodic_job_id is not None:
        marks["river:periodic_job_id"] = periodic_job_id
    metadata = {**msgspec.json.decode(params.encoded_metadata), **marks}
    encoded = msgspec.json.encode(metadata).decode()
    scheduled_at = due_at if params.scheduled_at is None else params.scheduled_at
    return msgspec.structs.replace(params, encoded_metadata=encoded, scheduled_at=scheduled_at)


def _is_transient(error: DriverError | OperationTimeout) -> bool:
    return isinstance(error, OperationTimeout) or error.retryable
