"""Statements for what the web page shows of dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from millhand.core.errors import NotFound
from millhand.core.job import JobState
from millhand.db.query import Query, Row
from millhand.dead_jobs.dead_job import DeadJobFilters
from millhand.dead_jobs.store import SUBJECT, page_parts
from millhand.engine.store.job_details import ROWS_MAX, TEXT_MAX, JobDetails, parse_details
from millhand.engine.store.job_search import JobLine, parse_line


class DeadJobLine(JobLine, frozen=True, kw_only=True):
    """A dead letter in a list. `current_state` is the state of the job's row now; None if the row was deleted."""

    current_state: JobState | None


class DeadJobDetails(msgspec.Struct, frozen=True):
    """One dead letter, bounded in size: the job as it was copied, when that was, and the state of the job's row now."""

    job: JobDetails
    copied_at: datetime
    current_state: JobState | None


def dead_job_list_lines(
    filters: DeadJobFilters, *, after: tuple[datetime, int] | None = None, limit: int, args_length: int
) -> Query[list[DeadJobLine]]:
    """
    Return up to `limit` dead letters that pass the filters, those discarded last first, after a position.

    Of the args, lines have `args_length` characters. Raises: ValueError for a limit out of range.
    """
    fragments, params = page_parts(filters, after=after, limit=limit)
    params["args_length"] = args_length
    return Query(
        "dead_job_list_lines", params, lambda rows: [_line(row) for row in rows], fragments=fragments
    )


def dead_job_get_details(id: int) -> Query[DeadJobDetails]:
    """Return one dead letter for the page that shows it. Raises: NotFound."""

    def parse(rows: Sequence[Row]) -> DeadJobDetails:
        if not rows:
            raise NotFound(SUBJECT, id)
        *row, copied_at, state = rows[0]
        return DeadJobDetails(parse_details(row), copied_at, _state(state))

    return Query("dead_job_get_details", {"id": id, "max_length": TEXT_MAX, "max_rows": ROWS_MAX}, parse)


def dead_job_is_readable() -> Query[bool]:
    """Return whether the table is there, and whether this role may read it."""
    return Query("dead_job_is_readable", {}, lambda rows: bool(rows[0][0]))


def dead_job_exists(id: int) -> Query[bool]:
    """Return whether a job has a dead letter."""
    return Query("dead_job_exists", {"id": id}, lambda rows: bool(rows[0][0]))


def _line(row: Row) -> DeadJobLine:
    *columns, state = row
    line = parse_line(columns)
    return DeadJobLine(**msgspec.structs.asdict(line), current_state=_state(state))


def _state(text: str | None) -> JobState | None:
    return None if text is None else JobState(text)
