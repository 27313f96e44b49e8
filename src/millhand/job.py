"""A job: one row of `river_job`, something to be done once; and the view of it that a worker is given."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NewType, ParamSpec, Protocol, TypeVar

import msgspec

from millhand.errors import AttemptCancelled, ConfigError, InvalidStep
from millhand.json_value import Json as Json  # noqa: PLC0414 - where everybody looks for it
from millhand.json_value import checked_json
from millhand.step import Cursor, Steps, has_progress, require_awaitable, require_not_coroutine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

ClientId = NewType("ClientId", str)
JobId = NewType("JobId", int)

Args = TypeVar("Args")
P = ParamSpec("P")

OUTPUT_BYTES_MAX = 32 * 1024 * 1024
RESERVED_METADATA_PREFIX = "river:"
# Read by every leader's rescuer; a value that is no timestamp stops the rescuer of a Go leader altogether.
CANCEL_REQUESTED_KEY = "cancel_attempted_at"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class JobState(enum.StrEnum):
    """Where a job is in its life; the order is that of the database's enum."""

    AVAILABLE = "available"
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    DISCARDED = "discarded"
    PENDING = "pending"
    RETRYABLE = "retryable"
    RUNNING = "running"
    SCHEDULED = "scheduled"

    @property
    def is_finalized(self) -> bool:
        """Whether nothing more will happen to the job by itself."""
        return self in FINALIZED_STATES


FINALIZED_STATES = frozenset({JobState.CANCELLED, JobState.COMPLETED, JobState.DISCARDED})


class AttemptError(msgspec.Struct, frozen=True, gc=False):
    """
    One failed attempt as kept in `errors`.

    Units: `at` is when the attempt started executing (for a rescue: when it was rescued); `attempt` counts from 1;
    `trace` is the stack of what the worker raised, empty where it would show nothing of the worker's (as a timeout's).
    Source: River v0.51.2, rivertype `AttemptError`.
    """

    at: datetime
    attempt: int
    error: str
    trace: str = ""


class JobRow(msgspec.Struct, frozen=True, gc=False):
    """
    One row of `river_job`, in the table's column order.

    `encoded_args` is the JSON text as the database prints it; `metadata` and `errors` are decoded. Instants are aware.
    A struct, not a dataclass: a fetch builds thousands of these a second, and this one is built in C. It holds nothing
    that leads back to it, so the collector of garbage need not look.
    """

    id: JobId
    state: JobState
    attempt: int
    max_attempts: int
    attempted_at: datetime | None
    created_at: datetime
    finalized_at: datetime | None
    scheduled_at: datetime
    priority: int
    encoded_args: str
    attempted_by: tuple[str, ...]
    errors: tuple[AttemptError, ...]
    kind: str
    metadata: dict[str, Json]
    queue: str
    tags: tuple[str, ...]
    unique_key: bytes | None
    unique_states: int | None

    @property
    def args(self) -> Json:
        """The args as plain JSON values; a worker gets them typed, as `Job.args`."""
        return msgspec.json.decode(self.encoded_args)

    @property
    def output(self) -> Json:
        """What the worker recorded as output, or None."""
        return self.metadata.get("output")


class Ending(Protocol):
    """What knows why an attempt is to end before its time; None while it is not."""

    @property
    def reason(self) -> object: ...


