"""How a job is inserted: options, their precedence, and the row that comes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from millhand.job import JobRow, JobState, Json
from millhand.unique import UniqueOpts


@dataclass(frozen=True, slots=True, kw_only=True)
class InsertOpts:
    """
    Options of one insert, or of all inserts of a kind; None means "not said here".

    Precedence, option by option: this insert, then the args class's `insert_opts`, then the client's defaults.
    Units: `scheduled_at` is an aware instant; `priority` is 1 (first) … 4; `max_attempts` counts executions.
    Source: River v0.51.2, insert_opts.go.
    """

    max_attempts: int | None = None
    metadata: Mapping[str, Json] | None = None
    pending: bool = False
    priority: int | None = None
    queue: str | None = None
    scheduled_at: datetime | None = None
    tags: Sequence[str] | None = None
    unique: UniqueOpts | None = None


class InsertParams(msgspec.Struct, frozen=True, kw_only=True):
    """
    A row about to be inserted: every option decided, every rule checked.

    `encoded_args` and `encoded_metadata` are JSON texts of objects. `created_at` and `scheduled_at` are aware instants, or None
    for the database's own clock. `unique_states` is River's mask of eight bits as a number, 0x01 for available.
    """

    kind: str
    encoded_args: str
    max_attempts: int
    encoded_metadata: str
    priority: int
    queue: str
    state: JobState
    created_at: datetime | None = None
    scheduled_at: datetime | None = None
    tags: tuple[str, ...] = ()
    unique_key: bytes | None = None
    unique_states: int | None = None


class InsertResult(msgspec.Struct, frozen=True):
    """What an insert gave: the new row, or the row that was there already if the job was skipped as a duplicate."""

    job: JobRow
    unique_skipped_as_duplicate: bool = False
