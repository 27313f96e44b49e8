"""The jobs that a search finds: the search line, the tabs of states with their counts, and one page of the list."""

from __future__ import annotations

import asyncio
from datetime import datetime

import msgspec

from millhand.core.job import JobState
from millhand.engine.store.job_search import JobLine, SearchOrder
from millhand.shells.web.page import PageRequest
from millhand.web.job_search import Accuracy, Count, Stop, count_jobs, search_jobs, shown_line
from millhand.web.search import parse_search
from millhand.web.search_conditions import job_search_of, without_hidden
from millhand.web.search_suggestions import Suggestion, known_kinds, suggest
from millhand.web.search_token import Search


class StateTab(msgspec.Struct, frozen=True, kw_only=True):
    """A state, or all of them for None: the search that selects it, and how many jobs it has; None if nothing counts."""

    state: JobState | None
    search: str
    is_current: bool
    num_jobs: int | None
    accuracy: Accuracy | None


class SearchToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token of the search, and the search without it."""

    text: str
    without: str


class Jobs(msgspec.Struct, frozen=True, kw_only=True):
    """
    One page of the jobs that a search finds.

    Attributes:
        search: The search in its canonical form.
        problems: What is wrong with the search, whose list is then empty; or hints.
        after: The cursor of the next page, or of the place where the search goes on; None at the end.
        read_to: How far a search without an index came; None if it read all jobs.
        unindexed: What was searched, args or metadata, and has no index: an operator dropped it.
    """

    search: str
    tokens: tuple[SearchToken, ...]
    problems: tuple[str, ...]
    tabs: tuple[StateTab, ...]
    jobs: tuple[JobLine, ...]
    order: SearchOrder
    after: str | None
    num_read: int
    read_to: datetime | None
    stop: Stop
    unindexed: tuple[str, ...] = ()


class Suggestions(msgspec.Struct, frozen=True):
    """What may stand at the cursor of the search line, the best first."""

    suggestions: tuple[Suggestion, ...]


async def load(request: PageRequest) -> Jobs:
    """Load a page of jobs. Raises: ValueError for an invalid cursor, or a search that is too long."""
    pool = request.database.driver.pool
    kinds = await known_kinds(pool, request.user)
    search = without_hidden(parse_search(request.query.get("q", ""), kinds=kinds), request.hide)
    if not search.is_valid:
        return page_of(search, ())
    jobs = job_search_of(search, now=request.now, zone=request.zone, user=request.user, hide=request.hide)
    page, counts = await asyncio.gather(
        search_jobs(pool, jobs, after=request.query.get("after") or None), count_jobs(pool, jobs)
    )
    return msgspec.structs.replace(
        page_of(search, counts),
        jobs=tuple(shown_line(line, request.hide) for line in page.jobs),
        order=page.order,
        after=page.after,
        num_read=page.num_read,
        read_to=page.read_to,
        stop=page.stop,
        unindexed=page.unindexed,
    )


async def load_suggestions(request: PageRequest) -> Suggestions:
    """Load what may stand at the `cursor` of the line `q`. Raises: ValueError for an invalid cursor, or a long line."""
    line, cursor = request.query.get("q", ""), request.query.get("cursor", "")
    if cursor and not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 7):  # noqa: PLR2004 - no line is as long
        raise ValueError(f"cursor must be a number of characters, got {cursor!r}")
    at = min(int(cursor), len(line)) if cursor else len(line)
    found = await suggest(request.database.driver.pool, line, at, user=request.user)
    return Suggestions(found)


def page_of(search: Search, counts: tuple[Count, ...]) -> Jobs:
    """Return the page of a search without jobs yet."""
    return Jobs(
        search=str(search),
        tokens=tuple(
            SearchToken(text=str(token), without=str(search.without(token))) for token in search.tokens
        ),
        problems=tuple(map(str, search.problems)),
        tabs=_tabs(search, {count.state: count for count in counts}),
        jobs=(),
        order=SearchOrder.ID,
        after=None,
        num_read=0,
        read_to=None,
        stop=Stop.END,
    )


def _tabs(search: Search, counts: dict[JobState, Count]) -> tuple[StateTab, ...]:
    current = search.states if len(search.states) < len(JobState) else ()
    tabs = [
        StateTab(
            state=None,
            search=str(search.replaced("state")),
            is_current=not current,
            num_jobs=sum(count.num_jobs for count in counts.values()) if counts else None,
            accuracy=_least({count.accuracy for count in counts.values()}),
        )
    ]
    for state in _TABS:
        count = counts.get(state)
        tabs.append(
            StateTab(
                state=state,
                search=str(search.replaced("state", state.value)),
                is_current=state in current,
                num_jobs=count.num_jobs if count else None,
                accuracy=count.accuracy if count else None,
            )
        )
    return tuple(tabs)


def _least(accuracies: set[Accuracy]) -> Accuracy | None:
    """Return the accuracy of a sum."""
    for accuracy in (Accuracy.AT_LEAST, Accuracy.ESTIMATED, Accuracy.EXACT):
        if accuracy in accuracies:
            return accuracy
    return None


# In the order of a job's life.
_TABS = (
    JobState.AVAILABLE,
    JobState.RUNNING,
    JobState.RETRYABLE,
    JobState.SCHEDULED,
    JobState.PENDING,
    JobState.COMPLETED,
    JobState.CANCELLED,
    JobState.DISCARDED,
)
