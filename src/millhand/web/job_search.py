"""
Lists of jobs, their counts, and how far a search has read.

Rule 1: a search reads at most ROWS_MAX rows, and begins no statement after BUDGET_SECONDS. It returns how far it has come,
        and a cursor to go on.
Rule 2: a count says how accurate it is. No count reads more than COUNTED_MAX rows of a state.
"""

from __future__ import annotations

import contextlib
import enum
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec

from millhand.core.errors import DriverError, OperationTimeout
from millhand.core.job import FINALIZED_STATES, JobState
from millhand.db.driver.protocol import Executor
from millhand.db.index import index_get_columns
from millhand.db.query import Query
from millhand.engine.store.job_condition import Among
from millhand.engine.store.job_search import (
    ALL_STATES,
    ARGS_LENGTH,
    RARE_MAX,
    IdRange,
    Indexed,
    IndexRange,
    JobLine,
    JobSearch,
    Place,
    Searched,
    SearchOrder,
    contained_in,
    indexed,
    job_count_bounded,
    job_count_estimated,
    job_count_in_index,
    job_search_by_id,
    job_search_by_time,
    job_search_ids_of_period,
    job_search_in_index,
    job_search_is_rare,
    job_search_ranges,
    job_search_settings,
    num_rows_at_once,
)
from millhand.shells.web.hiding import Hiding, hidden_json, without_repeats
from millhand.web.search_conditions import SCANNED_LENGTH

PAGE_SIZE = 50
ROWS_MAX = 20_000
BUDGET_SECONDS = 0.25
DEADLINE_SECONDS = 2.0
# The index of args may have millions of entries for one value; after this time, reading in the order of the list is better.
INDEX_SECONDS = 0.25
ROWS_BEFORE_INDEX = 1_000
COUNTED_MAX = 10_000
# A job has the instant at which its transaction began, so ids do not quite grow with the time.
CREATED_MARGIN = timedelta(seconds=10)
IDS_MARGIN = 2_000
_FIRST, _LAST = datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 1, 1, tzinfo=UTC)  # of all jobs

_GROWTH = 4
_CURSOR = re.compile(r"([inl])(-?\d{1,19})(?:@(-?infinity|\d{4,6}-\d\d-\d\dT[\d:.+-]+(?: BC)?))?")
_INVALID_VALUE = "22"  # the class of SQLSTATE of a value that is none

T = TypeVar("T")
Line = TypeVar("Line", bound=JobLine)
Timer = Callable[[], float]


class Stop(enum.StrEnum):
    """Why a search ended: nothing is left, the page is full, or the limit of rows or time was reached."""

    END = "end"
    PAGE = "page"
    ROWS = "rows"
    TIME = "time"


class FoundPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    One page of the jobs that a search found.

    Attributes:
        after: The cursor with which the search goes on; None at the end.
        num_read: How many rows the search read for this page.
        read_to: The instant of the last row that it read, in the order of the list; None if it read them all.
        unindexed: What it searched, args or metadata, and has no index: an operator dropped it.
    """

    jobs: tuple[JobLine, ...]
    after: str | None
    num_read: int
    order: SearchOrder
    read_to: datetime | None
    stop: Stop
    unindexed: tuple[str, ...] = ()


class Accuracy(enum.StrEnum):
    """How accurate a count is."""

    EXACT = "exact"
    AT_LEAST = "at_least"
    ESTIMATED = "estimated"


class Count(msgspec.Struct, frozen=True):
    """How many jobs a search selects in one state."""

    state: JobState
    num_jobs: int
    accuracy: Accuracy


async def search_jobs(
    pool: Executor,
    search: JobSearch,
    *,
    after: str | None = None,
    limit: int = PAGE_SIZE,
    timer: Timer = time.monotonic,
) -> FoundPage:
    """
    Return a page of the jobs that a search selects.

    Raises: ValueError for a cursor of another list; as `Executor.run`.
    """
    place = _decode(after, search.order)
    if not search.states:
        return _page(search, [], limit, num_read=0)
    unindexed = await _unindexed(pool, search)
    try:
        page = await _search_in_index(pool, search, place, limit, timer, unindexed)
        if page is None:
            async with _searching(pool) as executor:
                page = await _read_in_order(executor, search, place, limit, timer)
    except DriverError as error:
        if after is None or not (error.sqlstate or "").startswith(_INVALID_VALUE):
            raise
        raise _invalid(after) from error
    return msgspec.structs.replace(page, unindexed=tuple(sorted(unindexed)))


def shown_line(line: Line, hide: Hiding, args_length: int = ARGS_LENGTH) -> Line:
    """
    Return a line without its hidden values; also without its error, if that may repeat one that was not read.

    With rules, its args have up to `args_length` characters.
    """
    if hide.is_empty:
        return line
    args = line.args or ""
    hidden = hidden_json(args, hide.args)
    is_whole = line.args is not None and len(args) < SCANNED_LENGTH and not (hide.metadata or hide.output)
    error = without_repeats(line.error, hidden.values) if line.error and is_whole else None
    return msgspec.structs.replace(
        line, args=None if line.args is None else hidden.text[:args_length], error=error
    )


async def count_jobs(pool: Executor, search: JobSearch) -> tuple[Count, ...]:
    """
    Return how many jobs satisfy a search's conditions, in each state; nothing if no index answers that.

    Raises: as `Executor.run`.
    """
    search = msgspec.structs.replace(search, states=ALL_STATES)
    is_by_queue = all(
        isinstance(one, Among) and one.field == "queue" and not one.is_negated for one in search.conditions
    )
    unindexed = await _unindexed(pool, search)
    try:
        async with _searching(pool) as executor:
            if is_by_queue:
                return await _count_by_state(executor, search)
            for condition in indexed(search, unindexed=unindexed):
                if await _is_rare(executor, condition):
                    query = job_count_in_index(search, condition).within(INDEX_SECONDS)
                    if (counts := await executor.run(query)) is not None:
                        return tuple(Count(state, counts[state], Accuracy.EXACT) for state in ALL_STATES)
    except OperationTimeout:
        if is_by_queue:
            raise
    return ()


async def _count_by_state(executor: Executor, search: JobSearch) -> tuple[Count, ...]:
    counts = await executor.run(_within(job_count_bounded(search, limit=COUNTED_MAX + 1)))
    is_estimated = not search.conditions and any(counts[state] > COUNTED_MAX for state in FINALIZED_STATES)
    estimates = await executor.run(_within(job_count_estimated())) if is_estimated else {}
    return tuple(_count(state, counts[state], estimates.get(state, 0)) for state in ALL_STATES)


def _count(state: JobState, counted: int, estimated: int) -> Count:
    if counted <= COUNTED_MAX:
        return Count(state, counted, Accuracy.EXACT)
    if state.is_finalized and estimated > COUNTED_MAX:
        return Count(state, estimated, Accuracy.ESTIMATED)
    return Count(state, COUNTED_MAX, Accuracy.AT_LEAST)


async def _unindexed(pool: Executor, search: JobSearch) -> frozenset[str]:
    """Return the columns whose index a search needs, and that have none. The answer may change, so it is not kept."""
    columns = contained_in(search)
    if not columns:
        return columns
    has_index = await pool.run(_within(index_get_columns()))
    return columns - has_index


async def _search_in_index(
    pool: Executor,
    search: JobSearch,
    place: Place | None,
    limit: int,
    timer: Timer,
    unindexed: Collection[str],
) -> FoundPage | None:
    """
    Return a page by the first condition that selects few jobs; None if no condition does.

    What many jobs have is in the next rows of the list, and its entries in an index take longer to read than these.
    """
    # A list by what is due next reads only the ranges of the queues.
    conditions = [
        one
        for one in indexed(search, unindexed=unindexed)
        if search.order is not SearchOrder.NEXT or not one.is_by_queue
    ]
    if not conditions:
        return None
    try:
        async with _searching(pool) as executor:
            if not conditions[0].is_by_id:
                page = await _read_in_order(executor, search, place, limit, timer, rows_max=ROWS_BEFORE_INDEX)
                if page.stop in (Stop.END, Stop.PAGE):
                    return page
            for condition in conditions:
                if await _is_rare(executor, condition):
                    query = job_search_in_index(search, condition, after=place, limit=limit + 1)
                    searched = await executor.run(query.within(INDEX_SECONDS))
                    if searched.num_read < RARE_MAX:
                        return _page(search, searched.found, limit, num_read=searched.num_read)
    except OperationTimeout:
        return None
    return None


async def _is_rare(executor: Executor, condition: Indexed) -> bool:
    return not condition.is_countable or await executor.run(
        job_search_is_rare(condition).within(INDEX_SECONDS)
    )


async def _read_in_order(
    executor: Executor,
    search: JobSearch,
    place: Place | None,
    limit: int,
    timer: Timer,
    *,
    rows_max: int = ROWS_MAX,
) -> FoundPage:
    """Read rows in the order of the list, more with each statement, until the page is full or a limit is reached."""
    start = timer()
    is_by_id = search.order is SearchOrder.ID
    ids = await _ids_of_period(executor, search)
    ranges: list[IndexRange] = [] if is_by_id else await executor.run(_within(job_search_ranges(search)))
    most = num_rows_at_once(search, ranges)
    found: list[tuple[Place, JobLine]] = []
    num_read, num_rows, seconds = 0, limit + 1, 0.0
    last: Searched | None = None
    while True:
        num_rows = min(num_rows, most, rows_max - num_read)
        left = limit + 1 - len(found)
        if is_by_id:
            query = job_search_by_id(search, ids, after=place, limit=left, num_rows=num_rows)
        else:
            query = job_search_by_time(search, ranges, after=place, limit=left, num_rows=num_rows)
        try:
            searched = await executor.run(query.within(DEADLINE_SECONDS - seconds))
        except OperationTimeout:
            if last is None:
                raise
            return _page(search, found, limit, num_read=num_read, last=last, stop=Stop.TIME)
        num_read += searched.num_read
        found += searched.found
        if len(found) > limit or searched.num_read < num_rows:
            return _page(search, found, limit, num_read=num_read)
        place, last = searched.last, searched
        now = timer() - start
        if num_read >= rows_max or now >= BUDGET_SECONDS:
            stop = Stop.ROWS if num_read >= rows_max else Stop.TIME
            return _page(search, found, limit, num_read=num_read, last=last, stop=stop)
        rows_left = int(num_rows / max(now - seconds, 0.001) * (BUDGET_SECONDS - now))
        num_rows, seconds = max(limit + 1, min(num_rows * _GROWTH, rows_left)), now


async def _ids_of_period(executor: Executor, search: JobSearch) -> IdRange:
    """Return the ids that jobs may have which were created in the period of a search by id."""
    since, until = search.period if search.order is SearchOrder.ID else (None, None)
    if since is None and until is None:
        return IdRange()
    query = job_search_ids_of_period((since or _FIRST) - CREATED_MARGIN, (until or _LAST) + CREATED_MARGIN)
    ids = await executor.run(_within(query))
    return IdRange(ids.since - IDS_MARGIN, min(ids.until + IDS_MARGIN, IdRange().until))


def _page(
    search: JobSearch,
    found: Sequence[tuple[Place, JobLine]],
    limit: int,
    *,
    num_read: int,
    last: Searched | None = None,
    stop: Stop = Stop.END,
) -> FoundPage:
    after, read_to = (None, None) if last is None else (last.last, last.last_at)
    if len(found) > limit:
        found, stop = found[:limit], Stop.PAGE
        after, line = found[-1]
        read_to = _instant(line, search.order)
    return FoundPage(
        jobs=tuple(line for _, line in found),
        after=None if after is None else _encode(after, search.order),
        num_read=num_read,
        order=search.order,
        read_to=read_to,
        stop=stop,
    )


def _instant(line: JobLine, order: SearchOrder) -> datetime:
    if order is SearchOrder.ID:
        return line.created_at
    return line.finalized_at or line.scheduled_at


@contextlib.asynccontextmanager
async def _searching(pool: Executor) -> AsyncIterator[Executor]:
    """Begin a transaction that only reads, and whose statements are planned for their values."""
    async with pool.begin() as executor:
        await executor.run(_within(job_search_settings()))
        yield executor


def _within(query: Query[T]) -> Query[T]:
    return query.within(DEADLINE_SECONDS)


def _encode(place: Place, order: SearchOrder) -> str:
    return f"{order.value[0]}{place.id}" + ("" if order is SearchOrder.ID else f"@{place.at}")


def _decode(cursor: str | None, order: SearchOrder) -> Place | None:
    if cursor is None:
        return None
    found = _CURSOR.fullmatch(cursor)
    is_by_id = order is SearchOrder.ID
    if found is None or found[1] != order.value[0] or (found[3] is None) != is_by_id:
        raise _invalid(cursor)
    id = int(found[2])
    if not -(2**63) <= id < 2**63:
        raise _invalid(cursor)
    return Place(id, found[3] or "")


def _invalid(cursor: str) -> ValueError:
    return ValueError(f"after must be the cursor of a page of this list, got {cursor[:100]!r}")
