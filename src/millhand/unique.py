"""Unique jobs: the key and the mask of states, byte for byte River's."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from millhand.job import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class UniqueOpts:
    """
    What makes two jobs the same.

    `by_args`: True for the whole args, or the fields that count (`"customer_id"`, `"customer.id"`).
    `by_period`: at least one second; one job per period, counted from year 1 in UTC.
    `by_state`: the states in which a job holds its key; None for River's default.
    `exclude_kind`: the kind does not count; needs one of `by_args`, `by_period`, `by_queue` beside it.
    Source: River v0.51.2, insert_opts.go `UniqueOpts`.
    """

    by_args: bool | Sequence[str] = False
    by_period: timedelta | None = None
    by_queue: bool = False
    by_state: Collection[JobState] | None = None
    exclude_kind: bool = False