class Job(Generic[Args]):
    """
    What a worker is given: its typed args, its row, and the ways to speak about this attempt.

    Concurrency: belongs to one attempt; a plain function that runs in a thread may use all of it.
    """

    __slots__ = ("_attempt", "_metadata_updates", "_steps", "args", "client", "row")

    def __init__(
        self,
        row: JobRow,
        args: Args,
        client: Any = None,  # noqa: ANN401 - the front desk is upstairs
        attempt: Ending | None = None,
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
        return self.row.id

    @property
    def kind(self) -> str:
        return self.row.kind

    @property
    def queue(self) -> str:
        return self.row.queue

    @property
    def attempt(self) -> int:
        """Counted from 1."""
        return self.row.attempt

    @property
    def max_attempts(self) -> int:
        return self.row.max_attempts

    @property
    def fencing_token(self) -> int:
        """
        A number for systems outside, larger with each fetch of this job, so that they can refuse an attempt that is over.

        Units: the microsecond of the fetch, since 1970, by the database's clock. `attempt` would not do: a snooze and an
        interruption give theirs back.
        """
        at = self.row.attempted_at
        return 0 if at is None else (at - _EPOCH) // timedelta(microseconds=1)

    @property
    def metadata(self) -> Mapping[str, Json]:
        """The row's metadata as fetched; what `set_metadata` staged is not in it."""
        return self.row.metadata

    @property
    def is_cancel_requested(self) -> bool:
        """
        Whether this attempt is to end: cancelled from outside, timed out, or the client is stopping.

        For plain functions, which nobody can interrupt: look here now and then, and return or raise.
        """
        return self._attempt is not None and self._attempt.reason is not None

    def check_cancel_requested(self) -> None:
        """Raise `AttemptCancelled` if this attempt is to end; for plain functions, at places where they may stop."""
        if self.is_cancel_requested:
            raise AttemptCancelled

    def record_output(self, output: Json) -> None:
        """
        Stage `output`, any JSON value, to be stored with this attempt's outcome, whatever that is; the last one wins.

        Raises: ValueError if it does not encode to JSON or is larger than 32 MiB.
        Source: River v0.51.2, recorded_output.go `RecordOutput`.
        """
        self._stage("output", checked_output(output))

    def set_metadata(self, key: str, value: Json) -> None:
        """
        Stage one metadata entry, to be merged with this attempt's outcome.

        Raises: ValueError for a key that River keeps for itself (`river:…`, `cancel_attempted_at`), and for what does
        not encode to JSON.
        """
        if key.startswith(RESERVED_METADATA_PREFIX):
            raise ValueError(f"metadata key must not begin with {RESERVED_METADATA_PREFIX!r}, got {key!r}")
        if key == CANCEL_REQUESTED_KEY:
            raise ValueError(f"metadata key must not be the mark of a cancel, got {key!r}; raise JobCancel")
        self._stage(key, checked_json(f"metadata {key!r}", value))

    @property
    def metadata_updates(self) -> Mapping[str, Json]:
        """What was staged so far."""
        return self._metadata_updates or {}

    async def step(
        self, name: str, work: Callable[P, Awaitable[None]], /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """
        Await `work(*args, **kwargs)`, unless an earlier attempt has completed the step of this name.

        Steps come one after the other. What one raises fails the attempt, which a later attempt takes up again at that
        step. Keep the names, and their order, while jobs are under way.

        Raises: what `work` raises; InvalidStep for a step within another, and for a name that was used.
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
        Await `work(cursor, *args, **kwargs)`, as `step` does; `cursor` says how far the step came before it failed.

        Raises: as `step`.
        Source: River v0.51.2, resumable.go `ResumableStepCursor`.
        """
        steps = self._own_steps()
        with steps.running(name, has_cursor=True) as is_due:
            if is_due:
                cursor = Cursor(steps, name, self._save_step)
                await require_awaitable(name, work(cursor, *args, **kwargs))

    def step_sync(self, name: str, work: Callable[P, None], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call `work(*args, **kwargs)` as `step` would await it; for workers that are plain functions."""
        with self._own_steps().running(name) as is_due:
            if is_due:
                require_not_coroutine(name, work(*args, **kwargs))  # type: ignore[func-returns-value]  # it may all the same

    def step_cursor_sync(
        self, name: str, work: Callable[Concatenate[Cursor, P], None], /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call `work(cursor, *args, **kwargs)` as `step_cursor` would await it; for workers that are plain functions."""
        steps = self._own_steps()
        with steps.running(name, has_cursor=True) as is_due:
            if is_due:
                cursor = Cursor(steps, name, self._save_step)
                require_not_coroutine(name, work(cursor, *args, **kwargs))  # type: ignore[func-returns-value]

    async def checkpoint(self, *, tx: object) -> None:
        """
        Store in `tx`, a connection of yours, that the step that runs is done, together with what you did there.

        Commit before the step's function returns, and let an error of that out of it: a step that returns is done.
        In a step with a cursor, `cursor.checkpoint` is what you want.

        Raises: InvalidStep outside a step; JobNotRunning; NotFound; and as the driver.
        Source: River v0.51.2, resumable_step_tx.go `ResumableSetStepTx`.
        """
        await self._save_step({}, tx)

    async def complete(self, *, tx: object) -> JobRow:
        """
        Complete the job in `tx`, a connection of yours, and return its row: done exactly if you commit.

        What was staged is stored with it. Return soon after the commit; what the worker raises by then changes nothing.
        After a rollback the attempt ends as any other.

        Raises: JobNotRunning; NotFound; and as the driver.
        Source: River v0.51.2, job_complete_tx.go `JobCompleteTx`.
        """
        row: JobRow = await self._own_client().attempts.complete(self.row, self.metadata_updates, tx=tx)
        return row

    async def _save_step(self, cursors: Mapping[str, Json], tx: object) -> None:
        steps = self._own_steps()
        metadata = steps.checkpoint(cursors)
        await self._own_client().attempts.checkpoint(self.row, metadata, tx=tx)
        steps.record_checkpoint(metadata)

    def _own_client(self) -> Any:  # noqa: ANN401 - the front desk is upstairs
        if self.client is None:
            raise ConfigError(
                f"job must have been fetched by a client to write its row, got {self!r} without one"
            )
        return self.client

    def _own_steps(self) -> Steps:
        if self._steps is None:
            self._steps = Steps(self.row.metadata)
        return self._steps

    def _end_steps(self, error: BaseException | None) -> BaseException | None:
        """Return how the attempt ended, and stage its progress; what the executor calls when the worker has returned."""
        try:
            if self._steps is None and (error is not None or not has_progress(self.row.metadata)):
                return error
            ended_with, updates = self._own_steps().end(error)
        except InvalidStep as invalid:
            return invalid
        for key, value in updates.items():
            self._stage(key, value)
        return ended_with

    def _stage(self, key: str, value: Json) -> None:
        if self._metadata_updates is None:
            self._metadata_updates = {}
        self._metadata_updates[key] = value


def checked_output(output: Json) -> Json:
    """
    Return `output` as it can be stored as a job's.

    Raises: ValueError if it does not encode to JSON or is larger than 32 MiB.
    """
    return checked_json("output", output, bytes_max=OUTPUT_BYTES_MAX)
