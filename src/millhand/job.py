"""A job: one row of `river_job`, something to be done once; and the view of it that a worker is given."""

from __future__ import annotations

import enum
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, NewType, TypeVar

import msgspec

from millhand.errors import AttemptCancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ClientId = NewType("ClientId", str)
JobId = NewType("JobId", int)

Args = TypeVar("Args")
Json = Any  # whatever JSON can say; the one place where that is given a name

OUTPUT_BYTES_MAX = 32 * 1024 * 1024
RESERVED_METADATA_PREFIX = "river:"


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


class AttemptError(msgspec.Struct, frozen=True):
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


class JobRow(msgspec.Struct, frozen=True):
    """
    One row of `river_job`, in the table's column order.

    `encoded_args` is the JSON text as the database prints it; `metadata` and `errors` are decoded. Instants are aware.
    A struct, not a dataclass: a fetch builds thousands of these a second, and this one is built in C.
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


class Job(Generic[Args]):
    """
    What a worker is given: its typed args, its row, and the ways to speak about this attempt.

    Concurrency: belongs to one attempt; a plain function that runs in a thread may use all of it.
    """

    __slots__ = ("_cancel_requested", "_metadata_updates", "args", "client", "row")

    def __init__(self, row: JobRow, args: Args, client: Any = None) -> None:  # noqa: ANN401 - the front desk is upstairs
        self.row = row
        self.args = args
        self.client = client
        self._metadata_updates: dict[str, Json] | None = None
        self._cancel_requested: Callable[[], bool] | None = None

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
    def metadata(self) -> Mapping[str, Json]:
        """The row's metadata as fetched; what `set_metadata` staged is not in it."""
        return self.row.metadata

    @property
    def is_cancel_requested(self) -> bool:
        """
        Whether this attempt is to end: cancelled from outside, timed out, or the client is stopping.

        For plain functions, which nobody can interrupt: look here now and then, and return or raise.
        """
        return self._cancel_requested is not None and self._cancel_requested()

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

        Raises: ValueError for a key that River keeps for itself (`river:…`), and for what does not encode to JSON.
        """
        if key.startswith(RESERVED_METADATA_PREFIX):
            raise ValueError(f"metadata key must not begin with {RESERVED_METADATA_PREFIX!r}, got {key!r}")
        self._stage(key, checked_json(f"metadata {key!r}", value))

    @property
    def metadata_updates(self) -> Mapping[str, Json]:
        """What was staged so far."""
        return self._metadata_updates or {}

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


def checked_json(subject: str, value: Json, *, bytes_max: int | None = None) -> Json:
    """
    Return a copy of `value` of plain JSON values: what happens to the original afterwards changes nothing.

    Raises: ValueError, with `subject` in it, if it does not encode to JSON, or to more than `bytes_max` bytes.
    """
    try:
        try:
            encoded = msgspec.json.encode(value)
        except UnicodeEncodeError:  # half of a surrogate pair, which is replaced when it is written
            encoded = json.dumps(value).encode()
        copy = json.loads(encoded)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise ValueError(
            f"{subject} must be encodable as JSON, got {type(value).__name__}: {error}"
        ) from error
    if bytes_max is not None and len(encoded) > bytes_max:
        raise ValueError(f"{subject} must be at most {bytes_max:,} bytes, got {len(encoded):,}")
    return copy
