"""Statements about errors of attempts, grouped by fingerprint."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

import msgspec

from millhand.core.job import JobId
from millhand.db.query import Query, Row, parse_none
from millhand.history.fingerprint import CHARACTERS_MAX, group_of
from millhand.history.job_stats import ROWS_MAX, Step, longer_params

GROUPS_MAX = 200


class ErrorCount(msgspec.Struct, frozen=True, kw_only=True):
    """The errors of one group in one minute."""

    fingerprint: str
    kind: str
    title: str
    sample_job_id: JobId
    began_at: datetime
    num_errors: int


class RetryableError(msgspec.Struct, frozen=True):
    """The last error of a job that waits for a retry."""

    job_id: JobId
    kind: str
    queue: str
    error: str | None


class ErrorGroup(msgspec.Struct, frozen=True):
    """Errors of one kind of job with one fingerprint. `trend` has the number of errors in each interval asked for."""

    fingerprint: str
    kind: str
    title: str
    sample_job_id: JobId
    first_seen_at: datetime
    last_seen_at: datetime
    trend: tuple[int, ...]

    @property
    def num_errors(self) -> int:
        """The errors of all the intervals."""
        return sum(self.trend)


def error_group_put_many(counts: Sequence[ErrorCount]) -> Query[None]:
    """Write the errors of minutes. Concurrency: safe to race; the number of a minute never decreases."""
    params = {
        "fingerprints": [count.fingerprint for count in counts],
        "kinds": [count.kind for count in counts],
        "minutes": [count.began_at for count in counts],
        "nums": [count.num_errors for count in counts],
        "sample_job_ids": [count.sample_job_id for count in counts],
        "titles": [count.title for count in counts],
    }
    return Query("error_group_put_many", params, parse_none)


def error_stats_count_longer(step: Step, began_ats: Sequence[datetime]) -> Query[None]:
    """Add up the errors of hours, or of days."""
    return Query("error_stats_count_longer", longer_params(step, began_ats), parse_none)


def error_group_list(
    step: Step,
    began_ats: Sequence[datetime],
    *,
    since: datetime,
    kinds: Collection[str] | None = None,
    fingerprint: str | None = None,
    limit: int = GROUPS_MAX,
) -> Query[list[ErrorGroup]]:
    """
    Return groups with an error since `since`, newest first, each with its errors in the given intervals.

    `kinds` are the only ones that count; None is all.
    """
    params = {
        "began_ats": list(began_ats),
        "fingerprint": fingerprint,
        "kinds": None if kinds is None else list(kinds),
        "limit": min(limit, GROUPS_MAX),
        "since": since,
        "step": int(step),
    }
    return Query("error_group_list", params, _parse_groups)


def job_list_retryable_errors(*, limit: int = ROWS_MAX) -> Query[list[RetryableError]]:
    """Return the last errors of up to `limit` jobs that wait for a retry; `limit` of them means that there may be more."""
    params = {"characters": CHARACTERS_MAX, "limit": min(limit, ROWS_MAX), "states": ["retryable"]}
    return Query("job_list_retryable_errors", params, lambda rows: [RetryableError(*row) for row in rows])


def retryable_by_group(errors: Iterable[RetryableError]) -> dict[tuple[str, str], list[JobId]]:
    """Return the jobs that wait for a retry, by the fingerprint of their last error and their kind."""
    jobs: defaultdict[tuple[str, str], list[JobId]] = defaultdict(list)
    for one in errors:
        jobs[group_of(one.error or "").fingerprint, one.kind].append(one.job_id)
    return dict(jobs)


def _parse_groups(rows: Sequence[Row]) -> list[ErrorGroup]:
    fields = ErrorGroup.__struct_fields__
    return [ErrorGroup(**{**dict(zip(fields, row, strict=True)), "trend": tuple(row[-1])}) for row in rows]
