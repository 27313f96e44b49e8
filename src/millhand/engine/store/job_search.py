"""
The search of the web page: each statement reads a bounded number of rows.

Rule 1: a statement reads rows by an index in the order of the list, up to a limit, and then applies the conditions. No
        condition can make it read more.
Rule 2: a condition that an index answers replaces that order as the source of rows, if it selects few of them.
Rule 3: a plan that depends on the values is made by `job_search_settings`, in the transaction of the search.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from millhand.core.job import FINALIZED_STATES, JobId, JobState
from millhand.db.query import Query, Row, parse_none
from millhand.engine.store.job import state_literals
from millhand.engine.store.job_condition import (
    Among,
    Between,
    Condition,
    Contains,
    During,
    bare_clause,
    where_all,
)
from millhand.engine.store.job_row import flat_texts

ALL_STATES = tuple(JobState)
ARGS_LENGTH = 400
SORTED_MAX = 10_000  # rows that a statement may sort
READ_MAX = 4_000  # rows that a statement may read; if it were more, PostgreSQL would sort all of a small table instead
RARE_MAX = 5_000  # rows of a condition that an index answers; each costs a read at a random place
RANGES_MAX = 10_000  # queues and priorities of a state

_ID_MAX = 2**63 - 1


class SearchOrder(enum.StrEnum):
    """The order of a list: newest id, what is due next, or what changed last."""

    ID = "id"
    NEXT = "next"
    LAST = "last"


class _OrderSql(msgspec.Struct, frozen=True):
    at: str
    order_by: str
    last_first: str
    direction: str
    beyond: str

    @property
    def fragments(self) -> tuple[tuple[str, str], ...]:
        return tuple((name, getattr(self, name)) for name in self.__struct_fields__)


_CHANGED = "coalesce(job.finalized_at, job.scheduled_at)"
_ORDERS = {
    SearchOrder.ID: _OrderSql("job.created_at", "job.id DESC", "id", "DESC", "<"),
    SearchOrder.NEXT: _OrderSql(
        "job.scheduled_at", "job.scheduled_at, job.id", "at DESC, id DESC", "ASC", ">"
    ),
    SearchOrder.LAST: _OrderSql(_CHANGED, f"{_CHANGED} DESC, job.id DESC", "at, id", "DESC", "<"),
}


class JobSearch(msgspec.Struct, frozen=True, kw_only=True):
    """A search for jobs in one of the states that satisfy all conditions. Of args, lines have so many characters."""

    states: tuple[JobState, ...] = ALL_STATES
    conditions: tuple[Condition, ...] = ()
    args_length: int = ARGS_LENGTH

    @property
    def order(self) -> SearchOrder:
        if set(self.states) == set(ALL_STATES):
            return SearchOrder.ID
        return SearchOrder.LAST if FINALIZED_STATES.intersection(self.states) else SearchOrder.NEXT

    @property
    def queues(self) -> tuple[str, ...] | None:
        """The queues in which the jobs must be; None for any."""
        named = [
            set(one.values)
            for one in self.conditions
            if isinstance(one, Among) and one.field == "queue" and not one.is_negated
        ]
        return tuple(sorted(set.intersection(*named))) if named else None

    @property
    def period(self) -> tuple[datetime | None, datetime | None]:
        """A period in which the instants lie that order the list; the index then reads only this part."""
        field = {SearchOrder.NEXT: "scheduled", SearchOrder.LAST: "finalized", SearchOrder.ID: "created"}[
            self.order
        ]
        if not FINALIZED_STATES.issuperset(self.states) and self.order is SearchOrder.LAST:
            return None, None
        for one in self.conditions:
            if isinstance(one, During) and one.field == field and not one.is_negated:
                return one.since, one.until
        return None, None


class Place(msgspec.Struct, frozen=True):
    """A job's place in the order of a list. `at` is PostgreSQL's text: it has instants that Python has not."""

    id: int
    at: str


class JobLine(msgspec.Struct, frozen=True, kw_only=True):
    """
    A job in a list.

    `args` and `error`, the last one, are cut. They are None if they are large, and `error` for a job that never failed.
    `args_bytes` is the stored size. `client` fetched the job last.
    """

    id: JobId
    kind: str
    queue: str
    state: JobState
    priority: int
    attempt: int
    max_attempts: int
    args: str | None
    args_bytes: int
    tags: tuple[str, ...]
    error: str | None
    created_at: datetime
    scheduled_at: datetime
    attempted_at: datetime | None
    finalized_at: datetime | None
    client: str | None


class Searched(msgspec.Struct, frozen=True, kw_only=True):
    """What one statement read: the number of rows, the last row's place and instant, and the lines it found, with places."""

    num_read: int
    last: Place | None
    last_at: datetime | None
    found: tuple[tuple[Place, JobLine], ...]


class IndexRange(msgspec.Struct, frozen=True):
    """A range of the fetch index with jobs."""

    state: str
    queue: str
    priority: int


