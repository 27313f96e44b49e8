"""
The jobs that a search finds, as CSV or as lines of JSON.

Rule 1: an export has what the list has, with the limits of the user and without hidden values.
Rule 2: it is read and sent page by page, up to JOBS_MAX jobs and ROWS_MAX rows that were read.
Rule 3: an export that ends early has a last line with the cursor from which another one goes on.
Rule 4: no cell of CSV is a formula of a spreadsheet.
"""

from __future__ import annotations

import asyncio
import csv
import enum
import io
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

import msgspec

from millhand.core.errors import DriverError, OperationTimeout
from millhand.core.log.logger import logger_of
from millhand.engine.store.job_search import JobLine, JobSearch
from millhand.shells.web.page import PageRequest
from millhand.web.job_search import FoundPage, Stop, search_jobs, shown_line
from millhand.web.search import parse_search
from millhand.web.search_conditions import SCANNED_LENGTH, job_search_of, without_hidden
from millhand.web.search_suggestions import known_kinds

logger = logger_of(__name__)

JOBS_MAX = 100_000
ROWS_MAX = 1_000_000
PAGE_SIZE = 500
NUM_AT_ONCE = 2
COLUMNS = JobLine.__struct_fields__
# What a spreadsheet takes for the beginning of a formula, also as wide characters of East Asian keyboards.
FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001 - the wide ones are meant


class Ending(enum.StrEnum):
    """Why an export ended before the end of the list: JOBS_MAX or ROWS_MAX was reached, or the database did not answer."""

    JOBS = "jobs"
    ROWS = "rows"
    ERROR = "error"


class ExportFormat(msgspec.Struct, frozen=True):
    """How jobs are written: what comes first, the lines of some jobs, and the last line of an export that ends early."""

    media_type: str
    head: bytes
    lines: Callable[[Sequence[JobLine]], bytes]
    more: Callable[[str, Ending], bytes]


class Export:
    """The exports of one database. Concurrency: two at a time read from it; a reader that stalls keeps no other waiting."""

    def __init__(self, *, jobs_max: int = JOBS_MAX, page_size: int = PAGE_SIZE) -> None:
        self._jobs_max = jobs_max
        self._page_size = page_size
        self._slots = asyncio.Semaphore(NUM_AT_ONCE)

    async def begin(self, request: PageRequest, form: ExportFormat) -> AsyncIterator[bytes]:
        """Read the first jobs, and return all parts of the answer. Raises: ValueError for an invalid search or cursor."""
        pool = request.database.driver.pool
        search = parse_search(request.query.get("q", ""), kinds=await known_kinds(pool, request.user))
        search = without_hidden(search, request.hide)
        if not search.is_valid:
            raise ValueError("; ".join(map(str, search.problems)))
        jobs = job_search_of(search, now=request.now, zone=request.zone, user=request.user, hide=request.hide)
        jobs = msgspec.structs.replace(jobs, args_length=SCANNED_LENGTH)
        first = await search_jobs(pool, jobs, after=request.query.get("after") or None, limit=self._page_size)
        return self._parts(request, jobs, first, form)

    async def _parts(
        self, request: PageRequest, jobs: JobSearch, page: FoundPage, form: ExportFormat
    ) -> AsyncIterator[bytes]:
        num_jobs = num_rows = 0
        yield form.head
        while True:
            lines = [exported(shown_line(one, request.hide, SCANNED_LENGTH)) for one in page.jobs]
            num_jobs, num_rows = num_jobs + len(lines), num_rows + page.num_read
            if lines:
                yield form.lines(lines)
            if page.after is None or page.stop is Stop.END:
                return
            if num_jobs >= self._jobs_max or num_rows >= ROWS_MAX:
                yield form.more(page.after, Ending.JOBS if num_jobs >= self._jobs_max else Ending.ROWS)
                return
            after = page.after
            try:
                async with self._slots:
                    page = await search_jobs(
                        request.database.driver.pool, jobs, after=after, limit=self._page_size
                    )
            except (DriverError, OperationTimeout) as error:
                logger.warning("export ended early", extra={"error": str(error), "num_jobs": num_jobs})
                yield form.more(after, Ending.ERROR)
                return


def exported(line: JobLine) -> JobLine:
    """Return a line as it is exported: args that were cut are left out, because they are no JSON."""
    is_whole = line.args is not None and len(line.args) < SCANNED_LENGTH
    return line if is_whole else msgspec.structs.replace(line, args=None)


def csv_lines(jobs: Sequence[JobLine]) -> bytes:
    """Return jobs as lines of CSV."""
    return _csv([[_cell(getattr(job, name)) for name in COLUMNS] for job in jobs])


def ndjson_lines(jobs: Sequence[JobLine]) -> bytes:
    """Return jobs as lines of JSON, with args as JSON."""
    return b"".join(msgspec.json.encode(_fields(job)) + b"\n" for job in jobs)


def _fields(job: JobLine) -> dict[str, object]:
    return {
        **msgspec.structs.asdict(job),
        "args": None if job.args is None else msgspec.Raw(job.args.encode()),
    }


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple):
        value = " ".join(value)
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


FORMATS: Mapping[str, ExportFormat] = MappingProxyType(
    {
        "csv": ExportFormat(
            "text/csv; charset=utf-8",
            _csv([COLUMNS]),
            csv_lines,
            lambda after, ending: _csv([["more", f"after={after}", f"stop={ending}"]]),
        ),
        "ndjson": ExportFormat(
            "application/x-ndjson",
            b"",
            ndjson_lines,
            lambda after, ending: msgspec.json.encode({"after": after, "stop": ending}) + b"\n",
        ),
    }
)
