"""
Inserts each periodic job when its schedule says so.

Rule 1: what is due is kept in memory only. A client that becomes leader begins anew: jobs that run on start are due at
        once, the others when their schedule says after now. What fell due while nobody led is not made up for.
Rule 2: each job is inserted on its own. One that cannot be inserted costs the others nothing.
Rule 3: a run that the database refused for the moment is tried again, ever more slowly, until it is in. Where only the
        answer was lost it is in already: a job with an id is looked for first, one without may be in twice. A run that
        cannot be inserted at all (its constructor failed, its args are impossible) is left out.
Rule 4: the next run is counted from the one before, not from now, so a schedule does not drift. Of the runs that fell
        due during a stall (the process stood still, the database was away) one is inserted, the others are left out.

River inserts all due jobs in one statement, loses the run of all of them when that fails, and makes up for every missed
run of a stall; the rest is River's.

Source: River v0.51.2, internal/maintenance/periodic_job_enqueuer.go.
"""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from millhand.clock import Clock, backoff_seconds
from millhand.driver.protocol import Executor
from millhand.errors import ConfigError, DriverError, OperationTimeout
from millhand.hooks import Hook, overrides
from millhand.insert_opts import InsertParams
from millhand.periodic import PeriodicJob
from millhand.runtime.failure import is_from_outside, safe_str
from millhand.runtime.inserter import Inserter
from millhand.runtime.outage import level_of
from millhand.runtime.service import Service, WakeReason
from millhand.store.periodic_run import periodic_run_exists

logger = logging.getLogger(__name__)

# Nothing need be due for so long; but the date may be set, or the machine may sleep, which no timer notices.
PAUSE_SECONDS_MAX = 60.0

# A stall longer than this many runs is not gone through run by run.
NUM_MISSED_MAX = 1_000


class PeriodicJobEnqueuer(Service):
    """
    The enqueuer of one client; `add` and `remove` work at any time, leader or not. `pool` is asked for runs that may be in.

    Raises: ConfigError, when made or in `add`, for two jobs with one id. `start` raises what a hook's
    `periodic_jobs_start` raises.
    """

    def __init__(
        self,
        inserter: Inserter,
        periodic_jobs: Sequence[PeriodicJob] = (),
        *,
        clock: Clock,
        hooks: Sequence[Hook] = (),
        pool: Executor | None = None,
    ) -> None:
        super().__init__()
        self._agendas: list[_Agenda] = []
        self._clock = clock
        self._hooks = [hook for hook in hooks if overrides(hook, "periodic_jobs_start")]
        self._inserter = inserter
        self._pool = pool
        for job in periodic_jobs:
            self.add(job)

    @property
    def periodic_jobs(self) -> tuple[PeriodicJob, ...]:
        return tuple(agenda.job for agenda in self._agendas)

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
        """Insert `job`, itself or the one with this id, no more. Raises: ConfigError if there is none."""
        for agenda in self._agendas:
            if agenda.job is job or (isinstance(job, str) and agenda.job.id == job):
                self._agendas.remove(agenda)
                return
        raise ConfigError(f"periodic job must be one that was added, or its id, got {job!r}")

    async def begin(self) -> None:
        """Begin anew, as a client that becomes leader does. Raises: what a hook raises."""
        for hook in self._hooks:
            try:
                await hook.periodic_jobs_start()
            except BaseException as error:
                if isinstance(error, Exception) or is_from_outside(error):
                    raise
                raise RuntimeError(
                    f"periodic_jobs_start raised {error!r}"
                ) from error  # which would end the process
        for agenda in self._agendas:
            agenda.begin(self._clock.now())

    def next_due_at(self) -> datetime | None:
        """Return when the next run is due, for whoever moves the time; None for never."""
        return min((agenda.due_at for agenda in self._agendas if agenda.due_at is not None), default=None)

    async def run(self, started: Callable[[], None]) -> None:
        await self.begin()
        started()
        while True:
            await self.run_once()
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
                break  # a database that is away must not hold up a stop for one deadline after the other
        self.probe("passed", len(due))

    async def _insert(self, agenda: _Agenda, due_at: datetime) -> bool:
        """Insert the run that is due, or leave it out, and go on to the next; False if it was put off."""
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
            logger.error("periodic job not inserted", extra=fields | _fault(error))  # noqa: TRY400 - said in a line
        except BaseException as error:  # a user's constructor, hook or middleware
            if is_from_outside(error):
                raise
            logger.exception("periodic job not inserted", extra=fields | _fault(error))
        num_missed = agenda.advance(self._clock.now())
        if num_missed:
            logger.warning("periodic runs missed", extra=fields | {"num_jobs": num_missed})
        return True

    async def _insert_run(self, job: PeriodicJob, due_at: datetime, *, is_again: bool) -> None:
        made = job.construct()
        if made is None:
            return
        params = periodic_params(self._inserter.resolve(*made), job.id, due_at)
        if is_again and await self._is_in(params, job.id):
            return
        for result in await self._inserter.insert_params([params]):
            logger.debug(
                "periodic job inserted",
                extra={"job_id": result.job.id, "kind": result.job.kind, "queue": result.job.queue},
            )
            self.probe("run", result)

    async def _is_in(self, params: InsertParams, id: str | None) -> bool:
        """Say whether a run is known to be in, although it was not said so."""
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
    When one periodic job is due next.

    Units: `due_at` is an aware instant, None for never; `not_before` is in monotonic seconds and holds after a failure.
    """

    job: PeriodicJob
    due_at: datetime | None = None
    not_before: float = -math.inf
    num_failures: int = 0

    def begin(self, now: datetime) -> None:
        """Begin anew, as a leader does."""
        self.due_at = now if self.job.run_on_start else _next_due(self.job, now)
        self._forget_failures()

    def put_off(self, now: float) -> float:
        """Have the run that is due tried again later; return in how many seconds."""
        self.num_failures += 1
        pause = backoff_seconds(self.num_failures)
        self.not_before = now + pause
        return pause

    def advance(self, now: datetime) -> int:
        """Go on to the next run that is still ahead, and return how many are left out."""
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
    """Ask the schedule of `job`; one that fails is told of, and has no further run while this client leads."""
    try:
        due_at = job.schedule.next(after)
        if due_at is None or due_at > after:
            return due_at
        raise ValueError(f"next run must be after {after!r}, got {due_at!r}")
    except BaseException as error:  # a user's schedule, called beside everybody's sweeping
        if is_from_outside(error):
            raise
        logger.exception("periodic job not inserted", extra={"periodic_job_id": job.id} | _fault(error))
        return None


def periodic_params(params: InsertParams, periodic_job_id: str | None, due_at: datetime) -> InsertParams:
    """
    Return `params` with the marks of a periodic job, scheduled for the instant at which it was due.

    A schedule of the constructor's own is kept. The unique key is not computed again: by period it is that of now.
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


def _fault(error: BaseException) -> dict[str, object]:
    return {"error": safe_str(error), "error_type": type(error).__name__}
