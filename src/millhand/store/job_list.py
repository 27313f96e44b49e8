"""
Lists of jobs: filters, order, and a cursor that River's clients and ours can hand to each other.

Rule 1: a filter that is not given is not said, so that the planner sees only what counts.
Rule 2: jobs are ordered by one field, then by id, both the same way. An instant that is null comes last ascending,
        first descending.
Rule 3: a cursor names the last job of a page: its id, and its value of the field. It is River's, letter for letter, but
        for the width of a fraction of a second.
"""

from __future__ import annotations

import base64
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from millhand.job import FINALIZED_STATES, JobId, JobRow, JobState, Json
from millhand.store.job import state_literals
from millhand.store.job_row import GO_ZERO_TIME, encode_json, parse_jobs
from millhand.store.query import Query
from millhand.store.where import Where

LIMIT_DEFAULT = 100
LIMIT_MAX = 10_000

_ALL_STATES = tuple(JobState)


class SortField(enum.StrEnum):
    """
    What a list is ordered by.

    `time` is the instant that tells most about the first of the states asked for: when it was finalized, attempted, or
    is scheduled.
    """

    FINALIZED_AT = "finalized_at"
    ID = "id"
    SCHEDULED_AT = "scheduled_at"
    TIME = "time"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilters:
    """
    Which jobs are meant; what is None is not asked, what is empty is met by no job, and all that is given must be met.

    `metadata` must be contained in the job's. `tags_all` must all be among its tags, of `tags_any` one. `where` is a
    condition in SQL.
    """

    ids: Sequence[JobId] | None = None
    kinds: Sequence[str] | None = None
    metadata: Mapping[str, Json] | None = None
    priorities: Sequence[int] | None = None
    queues: Sequence[str] | None = None
    states: Sequence[JobState] | None = None
    tags_all: Sequence[str] | None = None
    tags_any: Sequence[str] | None = None
    where: Where | None = None

    def __post_init__(self) -> None:
        for name in ("kinds", "queues", "states", "tags_all", "tags_any"):
            if isinstance(text := getattr(self, name), str):  # a sequence too, of its letters
                raise TypeError(f"{name} must be a list, got {text!r}; write [{text!r}]")

    @property
    def is_empty(self) -> bool:
        """Whether every job is meant."""
        return self == JobFilters()