class IdRange(msgspec.Struct, frozen=True):
    """Ids from `since` up to `until`, which is not included."""

    since: int = -_ID_MAX
    until: int = _ID_MAX


class Indexed(msgspec.Struct, frozen=True):
    """A condition that an index answers; `is_countable` if the index alone shows how many jobs it selects."""

    clause: str
    values: Mapping[str, object]
    is_countable: bool = False
    is_by_id: bool = False
    is_by_queue: bool = False


class Had(msgspec.Struct, frozen=True):
    """What some of the newest jobs have: a key of args with those above it, or one queue, tag or client."""

    what: str
    names: tuple[str, ...]
    num_jobs: int


def contained_in(search: JobSearch) -> frozenset[str]:
    """Return the columns whose index a search needs to find jobs by what args or metadata contain."""
    return frozenset(
        one.field for one in search.conditions if isinstance(one, Contains) and not one.is_negated
    )


def indexed(search: JobSearch, *, unindexed: Collection[str] = ()) -> list[Indexed]:
    """
    Return the conditions that an index answers, the most selective kind of condition first.

    `unindexed` are columns whose index is off.
    """
    found: list[tuple[int, Indexed]] = []
    for number, one in enumerate(search.conditions):
        clause, values = bare_clause(one, f"indexed_{number}")
        match one:
            case Between("id", ranges, False) if all(low == high for low, high in ranges):
                found.append((0, Indexed(clause, values, is_by_id=True)))
            case Contains(field, _, False) if field not in unindexed:
                found.append((1, Indexed(clause, values)))
            case Among("kind", _, False):
                found.append((2, Indexed(clause, values, is_countable=True)))
            case Among("queue", _, False):
                # The fetch index begins with the state.
                clause = f"job.state IN ({state_literals(search.states)}) AND {clause}"
                found.append((3, Indexed(clause, values, is_countable=True, is_by_queue=True)))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def job_search_settings() -> Query[None]:
    """Set how this transaction plans. Each search begins with it."""
    return Query("job_search_settings", {}, parse_none)


def job_search_is_rare(condition: Indexed) -> Query[bool]:
    """Return whether a condition selects few enough jobs to read all of them."""
    params = {**condition.values, "num_rows": RARE_MAX}
    return Query(
        "job_search_is_rare",
        params,
        lambda rows: bool(rows[0][0]),
        fragments=(("indexed", condition.clause),),
    )


def job_search_ranges(search: JobSearch) -> Query[list[IndexRange]]:
    """Return the ranges of the fetch index that have jobs in the search's live states and queues."""
    states = [state.value for state in search.states if not state.is_finalized]
    params = {"limit": RANGES_MAX, "queues": _list(search.queues), "states": states}
    return Query("job_search_ranges", params, lambda rows: [IndexRange(*row) for row in rows])


def job_search_in_index(
    search: JobSearch, condition: Indexed, *, after: Place | None, limit: int
) -> Query[Searched]:
    """Read the jobs that `condition` selects, in the search's order. If `num_read` reaches RARE_MAX, none was read."""
    order = _ORDERS[search.order]
    clause, values = _where(search)
    if after is not None:
        place = (
            f"job.id {order.beyond} @after_id::bigint"
            if search.order is SearchOrder.ID
            else f"({order.at}, job.id) {order.beyond} (@after_at::text::timestamptz, @after_id::bigint)"
        )
        clause += f"\nAND ({place}) IS TRUE"
        values |= _after(search, after) if search.order is not SearchOrder.ID else {"after_id": after.id}
    params = {**values, **condition.values, "limit": limit, "num_rows": RARE_MAX}
    fragments = (("indexed", condition.clause), ("where", clause), *order.fragments)
    return Query("job_search_in_index", params, _parse, fragments=fragments)


def job_search_ids_of_period(since: datetime, until: datetime) -> Query[IdRange]:
    """Return the ids of the jobs that were created in a period, if ids grow with the time."""

    def parse(rows: Sequence[Row]) -> IdRange:
        [(first,), (end,)] = rows
        return IdRange(first, end)

    return Query("job_search_ids_of_period", {"since": since, "until": until}, parse)


def job_search_by_id(
    search: JobSearch, ids: IdRange, *, after: Place | None, limit: int, num_rows: int
) -> Query[Searched]:
    """Read `num_rows` jobs of a range of ids, newest first, and return up to `limit` that match."""
    clause, values = _where(search)
    after_id = ids.until if after is None else min(after.id, ids.until)
    params = {**values, "after_id": after_id, "limit": limit, "num_rows": num_rows, "since_id": ids.since}
    fragments = (("where", clause), *_ORDERS[SearchOrder.ID].fragments)
    return Query("job_search_by_id", params, _parse, fragments=fragments)


