"""
Lists of jobs: filters, order, and a cursor that River's clients can read and write too.

Rule 1: an unset filter is not in the statement, so the planner sees only conditions that count.
Rule 2: jobs are ordered by one field, then by id, both in the same direction. Null instants come last in ascending order,
        first in descending order.
Rule 3: a cursor has the id of a page's last job, and its value of the field. Its text is River's.
"""

from __future__ import annotations

import base64
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from millhand.core.args.go_json import encode_object
from millhand.core.job import FINALIZED_STATES, JobId, JobRow, JobState, Json
from millhand.core.json_value import checked_json
from millhand.db.query import Query
from millhand.engine.store.job import state_literals
from millhand.engine.store.job_row import GO_ZERO_TIME, encode_json, parse_jobs
from millhand.engine.store.where import Where

LIMIT_DEFAULT = 100
LIMIT_MAX = 10_000

_ALL_STATES = tuple(JobState)
_MOSTLY = JobState.COMPLETED
_AND = "\nAND "


class SortField(enum.StrEnum):
    """
    The field that orders a list.

    `time` depends on the first state of the filters: `finalized_at` for finalized ones, `attempted_at` for running, else
    `scheduled_at`.
    """

    FINALIZED_AT = "finalized_at"
    ID = "id"
    SCHEDULED_AT = "scheduled_at"
    TIME = "time"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilters:
    """
    Filters of jobs; a job must pass each that is set. None is unset, and no job passes an empty one.

    `metadata` must be contained in the job's. Of `tags_all` a job must have all, of `tags_any` at least one. `where` is
    a condition in SQL. If an operator dropped the index of metadata, a list by `metadata` may read the whole table.
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
            if isinstance(text := getattr(self, name), str):  # it is a sequence of its letters too
                raise TypeError(f"{name} must be a list, got {text!r}; write [{text!r}]")

    @property
    def is_empty(self) -> bool:
        """Whether every job passes."""
        return self == JobFilters()


class UnfinishedJob(msgspec.Struct, frozen=True):
    """An unfinished job, for the check before a deploy. `encoded_args` is None for a kind whose args were not requested."""

    id: JobId
    kind: str
    queue: str
    priority: int
    scheduled_at: str
    encoded_args: str | None


class JobCursor(msgspec.Struct, frozen=True, kw_only=True):
    """
    The end of a page, for the next page of a list in the same order.

    Units: `time` is the last job's value of the field that orders the list; Go's zero time for null and for ids.
    """

    id: JobId
    kind: str
    queue: str
    sort_field: str
    time: datetime

    def encode(self) -> str:
        """Return the cursor as a URL-safe text, to the byte that of River."""
        text = encode_object(msgspec.structs.asdict(self), "cursor")
        return base64.urlsafe_b64encode(text.encode()).decode()


class JobListParams(msgspec.Struct, frozen=True, kw_only=True):
    """
    One page of a list: up to `limit` jobs that pass the filters, in an order, after a cursor.

    Raises: ValueError for a limit out of range, a list by `finalized_at` of states that are not finalized, or a cursor of
    another order.
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
        """The states of the filters, else those that the order allows."""
        if self.filters.states is not None:
            return tuple(self.filters.states)
        if self.order_by is SortField.FINALIZED_AT:
            return tuple(state for state in JobState if state.is_finalized)
        return _ALL_STATES

    @property
    def field(self) -> str:
        """The column that orders the list."""
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
        """Return the cursor of a page that ends with `job`."""
        time = None if self.order_by is SortField.ID else getattr(job, self.field)
        return JobCursor(
            id=job.id,
            kind=job.kind,
            queue=job.queue,
            sort_field=self.order_by.value,
            time=(time or GO_ZERO_TIME).astimezone(UTC),
        )


def decode_cursor(text: str) -> JobCursor:
    """Read a cursor of Millhand's or River's, in either base64 alphabet. Raises: ValueError."""
    try:
        encoded = base64.b64decode(text.translate(str.maketrans("-_", "+/")), validate=True)
        cursor = msgspec.json.decode(encoded, type=JobCursor)
    except (ValueError, msgspec.MsgspecError) as error:
        raise ValueError(f"cursor must be one that a list returned, got {text!r}") from error
    if cursor.time.tzinfo is None:
        raise ValueError(f"cursor must be one that a list returned, got {text!r}")
    return cursor


