"""A job as its row in `river_job`."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import NewType

import msgspec

from millhand.core.json_value import Json as Json  # noqa: PLC0414 - other modules import it from here
from millhand.core.json_value import checked_json

ClientId = NewType("ClientId", str)
"""The id of a client."""

JobId = NewType("JobId", int)
"""The id of a job."""

OUTPUT_BYTES_MAX = 32 * 1024 * 1024
RESERVED_METADATA_PREFIX = "river:"
# The rescuer of every leader reads it. A value that is no timestamp stops the rescuer of a Go leader.
CANCEL_REQUESTED_KEY = "cancel_attempted_at"
# Marks a job that a caller awaits: its row is kept, and the client that ends it notifies the caller's.
AWAITED_KEY = "millhand:awaited"
OUTPUT_KEY = "output"


class JobState(enum.StrEnum):
    """
    The states of a job, in the order of the database's enum.

    A job waits as `scheduled` (for its time), `retryable` (for its next attempt) or `pending` (for your code), becomes
    `available`, is `running` while it is worked, and ends `completed`, `cancelled` or `discarded`.
    """

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
        """Whether the job has ended: it is cancelled, completed or discarded."""
        return self in FINALIZED_STATES


FINALIZED_STATES = frozenset({JobState.CANCELLED, JobState.COMPLETED, JobState.DISCARDED})


class AttemptError(msgspec.Struct, frozen=True, gc=False):
    """
    One failed attempt in a job's `errors`.

    Attributes:
        at: When the attempt began to execute; for a rescue, when the job was rescued.
        attempt: Counted from 1.
        trace: The stack of what the worker raised; empty where it shows nothing of the worker, as for a timeout.

    Source: River v0.51.2, rivertype `AttemptError`.
    """

    at: datetime
    attempt: int
    error: str
    trace: str = ""


class JobRow(msgspec.Struct, frozen=True, gc=False):
    """
    One row of `river_job`. Instants are aware.

    Attributes:
        attempt: How many attempts have begun.
        encoded_args: The JSON text of the args as the database prints it.
        attempted_by: The ids of the clients that fetched the job, last one last.
        unique_states: River's mask of the states in which the job holds its unique key.
    """

    # The fields are in the table's column order. A msgspec struct is built in C, and a fetch builds thousands a second.
    # `gc=False` is safe because no field can refer back to the row.
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
        """The output that the worker recorded, or None."""
        return self.metadata.get(OUTPUT_KEY)


def checked_output(output: Json) -> Json:
    """Return a copy of `output` as plain JSON values. Raises: ValueError, as `Job.record_output` does."""
    return checked_json("output", output, bytes_max=OUTPUT_BYTES_MAX)
