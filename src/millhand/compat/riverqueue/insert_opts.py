"""The insert options of `riverqueue`, and their conversion to Millhand's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, runtime_checkable

from millhand.core import insert_opts as millhand_opts
from millhand.core import unique as millhand_unique
from millhand.core.args.codec import RawArgs
from millhand.core.args.go_json import encode_object
from millhand.core.errors import InvalidJob
from millhand.core.insert_opts import MAX_ATTEMPTS_DEFAULT, PRIORITY_DEFAULT, QUEUE_DEFAULT
from millhand.core.job import JobState

UNIQUE_STATES_DEFAULT = tuple(sorted(millhand_unique.DEFAULT_STATES))

Insertable = tuple[RawArgs, millhand_opts.InsertOpts]


@dataclass
class UniqueOpts:
    """
    Decides which jobs of one kind are duplicates. `by_period` is in seconds.

    `by_state` must contain what River's Go client requires: available, pending, running and scheduled.
    """

    by_args: bool | None = None
    by_period: int | None = None
    by_queue: bool | None = None
    by_state: list[JobState] | None = None


@dataclass
class InsertOpts:
    """Options of one insert, or of all inserts of a kind. None, zero and empty values leave an option unset."""

    max_attempts: int | None = None
    priority: int | None = None
    queue: str | None = None
    scheduled_at: datetime | None = None
    tags: list[Any] | None = None
    unique_opts: UniqueOpts | None = None


class JobArgs(Protocol):
    """Job args: a kind, and the JSON text of an object."""

    kind: str

    def to_json(self) -> str: ...


@runtime_checkable
class JobArgsWithInsertOpts(Protocol):
    """Args with options for each insert of their kind. Options of an insert take precedence."""

    def insert_opts(self) -> InsertOpts: ...


@dataclass
class InsertManyParams:
    """One job of a bulk insert, with its options."""

    args: JobArgs
    insert_opts: InsertOpts | None = None


def insertable(args: JobArgs, opts: InsertOpts | None) -> Insertable:
    """Return a job as Millhand's clients take it. Raises: InvalidJob if the job breaks a rule of River's."""
    first = InsertOpts() if opts is None else opts
    second = args.insert_opts() if isinstance(args, JobArgsWithInsertOpts) else InsertOpts()
    unique = first.unique_opts or second.unique_opts
    scheduled_at = first.scheduled_at or second.scheduled_at
    return _raw_args(
        args, is_canonical=unique is not None and bool(unique.by_args)
    ), millhand_opts.InsertOpts(
        max_attempts=first.max_attempts or second.max_attempts or MAX_ATTEMPTS_DEFAULT,
        priority=first.priority or second.priority or PRIORITY_DEFAULT,
        queue=first.queue or second.queue or QUEUE_DEFAULT,
        scheduled_at=None if scheduled_at is None else scheduled_at.astimezone(UTC),
        tags=first.tags or second.tags or (),
        unique=None if unique is None else _unique(unique),
    )


def insertable_of(one: JobArgs | InsertManyParams) -> Insertable:
    if isinstance(one, InsertManyParams):
        return insertable(one.args, one.insert_opts)
    return insertable(one, None)


def _raw_args(args: JobArgs, *, is_canonical: bool) -> RawArgs:
    """
    Return args as written, or as Go's encoder writes them if they are part of a unique key.

    Python's own `json` escapes non-ASCII characters and writes 1.0 where Go writes 1, which would change the key.
    """
    encoded: object = args.to_json()
    if not isinstance(encoded, str):
        raise InvalidJob(f"to_json of args of kind {args.kind!r} must return JSON as a text, got {encoded!r}")
    raw = RawArgs(args.kind, encoded)
    if not is_canonical:
        return raw
    return RawArgs(args.kind, encode_object(json.loads(raw.encoded), f"args of kind {args.kind!r}"))


def _unique(opts: UniqueOpts) -> millhand_unique.UniqueOpts:
    return millhand_unique.UniqueOpts(
        by_args=bool(opts.by_args),
        by_period=timedelta(seconds=opts.by_period) if opts.by_period else None,
        by_queue=bool(opts.by_queue),
        by_state=opts.by_state or None,
    )
