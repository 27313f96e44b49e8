"""Dead letters: the list of them, and one with its attempts and its args."""

from __future__ import annotations

from datetime import datetime

import msgspec

from millhand.core.errors import NotFound, OperationTimeout
from millhand.core.job import JobState
from millhand.dead_jobs.dead_job import DeadJobFilters, decode_cursor, encode_cursor
from millhand.dead_jobs.page_store import (
    DeadJobLine,
    dead_job_get_details,
    dead_job_is_readable,
    dead_job_list_lines,
)
from millhand.dead_jobs.store import SUBJECT
from millhand.engine.store.job_search import ARGS_LENGTH
from millhand.shells.settings.web_user import within
from millhand.shells.web.page import PageRequest
from millhand.web.attempts import attempts_of
from millhand.web.job_search import shown_line
from millhand.web.pages.job import JobPage
from millhand.web.search_conditions import SCANNED_LENGTH
from millhand.web.search_time import canonical_time, period_of

PAGE_SIZE = 100


class DeadJobs(msgspec.Struct, frozen=True, kw_only=True):
    """
    Up to 100 dead letters, those discarded last first.

    `after` is the cursor of the next page. `has_errors`: no rule hides values, so errors can be searched. `is_slow`: the
    statement ran out of time. Without `is_there`, run `millhand migrate up`, or let the role read the table.
    """

    jobs: tuple[DeadJobLine, ...] = ()
    after: str | None = None
    has_errors: bool = True
    is_slow: bool = False
    is_there: bool = True


class DeadJobPage(JobPage, frozen=True, kw_only=True):
    """
    One dead letter: the job as it was at `copied_at`.

    `current_state` is the state of the job's row now; None if the row was deleted.
    """

    copied_at: datetime
    current_state: JobState | None


async def load(request: PageRequest) -> DeadJobs:
    """Load a page of dead letters. Raises: ValueError for an invalid filter or cursor."""
    filters, after = _filters(request), request.query.get("after")
    has_errors = request.hide.is_empty
    if filters.error is not None and not has_errors:
        raise ValueError("error must be empty while a rule hides values, which errors may repeat")
    query = dead_job_list_lines(
        filters,
        after=decode_cursor(after) if after else None,
        limit=PAGE_SIZE,
        args_length=ARGS_LENGTH if has_errors else SCANNED_LENGTH,
    )
    if not await request.database.has(dead_job_is_readable):
        return DeadJobs(has_errors=has_errors, is_there=False)
    try:
        found = await request.database.run(query)
    except OperationTimeout:
        return DeadJobs(has_errors=has_errors, is_slow=True)
    last = found[-1].finalized_at if len(found) == PAGE_SIZE else None
    return DeadJobs(
        jobs=tuple(shown_line(line, request.hide) for line in found),
        after=encode_cursor(last, found[-1].id) if last else None,
        has_errors=has_errors,
    )


async def load_one(request: PageRequest) -> DeadJobPage:
    """Load one dead letter. Raises: NotFound."""
    id = request.path["id"]
    if not await request.database.has(dead_job_is_readable):
        raise NotFound(SUBJECT, id)
    dead = await request.database.run(dead_job_get_details(id))
    job = request.hide.job(dead.job)
    if not request.user.sees(queue=job.queue, kind=job.kind):
        raise NotFound(SUBJECT, id)
    return DeadJobPage(
        job=job,
        attempts=attempts_of(job),
        wait=None,
        can=("retry", "delete") if dead.current_state in (None, JobState.DISCARDED) else ("delete",),
        has_dead_letter=True,
        copied_at=dead.copied_at,
        current_state=dead.current_state,
    )


def _filters(request: PageRequest) -> DeadJobFilters:
    query, user = request.query, request.user
    return DeadJobFilters(
        kinds=within(_names(query.get("kind")), user.kinds),
        queues=within(_names(query.get("queue")), user.queues),
        error=query.get("error") or None,
        since=_instant(request, "since"),
        until=_instant(request, "until"),
    )


def _names(text: str | None) -> list[str] | None:
    return [text] if text else None


def _instant(request: PageRequest, name: str) -> datetime | None:
    """Return the instant of a date, a time or an age; None for an empty field."""
    text = request.query.get(name, "").strip()
    if not text:
        return None
    try:
        since, _ = period_of(canonical_time(text), now=request.now, zone=request.zone)
    except ValueError:
        since = None
    if since is None or ".." in text:
        raise ValueError(
            f"{name} must be a duration ago, a time or a date, got {text!r}; write 7d, 12:50 or 2026-11-27"
        )
    return since
