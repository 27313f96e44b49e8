"""Dead letters: copies of discarded jobs, and the filters of their lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from millhand.core.checks import check_instants, check_lists
from millhand.core.job import JobRow, JobState


class DeadJob(msgspec.Struct, frozen=True):
    """
    The copy of a job that was discarded.

    Attributes:
        job: The row of the job when it was copied.
        copied_at: When the leader copied it.
        current_state: The state of the job's row now; None if a leader or a person has deleted the row.
    """

    job: JobRow
    copied_at: datetime
    current_state: JobState | None


class DeadJobPage(msgspec.Struct, frozen=True):
    """
    One page of a list of dead letters.

    Attributes:
        cursor: Pass it as `after` to get the next page; None after the last page.
    """

    dead_jobs: tuple[DeadJob, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadJobFilters:
    """
    Filters of dead letters; a dead letter must pass each that is set. None is unset.

    Args:
        kinds: The kinds of the jobs.
        queues: The queues of the jobs.
        error: A part of the text of the job's last error, in upper or lower case.
        since: The jobs that were discarded at this instant or later.
        until: The jobs that were discarded before this instant.

    Raises: TypeError for a text in place of a list; ValueError for an empty `error` or an instant without time zone.
    """

    kinds: Sequence[str] | None = None
    queues: Sequence[str] | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        check_lists(self, "kinds", "queues")
        if self.error == "":  # every text contains it, so it would select every dead letter
            raise ValueError("error must not be empty, got ''; leave it out to select any error")
        check_instants(self, "since", "until")

    @property
    def is_empty(self) -> bool:
        """Whether every dead letter passes."""
        return self == DeadJobFilters()


def encode_cursor(at: datetime, id: int) -> str:
    """Return the cursor of the page that follows the dead letter of job `id`, which was discarded at an instant."""
    return f"{at.astimezone(UTC).isoformat(timespec='microseconds')}_{id}"


def decode_cursor(text: str) -> tuple[datetime, int]:
    """Return the instant and the id of a cursor. Raises: ValueError for a text that no list returned."""
    at, _, id = text.rpartition("_")
    try:
        position = datetime.fromisoformat(at), int(id)
    except ValueError:
        position = datetime.min, 0  # noqa: DTZ901 - refused below
    if position[0].tzinfo is None or abs(position[1]) >= 2**63:
        raise ValueError(f"cursor must be one that a list returned, got {text!r}")
    return position
