"""The errors: groups of failed attempts whose texts differ only in numbers, ids, addresses and quoted texts."""

from __future__ import annotations

import re
from datetime import datetime

import msgspec

from millhand.job import JobId, JobState
from millhand.store.error_group import (
    GROUPS_MAX,
    ErrorGroup,
    error_group_list,
    job_list_retryable_errors,
    retryable_by_group,
)
from millhand.store.job_stats import ROWS_MAX, Step
from millhand.web.history_series import RANGES, HistoryRange, range_of
from millhand.web.job_search import Accuracy, Count
from millhand.web.page import PageRequest
from millhand.web.search_token import Search, Token

# The part of a title before its first placeholder must have so many characters to search for it.
SEARCHED_MIN = 4
_PLACEHOLDER = re.compile(r"<(?:url|text|email|id|number)>")


class ErrorLine(msgspec.Struct, frozen=True, kw_only=True):
    """
    One group of errors of one kind of job.

    `search` finds the jobs that failed so and have not completed since. `waiting` counts those that wait for a retry.
    `trend` has the errors of each interval.
    """

    fingerprint: str
    kind: str
    title: str
    sample_job_id: JobId
    first_seen_at: datetime
    last_seen_at: datetime
    num_errors: int
    trend: tuple[int, ...]
    waiting: Count
    search: str


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """
    The groups with an error in a range, those with most errors first.

    Without `is_recorded`, run `millhand migrate up`. `is_hidden` says that texts of errors are not shown, because a rule
    hides values that they may repeat.
    """

    groups: tuple[ErrorLine, ...]
    ranges: tuple[str, ...]
    range: str
    kind: str | None
    is_recorded: bool
    is_hidden: bool


async def load(request: PageRequest) -> Errors:
    """Load the groups. Raises: ValueError for an unknown range."""
    asked = range_of(request.query.get("range", "24h"))
    kind = request.query.get("kind") or None
    is_recorded = await request.database.has_audit_table()  # of the same migration
    is_hidden = not request.hide.is_empty
    lines: list[ErrorLine] = []
    if is_recorded and not is_hidden and request.user.queues is None:
        groups, waiting = await load_groups(request, asked, kind=kind)
        lines = [line_of(group, waiting) for group in groups]
        lines.sort(key=lambda line: (-line.num_errors, -line.last_seen_at.timestamp()))
    return Errors(
        groups=tuple(lines),
        ranges=tuple(one.name for one in RANGES),
        range=asked.name,
        kind=kind,
        is_recorded=is_recorded,
        is_hidden=is_hidden,
    )


async def load_groups(
    request: PageRequest, asked: HistoryRange, *, kind: str | None = None, limit: int = GROUPS_MAX
) -> tuple[list[ErrorGroup], Waiting]:
    """Load the groups of the kinds that the user sees, newest first, and the jobs that wait for a retry by group."""
    step = Step.DAY if asked.length.days > 7 else Step.HOUR if asked.length.days else Step.MINUTE  # noqa: PLR2004 - days of hours
    since = request.now - asked.length
    starts = step.range(since, request.now)
    query = error_group_list(step, starts, since=since, kind=kind, limit=limit)
    groups = [group for group in await request.database.run(query) if request.user.sees_kind(group.kind)]
    errors = await request.database.run(job_list_retryable_errors()) if groups else []
    return groups, Waiting(retryable_by_group(errors), is_capped=len(errors) >= ROWS_MAX)


class Waiting(msgspec.Struct, frozen=True):
    """The jobs that wait for a retry, by fingerprint and kind. If capped, there may be more of each."""

    jobs: dict[tuple[str, str], list[JobId]]
    is_capped: bool


def line_of(group: ErrorGroup, waiting: Waiting) -> ErrorLine:
    """Return a group with the search for its jobs."""
    num_waiting = len(waiting.jobs.get((group.fingerprint, group.kind), ()))
    return ErrorLine(
        fingerprint=group.fingerprint,
        kind=group.kind,
        title=group.title,
        sample_job_id=group.sample_job_id,
        first_seen_at=group.first_seen_at,
        last_seen_at=group.last_seen_at,
        num_errors=group.num_errors,
        trend=group.trend,
        waiting=Count(
            JobState.RETRYABLE, num_waiting, Accuracy.AT_LEAST if waiting.is_capped else Accuracy.EXACT
        ),
        search=str(_search(group.kind, group.title)),
    )


def _search(kind: str, title: str) -> Search:
    """Return the search for jobs of a kind that wait for a retry or gave up, with the longest fixed part of the title."""
    fixed = max(_PLACEHOLDER.split(title), key=len).strip()
    tokens = [Token("state", ("retryable", "discarded")), Token("kind", (kind,))]
    if len(fixed) >= SEARCHED_MIN:
        tokens.append(Token("error", (fixed,)))
    return Search(tuple(tokens))