def job_list(params: JobListParams) -> Query[list[JobRow]]:
    """Return a page of the jobs that pass the filters, in the given order."""
    clauses, values = _filter_clauses(params.filters, params.states)
    after = "TRUE"
    if params.after is not None:
        after = _after_clause(params, params.after)
        clauses.append(after)
        values |= {"after_id": params.after.id, "after_time": params.after.time}
    where = ("where", _AND.join(clauses) or "TRUE")
    values |= {"limit": params.limit}
    if _is_by_state(params):
        values |= {"states": [state.value for state in params.states]}
        fragments = (where, ("after", after), ("direction", "DESC" if params.descending else "ASC"))
        return Query("job_list_by_state", values, parse_jobs, fragments=fragments)
    direction = "DESC NULLS FIRST" if params.descending else "ASC NULLS LAST"
    order_by = (
        f"job.id {direction}"
        if params.field == "id"
        else f"job.{params.field} {direction}, job.id {direction}"
    )
    return Query("job_list", values, parse_jobs, fragments=(where, ("order_by", order_by)))


def _is_by_state(params: JobListParams) -> bool:
    """Return whether a list by id is of states that few jobs may have; most jobs of a table are completed."""
    given = params.filters.states
    return (
        bool(given) and params.field == "id" and params.filters.ids is None and _MOSTLY not in params.states
    )


def before_queue(queue: str) -> UnfinishedJob:
    """Return a position before all jobs of a queue."""
    return UnfinishedJob(JobId(0), "", queue, 0, "-infinity", None)


BEFORE_ALL = before_queue("")


def job_list_unfinished(
    state: JobState, *, after: UnfinishedJob, kinds: Sequence[str], limit: int
) -> Query[list[UnfinishedJob]]:
    """
    Return up to `limit` jobs in one state after the last job of the previous page, with the args of those of `kinds`.

    They are in the index's order, by queue, priority, `scheduled_at` and id, so that every page costs the same.
    """
    params = {
        "after_id": after.id,
        "after_priority": after.priority,
        "after_queue": after.queue,
        "after_scheduled_at": after.scheduled_at,
        "kinds": list(kinds),
        "limit": limit,
    }
    fragments = (("state", state.value),)
    return Query(
        "job_list_unfinished", params, lambda rows: [UnfinishedJob(*row) for row in rows], fragments=fragments
    )


def job_delete_many(
    filters: JobFilters, limit: int = LIMIT_DEFAULT, *, unsafe_all: bool = False
) -> Query[list[JobRow]]:
    """
    Delete up to `limit` jobs that pass the filters, those with the lowest ids, and return their rows by id.

    Running jobs, and those that another transaction has locked, are skipped. Set `unsafe_all` to delete without filters.
    Raises: ValueError.
    """
    if not 1 <= limit <= LIMIT_MAX:
        raise ValueError(f"limit must be between 1 and {LIMIT_MAX:,}, got {limit!r}")
    if filters.is_empty and not unsafe_all:
        raise ValueError(
            "filters must select the jobs to delete, got none; write unsafe_all=True to delete all"
        )
    if unsafe_all and not filters.is_empty:
        raise ValueError(f"unsafe_all must be used without filters, got {filters!r}; omit one of them")
    clauses, values = _filter_clauses(
        filters, filters.states or () if filters.states is not None else _ALL_STATES
    )
    fragments = (("where", _AND.join(clauses) or "TRUE"),)
    return Query("job_delete_many", {**values, "limit": limit}, parse_jobs, fragments=fragments)


def _filter_clauses(filters: JobFilters, states: Sequence[JobState]) -> tuple[list[str], dict[str, Any]]:
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
        name: encode_json(checked_json(f"filter {name!r}", dict(value)))
        if isinstance(value, Mapping)
        else list(value)
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
            # Lets the planner use the index by (state, finalized_at), which has only rows with an instant.
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
    if after.time == GO_ZERO_TIME:  # the job has none
        return f"({field} IS NOT NULL OR {same_null})" if params.descending else same_null
    beyond = f"({field}, job.id) {sign} (@after_time::timestamptz, @after_id::bigint)"
    return beyond if params.descending or params.field == "scheduled_at" else f"({beyond} OR {field} IS NULL)"
