"""One job: its attempts, its args, and what it waits for."""

from __future__ import annotations

import msgspec

from millhand.job import JobRow
from millhand.web.page import PageRequest


class JobPage(msgspec.Struct, frozen=True, kw_only=True):
    """One job."""

    job: JobRow


async def load(request: PageRequest) -> JobPage:
    """Load one job. Raises: NotFound."""
    return JobPage(job=await request.database.jobs.get(request.path["id"]))
