"""The errors: groups of failed attempts whose texts differ only in numbers, ids, addresses and quoted texts."""

from __future__ import annotations

import re
from datetime import datetime

import msgspec

from millhand.job import JobId
from millhand.store.error_group import ErrorGroup, error_group_list
from millhand.web.job_history import RANGES, range_of
from millhand.web.page import PageRequest
from millhand.web.search_token import Search, Token

# The part of a title before its first placeholder must have so many characters to search for it.
SEARCHED_MIN = 4
_PLACEHOLDER = re.compile(r"<(?:url|text|email|id|number)>")


class ErrorLine(msgspec.Struct, frozen=True, kw_only=True):
    """
    One group of errors of one kind of job.

    `search` finds the jobs that failed so and have not completed since. `trend` has the errors of each interval.
    """

    fingerprint: str
    kind: str
    title: str
    sample_job_id: JobId
    first_seen_at: datetime
    last_seen_at: datetime
    num_errors: int
    trend: tuple[int, ...]
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
    asked = range_of(request.query.get("range") or "1d")
    kind = request.query.get("kind") or None
    is_recorded = await request.database.has_audit_table()
    is_hidden = not request.hide.is_empty
    groups: list[ErrorGroup] = []
    if is_recorded and not is_hidden and request.user.queues is None:
        since = asked.step.floor(request.now - asked.length) + asked.step.length
        starts = asked.step.range(since, request.now)
        groups = await request.database.run(error_group_list(asked.step, starts, since=since, kind=kind))
    lines = [line_of(group) for group in groups if request.user.sees_kind(group.kind)]
    lines.sort(key=lambda line: (-line.num_errors, -line.last_seen_at.timestamp()))
    return Errors(
        groups=tuple(lines),
        ranges=tuple(RANGES),
        range=asked.name,
        kind=kind,
        is_recorded=is_recorded,
        is_hidden=is_hidden,
    )


def line_of(group: ErrorGroup) -> ErrorLine:
    """Return a group with the search for its jobs."""
    return ErrorLine(
        fingerprint=group.fingerprint,
        kind=group.kind,
        title=group.title,
        sample_job_id=group.sample_job_id,
        first_seen_at=group.first_seen_at,
        last_seen_at=group.last_seen_at,
        num_errors=group.num_errors,
        trend=group.trend,
        search=str(_search(group.kind, group.title)),
    )


def _search(kind: str, title: str) -> Search:
    """Return the search for jobs of a kind that wait for a retry or gave up, with the longest fixed part of the title."""
    fixed = max(_PLACEHOLDER.split(title), key=len).strip()
    tokens = [Token("state", ("retryable", "discarded")), Token("kind", (kind,))]
    if len(fixed) >= SEARCHED_MIN:
        tokens.append(Token("error", (fixed,)))
    return Search(tuple(tokens))
