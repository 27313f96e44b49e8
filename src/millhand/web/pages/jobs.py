"""The jobs that a search finds."""

from __future__ import annotations

import msgspec

from millhand.job import JobRow
from millhand.store.job_list import JobFilters
from millhand.web.page import PageRequest

PAGE_SIZE = 50


class Jobs(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list of jobs."""

    jobs: tuple[JobRow, ...]
    after: str | None


async def load(request: PageRequest) -> Jobs:
    """Load a page of jobs, newest first. Raises: ValueError for an invalid cursor."""
    page = await request.database.jobs.list(
        JobFilters(kinds=request.user.kinds, queues=request.user.queues),
        after=request.query.get("after"),
        descending=True,
        limit=PAGE_SIZE,
    )
    return Jobs(jobs=tuple(request.hide.row(job) for job in page.jobs), after=page.cursor)
