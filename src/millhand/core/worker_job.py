"""The `Job` that a worker gets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from millhand.core.errors import AttemptCancelled, ConfigError, InvalidStep
from millhand.core.job import (
    AWAITED_KEY,
    CANCEL_REQUESTED_KEY,
    OUTPUT_KEY,
    RESERVED_METADATA_PREFIX,
    JobId,
    JobRow,
    Json,
    checked_output,
)
from millhand.core.json_value import checked_json
from millhand.core.step import Cursor, Steps, has_progress, require_awaitable, require_not_coroutine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from millhand.core.job_flow import JobFlow
    from millhand.core.tx_types import Tx

Args = TypeVar("Args")
P = ParamSpec("P")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Cancellation(Protocol):
    """The cancellation of an attempt: `reason` is None until it is requested."""

    @property
    def reason(self) -> object: ...


class Job(Generic[Args]):
    """
    The job that a worker gets: its args and row, and methods that affect this attempt.

    Args:
        row: The row as fetched.
        args: The args, decoded; None in `Hook.work_begin`.
        client: The client that works the job, for inserts and commands.

    Concurrency: belongs to one attempt. A plain function that runs in a thread may use all of it.
    """

    __slots__ = ("_attempt", "_flow", "_metadata_updates", "_steps", "args", "client", "row")

    _flow: JobFlow  # not set before it is used, so that other jobs pay nothing

    def __init__(
        self,
        row: JobRow,
        args: Args,
        client: Any = None,  # noqa: ANN401 - `Client` is in a layer above
        attempt: Cancellation | None = None,
    ) -> None:
        self.row = row
        self.args = args
        self.client = client
        self._attempt = attempt
        self._metadata_updates: dict[str, Json] | None = None
        self._steps: Steps | None = None

    def __repr__(self) -> str:
        return f"Job(id={self.id}, kind={self.kind!r}, attempt={self.attempt}/{self.max_attempts})"

    @property
    def id(self) -> JobId:
        """The job's id."""
        return self.row.id

    @property
    def kind(self) -> str:
        """The job's kind."""
        return self.row.kind

    @property
    def queue(self) -> str:
        """The queue that the job was fetched from."""
        return self.row.queue

    @property
    def database(self) -> str:
        """The name of the job's database, if this process works several; else empty."""
        return "" if self.client is None else str(self.client.config.database)

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self.row.attempt

    @property
    def max_attempts(self) -> int:
        """How often the job is attempted at most."""
        return self.row.max_attempts

    @property
    def fencing_token(self) -> int:
        """
        A number that grows with each fetch of this job, so that other systems can reject an attempt that has ended.

        It is the instant of the fetch by the database's clock, in microseconds since 1970. `attempt` does not always
        grow: snoozed and interrupted attempts are not counted.
        """
        at = self.row.attempted_at
        return 0 if at is None else (at - _EPOCH) // timedelta(microseconds=1)

    @property
    def metadata(self) -> Mapping[str, Json]:
        """The row's metadata as fetched, without what `set_metadata` staged."""
        return self.row.metadata

    @property
    def flow(self) -> JobFlow:
        """
        The flow of which this job is a task: add tasks to it, and read the outputs of the tasks that it waited for.

        Raises: ConfigError for a job that is no task of a flow.
        """
        try:
            return self._flow
        except AttributeError:
            self._flow = self._own_client().flows.of_job(self)
            return self._flow

    @property
    def is_cancel_requested(self) -> bool:
        """
        Whether this attempt should end: the job was cancelled, timed out, or its client stops.

        A plain function runs in a thread, which Python cannot interrupt. Check this now and then, and return or raise.
        """
        return self._attempt is not None and self._attempt.reason is not None

    def check_cancel_requested(self) -> None:
        """Raise AttemptCancelled if this attempt should end; for plain functions, where they can safely stop."""
        if self.is_cancel_requested:
            raise AttemptCancelled

    def record_output(self, output: Json) -> None:
        """
        Stage `output`, any JSON value, to be stored with the outcome of this attempt. The last call wins.

        Raises: ValueError if it does not encode to JSON or is larger than 32 MiB.
        Source: River v0.51.2, recorded_output.go `RecordOutput`.
        """
        self._stage(OUTPUT_KEY, checked_output(output))

    def set_metadata(self, key: str, value: Json) -> None:
        """
        Stage one entry of the row's metadata, to be stored with the outcome of this attempt.

        Raises: ValueError for a reserved key (`river:…`, `cancel_attempted_at`), or a value that does not encode to
        JSON.
        """
        if key.startswith(RESERVED_METADATA_PREFIX):
            raise ValueError(f"metadata key must not begin with {RESERVED_METADATA_PREFIX!r}, got {key!r}")
        if key == CANCEL_REQUESTED_KEY:
            raise ValueError(f"metadata key must not be the mark of a cancel, got {key!r}; raise JobCancel")
        self._stage(key, checked_json(f"metadata {key!r}", value))

    @property
    def metadata_updates(self) -> Mapping[str, Json]:
        """The metadata staged so far."""
        return self._metadata_updates or {}

    async def step(
        self, name: str, work: Callable[P, Awaitable[None]], /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """
        Run a resumable step: await `work(*args, **kwargs)` unless an earlier attempt completed the step `name`.

        Steps run one after the other. If one raises, the attempt fails, and the next attempt resumes at that step. Do
        not change the names and their order while unfinished jobs exist.

        Raises: what `work` raises; InvalidStep for a step within another, or a name that was used already.
        Source: River v0.51.2, resumable.go `ResumableStep`.
        """
        with self._own_steps().running(name) as is_due:
            if is_due:
                await require_awaitable(name, work(*args, **kwargs))

    async def step_cursor(
        self,
        name: str,
        work: Callable[Concatenate[Cursor, P], Awaitable[None]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """
        Run a resumable step, as `step` does, with a cursor that stores how far the step has come.

        Raises: as `step`.
        Source: River v0.51.2, resumable.go `ResumableStepCursor`.
        """
        steps = self._own_steps()
        with steps.running(name, has_cursor=True) as is_due:
            if is_due:
                cursor = Cursor(steps, name, self._save_step)
                await require_awaitable(name, work(cursor, *args, **kwargs))

    def step_sync(self, name: str, work: Callable[P, None], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Run a resumable step in a worker that is a plain function, as `step` does."""
        with self._own_steps().running(name) as is_due:
            if is_due:
                require_not_coroutine(name, work(*args, **kwargs))  # type: ignore[func-returns-value]  # it may all the same

    def step_cursor_sync(
        self, name: str, work: Callable[Concatenate[Cursor, P], None], /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Run a resumable step with a cursor in a worker that is a plain function, as `step_cursor` does."""
        steps = self._own_steps()
        with steps.running(name, has_cursor=True) as is_due:
            if is_due:
                cursor = Cursor(steps, name, self._save_step)
                require_not_coroutine(name, work(cursor, *args, **kwargs))  # type: ignore[func-returns-value]

    async def checkpoint(self, *, tx: Tx) -> None:
        """
        Store in your transaction that the current step is completed, together with its work.

        Commit before the step's function returns, and let an error of the commit pass: a step that returns is
        completed. In a step with a cursor, use `cursor.checkpoint`. `tx` is your connection.

        Raises: InvalidStep outside of a step; JobNotRunning; NotFound; DriverError.
        Source: River v0.51.2, resumable_step_tx.go `ResumableSetStepTx`.
        """
        await self._save_step({}, tx)

    async def complete(self, *, tx: Tx) -> JobRow:
        """
        Complete the job in your transaction, and return its new row. The job is completed exactly if you commit.

        Staged output and metadata are stored with it. Return soon after the commit; an error after it has no effect.
        After a rollback, the attempt ends like any other. `tx` is your connection.

        Raises: JobNotRunning; NotFound; DriverError.
        Source: River v0.51.2, job_complete_tx.go `JobCompleteTx`.
        """
        row: JobRow = await self._own_client().attempts.complete(self.row, self.metadata_updates, tx=tx)
        return row

    async def _save_step(self, cursors: Mapping[str, Json], tx: Tx) -> None:
        steps = self._own_steps()
        metadata = steps.checkpoint(cursors)
        await self._own_client().attempts.checkpoint(self.row, metadata, tx=tx)
        steps.record_checkpoint(metadata)

    def _own_client(self) -> Any:  # noqa: ANN401 - as above
        if self.client is None:
            raise ConfigError(
                f"job must have been fetched by a client to write its row, got {self!r} without one"
            )
        return self.client

    def _own_steps(self) -> Steps:
        if self._steps is None:
            self._steps = Steps(self.row.metadata)
        return self._steps

    def _stage(self, key: str, value: Json) -> None:
        if self._metadata_updates is None:
            self._metadata_updates = {}
        self._metadata_updates[key] = value


class JobInternals(Job[Args]):
    """The job that the executor makes: a `Job` with the methods that only Millhand calls."""

    __slots__ = ()

    # Further names of the slots, because a property is a call, and each attempt reads both. None if nothing is there.
    steps: Steps | None = vars(Job)["_steps"]
    staged: dict[str, Json] | None = vars(Job)["_metadata_updates"]
    attempt_cancellation: Cancellation | None = vars(Job)["_attempt"]

    def stage(self, key: str, value: Json) -> None:
        """Stage one metadata entry, whose key may be a reserved one."""
        self._stage(key, value)

    def end_steps(self, error: BaseException | None) -> BaseException | None:
        """
        Stage the progress of the steps when the worker has returned, and return the attempt's error.

        The mark of an awaited job is staged again. So its outcome is no plain success, which a statement without
        notifications writes or deletes. The executor calls this for each job with metadata.
        """
        if AWAITED_KEY in self.row.metadata:
            self._stage(AWAITED_KEY, self.row.metadata[AWAITED_KEY])
        try:
            if self._steps is None and (error is not None or not has_progress(self.row.metadata)):
                return error
            attempt_error, updates = self._own_steps().end(error)
        except InvalidStep as invalid:
            return invalid
        for key, value in updates.items():
            self._stage(key, value)
        return attempt_error
