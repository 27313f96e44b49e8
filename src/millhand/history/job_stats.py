"""Statements about attempts that ended, by minute, ten minutes, hour and day."""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from millhand.core.job import JobId
from millhand.db.query import Query, Row, parse_none
from millhand.history.fingerprint import CHARACTERS_MAX
from millhand.history.histogram import BOUNDS_MS, merged, percentile_ms

# Stands for all kinds, or all queues.
ALL = "*"
# No list returns more rows.
ROWS_MAX = 2_000
# More jobs a minute than this are counted by a sample; more than the second number are not read.
JOBS_MAX = 120_000
JOBS_READ_MAX = 1_000_000
# Unfinished jobs that a pass reads for failed attempts: of each state, queue and priority.
UNFINISHED_MAX = 10_000
# A pass reads the texts of no more errors than this; their numbers are estimated from them then.
ERRORS_MAX = 2_000
FAILED_STATES = ("available", "retryable", "running")
# The failure of an attempt that ran for longer is counted only if its job is not retried.
LONG_ATTEMPT = timedelta(hours=1)


class Step(enum.IntEnum):
    """The length of an interval in seconds. Days begin at midnight in UTC."""

    MINUTE = 60
    TEN_MINUTES = 600
    HOUR = 3_600
    DAY = 86_400

    @property
    def length(self) -> timedelta:
        return timedelta(seconds=self)

    def floor(self, at: datetime) -> datetime:
        """Return the start of the interval that contains `at`."""
        return datetime.fromtimestamp(int(at.timestamp()) // self * self, UTC)

    def range(self, since: datetime, until: datetime) -> list[datetime]:
        """Return the starts of all intervals that contain an instant from `since` up to `until`, which is not included."""
        first = self.floor(since)
        return [first + n * self.length for n in range(math.ceil((until - first) / self.length))]


class JobStats(msgspec.Struct, frozen=True, kw_only=True):
    """
    The attempts that ended within an interval; `failed` ones are retried.

    `waits` and `runs` are histograms of completed and discarded jobs: from due to fetched, and from fetched to the end.
    Below 1, `share` is the part of the jobs that was read; the numbers are estimated from it.
    """

    began_at: datetime
    kind: str
    queue: str
    completed: int = 0
    cancelled: int = 0
    discarded: int = 0
    failed: int = 0
    wait_ms: int = 0
    run_ms: int = 0
    waits: tuple[int, ...] = ()
    runs: tuple[int, ...] = ()
    share: float = 1.0

    @property
    def num_finished(self) -> int:
        """The jobs that ended."""
        return self.completed + self.cancelled + self.discarded

    @property
    def num_attempts(self) -> int:
        return self.num_finished + self.failed

    @property
    def num_errors(self) -> int:
        """The attempts that failed, retried or not."""
        return self.discarded + self.failed

    def wait_percentile_ms(self, percent: float) -> float | None:
        return percentile_ms(self.waits, percent)

    def run_percentile_ms(self, percent: float) -> float | None:
        return percentile_ms(self.runs, percent)


class KindCount(msgspec.Struct, frozen=True):
    """How many attempts of a kind ended within some intervals, and how many of them failed."""

    kind: str
    num_attempts: int
    num_errors: int


class QueueCount(msgspec.Struct, frozen=True):
    """How many jobs of a queue finished within some intervals, and how many attempts ended."""

    queue: str
    num_finished: int
    num_attempts: int


class MinuteJobs(msgspec.Struct, frozen=True):
    """A minute to count, and how many jobs finished in it."""

    began_at: datetime
    num_jobs: int


def summed(rows: Iterable[JobStats], *, began_at: datetime, kind: str = ALL, queue: str = ALL) -> JobStats:
    """Return the sum of rows, as one of `kind` and `queue` that begins at `began_at`."""
    given = list(rows)
    return JobStats(
        began_at=began_at,
        kind=kind,
        queue=queue,
        completed=sum(row.completed for row in given),
        cancelled=sum(row.cancelled for row in given),
        discarded=sum(row.discarded for row in given),
        failed=sum(row.failed for row in given),
        wait_ms=sum(row.wait_ms for row in given),
        run_ms=sum(row.run_ms for row in given),
        waits=merged(row.waits for row in given),
        runs=merged(row.runs for row in given),
        share=min((row.share for row in given), default=1.0),
    )


def stride_of(minutes: Sequence[MinuteJobs]) -> int:
    """Return one in how many jobs is read, so that no minute reads more than `JOBS_MAX`."""
    return max(1, -(-max((minute.num_jobs for minute in minutes), default=0) // JOBS_MAX))


def job_stats_get_uncounted(
    *, since: datetime, until: datetime, counted_to: datetime
) -> Query[list[MinuteJobs]]:
    """Return the minutes from `counted_to` on, and those from `since` on in which more jobs finished than were counted."""
    params = {"counted_to": counted_to, "since": since, "until": until}
    return Query("job_stats_get_uncounted", params, lambda rows: [MinuteJobs(*row) for row in rows])


def job_stats_count_minutes(minutes: Sequence[datetime], *, stride: int) -> Query[None]:
    """
    Count the jobs that finished within minutes, one in `stride`, and write the minutes.

    Concurrency: safe to race; the counts of a minute never decrease.
    """
    params = {
        "bounds_ms": list(BOUNDS_MS), "jobs_max": JOBS_READ_MAX, "minutes": list(minutes), "stride": stride,
    }  # fmt: skip
    return Query("job_stats_count_minutes", params, parse_none)


class ErrorRange(msgspec.Struct, frozen=True, kw_only=True):
    """
    Where errors are searched: in jobs that finished from `since` up to `until`, and in unfinished ones due since `since`.

    Errors of attempts that began before `at` less `LONG_ATTEMPT` are not counted, and none of `counts_to` and later.
    """

    since: datetime
    until: datetime
    counts_to: datetime
    stride: int

    @property
    def params(self) -> dict[str, object]:
        return {
            "counts_to": self.counts_to,
            "errors_since": self.since - LONG_ATTEMPT,
            "jobs_max": JOBS_READ_MAX,
            "limit": UNFINISHED_MAX,
            "since": self.since,
            "states": list(FAILED_STATES),
            "stride": self.stride,
            "until": self.until,
        }


class ErrorRow(msgspec.Struct, frozen=True):
    """An error of an attempt, by its minute; `num_errors` is the number of all errors of that minute."""

    began_at: datetime
    kind: str
    job_id: JobId
    error: str | None
    num_errors: int


def job_stats_count_failed(range: ErrorRange) -> Query[list[ErrorRow]]:
    """
    Count the attempts that failed and are retried; return errors, also of those that are not retried.

    The errors are of the minutes from `since` on and of those whose number changed: the newest `ERRORS_MAX`, and of the
    oldest minute among them an even sample.
    Concurrency: as `job_stats_count_minutes`.
    """
    params = {"characters": CHARACTERS_MAX, "errors_max": ERRORS_MAX, **range.params}
    return Query("job_stats_count_failed", params, lambda rows: [ErrorRow(*row) for row in rows])


def job_stats_count_longer(step: Step, began_ats: Sequence[datetime]) -> Query[None]:
    """Add up the minutes of ten minutes, these of hours, or the hours of days."""
    return Query("job_stats_count_longer", longer_params(step, began_ats), parse_none)


def longer_params(step: Step, began_ats: Sequence[datetime]) -> dict[str, object]:
    """Return the parameters of statements that add up the next shorter step."""
    steps = list(Step)
    shorter = steps[steps.index(step) - 1]
    return {"began_ats": list(began_ats), "shorter_step": int(shorter), "step": int(step)}


def job_stats_list(
    step: Step, *, since: datetime, until: datetime, kind: str = ALL, queue: str = ALL
) -> Query[list[JobStats]]:
    """Return the intervals of one kind and queue from `since` up to `until`, oldest first; empty ones are left out."""
    params = {
        "kind": kind, "limit": ROWS_MAX, "queue": queue, "since": since, "step": int(step), "until": until,
    }  # fmt: skip
    return Query("job_stats_list", params, _parse_stats)


def job_stats_list_sums(
    step: Step, *, since: datetime, until: datetime, kinds: Collection[str], queues: Collection[str]
) -> Query[list[JobStats]]:
    """Return the sums of some kinds in some queues, as intervals of `ALL`, as `job_stats_list` does."""
    params = {
        "kinds": list(kinds), "limit": ROWS_MAX, "queues": list(queues), "since": since, "step": int(step),
        "until": until,
    }  # fmt: skip
    return Query("job_stats_list_sums", params, _parse_stats)


def job_stats_list_by_kind(
    step: Step, began_ats: Sequence[datetime], *, queue: str = ALL
) -> Query[list[JobStats]]:
    """Return the given intervals of every kind, in one queue or in all, kind by kind; at most `ROWS_MAX`."""
    params = {"began_ats": list(began_ats), "limit": ROWS_MAX, "queue": queue, "step": int(step)}
    return Query("job_stats_list_by_kind", params, _parse_stats)


def job_stats_list_of_kinds(
    kinds: Collection[str], step: Step, began_ats: Sequence[datetime], *, queue: str = ALL
) -> Query[list[JobStats]]:
    """Return the given intervals of some kinds, in one queue or in all; at most `ROWS_MAX`."""
    params = {
        "began_ats": list(began_ats), "kinds": list(kinds), "limit": ROWS_MAX, "queue": queue, "step": int(step),
    }  # fmt: skip
    return Query("job_stats_list_of_kinds", params, _parse_stats)


def job_stats_count_by_kind(
    step: Step, began_ats: Sequence[datetime], *, queue: str = ALL
) -> Query[list[KindCount]]:
    """Return the attempts of every kind in the given intervals, in one queue or in all; of at most `ROWS_MAX` rows."""
    params = {"began_ats": list(began_ats), "limit": ROWS_MAX, "queue": queue, "step": int(step)}
    return Query("job_stats_count_by_kind", params, lambda rows: [KindCount(*row) for row in rows])


def job_stats_list_by_queue(
    step: Step, began_ats: Sequence[datetime], *, kind: str = ALL
) -> Query[list[JobStats]]:
    """Return the given intervals of every queue, of one kind or of all, queue by queue; at most `ROWS_MAX`."""
    params = {"began_ats": list(began_ats), "kind": kind, "limit": ROWS_MAX, "step": int(step)}
    return Query("job_stats_list_by_queue", params, _parse_stats)


def job_stats_count_by_queue(
    step: Step, began_ats: Sequence[datetime], *, queues: Collection[str]
) -> Query[dict[str, QueueCount]]:
    """Return what ended in the given intervals, by queue; a queue in which nothing ended is left out."""
    params = {"began_ats": list(began_ats), "queues": list(queues), "step": int(step)}
    return Query("job_stats_count_by_queue", params, lambda rows: {row[0]: QueueCount(*row) for row in rows})


def same_hours(at: datetime, *, num_hours: int = 1, num_days: int = 7) -> list[datetime]:
    """Return the hours up to the one that contains `at`, on each of the days before: what is usual at this time."""
    hour = Step.HOUR.floor(at)
    return [
        hour - timedelta(days=day, hours=back) for day in range(1, num_days + 1) for back in range(num_hours)
    ]


def _parse_stats(rows: Sequence[Row]) -> list[JobStats]:
    return [
        JobStats(
            began_at=began_at,
            kind=kind,
            queue=queue,
            completed=completed,
            cancelled=cancelled,
            discarded=discarded,
            failed=failed,
            wait_ms=wait_ms,
            run_ms=run_ms,
            waits=tuple(waits),
            runs=tuple(runs),
            share=share,
        )
        for (
            began_at,
            kind,
            queue,
            completed,
            cancelled,
            discarded,
            failed,
            wait_ms,
            run_ms,
            waits,
            runs,
            share,
        ) in rows
    ]