class JobCursor(msgspec.Struct, frozen=True, kw_only=True):
    """
    Where a page ended, in a list of the same order.

    Units: `time` is the job's value of the field that the list is ordered by; Go's zero time for null and for ids.
    """

    id: JobId
    kind: str
    queue: str
    sort_field: str
    time: datetime

    @property
    def is_null(self) -> bool:
        """Whether the job's value of the field is null."""
        return self.time == GO_ZERO_TIME

    def encode(self) -> str:
        """Return the cursor as a text that fits into a URL."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode()


class JobListParams(msgspec.Struct, frozen=True, kw_only=True):
    """
    A page of a list: up to `limit` jobs that pass the filters, in an order, after a cursor.

    Raises: ValueError for a limit out of range, a list by `finalized_at` of jobs that are not, or a cursor of another
    order.
    Source: River v0.51.2, job_list_params.go.
    """

    after: JobCursor | None = None
    descending: bool = False
    filters: JobFilters = JobFilters()
    limit: int = LIMIT_DEFAULT
    order_by: SortField = SortField.ID

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= LIMIT_MAX:
            raise ValueError(f"limit must be between 1 and {LIMIT_MAX:,}, got {self.limit!r}")
        if self.order_by is SortField.FINALIZED_AT and not FINALIZED_STATES.issuperset(self.states):
            raise ValueError(
                "states must be cancelled, completed or discarded in a list by finalized_at, "
                f"got {', '.join(self.states)}; order it by time"
            )
        if self.after is not None and self.after.sort_field != self.order_by.value:
            raise ValueError(
                f"cursor must be of a list by {self.order_by}, got one by {self.after.sort_field}"
            )

    @property
    def states(self) -> tuple[JobState, ...]:
        """The states asked for: those of the filters, else those that the order allows."""
        if self.filters.states is not None:
            return tuple(self.filters.states)
        if self.order_by is SortField.FINALIZED_AT:
            return tuple(state for state in JobState if state.is_finalized)
        return _ALL_STATES

    @property
    def field(self) -> str:
        """The column that the list is ordered by."""
        if self.order_by is not SortField.TIME:
            return self.order_by.value
        match self.filters.states:
            case [JobState.RUNNING, *_]:
                return "attempted_at"
            case [JobState.CANCELLED | JobState.COMPLETED | JobState.DISCARDED, *_]:
                return "finalized_at"
            case _:
                return "scheduled_at"

    def cursor_of(self, job: JobRow) -> JobCursor:
        """Return the cursor after which the list goes on behind `job`."""
        time = None if self.order_by is SortField.ID else getattr(job, self.field)
        return JobCursor(
            id=job.id,
            kind=job.kind,
            queue=job.queue,
            sort_field=self.order_by.value,
            time=(time or GO_ZERO_TIME).astimezone(UTC),
        )


def decode_cursor(text: str) -> JobCursor:
    """
    Read a cursor of ours or of River's, in either alphabet of base64.

    Raises: ValueError.
    """
    try:
        encoded = base64.b64decode(text.translate(str.maketrans("-_", "+/")), validate=True)
        cursor = msgspec.json.decode(encoded, type=JobCursor)
    except (ValueError, msgspec.MsgspecError) as error:
        raise ValueError(f"cursor must be one that a list gave, got {text!r}") from error
    if cursor.time.tzinfo is None:
        raise ValueError(f"cursor must be one that a list gave, got {text!r}")
    return cursor


def job_list(params: JobListParams) -> Query[list[JobRow]]:
    """
    Give a page of the jobs that pass the filters.

    Shape: 0 … `limit` rows in the order asked for.
    Source: River v0.51.2, job_list_params.go, river_job.sql `JobList`.
    """
    clauses, values = _filter_clauses(params.filters, params.states)
    if params.after is not None:
        clauses.append(_after_clause(params, params.after))
        values |= {"after_id": params.after.id, "after_time": params.after.time}
    way = "DESC NULLS FIRST" if params.descending else "ASC NULLS LAST"
    order_by = f"job.id {way}" if params.field == "id" else f"job.{params.field} {way}, job.id {way}"
    fragments = (("where", _where(clauses)), ("order_by", order_by))
    return Query("job_list", {**values, "limit": params.limit}, parse_jobs, fragments=fragments)


def job_delete_many(
    filters: JobFilters, limit: int = LIMIT_DEFAULT, *, unsafe_all: bool = False
) -> Query[list[JobRow]]:
    """
    Delete up to `limit` jobs that pass the filters, and give the rows that they were.

    Running jobs, and those that another transaction holds, are left. Without any filter `unsafe_all` must be said, and
    only then.

    Shape: 0 … `limit` rows, those with the lowest ids, by id.
    Raises: ValueError.
    Source: River v0.51.2, delete_many_params.go, river_job.sql `JobDeleteMany`.
    """
    if not 1 <= limit <= LIMIT_MAX:
        raise ValueError(f"limit must be between 1 and {LIMIT_MAX:,}, got {limit!r}")
    if filters.is_empty and not unsafe_all:
        raise ValueError(
            "filters must say which jobs are to be deleted, got none; say unsafe_all=True to mean all"
        )
    if unsafe_all and not filters.is_empty:
        raise ValueError(f"unsafe_all must be said without filters, got {filters!r}; leave one of them out")
    clauses, values = _filter_clauses(
        filters, filters.states or () if filters.states is not None else _ALL_STATES
    )
    fragments = (("where", _where(clauses)),)
    return Query("job_delete_many", {**values, "limit": limit}, parse_jobs, fragments=fragments)


def _where(clauses: Sequence[str]) -> str:
    return "\nAND ".join(clauses) or "TRUE"


def _filter_clauses(filters: JobFilters, states: Sequence[JobState]) -> tuple[list[str], dict[str, Any]]:
    """Return what a statement says of the filters that are given, and the params that it says it with."""
    given = {
        "ids": ("job.id = ANY(@ids::bigint [])", filters.ids),
        "kinds": ("job.kind = ANY(@kinds::text [])", filters.kinds),
        "metadata": ("job.metadata @> @metadata::text::jsonb", filters.metadata),
        "priorities": ("job.priority = ANY(@priorities::smallint [])", filters.priorities),
        "queues": ("job.queue = ANY(@queues::text [])", filters.queues),
        "tags_all": ("job.tags::text [] @> @tags_all::text []", filters.tags_all),
        "tags_any": ("job.tags::text [] && @tags_any::text []", filters.tags_any),
    }
    clauses = [clause for clause, value in given.values() if value is not None]
    values: dict[str, Any] = {
        name: encode_json(dict(value)) if isinstance(value, Mapping) else list(value)
        for name, (_, value) in given.items()
        if value is not None
    }
    if filters.where is not None:
        clauses.append(filters.where.clause)
        values |= filters.where.values
    return clauses + _state_clauses(states), values


def _state_clauses(states: Sequence[JobState]) -> list[str]:
    match states:
        case [state]:
            # Said so, the index by (state, finalized_at), which holds only rows with an instant, can serve the list.
            is_final = ["job.finalized_at IS NOT NULL"] if state.is_finalized else []
            return [f"job.state = '{state.value}'", *is_final]
        case _ if set(states) == set(JobState):
            return []
        case _:
            return [f"job.state IN ({state_literals(states)})"]


def _after_clause(params: JobListParams, after: JobCursor) -> str:
    sign = "<" if params.descending else ">"
    if params.field == "id":
        return f"job.id {sign} @after_id::bigint"
    field = f"job.{params.field}"
    same_null = f"({field} IS NULL AND job.id {sign} @after_id::bigint)"
    if after.is_null:
        return f"({field} IS NOT NULL OR {same_null})" if params.descending else same_null
    beyond = f"({field}, job.id) {sign} (@after_time::timestamptz, @after_id::bigint)"
    return beyond if params.descending or params.field == "scheduled_at" else f"({beyond} OR {field} IS NULL)"