def job_search_by_time(
    search: JobSearch, ranges: Sequence[IndexRange], *, after: Place | None, limit: int, num_rows: int
) -> Query[Searched]:
    """Read `num_rows` jobs in the order of their time, and return up to `limit` that match."""
    clause, values = _where(search)
    since, until = search.period
    params = {
        **values,
        **_after(search, after),
        "finalized_states": [state.value for state in search.states if state.is_finalized],
        "limit": limit,
        "num_rows": num_rows,
        "priorities": [one.priority for one in ranges],
        "queues": [one.queue for one in ranges],
        "since": since,
        "states": [one.state for one in ranges],
        "until": until,
    }
    fragments = (("where", clause), *_ORDERS[search.order].fragments)
    return Query("job_search_by_time", params, _parse, fragments=fragments)


def num_rows_at_once(search: JobSearch, ranges: Sequence[IndexRange]) -> int:
    """Return how many rows a statement may read, or one by time from each of its ranges, to sort no more than SORTED_MAX."""
    is_by_id = search.order is SearchOrder.ID
    num_ranges = 1 if is_by_id else len(ranges) + len(FINALIZED_STATES.intersection(search.states))
    return max(1, min(READ_MAX, SORTED_MAX // max(1, num_ranges)))


def job_count_bounded(search: JobSearch, *, limit: int) -> Query[dict[JobState, int]]:
    """Count the jobs in each state and in the search's queues, up to a limit. Other conditions are ignored."""
    queues = search.queues
    clause = "TRUE" if queues is None else "job.queue = ANY(@queues::text [])"
    params = {"limit": limit, "states": [state.value for state in search.states]}
    return Query(
        "job_count_bounded",
        params if queues is None else {**params, "queues": list(queues)},
        _parse_counts,
        fragments=(("indexed", clause),),
    )


def job_count_estimated() -> Query[dict[JobState, int]]:
    """Estimate from PostgreSQL's statistics how many jobs each frequent state has; empty before the first ANALYZE."""
    return Query("job_count_estimated", {}, _parse_counts)


def job_count_in_index(search: JobSearch, condition: Indexed) -> Query[dict[JobState, int] | None]:
    """Count by state the jobs that `condition` selects and that match; None if it selects too many."""
    clause, values = where_all(search.conditions)
    params = {**values, **condition.values, "num_rows": RARE_MAX}

    def parse(rows: Sequence[Row]) -> dict[JobState, int] | None:
        if rows[0][0] >= RARE_MAX:
            return None
        return dict.fromkeys(ALL_STATES, 0) | _parse_counts(row[1:] for row in rows if row[1] is not None)

    fragments = (("indexed", condition.clause), ("where", clause))
    return Query("job_count_in_index", params, parse, fragments=fragments)


def job_search_kinds(*, limit: int) -> Query[list[str]]:
    """Return the first kinds, by name. Each costs one read of the index."""
    return Query("job_search_kinds", {"limit": limit}, lambda rows: [row[0] for row in rows])


def job_search_newest(
    *, num_rows: int, kinds: Sequence[str] | None = None, queues: Sequence[str] | None = None
) -> Query[list[Had]]:
    """Return what those of the newest jobs have that are of some kinds and queues, the most frequent first."""
    params = {"num_rows": num_rows, "kinds": _list(kinds), "queues": _list(queues)}
    return Query(
        "job_search_newest",
        params,
        lambda rows: [Had(what, tuple(names), num_jobs) for what, names, num_jobs in rows],
    )


def _list(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else [*names]


def _where(search: JobSearch) -> tuple[str, dict[str, object]]:
    clause, values = where_all(search.conditions)
    values["args_length"] = search.args_length
    if set(search.states) == set(ALL_STATES):
        return clause, values
    return f"(job.state IN ({state_literals(search.states)})) IS TRUE\nAND {clause}", values


def _after(search: JobSearch, after: Place | None) -> dict[str, object]:
    if after is not None:
        return {"after_at": after.at, "after_id": after.id}
    if search.order is SearchOrder.NEXT:
        return {"after_at": "-infinity", "after_id": -1}
    return {"after_at": "infinity", "after_id": _ID_MAX}


def _parse(rows: Sequence[Row]) -> Searched:
    num_read, last_id, last_position, last_at = rows[0][:4]
    return Searched(
        num_read=num_read,
        last=None if last_id is None else Place(last_id, last_position or ""),
        last_at=last_at,
        found=tuple((Place(row[5], row[4] or ""), parse_line(row[5:])) for row in rows if row[5] is not None),
    )


def parse_line(row: Row) -> JobLine:
    """Return a line from the columns of the fragment `job_line`."""
    values = dict(zip(JobLine.__struct_fields__, row, strict=True))
    return JobLine(**{**values, "state": JobState(values["state"]), "tags": flat_texts(values["tags"])})


def _parse_counts(rows: Iterable[Row]) -> dict[JobState, int]:
    return {JobState(state): num_jobs for state, num_jobs in rows}
