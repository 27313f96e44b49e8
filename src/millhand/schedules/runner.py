"""
Inserts the jobs of schedules that the database keeps, each exactly once.

Rule 1: a due instant is a row's `next_run_at`. Moving it and inserting the job are one transaction. If a leader dies at any
        statement, neither happens, or both. Two leaders at once lock different rows.
Rule 2: the database's clock decides what is due. A clock that is set back repeats no instant.
Rule 3: a schedule whose job cannot be inserted does not affect the others. It is logged, and moves on without a job. So does
        one whose hooks take longer than `HOOKS_SECONDS`. After a transient error all of them are tried again, one by one at
        first: hooks that block the event loop may be its reason. One that then fails alone is left out for `DELAY_SECONDS`.
Rule 4: a schedule that code declared, and no client for a day, is logged each hour. It still runs until it is removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from millhand.core.errors import DriverError, MillhandError, OperationTimeout
from millhand.core.insert_opts import MAX_ATTEMPTS_DEFAULT, InsertParams, InsertResult
from millhand.core.job import JobId, JobState
from millhand.core.log.logger import logger_of
from millhand.core.schedule import Due, decode_definition, due_runs, without_overlap
from millhand.core.sqlstate import UNUSABLE
from millhand.db.driver.protocol import Executor
from millhand.engine.error_text import error_fields, is_task_ending
from millhand.engine.inserter import Inserter
from millhand.engine.service import IntervalService, Stopped
from millhand.engine.store.job import job_list_states
from millhand.schedules.store import (
    DueSchedule,
    Move,
    schedule_get_next_seconds,
    schedule_list_undeclared,
    schedule_lock_due,
    schedule_move,
)

logger = logger_of(__name__)

# A batch takes about 50 ms, in which the event loop also does other work.
BATCH_SIZE = 200
# How long the hooks and middleware of one insert may take. The server ends a transaction that is idle for 30 s.
HOOKS_SECONDS = 20.0
# The clock may have been set, or a notification lost.
PAUSE_SECONDS_MAX = 10.0
IDLE_SECONDS = 60.0
# What is due is locked by another leader, whose term has ended.
LOCKED_SECONDS = 1.0
# A timer may end before the database's clock shows the instant.
SLACK_SECONDS = 0.002
# So long this leader leaves a schedule that it cannot read; then its missed runs are caught up.
INVALID_SECONDS = 600.0
# So long it leaves out one that fails alone for a transient reason, as for the database that its hooks use.
DELAY_SECONDS = 60.0
# The definition of a schedule with the default has no such key; another text with it costs only a look.
OVERLAP = '"overlap"'
UNDECLARED_AGE = timedelta(days=1)
UNDECLARED_SECONDS = 3_600.0


class ScheduleRunner(IntervalService):
    """
    Runs the schedules as the leader of role `periodic`.

    `now` returns the time for tests, or None for the database's.
    """

    interval_seconds = PAUSE_SECONDS_MAX

    def __init__(
        self,
        pool: Executor,
        inserter: Inserter,
        *,
        default_max_attempts: int = MAX_ATTEMPTS_DEFAULT,
        monotonic: Callable[[], float],
        now: Callable[[], datetime | None] = lambda: None,
    ) -> None:
        super().__init__()
        self._batch_size = BATCH_SIZE
        self._default_max_attempts = default_max_attempts
        self._inserter = inserter
        self._left_out_until: dict[str, float] = {}
        self._locked: Sequence[DueSchedule] = ()  # of the batch that is under way
        self._monotonic = monotonic
        self._now = now
        self._pause_seconds = IDLE_SECONDS
        self._pool = pool
        self._undeclared_at = 0.0

    def next_pause_seconds(self) -> float:
        return self._pause_seconds

    async def run_once(self) -> None:
        self._pause_seconds = IDLE_SECONDS
        num_due = 0
        try:
            while not self.wake_event.is_stopping:
                size = self._batch_size
                num = await self._run_batch(size)
                self._batch_size = min(2 * size, BATCH_SIZE)
                num_due += num
                if num < size:
                    break
            query = schedule_get_next_seconds(excluded=self._excluded(), now=self._now())
            seconds = await self._pool.run(query)
            await self._report_undeclared()
        except Stopped:
            return
        except (DriverError, OperationTimeout) as error:
            if _is_transient(error):
                if self._batch_size == 1:
                    self._leave_out(error)
                self._batch_size = 1
            if isinstance(error, DriverError) and error.sqlstate in UNUSABLE:
                return
            raise
        if seconds is not None:
            least = 0.0 if num_due or seconds > 0 else LOCKED_SECONDS
            self._pause_seconds = min(max(seconds + SLACK_SECONDS, least), PAUSE_SECONDS_MAX)
        self.probe("ran", num_due)

    async def _run_batch(self, size: int) -> int:
        """Run up to `size` schedules that are due, and return how many. Raises: Stopped."""
        self._locked = ()
        async with self._pool.begin() as transaction:
            query = schedule_lock_due(limit=size, excluded=self._excluded(), now=self._now())
            due = await transaction.run(query)
            if not due:
                return 0
            self._locked = due
            self.probe("locked", due)
            states = await _last_states(transaction, due)
            agendas = [agenda for one in due if (agenda := self._agenda(one, states)) is not None]
            jobs = await self._insert(transaction, [run for agenda in agendas for run in agenda.runs])
            self.probe("inserted", jobs)
            moves = [_move(agenda, jobs) for agenda in agendas]
            num_moved = await transaction.run(schedule_move(moves)) if moves else 0
            if num_moved != len(moves):  # the rows are locked
                raise MillhandError(f"schedules to move must be {len(moves)}, got {num_moved}")
            self.probe("moved", moves)
        self._locked = ()
        self.probe("committed", moves)
        return len(due)

    def _agenda(self, due: DueSchedule, states: Mapping[JobId, JobState]) -> _Agenda | None:
        try:
            definition = decode_definition(due.definition)
            found = due_runs(definition, due.due_at, due.now)
            last_state = None if due.last_job_id is None else states.get(due.last_job_id)
            at = without_overlap(definition, found.runs, last_state)
            runs = [
                _Run(due.id, one, definition.params(due.id, one, due.now, self._default_max_attempts))
                for one in at
            ]
        except (MillhandError, msgspec.MsgspecError) as error:  # an unknown zone, or another program's row
            logger.error("schedule invalid", extra={"schedule_id": due.id, **error_fields(error)})  # noqa: TRY400 - one line is enough
            self._left_out_until[due.id] = self._monotonic() + INVALID_SECONDS
            return None
        if not runs:
            logger.info("scheduled run skipped", extra={"schedule_id": due.id, "due_at": due.due_at})
        return _Agenda(due, found, runs)

    async def _insert(
        self, transaction: Executor, runs: Sequence[_Run]
    ) -> dict[tuple[str, datetime], InsertResult]:
        """Insert the jobs in rounds, of which none has a unique key twice; return the results of those inserted."""
        results: dict[tuple[str, datetime], InsertResult] = {}
        left = list(runs)
        while left:
            keys: set[bytes] = set()
            this_round: list[_Run] = []
            later: list[_Run] = []
            for run in left:
                key = run.params.unique_key
                (later if key in keys else this_round).append(run)
                if key is not None:
                    keys.add(key)
            await self._insert_round(transaction, this_round, results)
            left = later
        return results

    async def _insert_round(
        self, transaction: Executor, runs: Sequence[_Run], results: dict[tuple[str, datetime], InsertResult]
    ) -> None:
        params: list[InsertParams] = [run.params for run in runs]
        try:
            async with transaction.begin() as savepoint, asyncio.timeout(HOOKS_SECONDS):
                inserted = await self._inserter.insert_params(params, savepoint)
        except BaseException as error:  # a user's hook or middleware
            if is_task_ending(error) or _is_transient(error):
                raise
            if len(runs) > 1:
                for run in runs:
                    if self.wake_event.is_stopping:
                        raise Stopped from None
                    await self._insert_round(transaction, [run], results)
                return
            logger.error(  # noqa: TRY400 - one line is enough
                "scheduled job not inserted", extra={"schedule_id": runs[0].id, **error_fields(error)}
            )
            return
        results.update({(run.id, run.due_at): result for run, result in zip(runs, inserted, strict=True)})

    def _leave_out(self, error: BaseException) -> None:
        """Leave out the schedule whose batch failed, so that the others do not wait for it."""
        for one in self._locked:
            logger.warning("scheduled job delayed", extra={"schedule_id": one.id, **error_fields(error)})
            self._left_out_until[one.id] = self._monotonic() + DELAY_SECONDS

    def _excluded(self) -> list[str]:
        now = self._monotonic()
        self._left_out_until = {id: until for id, until in self._left_out_until.items() if until > now}
        return list(self._left_out_until)

    async def _report_undeclared(self) -> None:
        now = self._monotonic()
        if now < self._undeclared_at:
            return
        self._undeclared_at = now + UNDECLARED_SECONDS
        for id in await self._pool.run(schedule_list_undeclared(age=UNDECLARED_AGE)):
            remedy = f"remove it: millhand schedule remove {id}"
            logger.warning("schedule not declared", extra={"schedule_id": id, "remedy": remedy})


class _Run(NamedTuple):
    id: str
    due_at: datetime
    params: InsertParams


class _Agenda(NamedTuple):
    schedule: DueSchedule
    due: Due
    runs: Sequence[_Run]


async def _last_states(transaction: Executor, due: Sequence[DueSchedule]) -> Mapping[JobId, JobState]:
    """Return the states of the last runs' jobs, of the schedules whose `overlap` may be another one than the default."""
    ids = [one.last_job_id for one in due if one.last_job_id is not None and OVERLAP in one.definition]
    if not ids:
        return {}
    return await transaction.run(job_list_states(ids))


def _move(agenda: _Agenda, jobs: dict[tuple[str, datetime], InsertResult]) -> Move:
    inserted = [jobs[run.id, run.due_at] for run in agenda.runs if (run.id, run.due_at) in jobs]
    return Move(
        id=agenda.schedule.id,
        due_at=agenda.schedule.due_at,
        next_run_at=agenda.due.next_run_at,
        last_due_at=agenda.due.last_due_at,
        last_job_id=inserted[-1].job.id if inserted else None,
        num_runs=sum(not one.unique_skipped_as_duplicate for one in inserted),
    )


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, OperationTimeout) or (isinstance(error, DriverError) and error.retryable)
