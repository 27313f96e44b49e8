"""Groups of errors, their trend, and what deletes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from factory import insert_job
from millhand.core.job import JobId, JobState
from millhand.db.driver.protocol import Executor
from millhand.history.error_group import (
    ErrorCount,
    error_group_list,
    error_group_put_many,
    job_list_retryable_errors,
    retryable_by_group,
)
from millhand.history.fingerprint import ErrorGroupKey, group_of
from millhand.history.job_stats import ErrorRow, Step
from millhand.history.writer import GROUPS_PER_PASS, OTHER_ERRORS, counted

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


def count(num: int, at: datetime = NOON, *, fingerprint: str = "f", job_id: int = 1) -> ErrorCount:
    return ErrorCount(
        fingerprint=fingerprint,
        kind="a",
        title="ValueError",
        sample_job_id=JobId(job_id),
        began_at=at,
        num_errors=num,
    )


async def test_group_has_its_trend_its_newest_job_and_when_it_was_seen(tx: Executor) -> None:
    """Minutes that are written again keep the larger number, and an older minute changes neither the job nor the end."""
    await tx.run(error_group_put_many([count(3, job_id=7), count(1, NOON - 2 * MINUTE, job_id=5)]))
    await tx.run(error_group_put_many([count(2, job_id=8), count(1, fingerprint="g")]))
    await tx.run(error_group_put_many([count(4, NOON - 9 * MINUTE, job_id=1)]))

    minutes = Step.MINUTE.range(NOON - 2 * MINUTE, NOON + MINUTE)
    f, g = await tx.run(error_group_list(Step.MINUTE, minutes, since=NOON))
    later = await tx.run(error_group_list(Step.MINUTE, minutes, since=NOON + MINUTE))

    assert (f.trend, f.num_errors, f.sample_job_id) == ((1, 0, 3), 4, 8)
    assert (f.first_seen_at, f.last_seen_at) == (NOON - 9 * MINUTE, NOON)
    assert (g.fingerprint, g.trend, later) == ("g", (0, 0, 1), [])


def test_sampled_errors_count_for_all_of_their_minute() -> None:
    """Of a minute with more errors than were read, each error that was read counts for several."""
    rows = [ErrorRow(NOON, "a", JobId(n), "x", 100) for n in range(10)]
    rows += [ErrorRow(NOON - MINUTE, "a", JobId(1), "x", 1)]

    counts = counted(rows, [group_of("x")] * len(rows))

    assert [(one.began_at, one.num_errors, one.sample_job_id) for one in counts] == [
        (NOON, 100, 9), (NOON - MINUTE, 1, 1),
    ]  # fmt: skip


def test_a_pass_writes_a_limited_number_of_groups() -> None:
    """The smallest of too many groups become one, so that texts without a pattern do not fill the table."""
    num = GROUPS_PER_PASS + 50
    rows = [ErrorRow(NOON, "a", JobId(n), str(n), num) for n in range(num)]

    counts = counted(rows, [ErrorGroupKey(str(n), "t") for n in range(num)])

    assert len(counts) == GROUPS_PER_PASS + 1
    assert {one.fingerprint: one.num_errors for one in counts}[OTHER_ERRORS.fingerprint] == 50
    assert sum(one.num_errors for one in counts) == num


async def test_jobs_that_wait_for_a_retry_are_found_by_the_group_of_their_last_error(tx: Executor) -> None:
    """Of each retryable job the last error counts, also one of another shape; other states do not count."""
    errors = ['{"error": "KeyError: 1"}', '{"error": "order 2 is late"}']
    jobs = [
        await insert_job(
            tx, JobState.RETRYABLE, errors=errors[: n + 1], attempt=1, queue=f"q{n}", priority=1 + n
        )
        for n in range(2)
    ]
    jobs.append(await insert_job(tx, JobState.RETRYABLE, errors=['"text"'], attempt=1))
    await insert_job(tx, errors=errors, attempt=1)

    found = await tx.run(job_list_retryable_errors())

    texts = ("KeyError: 9", "order 9 is late", "")
    assert retryable_by_group(found) == {
        (group_of(text).fingerprint, "kind"): [job.id] for text, job in zip(texts, jobs, strict=True)
    }
