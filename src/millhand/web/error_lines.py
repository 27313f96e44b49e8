"""
Groups of errors: those of the history, and those of the jobs that wait for a retry now.

The history counts an error a minute or two after it came, and not at all before migration 7 of line millhand. What waits
for a retry is read from the jobs themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

import msgspec

from millhand.core.job import JobId, JobState
from millhand.engine.store.audit import audit_get_shape
from millhand.history.error_group import (
    GROUPS_MAX,
    ErrorGroup,
    RetryableError,
    error_group_list,
    job_list_retryable_errors,
    retryable_by_group,
)
from millhand.history.fingerprint import group_of
from millhand.history.job_stats import ROWS_MAX, Step
from millhand.history.series import DAY, HistoryRange
from millhand.shells.settings.web_user import within
from millhand.shells.web.page import PageRequest
from millhand.web.job_search import Accuracy, Count
from millhand.web.search_token import Search, Token

# The part of a title before its first placeholder must have so many characters to search for it.
SEARCHED_MIN = 4
_PLACEHOLDER = re.compile(r"<(?:url|text|email|id|number)>")


class ErrorLine(msgspec.Struct, frozen=True, kw_only=True):
    """
    One group of errors of one kind of job.

    `search` finds the jobs that failed so and have not completed since. `waiting` counts those that wait for a retry.
    `trend` has the errors of each interval, and `num_errors` their sum; both are empty, and the instants None, for a group
    that the history has not counted.
    """

    fingerprint: str
    kind: str
    title: str
    sample_job_id: JobId
    first_seen_at: datetime | None
    last_seen_at: datetime | None
    num_errors: int
    trend: tuple[int, ...]
    waiting: Count
    search: str


async def load_lines(
    request: PageRequest, asked: HistoryRange, *, kind: str | None = None, limit: int = GROUPS_MAX
) -> list[ErrorLine]:
    """
    Load the first `limit` groups of the kinds that the user sees: those with most waiting jobs, then with most errors.

    Nothing for a user who sees some queues only, and while a rule hides values: an error may repeat them.
    """
    if request.user.queues is not None or not request.hide.is_empty:
        return []
    kinds = within(None if kind is None else [kind], request.user.kinds)
    groups: list[ErrorGroup] = []
    if await request.database.has(audit_get_shape):  # of the same migration
        step = Step.DAY if asked.length > 7 * DAY else Step.HOUR if asked.length >= DAY else Step.MINUTE
        since = request.now - asked.length
        starts = step.range(since, request.now)
        # Not only `limit` of them: what waits may be of older groups.
        groups = await request.database.run(error_group_list(step, starts, since=since, kinds=kinds))
    errors = await request.database.run(job_list_retryable_errors())
    waiting = [error for error in errors if kinds is None or error.kind in kinds]
    return lines_of(groups, waiting, is_capped=len(errors) >= ROWS_MAX)[:limit]


def lines_of(
    groups: Sequence[ErrorGroup], waiting: Sequence[RetryableError], *, is_capped: bool
) -> list[ErrorLine]:
    """Return a line for each group, and for each group of jobs that wait only. If capped, more jobs may wait."""
    jobs = retryable_by_group(waiting)
    accuracy = Accuracy.AT_LEAST if is_capped else Accuracy.EXACT
    lines = [
        ErrorLine(
            fingerprint=group.fingerprint,
            kind=group.kind,
            title=group.title,
            sample_job_id=group.sample_job_id,
            first_seen_at=group.first_seen_at,
            last_seen_at=group.last_seen_at,
            num_errors=group.num_errors,
            trend=group.trend,
            waiting=Count(JobState.RETRYABLE, len(jobs.pop((group.fingerprint, group.kind), ())), accuracy),
            search=str(search_of(group.kind, group.title)),
        )
        for group in groups
    ]
    texts = {error.job_id: error.error or "" for error in waiting}
    for (fingerprint, kind), ids in jobs.items():
        title = group_of(texts[ids[0]]).title
        lines.append(
            ErrorLine(
                fingerprint=fingerprint,
                kind=kind,
                title=title,
                sample_job_id=ids[0],
                first_seen_at=None,
                last_seen_at=None,
                num_errors=0,
                trend=(),
                waiting=Count(JobState.RETRYABLE, len(ids), accuracy),
                search=str(search_of(kind, title)),
            )
        )
    lines.sort(key=lambda line: (-line.waiting.num_jobs, -line.num_errors))
    return lines


def search_of(kind: str, title: str) -> Search:
    """Return the search for jobs of a kind that wait for a retry or gave up, with the longest fixed part of the title."""
    fixed = max(_PLACEHOLDER.split(title), key=len).strip()
    tokens = [Token("state", ("retryable", "discarded")), Token("kind", (kind,))]
    if len(fixed) >= SEARCHED_MIN:
        tokens.append(Token("error", (fixed,)))
    return Search(tuple(tokens))
