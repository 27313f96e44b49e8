"""What `riverqueue` says of an insert, and what it is in Millhand's words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, runtime_checkable

from millhand import insert_opts as millhand_opts
from millhand import unique as millhand_unique
from millhand.args.codec import RawArgs
from millhand.args.go_json import encode_object
from millhand.errors import InvalidJob
from millhand.insert_opts import MAX_ATTEMPTS_DEFAULT, PRIORITY_DEFAULT, QUEUE_DEFAULT
from millhand.job import JobState

UNIQUE_STATES_DEFAULT = tuple(sorted(millhand_unique.DEFAULT_STATES))

Insertable = tuple[RawArgs, millhand_opts.InsertOpts]


@dataclass
class UniqueOpts:
    """
    What makes two jobs of one kind the same; `by_period` is in seconds.

    `by_state` must hold what River's Go client wants in it: available, pending, running and scheduled.
    """

    by_args: bool | None = None
    by_period: int | None = None
    by_queue: bool | None = None
    by_state: list[JobState] | None = None


@dataclass
class InsertOpts:
    """Options of one insert, or of all of a kind; what is None, or zero, or empty, is not said here."""

    max_attempts: int | None = None
    priority: int | None = None
    queue: str | None = None
    scheduled_at: datetime | None = None
    tags: list[Any] | None = None
    unique_opts: UniqueOpts | None = None


class JobArgs(Protocol):
    """What a job is told: its kind, and the JSON text of an object."""

    kind: str

    def to_json(self) -> str: ...


@runtime_checkable
class JobArgsWithInsertOpts(Protocol):
    """Args that bring options for each insert of their kind; those of an insert go before."""

    def insert_opts(self) -> InsertOpts: ...


@dataclass
class InsertManyParams:
    """One job of several, with options of its own."""

    args: JobArgs
    insert_opts: InsertOpts | None = None


def insertable(args: JobArgs, opts: InsertOpts | None) -> Insertable:
    """
    Return a job as Millhand's clients take it.

    Raises: InvalidJob for what River would refuse.
    """
    said = InsertOpts() if opts is None else opts
    of_args = args.insert_opts() if isinstance(args, JobArgsWithInsertOpts) else InsertOpts()
    unique = said.unique_opts or of_args.unique_opts
    scheduled_at = said.scheduled_at or of_args.scheduled_at
    return _raw_args(args, is_counted=unique is not None and bool(unique.by_args)), millhand_opts.InsertOpts(
        max_attempts=said.max_attempts or of_args.max_attempts or MAX_ATTEMPTS_DEFAULT,
        priority=said.priority or of_args.priority or PRIORITY_DEFAULT,
        queue=said.queue or of_args.queue or QUEUE_DEFAULT,
        scheduled_at=None if scheduled_at is None else scheduled_at.astimezone(UTC),
        tags=said.tags or of_args.tags or (),
        unique=None if unique is None else _unique(unique),
    )


def insertable_of(one: JobArgs | InsertManyParams) -> Insertable:
    """Return one of several jobs as Millhand's clients take it. Raises: InvalidJob."""
    if isinstance(one, InsertManyParams):
        return insertable(one.args, one.insert_opts)
    return insertable(one, None)


def _raw_args(args: JobArgs, *, is_counted: bool) -> RawArgs:
    """
    Return args as they were written; or, where a unique key is made of them, as Go's encoder writes them.

    Python's own `json` escapes what is not ASCII and writes 1.0 where Go writes 1, which would be another key.
    """
    raw = RawArgs(args.kind, _text(args))
    if not is_counted:
        return raw
    return RawArgs(args.kind, encode_object(json.loads(raw.encoded), f"args of kind {args.kind!r}"))


def _text(args: JobArgs) -> str:
    encoded: object = args.to_json()
    if not isinstance(encoded, str):
        raise InvalidJob(f"to_json of args of kind {args.kind!r} must return JSON as a text, got {encoded!r}")
    return encoded


def _unique(opts: UniqueOpts) -> millhand_unique.UniqueOpts:
    return millhand_unique.UniqueOpts(
        by_args=bool(opts.by_args),
        by_period=timedelta(seconds=opts.by_period) if opts.by_period else None,
        by_queue=bool(opts.by_queue),
        by_state=opts.by_state or None,
    )
