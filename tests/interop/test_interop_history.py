"""The history has the attempts of both languages: their outcomes, durations, errors and rescues."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from interop_harness import LANGUAGES, Harness, Language

from millhand.history.error_group import error_group_list, error_group_put_many
from millhand.history.fingerprint import group_of
from millhand.history.job_stats import (
    ErrorRange,
    Step,
    job_stats_count_failed,
    job_stats_count_minutes,
    job_stats_list,
    summed,
)
from millhand.history.writer import counted

MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_attempts_of_each_language_are_counted(harness: Harness, language: Language) -> None:
    """Completed, failed and discarded attempts count alike, with their durations, in whichever language they ran."""
    began = datetime.now(UTC)
    control = harness.control(language)
    async with harness.working(language, f"{language}_a"):
        done = await control.insert()
        retried = await control.insert(["fail", "order 17 was refused"], max_attempts=5)
        given_up = await control.insert(["fail", "order 18 was refused"], max_attempts=1)
        await harness.until_state(done, "completed")
        await harness.events.wait("job_failed", job=retried)
        await harness.until_state(given_up, "discarded")
    pool = harness.driver.pool
    minutes = Step.MINUTE.range(began, datetime.now(UTC) + MINUTE)

    await pool.run(job_stats_count_minutes(minutes, stride=1))
    until = minutes[-1] + MINUTE
    errors = await pool.run(
        job_stats_count_failed(ErrorRange(since=minutes[0], until=until, counts_to=until, stride=1))
    )
    await pool.run(error_group_put_many(counted(errors, [group_of(one.error or "") for one in errors])))

    rows = await pool.run(job_stats_list(Step.MINUTE, since=minutes[0], until=until, kind="act"))
    total = summed(rows, began_at=began, kind="act")
    groups = await pool.run(error_group_list(Step.MINUTE, minutes, since=minutes[0]))
    assert total.discarded == 1
    assert total.completed >= 1
    assert total.failed >= 1
    assert sum(total.runs) == sum(total.waits) == total.completed + total.discarded
    assert ["order <number> was refused" in group.title for group in groups] == [True]
    assert sum(group.num_errors for group in groups) == total.num_errors
